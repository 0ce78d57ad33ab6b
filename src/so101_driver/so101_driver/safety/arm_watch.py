"""Watches what is measured: joint states that are missing, out of time or impossible."""

from __future__ import annotations

import math

from so101_driver.safety.settings import Settings
from so101_driver.safety.types import JointReading, Limit

MAX_READING_AGE_S = 0.1
"""A measurement older than this when it arrives is refused: something replays or delays."""

TELEPORT_RAD = 0.2
TELEPORT_SPEED_RAD_S = 8.0
"""Between two measurements a joint moves at most the first, plus the second times their distance in
time; no servo of this arm reaches 5 rad/s."""


class ArmWatch:
    """Takes measurements one by one and remembers the newest good one.

    Attributes:
        problem: Why the newest measurement is not good, or that there is none.
        teleport: What jumped in the measurement of the last update; empty for nothing.
    """

    def __init__(self, joint_names: tuple[str, ...], settings: Settings) -> None:
        self._joint_names = joint_names
        self._settings = settings
        self._seen: JointReading | None = None
        self._good: JointReading | None = None
        self._stamp_ns: int | None = None
        self.problem = "no joint states have come yet"
        self.teleport = ""

    def forget_stamps(self) -> None:
        """Accept any next stamp; for a jump of ROS time."""
        self._stamp_ns = None

    def update(self, reading: JointReading | None, steady_ns: int, ros_ns: int) -> Limit:
        """Take the newest measurement; returns STALE_STATE or CLOCK if it is refused."""
        self.teleport = ""
        if reading is None or reading is self._seen:
            return Limit(0)
        self._seen = reading
        age_s = (ros_ns - steady_ns + reading.received_ns - reading.stamp_ns) * 1e-9
        if age_s > MAX_READING_AGE_S:
            self.problem = f"joint states are {age_s:.2f} s old when they arrive"
            return Limit.STALE_STATE
        if -age_s > self._settings.max_clock_skew_s:
            self.problem = (
                f"joint states are stamped {-age_s:.2f} s in the future: synchronise with chrony"
            )
            return Limit.CLOCK
        if self._stamp_ns is not None and reading.stamp_ns <= self._stamp_ns:
            self.problem = "joint states repeat or go back in time: is something replaying?"
            return Limit.STALE_STATE
        self._stamp_ns = reading.stamp_ns
        if len(reading.positions_rad) != len(self._joint_names):
            self.problem = (
                f"joint states list {len(reading.positions_rad)} joints instead of "
                f"{len(self._joint_names)}"
            )
            return Limit.STALE_STATE
        for name, position in zip(self._joint_names, reading.positions_rad, strict=True):
            if not math.isfinite(position):
                self.problem = f"{name} is not measured"
                return Limit.STALE_STATE
        last, self._good = self._good, reading
        if last is not None:
            self.teleport = self._teleport(last, reading)
        return Limit(0)

    def fresh_reading(self, steady_ns: int) -> JointReading | None:
        """The newest good measurement, or None when it is too old; then ``problem`` says why."""
        good = self._good
        if good is None:
            return None
        age_s = (steady_ns - good.received_ns) * 1e-9
        if age_s > self._settings.joint_state_timeout_s:
            if self._seen is good:
                self.problem = f"no joint states for {age_s:.2f} s"
            return None
        return good

    def _teleport(self, last: JointReading, reading: JointReading) -> str:
        elapsed_s = abs(reading.received_ns - last.received_ns) * 1e-9
        reach_rad = TELEPORT_RAD + TELEPORT_SPEED_RAD_S * elapsed_s
        for name, before, after in zip(
            self._joint_names, last.positions_rad, reading.positions_rad, strict=True
        ):
            if abs(after - before) > reach_rad:
                return (
                    f"{name} was measured to jump by {after - before:+.2f} rad in {elapsed_s:.2f} s"
                )
        return ""
