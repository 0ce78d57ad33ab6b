"""A stamp that is wrong moves the arm to where it should have been: it must tell the exposure."""

from __future__ import annotations

import pytest
from so101_driver.camera_stamps import Arrival, StampMapper, StampSource

MS = 1_000_000
ROS_0 = 1_700_000_000_000_000_000


def at(ms: float, ros_shift_ms: float = 0.0) -> Arrival:
    return Arrival(round(ms * MS), ROS_0 + round((ms + ros_shift_ms) * MS))


def test_device_stamps_are_mapped_to_ros_time() -> None:
    stamps = StampMapper(0.04)
    assert stamps.stamp(100 * MS, at(125)) == ROS_0 + 100 * MS
    assert stamps.stamp(133 * MS, at(190)) == ROS_0 + 133 * MS, "late delivery is no late picture"
    assert stamps.source is StampSource.DEVICE


def test_without_device_stamps_the_latency_is_taken_from_the_arrival() -> None:
    stamps = StampMapper(0.04)
    assert stamps.stamp(None, at(125)) == ROS_0 + 85 * MS
    assert stamps.source is StampSource.ARRIVAL


@pytest.mark.parametrize("device_ms", [1.0, 900_000.0], ids=["too old", "in the future"])
def test_implausible_device_stamps_are_given_up_after_three(device_ms: float) -> None:
    """As of drivers that stamp with the time of day, or count from the start of the stream."""
    stamps = StampMapper(0.04)
    for i in range(3):
        now = at(10_000 + 33 * i)
        assert stamps.stamp(round((device_ms + 33 * i) * MS), now) == now.ros_ns - 40 * MS
        assert (stamps.source is StampSource.ARRIVAL) == (i == 2)
    assert stamps.counters["implausible device stamps"] == 3


def test_one_implausible_stamp_does_not_change_the_source() -> None:
    stamps = StampMapper(0.04)
    stamps.stamp(100 * MS, at(110))
    stamps.stamp(1, at(160))
    assert stamps.stamp(166 * MS, at(176)) == ROS_0 + 166 * MS
    assert stamps.source is StampSource.DEVICE


def test_a_repeated_stamp_is_no_new_picture() -> None:
    stamps = StampMapper(0.0)
    for i in range(6):
        stamps.stamp(100 * MS, at(110 + 33 * i))
    assert stamps.source is StampSource.ARRIVAL


def test_stamps_increase_also_when_the_source_changes() -> None:
    stamps = StampMapper(0.04)
    first = stamps.stamp(100 * MS, at(101))
    assert stamps.stamp(None, at(130)) is None, "it would lie before the last one"
    later = stamps.stamp(None, at(163))
    assert later > first
    assert stamps.counters["pictures not newer than the last"] == 1


def test_a_clock_that_is_set_back_does_not_silence_the_camera() -> None:
    stamps = StampMapper(0.04)
    stamps.stamp(100 * MS, at(110))
    assert stamps.stamp(133 * MS, at(143, ros_shift_ms=-5000)) == ROS_0 + (133 - 5000) * MS


def test_after_reopening_the_device_gets_another_chance() -> None:
    stamps = StampMapper(0.04)
    stamps.stamp(None, at(100))
    stamps.reopened()
    assert stamps.stamp(150 * MS, at(160)) == ROS_0 + 150 * MS
    assert stamps.source is StampSource.DEVICE


def test_a_file_has_neither_device_nor_latency() -> None:
    stamps = StampMapper(0.04, from_file=True)
    assert stamps.stamp(None, at(100)) == ROS_0 + 100 * MS
    stamps.reopened()
    assert stamps.source is StampSource.FILE
