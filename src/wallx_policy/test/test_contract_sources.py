"""A contract is built from what a checkpoint's files say, and only from that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES
from wallx_policy.contract import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    Contract,
    PredictionMode,
    Unit,
    Zeros,
    read_contract,
)
from wallx_policy.contract_units import Choices
from wallx_policy.dof_groups import BASE_05

LOW = np.array([-110.0, -100.0, -97.0, -95.0, -157.0, 0.0], np.float32)
HIGH = np.array([110.0, 100.0, 97.0, 95.0, 163.0, 99.0], np.float32)
ARM = {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1}
IMAGE = {"type": "VISUAL", "shape": [3, 480, 640]}


def channels(unit: Unit = Unit.DEG, gripper: Unit = Unit.PERCENT) -> tuple[Channel, ...]:
    return tuple(Channel(n, gripper if n == "gripper" else unit) for n in JOINT_NAMES)


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    write(path, content)


def write_info(folder: Path) -> None:
    names = [f"{name}.pos" for name in JOINT_NAMES]
    features = {key: {"names": names} for key in ("observation.state", "action")}
    order = ["height", "width", "channels"]
    features |= {
        "observation.images.front": {"shape": [480, 640, 3], "names": order},
        "observation.images.wrist": {"shape": [3, 240, 320], "names": ["channels", *order[:2]]},
    }
    write(folder / "info.json", {"robot_type": "so101_follower", "fps": 25, "features": features})


def notes(folder: Path, choices: Choices | None = None) -> str:
    return "\n".join(read_contract(folder, choices)[1])


def ends(path: Path, low: np.ndarray, high: np.ndarray) -> None:
    numbers = {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high}
    numbers |= {"q01": low * 0.99, "q99": high * 0.99}
    tensors = {
        f"{feature}.{name}": np.ascontiguousarray(value, np.float32)
        for feature in ("observation.state", "action")
        for name, value in numbers.items()
    }
    save_file(tensors, path)


STEPS = (
    "rename_observations_processor",
    "to_batch_processor",
    "wall_x_task_processor",
    "normalizer_processor",
    "device_processor",
)
STEPS_05 = (
    *STEPS[:2],
    "wall_oss_05_task_passthrough",
    "wall_oss_05_pad_state",
    "wall_oss_05_pad_action",
    "normalizer_processor",
    "wall_oss_05_clamp_normalized",
    "device_processor",
)
POST = ("unnormalizer_processor", "device_processor")


def write_processors(folder: Path, mode: str, steps: tuple[str, ...], post: tuple = POST) -> None:
    config = {"norm_map": {"STATE": mode, "ACTION": mode}, "eps": 1e-8}
    for file, names in (("pre", steps), ("post", post)):
        listed = [{"registry_name": name, "config": {}} for name in names]
        for entry in listed:
            if "normalizer" in entry["registry_name"]:
                entry.update(config=config, state_file="s.safetensors")
        write(folder / f"policy_{file}processor.json", {"steps": listed})


@pytest.fixture
def wall_x(tmp_path: Path) -> Path:
    """A LeRobot wall_x policy with the info.json of its data."""
    write(
        tmp_path / "config.json",
        {
            "type": "wall_x",
            "input_features": {
                "observation.images.front": IMAGE,
                "observation.state": {"type": "STATE", "shape": [6]},
            },
            "output_features": {"action": {"type": "ACTION", "shape": [6]}},
            "chunk_size": 32,
        },
    )
    write_processors(tmp_path, "MEAN_STD", STEPS)
    write_info(tmp_path)
    ends(tmp_path / "s.safetensors", LOW, HIGH)
    return tmp_path


@pytest.fixture
def wall_oss_05(wall_x: Path) -> Path:
    """A LeRobot wall_oss_05 policy: two named views, statistics padded to 26 columns."""
    edit(
        wall_x / "config.json",
        lambda c: (
            c.update(type="wall_oss_05", vlm_config={}, chunk_size=10),
            c["input_features"].update({"observation.images.wrist": IMAGE}),
            c.update(
                camera_key_mapping={
                    "observation.images.wrist": "right_wrist_view",
                    "observation.images.front": "face_view",
                }
            ),
        ),
    )
    post = (POST[0], "wall_oss_05_crop_action", POST[1])
    write_processors(wall_x, "QUANTILES", STEPS_05, post)
    filled = np.zeros(20, np.float32)
    ends(wall_x / "s.safetensors", np.append(LOW, filled), np.append(HIGH, filled))
    return wall_x


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A fine-tune of wall-x: config.json, config.yml, norm_stats.json and info.json."""
    write(tmp_path / "config.json", {"num_experts": 2, "mlp_moe": True})
    training = {
        "dof_config": {**ARM, "action_padding": 14},
        "agent_pos_config": {**ARM, "action_padding": 14},
        "action_horizon": 25,
        "data": {
            "key_mappings": {
                "camera": {
                    "observation.images.wrist": "left_wrist_view",
                    "observation.images.front": "face_view",
                }
            }
        },
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(training, sort_keys=False))
    filled = [0.0] * 14
    one = {"q01": [*LOW.tolist(), *filled], "q99": [*HIGH.tolist(), *filled]}
    write(tmp_path / "norm_stats.json", {"norm_stats": {"state": one, "action": one}})
    write_info(tmp_path)
    return tmp_path


