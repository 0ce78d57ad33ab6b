"""The limits file: a limit that is missing or impossible must never be a silent default."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety import Limits, effective_limits

FILE = data_path("so101_limits.yaml")
URDF = data_path("so101.urdf")


def changed(folder: Path, change: Any) -> Path:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    change(content)
    path = folder / "limits.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def box(limits: Limits) -> np.ndarray:
    return np.stack([limits.lower_rad, limits.upper_rad], axis=-1)


@pytest.mark.parametrize("profile", ["cautious", "demo"])
def test_the_shipped_profiles_are_usable(profile: str):
    calibration = Calibration.load(data_path("sim_calibration.json"))
    limits = effective_limits(FILE, profile, URDF, calibration)
    assert limits.joint_names == JOINT_NAMES
    # No servo of this arm turns faster than 4.1 rad/s.
    assert (limits.velocity_rad_s <= 4.1).all()
    rest = limits.rest_rad[:5]
    assert ((rest > limits.lower_rad[:5]) & (rest < limits.upper_rad[:5])).all()


def test_the_tightest_of_file_urdf_and_calibration_wins():
    limits = Limits.from_file(FILE, "cautious")
    urdf, calibration = box(limits), box(limits)
    urdf[0] = -0.5, 3.0
    calibration[0] = -3.0, 0.7
    calibration[2] = -1.0, 1.0
    narrow = limits.intersected(urdf, calibration)
    assert (narrow.lower_rad[0], narrow.upper_rad[0]) == (-0.5, 0.7)
    assert narrow.rest_rad[2] == 1.0
    assert np.isnan(narrow.rest_rad[5])
    urdf[4] = -np.inf, np.inf
    assert limits.intersected(urdf).upper_rad[4] == limits.upper_rad[4]
    np.testing.assert_array_equal(narrow.upper_rad[3:], limits.upper_rad[3:])


def test_limits_that_exclude_each_other_name_the_joint():
    limits = Limits.from_file(FILE, "cautious")
    other = box(limits)
    other[3] = 1.7, 2.0
    with pytest.raises(UserError, match="wrist_flex"):
        limits.intersected(other)
    with pytest.raises(UserError, match="calibration"):
        limits.intersected(box(limits), np.full((6, 2), np.nan))


def drop_joint(content: dict[str, Any]) -> None:
    del content["profiles"]["cautious"]["jerk_rad_s3"]["elbow_flex"]


def negative(content: dict[str, Any]) -> None:
    content["profiles"]["cautious"]["velocity_rad_s"]["gripper"] = -1.0


def infinite(content: dict[str, Any]) -> None:
    content["profiles"]["cautious"]["acceleration_rad_s2"]["gripper"] = float("inf")


def text(content: dict[str, Any]) -> None:
    content["position_rad"]["gripper"] = ["a", 1]


def reversed_range(content: dict[str, Any]) -> None:
    content["position_rad"]["gripper"] = [1.0, -1.0]


def unknown_key(content: dict[str, Any]) -> None:
    content["velocity"] = 3


def outside(content: dict[str, Any]) -> None:
    content["parking"]["rest_rad"]["elbow_flex"] = 2.5


def barely_outside(content: dict[str, Any]) -> None:
    content["parking"]["ready_rad"]["elbow_flex"] = 1.02 * content["position_rad"]["elbow_flex"][1]


def barely_below(content: dict[str, Any]) -> None:
    content["parking"]["via_rad"]["elbow_flex"] = 1.02 * content["position_rad"]["elbow_flex"][0]


def other_joint(content: dict[str, Any]) -> None:
    sections = ("position_rad", "parking", "profiles", "following_error_rad")
    groups = [content[section] for section in sections]
    while groups:
        group = groups.pop()
        groups += [value for value in group.values() if isinstance(value, dict)]
        if "gripper" in group:
            group["hand"] = group.pop("gripper")


def no_tip_speed(content: dict[str, Any]) -> None:
    content["profiles"]["cautious"]["tip_speed_m_s"] = 0


def stop_before_slow(content: dict[str, Any]) -> None:
    content["following_error_rad"]["stop"]["elbow_flex"] = 0.1


def half_exempt(content: dict[str, Any]) -> None:
    content["following_error_rad"]["slow"]["elbow_flex"] = None


def servo_without_speed(content: dict[str, Any]) -> None:
    del content["servos"]["12 V"]["velocity_rad_s"]


def no_servos(content: dict[str, Any]) -> None:
    content["servos"] = {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_joint, "jerk_rad_s3.*lacks elbow_flex"),
        (negative, "velocity_rad_s: gripper.*positive"),
        (infinite, "acceleration_rad_s2: gripper.*finite"),
        (text, "position_rad: gripper"),
        (reversed_range, "no usable range"),
        (unknown_key, "unknown keys: velocity"),
        (outside, "rest_rad.*elbow_flex"),
        (barely_outside, "ready_rad.*elbow_flex"),
        (barely_below, "via_rad.*elbow_flex"),
        (other_joint, "an SO-101 has"),
        (no_tip_speed, "cautious: tip_speed_m_s.*positive"),
        (stop_before_slow, "elbow_flex needs slow below stop"),
        (half_exempt, "elbow_flex needs slow below stop"),
        (servo_without_speed, "servos: 12 V.*lacks velocity_rad_s"),
        (no_servos, "servos.*must list parts"),
    ],
)
def test_a_bad_file_is_refused_with_the_key(tmp_path: Path, change: Any, words: str):
    with pytest.raises(UserError, match=words):
        effective_limits(changed(tmp_path, change), "cautious", URDF, None)


def test_a_missing_file_or_profile_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        Limits.from_file(tmp_path / "nowhere.yaml", "cautious")
    with pytest.raises(UserError, match="has: cautious, demo"):
        Limits.from_file(FILE, "fast")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,", encoding="utf-8")
    with pytest.raises(UserError, match="not YAML"):
        Limits.from_file(broken, "cautious")


@pytest.mark.parametrize(
    ("supply_v", "name"),
    [(5.0, "7.4 V"), (7.4, "7.4 V"), (8.4, "7.4 V"), (10.8, "12 V"), (12.6, "12 V")],
)
def test_the_supply_tells_the_servo(supply_v: float, name: str):
    limits = Limits.from_file(FILE, "demo")
    part = limits.servo_part(supply_v)
    assert part is not None
    assert part.name == name
    narrowed = limits.for_part(part)
    expected = np.minimum(limits.velocity_rad_s, part.velocity_rad_s)
    np.testing.assert_array_equal(narrowed.velocity_rad_s, expected)
    np.testing.assert_array_equal(narrowed.jerk_rad_s3, limits.jerk_rad_s3)


def test_an_unknown_supply_means_the_slowest_servo():
    limits = Limits.from_file(FILE, "demo")
    assert limits.servo_part(math.nan) == limits.servo_part(7.4)
    assert limits.for_part(limits.servo_part(math.nan)).velocity_rad_s.max() == 2.5


@pytest.mark.parametrize("supply_v", [0.0, 3.9, 14.0, 24.0])
def test_a_supply_for_no_servo_is_refused(supply_v: float):
    with pytest.raises(UserError, match=r"supply is .* V instead of 4 to 9 V \(7.4 V\) or 9 to 14"):
        Limits.from_file(FILE, "demo").servo_part(supply_v)


def test_sections_that_do_not_apply_may_be_null(tmp_path: Path):
    def simple(content: dict[str, Any]) -> None:
        content["servos"] = None
        content["profiles"]["cautious"]["tip_speed_m_s"] = None

    limits = Limits.from_file(changed(tmp_path, simple), "cautious")
    assert limits.servo_part(24.0) is None
    assert limits.for_part(None) is limits
    assert limits.tip_speed_m_s == math.inf
