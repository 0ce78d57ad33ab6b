"""The contract is the one place where units change and where a wrong graph is noticed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from wallx_policy.contract import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    Contract,
    GraphDescription,
    Statistics,
    Unit,
)

LOW, HIGH = (-110.0, -100.0, -97.0, -95.0, -157.0, 0.0), (110.0, 100.0, 97.0, 95.0, 163.0, 100.0)
SIZES = {"face_view": (320, 240), "wrist_view": (240, 240)}
HOME_RAD = (0.0, -1.2, 0.6, 1.2, 0.0, 0.14)


def channels(unit: Unit = Unit.DEG) -> tuple[Channel, ...]:
    return tuple(Channel(n, Unit.PERCENT if n == "gripper" else unit) for n in JOINT_NAMES)


def contract(**changes: object) -> Contract:
    plain = Contract(
        embodiment="so101",
        action_space=ActionSpace.JOINT,
        cameras=(Camera("face_view", 320, 240), Camera("wrist_view", 240, 240)),
        state=channels(),
        action=channels(),
        period_s=0.04,
        horizon=25,
        action_kind=ActionKind.GOAL,
        image_age_s=0.04,
        state_statistics=Statistics(min=LOW, max=HIGH),
        action_statistics=Statistics(mean=(0.0,) * 6, std=(30.0,) * 6),
    )
    return replace(plain, **changes)


def calibration(drive_mode: int = 0) -> Calibration:
    """Joint i has a range of 2000 + 100 i ticks."""
    return Calibration.from_mapping(
        {
            name: {
                "id": servo_id,
                "drive_mode": drive_mode,
                "homing_offset": 0,
                "range_min": 1000 - 10 * i,
                "range_max": 3000 + 90 * i,
            }
            for i, (name, servo_id) in enumerate(zip(JOINT_NAMES, SERVO_IDS, strict=True))
        }
    )


def graph(**changes: object) -> GraphDescription:
    return replace(GraphDescription(SIZES, JOINT_NAMES, HOME_RAD), **changes)


class TestUnits:
    def test_degrees_and_percent(self) -> None:
        values = contract().to_radians([90.0, -45.0, 0.0, 180.0, 10.0, 50.0])
        expected = [math.pi / 2, -math.pi / 4, 0.0, math.pi, math.radians(10), 0.7853985]
        np.testing.assert_allclose(values, expected, atol=1e-6)

    def test_radians_pass_through(self) -> None:
        radians = contract(action=channels(Unit.RAD), action_statistics=Statistics())
        assert radians.to_radians([0.1, 0.2, 0.3, 0.4, 0.5, 0.0])[:5].tolist() == [
            0.1,
            0.2,
            0.3,
            0.4,
            0.5,
        ]

    def test_actions_go_back_the_way_they_came(self) -> None:
        """By the action's own units and signs, not by the state's."""
        turned = tuple(replace(channel, sign=-1, offset=3.0) for channel in channels())
        other = contract(state=channels(Unit.RAD), action=turned, state_statistics=Statistics())
        values = np.array([[90.0, -45.0, 0.0, 100.0, 10.0, 50.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
        back = other.actions_from_radians(other.to_radians(values))
        np.testing.assert_allclose(back, values, atol=1e-9)
        assert np.abs(other.from_radians(other.to_radians(values)) - values).max() > 1.0

    @pytest.mark.parametrize("drive_mode", [0, 1])
    def test_range_100_agrees_with_the_calibration(self, drive_mode: int) -> None:
        """A tick means the same angle whether it comes as ±100 or as radians."""
        own = calibration(drive_mode)
        ranged = contract(state=channels(Unit.RANGE_100), action=channels(Unit.RANGE_100))
        for share in (0.0, 0.3, 1.0):
            ticks = [joint.range_min + share * joint.travel_ticks for joint in own.joints.values()]
            value = [
                own.joints[name].ticks_to_range100(tick)
                for name, tick in zip(JOINT_NAMES, ticks, strict=True)
            ]
            ours = ranged.to_radians(value, own)[:5]
            np.testing.assert_allclose(ours, own.ticks_to_rad(ticks)[:5], atol=1e-9)

    def test_range_100_needs_a_calibration(self) -> None:
        with pytest.raises(UserError, match="calibration"):
            contract(action=channels(Unit.RANGE_100)).to_radians(np.zeros(6))

    def test_signs_and_offsets_of_an_older_calibration(self) -> None:
        moved = (Channel("shoulder_pan", Unit.DEG, sign=-1, offset=90.0), *channels()[1:])
        old = contract(state=moved, action=moved)
        assert old.to_radians([100.0, 0, 0, 0, 0, 0])[0] == pytest.approx(math.radians(-10))
        assert old.from_radians([math.radians(-10), 0, 0, 0, 0, 0])[0] == pytest.approx(100.0)

    def test_columns_in_another_order_find_their_joints(self) -> None:
        turned = contract(action=channels()[::-1])
        radians = turned.to_radians([0.0, 5.0, 4.0, 3.0, 2.0, 1.0])
        np.testing.assert_allclose(np.degrees(radians[:5]), [1, 2, 3, 4, 5])

    def test_a_whole_chunk_at_once(self) -> None:
        assert contract().to_radians(np.zeros((25, 6))).shape == (25, 6)

    def test_another_number_of_columns_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="7 columns"):
            contract().to_radians(np.zeros(7))

    @given(
        st.sampled_from([Unit.DEG, Unit.RAD, Unit.RANGE_100]),
        st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6),
        st.sampled_from([1, -1]),
        st.floats(-200.0, 200.0),
    )
    def test_there_and_back(
        self, unit: Unit, radians: list[float], sign: int, offset: float
    ) -> None:
        columns = tuple(Channel(c.name, c.unit, sign, offset) for c in channels(unit))
        unknown = {"state_statistics": Statistics(), "action_statistics": Statistics()}
        own = contract(state=columns, action=columns, **unknown)
        back = own.to_radians(own.from_radians(radians, calibration()), calibration())
        np.testing.assert_allclose(back, radians, atol=1e-9)

    def test_poses_are_no_joint_angles(self) -> None:
        pose = (Channel("x", Unit.RAD),)
        poses = contract(
            action_space=ActionSpace.EE,
            state=pose,
            action=pose,
            state_statistics=Statistics(),
            action_statistics=Statistics(),
        )
        with pytest.raises(UserError, match="end-effector"):
            poses.to_radians([0.0])
        assert "end-effector" in poses.differences(graph())[0]


class TestFile:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        contract().save(tmp_path)
        assert Contract.load(tmp_path) == contract()

    def test_notes_are_comments(self, tmp_path: Path) -> None:
        path = contract().save(tmp_path, ["state: in degrees\nfoo: bar", "rate: 25"])
        assert path.read_text().startswith("# state: in degrees foo: bar\n# rate: 25\nembod")
        assert Contract.load(tmp_path) == contract()

    def test_the_hash_is_of_the_content(self, tmp_path: Path) -> None:
        path = contract().save(tmp_path)
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(dict(reversed(content.items())), indent=8))
        assert Contract.load(tmp_path).hash == contract().hash
        assert len(contract().hash) == 16
        others = [
            contract(image_age_s=0.0),
            contract(norm_key="other"),
            contract(action=channels()[::-1]),
            contract(cameras=contract().cameras[::-1]),
            contract(state_statistics=Statistics(min=LOW, max=(*HIGH[:5], 99.0))),
        ]
        assert len({c.hash for c in (*others, contract())}) == 6

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.update(rate=25), ("rate", "unknown")),
            (lambda c: c.pop("period_s"), ("lacks", "period_s")),
            (lambda c: c.update(period_s="fast"), ("period_s", "number")),
            (lambda c: c.update(period_s=0), ("period_s", "positive")),
            (lambda c: c.update(period_s=float("nan")), ("period_s",)),
            (lambda c: c.update(horizon=2.5), ("horizon", "whole")),
            (lambda c: c.update(action_kind="velocity"), ("action_kind", "goal, state")),
            (lambda c: c.update(cameras="front"), ("cameras", "list")),
            (lambda c: c["cameras"].append(c["cameras"][0]), ("face_view", "twice")),
            (lambda c: c["cameras"][0].update(width=0), ("face_view", "0x240")),
            (lambda c: c["state"][0].update(unit="ticks"), ("state[0].unit", "ticks")),
            (lambda c: c["state"][0].update(name="hip"), ("hip", "no joint")),
            (lambda c: c["action"].pop(2), ("lacks joint elbow_flex",)),
            (lambda c: c["action"][0].update(sign=2), ("sign", "shoulder_pan")),
            (lambda c: c["action"][0].update(unit="percent"), ("percent", "gripper")),
            (lambda c: c["action"][0].update(unit="m"), ("shoulder_pan", "metres")),
            (lambda c: c.update(norm_key=3), ("norm_key", "text")),
            (lambda c: c["state_statistics"].update(min=[0.0]), ("state", "1 values of min")),
            (lambda c: c["state_statistics"]["min"].__setitem__(0, float("inf")), ("finite",)),
            (lambda c: c.update(instruction_template="go"), ("{instruction}",)),
        ],
    )
    def test_a_wrong_file_is_refused(
        self, tmp_path: Path, change: Callable[[dict], object], words: tuple[str, ...]
    ) -> None:
        path = contract().save(tmp_path)
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError) as caught:
            Contract.load(tmp_path)
        for word in ("contract.yaml", *words):
            assert word in str(caught.value)

    @pytest.mark.parametrize("text", ["{", "- 1", ""])
    def test_a_file_that_is_no_mapping(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "contract.yaml").write_text(text)
        with pytest.raises(UserError, match=r"contract\.yaml"):
            Contract.load(tmp_path)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="not a folder"):
            Contract.load(tmp_path / "nowhere")


class TestDifferences:
    def test_a_graph_that_fits(self) -> None:
        assert contract().differences(graph()) == ()

    def test_swapped_cameras_are_recognised(self) -> None:
        swapped = dict(zip(SIZES, reversed(SIZES.values()), strict=True))
        found = contract().differences(graph(cameras=swapped))
        assert "face_view sends 240x240, the policy was trained on 320x240" in found[0]
        assert "face_view and wrist_view look swapped" in found[-1]

    def test_a_silent_camera_is_named_with_its_topic(self) -> None:
        (found,) = contract().differences(graph(cameras={"face_view": (320, 240)}))
        assert "camera/wrist_view" in found

    def test_joints_must_be_there_in_order(self) -> None:
        assert "no joint_states" in contract().differences(graph(joint_names=()))[0]
        names = ("hip", *JOINT_NAMES[1:])
        assert "lacks shoulder_pan" in contract().differences(graph(joint_names=names))[0]
        assert "order" in contract().differences(graph(joint_names=JOINT_NAMES[::-1]))[0]

    def test_a_contract_in_radians_whose_statistics_are_degrees(self) -> None:
        wrong = contract(state=channels(Unit.RAD))
        found = " ".join(wrong.differences(graph()))
        assert "state in radians, its statistics fit degrees (wrist_roll reaches 163" in found

    def test_a_pose_where_training_never_was(self) -> None:
        narrow = Statistics(min=(-5.0,) * 5 + (0.0,), max=(5.0,) * 5 + (100.0,))
        found = contract(state_statistics=narrow).differences(graph())
        assert [sentence.split()[0] for sentence in found] == [
            "shoulder_lift",
            "elbow_flex",
            "wrist_flex",
        ]

    def test_a_joint_that_does_not_answer(self) -> None:
        silent = (math.nan, *HOME_RAD[1:])
        (found,) = contract().differences(graph(state_rad=silent))
        assert found.startswith("shoulder_pan stands at nan")

    def test_range_100_asks_for_the_calibration(self) -> None:
        extent = Statistics(min=(-90.0,) * 5 + (0.0,), max=(90.0,) * 5 + (100.0,))
        ranged = contract(state=channels(Unit.RANGE_100), state_statistics=extent)
        (found,) = ranged.differences(graph())
        assert "calibration" in found
        assert ranged.differences(graph(calibration=calibration())) == ()


def test_the_contract_needs_no_torch() -> None:
    """Recorder, trace and evidence read contracts on machines without torch."""
    code = "import sys, wallx_policy.contract; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
