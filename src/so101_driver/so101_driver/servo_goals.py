"""The goals in the servos: as last read or written, and how far the next ones may go.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from so101_driver.calibration import Calibration
from so101_driver.driver_types import Array, DriverConfig
from so101_driver.goal_rate import GoalRate
from so101_driver.joints import SERVO_IDS
from so101_driver.readings import ServoState


class ServoGoals:
    """Remembers what the goal registers hold; not thread-safe.

    Args:
        config: Limits.
        calibration: Of the arm.
        counters: For commands that are changed or withheld.

    Attributes:
        ticks: As they are in the servos, None while unknown.
        rad: As commanded, NaN while unknown.
    """

    def __init__(
        self, config: DriverConfig, calibration: Calibration, counters: Counter[str]
    ) -> None:
        self.ticks: tuple[int, ...] | None = None
        self.rad: Array = np.full(len(SERVO_IDS), np.nan)
        self._config = config
        self._calibration = calibration
        self._counters = counters
        self._rate = GoalRate(config.max_speed_rad_s)
        self._written_ns: int | None = None
        self._all_withheld_ns: int | None = None

    @property
    def held_rad(self) -> Array:
        """What the registers say, NaN while unknown."""
        if self.ticks is None:
            return np.full(len(SERVO_IDS), np.nan)
        return self._calibration.ticks_to_rad(self.ticks)

    def take(self, ticks: Sequence[int]) -> None:
        """Take goals as they were read from the servos, or written when these were switched on."""
        self.ticks = tuple(ticks)
        self.rad = self._calibration.ticks_to_rad(self.ticks)
        self._written_ns = None

    def take_changed(self, states: Mapping[int, ServoState]) -> bool:
        """Take goals of some servos; returns whether any was not the one last written."""
        if self.ticks is None:
            return False
        goals = tuple(
            states[servo_id].goal_ticks if servo_id in states else goal
            for servo_id, goal in zip(SERVO_IDS, self.ticks, strict=True)
        )
        if goals == self.ticks:
            return False
        self.take(goals)
        return True

    def approach(
        self, wanted_rad: Sequence[float], withheld: Collection[int], now_ns: int
    ) -> dict[int, int]:
        """Return the goals to be written, by servo id: as near to the wanted ones as allowed.

        Servos in ``withheld`` are left out and keep theirs.
        """
        wanted = np.array(wanted_rad)
        bounded = np.clip(wanted, *self._bounds())
        if not np.array_equal(bounded, wanted):
            self._counters["position_clamped"] += 1
        if withheld:
            self._counters["goals_withheld"] += 1
            kept = [SERVO_IDS.index(servo_id) for servo_id in withheld]
            bounded[kept] = self.rad[kept]
            if len(kept) == len(SERVO_IDS):
                self._all_withheld_ns = now_ns
                return {}
        written_ns = self._written_ns
        paused = written_ns is None or self.silent(now_ns)
        reachable = self._rate.step(
            self.rad, bounded, None if paused else (now_ns - written_ns) * 1e-9
        )
        if reachable is not bounded:
            self._counters["rate_limited"] += 1
        self.rad = reachable
        self.ticks = tuple(self._calibration.rad_to_ticks(reachable).tolist())
        self._written_ns = now_ns
        goals = dict(zip(SERVO_IDS, self.ticks, strict=True))
        return {servo_id: goal for servo_id, goal in goals.items() if servo_id not in withheld}

    def _bounds(self) -> tuple[Array, Array]:
        """Position limits, wider where the arm started outside: from there it may only return."""
        low, high = self._config.position_limits_rad.T
        return np.minimum(low, self.rad), np.maximum(high, self.rad)

    def silent(self, now_ns: int) -> bool:
        """Return whether none were written for ``command_timeout_s``."""
        return self._past(self._written_ns, now_ns)

    def mute(self, now_ns: int) -> bool:
        """Return whether all were withheld lately, since nobody answers."""
        return not self._past(self._all_withheld_ns, now_ns)

    def _past(self, since_ns: int | None, now_ns: int) -> bool:
        return since_ns is None or now_ns - since_ns > self._config.command_timeout_s * 1e9
