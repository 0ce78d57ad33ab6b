"""The limits file: a limit that is missing or impossible must never be a silent default."""

from __future__ import annotations

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


def other_joint(content: dict[str, Any]) -> None:
    for group in (content["position_rad"], *content["parking"].values()):
        group["hand"] = group.pop("gripper")
    for group in content["profiles"]["cautious"].values():
        group["hand"] = group.pop("gripper")


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
        (other_joint, "an SO-101 has"),
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
