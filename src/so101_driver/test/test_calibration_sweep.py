"""A stop that was not there, or a turn that was missed, puts every angle of the joint off."""

from __future__ import annotations

import pytest
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_sweep import (
    SWEPT_JOINTS,
    Finding,
    StillPose,
    Sweep,
    actual_ticks,
    expected_travel,
    homing_offset,
    travel_finding,
    turned,
)
from so101_driver.joints import JOINT_NAMES

from so101_driver import registers as reg

FOLLOWER, LEADER = ArmKind.FOLLOWER, ArmKind.LEADER


def test_offset_makes_the_middle_2047_and_fits_the_register():
    for actual in range(4096):
        offset = homing_offset(actual)
        if actual == 4095:
            assert offset is None
            continue
        assert actual - offset == 2047
        assert reg.HOMING_OFFSET.decode(reg.HOMING_OFFSET.encode(offset)) == offset
        assert actual_ticks(2047, offset) == actual


@pytest.mark.parametrize(
    ("start", "end", "way"),
    [(0, 10, 10), (10, 0, -10), (4090, 5, 11), (5, 4090, -11), (0, 2047, 2047)],
)
def test_the_shorter_way_round(start, end, way):
    assert turned(start, end) == way


def test_pose_at_the_wrap_is_one_pose():
    samples = [dict.fromkeys(JOINT_NAMES, ticks % 4096) for ticks in (4094, 4095, 4096, 4097, 4096)]
    pose = StillPose.of(samples)
    assert pose.actual["gripper"] == 0
    assert pose.spread["gripper"] == 3
    assert pose.moving == ()
    samples[2] = {**samples[2], "elbow_flex": 40}
    assert StillPose.of(samples).moving == ("elbow_flex",)


def swept(places, middle=3000, name="elbow_flex"):
    sweep = Sweep(dict.fromkeys(JOINT_NAMES, middle))
    before = 0
    for place in places:
        step = 400 if place > before else -400
        for now in (*range(before, place, step), place, place, place):
            sweep.add({name: (middle + now) % 4096})
        before = place
    return sweep


@pytest.mark.parametrize("middle", [0, 1, 2000, 4095])
def test_range_is_that_of_the_new_calibration_wherever_the_encoder_turns(middle):
    sweep = swept((0, 500, 1100, 500, 0, -500, -1100, 0), middle)
    assert (sweep.low["elbow_flex"], sweep.high["elbow_flex"]) == (947, 3147)
    assert sweep.now["elbow_flex"] == 2047
    assert sweep.finding("elbow_flex", FOLLOWER) is Finding.GOOD


def test_garbled_reading_is_no_stop():
    for glitch in (-2040, -1500, -300, 300, 1500, 2040):
        sweep = swept((0, 1100, -1100))
        for place in (-1100, -1100 + glitch, -1090, -1080):
            sweep.add({"elbow_flex": (3000 + place) % 4096})
        assert (sweep.low["elbow_flex"], sweep.high["elbow_flex"]) == (947, 3147)


@pytest.mark.parametrize(
    ("places", "finding"),
    [
        ((0,), Finding.NOT_MOVED),
        ((0, 100, -90), Finding.NOT_MOVED),
        ((0, 500, -500), Finding.TOO_SHORT),
        ((0, 1100, -1100), Finding.GOOD),
        ((0, 1300, -1300), Finding.TOO_LONG),
        ((0, 1100, 2049), Finding.WRAPPED),
        ((0, -1100, -2048), Finding.WRAPPED),
        ((0, 1100, 2048), Finding.GOOD),
        ((0, -1100, -2047), Finding.GOOD),
    ],
)
def test_findings(places, finding):
    sweep = swept(places)
    assert sweep.finding("elbow_flex", FOLLOWER) is finding
    if finding.refuses:
        with pytest.raises(ValueError, match="no range"):
            sweep.joints()


def test_joint_that_was_never_read_is_not_moved():
    findings = Sweep(dict.fromkeys(JOINT_NAMES, 0)).findings(FOLLOWER)
    assert findings == dict.fromkeys(SWEPT_JOINTS, Finding.NOT_MOVED)


def test_leaders_trigger_may_travel_as_it_likes_and_its_arm_not():
    assert expected_travel("gripper", LEADER) is None
    assert travel_finding("gripper", 700, LEADER) is Finding.GOOD
    assert travel_finding("gripper", 700, FOLLOWER) is Finding.TOO_SHORT
    assert travel_finding("elbow_flex", 700, LEADER) is Finding.TOO_SHORT


def test_published_arms_are_usual():
    published = {
        "shoulder_pan": (2365, 2662),
        "shoulder_lift": (2315, 2504),
        "elbow_flex": (2200, 2200),
        "wrist_flex": (2082, 2367),
        "gripper": (1456, 1514),
    }
    for name, travels in published.items():
        for travel in travels:
            assert travel_finding(name, travel, FOLLOWER) is Finding.GOOD