def retrain(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.yml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


class TestWallX:
    def test_everything_is_found(self, wall_x: Path) -> None:
        built = Contract.load(wall_x)
        assert built.cameras == (Camera("front", 640, 480),)
        assert built.period_s == pytest.approx(0.04)
        assert (built.horizon, built.action_kind) == (32, ActionKind.GOAL)
        assert built.action == channels()
        assert built.state_statistics.max == tuple(HIGH.tolist())

    def test_it_says_what_was_concluded_and_from_what(self, wall_x: Path) -> None:
        said = notes(wall_x)
        for words in (
            "views: front 640x480",
            "25 actions a second, fps in info.json",
            "32 actions, chunk_size in config.json",
            "state: arm joints in degrees, because wrist_roll reaches 163, beyond ±100",
            "gripper in percent of its opening, because its values lie in 0 to 99",
            "zero at mid-range",
            "order shoulder_pan, shoulder_lift",
        ):
            assert words in said
        assert len(said.splitlines()) == 7

    def test_what_is_saved_says_the_same(self, wall_x: Path) -> None:
        built, said = read_contract(wall_x)
        built.save(wall_x, said)
        assert Contract.load(wall_x) == built
        assert "state: arm joints in degrees, as contract.yaml says" in notes(wall_x)

    def test_two_units_that_fit_are_not_guessed(self, wall_x: Path) -> None:
        ends(wall_x / "s.safetensors", LOW * 0.6, HIGH * 0.6)
        with pytest.raises(UserError) as caught:
            Contract.load(wall_x)
        for words in (
            "degrees or ±100 of the calibrated range (wrist_roll reaches 97.8",
            "must not be guessed",
            "use_degrees",
            "--unit deg or --unit range_100",
        ):
            assert words in str(caught.value)
        chosen, _ = read_contract(wall_x, Choices(unit=Unit.RANGE_100))
        assert chosen.state == channels(Unit.RANGE_100)
        said = notes(wall_x, Choices(unit=Unit.DEG))
        assert "in degrees, as you say; its statistics fit degrees or ±100" in said

    def test_what_the_user_says_has_to_fit(self, wall_x: Path) -> None:
        with pytest.raises(UserError, match=r"state cannot be in radians.*fit degrees"):
            read_contract(wall_x, Choices(unit=Unit.RAD))
        with pytest.raises(UserError, match="gripper of the state cannot be in radians"):
            read_contract(wall_x, Choices(gripper=Unit.RAD))
        with pytest.raises(UserError, match="drop norm_key"):
            read_contract(wall_x, Choices(norm_key="x"))

    def test_state_and_action_share_their_unit(self, wall_x: Path) -> None:
        path = wall_x / "s.safetensors"
        ends(path, LOW, HIGH)
        from safetensors.numpy import load_file

        tensors = load_file(path)
        for name in ("min", "max"):
            tensors[f"action.{name}"] = tensors[f"action.{name}"] * np.float32(0.5)
        save_file(tensors, path)
        assert Contract.load(wall_x).action == channels()
        assert "action: arm joints in degrees, as the state is" in notes(wall_x)
        for name in ("min", "max"):
            tensors[f"action.{name}"] = np.array([-1.5, 1.2], np.float32).repeat(3)
        save_file(tensors, path)
        with pytest.raises(UserError, match="must be in one unit"):
            Contract.load(wall_x)

    def test_without_statistics_the_user_says_everything(self, wall_x: Path) -> None:
        write_processors(wall_x, "IDENTITY", STEPS)
        (wall_x / "s.safetensors").unlink()
        for name in ("pre", "post"):
            edit(
                wall_x / f"policy_{name}processor.json",
                lambda c: [step.pop("state_file", None) for step in c["steps"]],
            )
        with pytest.raises(UserError, match=r"no statistics of state and action.*--unit"):
            Contract.load(wall_x)
        assert read_contract(wall_x, Choices(unit=Unit.DEG))[0].state == channels()
        assert "no statistics to check" in notes(wall_x, Choices(unit=Unit.DEG))
        with pytest.raises(UserError, match="gripper in the state must not be guessed"):
            read_contract(wall_x, Choices(unit=Unit.RAD))
        both = Choices(unit=Unit.RAD, gripper=Unit.RAD)
        assert read_contract(wall_x, both)[0].state == channels(Unit.RAD, Unit.RAD)

    def test_radians_from_a_simulator(self, wall_x: Path) -> None:
        low, high = np.radians(LOW), np.radians(HIGH)
        low[5], high[5] = -0.17, 1.7
        ends(wall_x / "s.safetensors", low, high)
        assert Contract.load(wall_x).state == channels(Unit.RAD, Unit.RAD)
        low[5], high[5] = 0.0, 1.0
        ends(wall_x / "s.safetensors", low, high)
        with pytest.raises(UserError, match=r"gripper in the state.*share of the opening"):
            Contract.load(wall_x)
        chosen, _ = read_contract(wall_x, Choices(gripper=Unit.RAD))
        assert chosen.state[-1] == Channel("gripper", Unit.RAD)

    @pytest.mark.parametrize("how", ["robot", "names"])
    def test_data_of_the_stretched_zero(self, wall_x: Path, how: str) -> None:
        """LeRobot's own page on backward compatibility has the conversion."""

        def old(content: dict) -> None:
            if how == "robot":
                content["robot_type"] = "so100"
                return
            names = {"motors": [f"main_{name}" for name in JOINT_NAMES]}
            for key in ("observation.state", "action"):
                content["features"][key]["names"] = names

        edit(wall_x / "info.json", old)
        low, high = LOW * np.float32(0.5), HIGH * np.float32(0.5)
        low[1], high[1], low[2], high[2] = 40.0, 190.0, 0.0, 180.0
        ends(wall_x / "s.safetensors", low, high)
        with pytest.raises(UserError, match=r"arm stretched out.*--zeros stretched"):
            Contract.load(wall_x)
        choices = Choices(zeros=Zeros.STRETCHED)
        built, said = read_contract(wall_x, choices)
        assert built.state[1] == Channel("shoulder_lift", Unit.DEG, -1, 90.0)
        assert built.action[2] == Channel("elbow_flex", Unit.DEG, 1, 90.0)
        assert built.state[3] == Channel("wrist_flex", Unit.DEG)
        assert "shoulder_lift turned round and 90 degrees off" in "\n".join(said)
        # The folded arm of those days is the folded arm of today.
        folded = np.degrees(built.to_radians([0.0, 190.0, 180.0, 0.0, 0.0, 0.0]))
        np.testing.assert_allclose(folded[1:3], [-100.0, 90.0])
        with pytest.raises(UserError, match="degrees only"):
            read_contract(wall_x, Choices(unit=Unit.RANGE_100, zeros=Zeros.STRETCHED))
        with pytest.raises(UserError, match=r"elbow_flex would.*give --zeros"):
            read_contract(wall_x, Choices(zeros=Zeros.MID_RANGE))

    def test_zeros_of_an_older_calibration(self, wall_x: Path) -> None:
        low, high = LOW.copy(), HIGH.copy()
        low[1], high[1] = -10.0, 188.0
        ends(wall_x / "s.safetensors", low, high)
        with pytest.raises(UserError, match=r"shoulder_lift would.*signs and offsets"):
            Contract.load(wall_x)

    def test_without_the_data_set_it_says_what_is_missing(self, wall_x: Path) -> None:
        (wall_x / "info.json").unlink()
        with pytest.raises(UserError, match=r"meta/info\.json"):
            Contract.load(wall_x)

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"robot_type": "koch"}, "koch"),
            ({"fps": 0}, "fps"),
            ({"features": {}}, "names"),
            ({"features": {"observation.state": {"names": ["hip.pos"]}}}, "hip"),
            ({"features": {"observation.state": {"names": ["gripper.pos"]}}}, "lacks the names"),
        ],
    )
    def test_a_foreign_data_set(self, wall_x: Path, change: dict, word: str) -> None:
        edit(wall_x / "info.json", lambda c: c.update(change))
        with pytest.raises(UserError, match=word):
            Contract.load(wall_x)

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (lambda c: c.update(prediction_mode="dllm"), "dllm"),
            (lambda c: c.update(chunk_size=2.5), "chunk_size"),
            (lambda c: c["output_features"]["action"].update(shape=[7]), "7 columns of action"),
            (lambda c: c["input_features"].pop("observation.state"), "observation.state.shape"),
            (
                lambda c: c["input_features"]["observation.images.front"].pop("shape"),
                "images.front.shape",
            ),
            (
                lambda c: c["input_features"]["observation.images.front"].update(shape=[3]),
                "three numbers",
            ),
            (lambda c: c.update(type="act"), "'act' is none of wall_x"),
        ],
    )
    def test_a_foreign_policy(self, wall_x: Path, change: Callable, word: str) -> None:
        edit(wall_x / "config.json", change)
        with pytest.raises(UserError, match=word):
            Contract.load(wall_x)

    def test_fast_prediction(self, wall_x: Path) -> None:
        edit(wall_x / "config.json", lambda c: c.update(prediction_mode="fast"))
        assert Contract.load(wall_x).prediction_mode is PredictionMode.FAST


