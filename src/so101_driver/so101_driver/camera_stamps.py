"""When a picture was taken, in ROS time, as honestly as the device allows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

_MISTRUST = 3
"""So many implausible stamps in a row, and the device's stamps are no longer used."""
_MAX_AGE_NS = 500_000_000
"""Oldest believable device stamp on arrival."""
_CLOCK_JUMP_NS = 1_000_000_000
"""A stamp that lies further back than this says that ROS time was set back, not that it is late."""


class StampSource(Enum):
    """Where stamps come from; the value is what a user reads."""

    DEVICE = "the device's own stamps"
    ARRIVAL = "the time of arrival minus latency_s"
    FILE = "the time at which the file's picture was due"


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a picture reached this process, on both clocks.

    Attributes:
        steady_ns: CLOCK_MONOTONIC, on which V4L2 stamps its buffers.
        ros_ns: ROS time at the same moment.
    """

    steady_ns: int
    ros_ns: int


class StampMapper:
    """Turns device stamps, or times of arrival where these are no good, into ROS time.

    A device stamp is believed if it is newer than the last one, not in the future, and not too old.

    Args:
        latency_s: Taken from the time of arrival when the device does not stamp.
        from_file: Pictures come from a file: no device, no latency.

    Attributes:
        source: Where stamps come from at present.
        counters: Implausible device stamps, and pictures refused because they were not newer.
    """

    def __init__(self, latency_s: float, *, from_file: bool = False) -> None:
        self.source = StampSource.FILE if from_file else StampSource.DEVICE
        self.counters: Counter[str] = Counter()
        self._latency_ns = 0 if from_file else int(latency_s * 1e9)
        self._last_device_ns: int | None = None
        self._last_stamp_ns: int | None = None
        self._bad_in_a_row = 0

    def reopened(self) -> None:
        """The device was opened anew: it gets another chance to stamp."""
        if self.source is not StampSource.FILE:
            self.source = StampSource.DEVICE
        self._last_device_ns, self._bad_in_a_row = None, 0

    def stamp(self, device_ns: int | None, arrival: Arrival) -> int | None:
        """Return the ROS time of a picture; None if it is not newer than the last one."""
        stamp_ns = arrival.ros_ns - self._latency_ns
        if self.source is StampSource.DEVICE:
            age_ns = self._believable_age_ns(device_ns, arrival.steady_ns)
            if age_ns is not None:
                stamp_ns = arrival.ros_ns - age_ns
        last = self._last_stamp_ns
        if last is not None and last - _CLOCK_JUMP_NS < stamp_ns <= last:
            self.counters["pictures not newer than the last"] += 1
            return None
        self._last_stamp_ns = stamp_ns
        return stamp_ns

    def _believable_age_ns(self, device_ns: int | None, steady_ns: int) -> int | None:
        last, self._last_device_ns = self._last_device_ns, device_ns
        if device_ns is not None and (last is None or device_ns > last):
            age_ns = steady_ns - device_ns
            if 0 <= age_ns <= _MAX_AGE_NS:
                self._bad_in_a_row = 0
                return age_ns
        self._bad_in_a_row += 1
        if device_ns is not None:
            self.counters["implausible device stamps"] += 1
        if device_ns is None or self._bad_in_a_row >= _MISTRUST:
            self.source = StampSource.ARRIVAL
        return None
