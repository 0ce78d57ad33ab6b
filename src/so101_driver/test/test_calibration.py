"""A wrong unit, zero or file means a wrong pose: conversions must equal LeRobot's to the tick."""

import json
import math
import random

import numpy as np
import pytest
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import GRIPPER, JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics

SIM = data_path("sim_calibration.json")


@pytest.fixture
def content():
    return json.loads(SIM.read_text())


@pytest.fixture
def calibration():
    return Calibration.load(SIM)


def lerobot_normalize(mode, ticks, low, high, drive_mode):
    """The formulas of LeRobot's documentation of its units, written out."""
    bounded = min(high, max(low, ticks))
    if mode == "degrees":
        return (ticks - (low + high) / 2) * 360 / 4095
    if mode == "range100":
        value = (bounded - low) / (high - low) * 200 - 100
        return -value if drive_mode else value
    value = (bounded - low) / (high - low) * 100
    return 100 - value if drive_mode else value


def lerobot_unnormalize_untruncated(mode, value, low, high, drive_mode):
    if mode == "degrees":
        return value * 4095 / 360 + (low + high) / 2
    if mode == "range100":
        value = min(100.0, max(-100.0, -value if drive_mode else value))
        return (value + 100) / 200 * (high - low) + low
    value = min(100.0, max(0.0, 100 - value if drive_mode else value))
    return value / 100 * (high - low) + low


@pytest.mark.parametrize("mode", ["degrees", "range100", "percent"])
@pytest.mark.parametrize("drive_mode", [0, 1])
def test_units_equal_lerobots(content, mode, drive_mode):
    for entry in content.values():
        entry["drive_mode"] = drive_mode
    rng = random.Random(5)
    for joint in Calibration.from_mapping(content).joints.values():
        low, high = joint.range_min, joint.range_max
        for _ in range(200):
            ticks = rng.randrange(4096)
            value = getattr(joint, f"ticks_to_{mode}")(ticks)
            assert value == lerobot_normalize(mode, ticks, low, high, drive_mode)
            wanted = rng.uniform(-200, 200)
            exact = lerobot_unnormalize_untruncated(mode, wanted, low, high, drive_mode)
            got = getattr(joint, f"{mode}_to_ticks")(wanted)
            assert low <= got <= high
            assert got == round(min(max(exact, low), high))
            if low <= exact <= high:
                assert abs(got - int(exact)) <= 1


def test_writing_rounds_where_lerobot_truncates(calibration):
    joint = calibration.joints["elbow_flex"]
    assert joint.degrees_to_ticks(0.06) == joint.mid_tick + 1
    assert joint.degrees_to_ticks(-0.06) == joint.mid_tick - 1


@pytest.mark.parametrize("name", JOINT_NAMES)
def test_every_tick_survives_the_round_trip(calibration, name):
    joint = calibration.joints[name]
    index = JOINT_NAMES.index(name)
    ticks = np.tile(calibration.rad_to_ticks(np.zeros(6)), (joint.travel_ticks + 1, 1))
    ticks[:, index] = np.arange(joint.range_min, joint.range_max + 1)
    assert np.array_equal(calibration.rad_to_ticks(calibration.ticks_to_rad(ticks)), ticks)
    for tick in range(joint.range_min, joint.range_max + 1):
        assert joint.degrees_to_ticks(joint.ticks_to_degrees(tick)) == tick
        assert joint.range100_to_ticks(joint.ticks_to_range100(tick)) == tick
        assert joint.percent_to_ticks(joint.ticks_to_percent(tick)) == tick


def test_zero_is_mid_range_and_not_tick_2047(calibration):
    assert calibration.joints["elbow_flex"].mid_tick == 1966
    ticks = calibration.rad_to_ticks(np.zeros(6))
    assert ticks[JOINT_NAMES.index("elbow_flex")] == 1966