class TestWallOss05:
    def test_views_have_their_slots_and_statistics_no_padding(self, wall_oss_05: Path) -> None:
        built = Contract.load(wall_oss_05)
        assert built.cameras == (
            Camera("right_wrist_view", 640, 480),
            Camera("face_view", 640, 480),
        )
        assert (built.horizon, built.action) == (10, channels())
        assert len(built.action_statistics.q99) == 6

    def test_a_cropped_action(self, wall_oss_05: Path) -> None:
        def crop(content: dict) -> None:
            content["output_features"]["action"]["shape"] = [26]
            content["postprocess_action_dim"] = 6

        edit(wall_oss_05 / "config.json", crop)
        assert Contract.load(wall_oss_05).action == channels()

    @pytest.mark.parametrize("named", [True, False])
    def test_the_base_model_predicts_poses(self, wall_oss_05: Path, named: bool) -> None:
        def base(content: dict) -> None:
            content["output_features"]["action"]["shape"] = [26]
            content["vlm_config"] = {"dof_config": dict(BASE_05)} if named else {}

        edit(wall_oss_05 / "config.json", base)
        with pytest.raises(UserError, match=r"end-effector poses: .*fine-tuned in joint space"):
            Contract.load(wall_oss_05)

    def test_too_few_statistics(self, wall_oss_05: Path) -> None:
        ends(wall_oss_05 / "s.safetensors", LOW[:5], HIGH[:5])
        with pytest.raises(UserError, match=r"observation\.state: .* 5 columns, 6 are in use"):
            Contract.load(wall_oss_05)


class TestOwnLayouts:
    def test_everything_is_found(self, own: Path) -> None:
        built, said = read_contract(own)
        assert built.cameras == (
            Camera("left_wrist_view", 320, 240),
            Camera("face_view", 640, 480),
        )
        assert (built.period_s, built.horizon) == (0.04, 25)
        assert built.state == built.action == channels()
        assert built.action_statistics.q01 == tuple(LOW.tolist())
        assert built.norm_key == "norm_stats"
        text = "\n".join(said)
        for words in (
            "left_wrist_view 320x240 (observation.images.wrist)",
            "key_mappings.camera in config.yml",
            "action_horizon of the configuration",
            "statistics: norm_stats of norm_stats.json",
            "columns: config.yml; joint names: info.json",
        ):
            assert words in text

    def test_the_example_training_file_is_read_under_its_own_name(self, own: Path) -> None:
        (own / "config.yml").rename(own / "config_qact.yml")
        assert Contract.load(own).horizon == 25
        (own / "config.yml").write_text("{}")
        with pytest.raises(UserError, match=r"config.yml and config_qact.yml both"):
            Contract.load(own)

    def test_fast_tokens(self, own: Path) -> None:
        retrain(own, lambda c: c["data"].update(use_fast_tokenizer=True))
        assert Contract.load(own).prediction_mode is PredictionMode.FAST
        # The discrete tokens of wall-oss-0.5 are others, and no way to make actions.
        edit(own / "config.json", lambda c: c.update(mot_opt=True))
        assert Contract.load(own).prediction_mode is PredictionMode.FLOW

    def test_statistics_among_the_weights(self, own: Path) -> None:
        (own / "norm_stats.json").unlink()
        with pytest.raises(UserError, match=r"holds no statistics: copy norm_stats\.json"):
            Contract.load(own)
        tensors = {}
        for name, scale in (("mine", 1.0), ("x2_normal", 0.1)):
            for feature in ("action", "propri"):
                key = f"action_preprocessor.normalizer_{feature}"
                tensors[f"{key}.min.{name}"] = LOW * np.float32(scale)
                tensors[f"{key}.delta.{name}"] = (HIGH - LOW) * np.float32(scale)
        save_file(tensors, own / "model.safetensors")
        with pytest.raises(UserError, match=r"mine \(model.safetensors\), x2_normal.*--norm-key"):
            Contract.load(own)
        built, _ = read_contract(own, Choices(norm_key="mine"))
        assert (built.norm_key, built.action_statistics.max) == ("mine", tuple(HIGH.tolist()))
        with pytest.raises(UserError, match="norm_key 'other' is not there; there are: mine"):
            read_contract(own, Choices(norm_key="other"))
        del tensors["action_preprocessor.normalizer_propri.delta.mine"]
        save_file(tensors, own / "model.safetensors")
        with pytest.raises(UserError, match=r"model.safetensors: .*'mine' lack delta of propri"):
            read_contract(own, Choices(norm_key="mine"))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.pop("dof_config"), "holds dof_config"),
            (lambda c: c["dof_config"].update(follow_left_gripper=2), "7 columns in use"),
            (lambda c: c.update(dof_config={"gripper": 1, "arm": 5}), "has gripper where"),
            (lambda c: c.update(dof_config={"elbow_flex": 1, "a": 4, "gripper": 1}), "elbow_flex"),
            (lambda c: c["dof_config"].update(x="y"), r"dof_config\.x must be"),
            (lambda c: c["data"].pop("key_mappings"), r"key_mappings\.camera"),
            (
                lambda c: c["data"]["key_mappings"].update(camera={"side": "face_view"}),
                r"shape of observation\.images\.side",
            ),
            (lambda c: c.update(action_horizon=True), "action_horizon must be"),
        ],
    )
    def test_what_is_missing_or_does_not_agree(
        self, own: Path, change: Callable, words: str
    ) -> None:
        retrain(own, change)
        with pytest.raises(UserError, match=words):
            Contract.load(own)

    def test_state_and_action_have_their_own_statistics(self, own: Path) -> None:
        edit(
            own / "norm_stats.json",
            lambda c: c["norm_stats"].update(
                action={"q01": (LOW * 0.5).tolist(), "q99": (HIGH * 0.5).tolist()}
            ),
        )
        built = Contract.load(own)
        assert (built.state_statistics.q99[0], built.action_statistics.q99[0]) == (110.0, 55.0)

    def test_groups_may_be_named_by_joints(self, own: Path) -> None:
        retrain(own, lambda c: c.update(dof_config=dict.fromkeys(JOINT_NAMES, 1)))
        assert Contract.load(own).action == channels()

    def test_poses_are_refused_with_what_to_do(self, own: Path) -> None:
        retrain(own, lambda c: c.update(dof_config=dict(BASE_05)))
        (own / "info.json").rename(own / "elsewhere.json")
        with pytest.raises(UserError, match=r"config.yml\): .*fine-tuned in joint space"):
            Contract.load(own)
        (own / "elsewhere.json").rename(own / "info.json")
        (own / "norm_stats.json").unlink()
        built, said = read_contract(own)
        assert built.action_space is ActionSpace.EE
        assert len(built.action) == 26
        assert built.action[0] == Channel("follow_left_ee_cartesian_pos_relative[0]", Unit.METRE)
        assert built.action[3].unit is Unit.PLAIN
        assert "end-effector poses" in "\n".join(said)
        built.save(own)
        assert Contract.load(own) == built
        assert "end-effector poses" in notes(own)


ODD = (None, 3, -1.5, "x", [], [None], {}, {"x": 1}, True)


def places(content: object, *path: object) -> list[tuple]:
    """Return the path of everything in a JSON document."""
    found = [path] if path else []
    entries = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        entries = list(enumerate(content))[:2]
    for key, value in entries:
        found += places(value, *path, key)
    return found


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("wall_x", ("config.json", "info.json", "policy_preprocessor.json")),
        ("wall_oss_05", ("config.json",)),
        ("own", ("config.yml", "info.json", "norm_stats.json")),
    ],
)
def test_odd_values_anywhere_give_a_contract_or_a_sentence(
    layout: str, files: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(layout)
    refused = accepted = 0
    for name in files:
        path = folder / name
        text = path.read_text()
        whole = yaml.safe_load(text)
        for place in places(whole):
            for odd in ODD:
                content = json.loads(json.dumps(whole))
                inner = content
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = odd
                write(path, content)
                try:
                    Contract.load(folder)
                    accepted += 1
                except UserError as error:
                    refused += 1
                    assert "\n" not in str(error)
                except Exception as error:
                    error.add_note(f"{name}: {place} = {odd!r}")
                    raise
        path.write_text(text)
    assert refused > accepted > 0