def test_radians_are_degrees_for_the_arm_and_percent_for_the_gripper(calibration):
    ticks = np.array([1500, 1600, 1700, 1800, 1900, 2200])
    rad = calibration.ticks_to_rad(ticks)
    for index, name in enumerate(JOINT_NAMES):
        joint = calibration.joints[name]
        if index == GRIPPER:
            share = joint.ticks_to_percent(ticks[index]) / 100
            assert rad[index] == pytest.approx(-0.174533 + share * (1.74533 + 0.174533))
        else:
            assert math.degrees(rad[index]) == pytest.approx(joint.ticks_to_degrees(ticks[index]))


def test_velocity_has_the_sign_and_scale_of_position(calibration):
    step = calibration.ticks_to_rad(np.full(6, 2101)) - calibration.ticks_to_rad(np.full(6, 2100))
    assert calibration.tick_rate_to_rad_s(np.full(6, -300)) == pytest.approx(-300 * step)


def test_turned_gripper_opens_with_falling_ticks(content):
    content["gripper"]["drive_mode"] = 1
    calibration = Calibration.from_mapping(content)
    joint = calibration.joints["gripper"]
    ends = calibration.ticks_to_rad([[2000] * 5 + [t] for t in (joint.range_max, joint.range_min)])
    assert ends[:, GRIPPER] == pytest.approx([-0.174533, 1.74533])
    limits = calibration.position_limits_rad[GRIPPER]
    assert limits == pytest.approx([-0.174533, 1.74533])


def test_positions_are_clamped_to_the_range_and_non_finite_ones_refused(calibration):
    for sign in (-1, 1):
        ticks = calibration.rad_to_ticks(np.full(6, sign * 9.0))
        edge = [j.range_max if sign > 0 else j.range_min for j in calibration.joints.values()]
        assert ticks.tolist() == edge
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            calibration.rad_to_ticks([0, 0, bad, 0, 0, 0])
        with pytest.raises(ValueError, match="not a position"):
            calibration.joints["gripper"].percent_to_ticks(bad)
    assert np.isnan(calibration.ticks_to_rad([math.nan] * 6)).all()


def test_simulated_arm_is_calibrated_within_the_urdf_and_reaches_the_table(calibration):
    limits = calibration.position_limits_rad
    urdf = Kinematics.from_urdf(data_path("so101.urdf")).position_limits_rad
    assert (limits[:, 0] < -1.5)[:5].all()
    assert (limits[:, 1] > 1.5).all()
    assert not np.allclose(limits, urdf, atol=0.01)


def changed(content, joint, **changes):
    return {**content, joint: {**content[joint], **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"range_min": 3000, "range_max": 1000}, "3000..1000"),
        ({"range_max": 4096}, "4096"),
        ({"range_min": -1}, "-1"),
        ({"range_min": 2000, "range_max": 2100}, "100 ticks"),
        ({"homing_offset": 2048}, "2048"),
        ({"drive_mode": 2}, "drive_mode 2"),
        ({"id": 4}, "servo id 4"),
        ({"range_min": 1000.5}, "'range_min'"),
        ({"range_min": None}, "'range_min'"),
        ({"range_min": True}, "'range_min'"),
    ],
)
def test_impossible_entries_are_refused_by_name(content, changes, words):
    with pytest.raises(UserError, match="elbow_flex") as caught:
        Calibration.from_mapping(changed(content, "elbow_flex", **changes), "arm.json")
    assert words in str(caught.value)
    assert "arm.json" in str(caught.value)


def test_calibration_of_another_robot_is_refused(content, tmp_path):
    path = tmp_path / "other.json"
    content["elbow_roll"] = content.pop("elbow_flex")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no elbow_flex and has elbow_roll"):
        Calibration.load(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100_000, "null", '{"gripper": 3}'])
def test_files_that_are_no_calibration_are_refused(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"file\.json"):
        Calibration.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        Calibration.load(tmp_path / "absent.json")
