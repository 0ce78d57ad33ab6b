"""Watches whether the arm follows: a joint that hangs behind slows the motion, then stops it.

What a joint should have reached by now is the command put through the servo's model. The distance
from there to the measurement is what the servo presses with: at LeRobot's gain 0.25 rad is all the
torque it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import Array

STOP_CONFIRM_S = 0.1
"""So long beyond the stop error, and a joint is blocked: one bad measurement is no jam."""

SLOW_CONFIRM_S = 0.5
"""So long beyond the slow error, with the command pushed further, and a joint is blocked too: a
path that is slowed ever more never gets quite to the stop error."""

PUSHED_RAD = 0.01
"""A command that went on so far since its joint began to hang behind pushes. One that stands does
not: a load may hold a joint beyond the slow error at rest."""

RELIEF_RAD = 0.01
"""How far a target must lead a joint's command back to count as relief."""

RETREAT_RAD_S = 0.05
"""A command that goes back slower than this does not retreat: it settles on a path that stands."""

RATE_RISE_S = 0.5
"""Time in which the rate rises from 0 to 1, so that a joint that sticks and slips does not jerk."""

LONGEST_GAP_S = 0.03
"""Time between two measurements that counts as watched; a longer gap is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """How the arm follows.

    Attributes:
        rate: 0..1, speed at which a path may be followed.
        blocked: Joints that are blocked; each stays until it hangs behind by less than "slow".
        error_rad: Measurement - expected position, the last one that was measured.
        sentence: What is blocked and how to go on; empty for nothing.
    """

    rate: float
    blocked: tuple[int, ...]
    error_rad: Array
    sentence: str


@dataclass(slots=True)
class _Hanging:
    """A joint beyond its slow error; ``direction`` is where its command pushes it, +1 or -1."""

    direction: float
    first_command_rad: float
    beyond_slow_s: float = 0.0
    beyond_stop_s: float = 0.0
    blocked: bool = False


class FollowingWatch:
    """Compares the measurement with the command as the servos should have carried it out.

    The model is the servo's dead time, then a first-order lag. It has no gravity: what a loaded
    joint hangs below its goal is part of the error, and the limits leave room for it. Nor does it
    limit the speed, which the command obeys already. Joints whose limits are NaN are exempt.
    """

    def __init__(self, limits: Limits, settings: Settings) -> None:
        self._names = limits.joint_names
        self._slow_rad = limits.following_slow_rad
        self._stop_rad = limits.following_stop_rad
        self._period_s = settings.period_s
        dead_ticks = math.floor(settings.servo_dead_time_s / settings.period_s + 1e-6)
        # The rest of the dead time becomes lag: at constant speed that is the same.
        lag_s = settings.servo_lag_s + settings.servo_dead_time_s - dead_ticks * settings.period_s
        self._gain = settings.period_s / (settings.period_s + lag_s)
        joints = len(self._names)
        self._commands_rad = np.zeros((dead_ticks + 1, joints))
        self._at = 0
        self._expected_rad = np.zeros(joints)
        self._command_rad = np.zeros(joints)
        self._error_rad = np.zeros(joints)
        self._measured_s = 0.0
        self._hanging: dict[int, _Hanging] = {}
        self._rate = 1.0

    @property
    def expected_rad(self) -> Array:
        """Where the servos should have brought the joints by now."""
        return self._expected_rad.copy()

    def start(self, position_rad: Array) -> None:
        """Begin anew at rest, with goals that the servos have had for long."""
        self._commands_rad[:] = position_rad
        self._expected_rad[:] = position_rad
        self._command_rad[:] = position_rad
        self._error_rad[:] = 0.0
        self._measured_s = 0.0
        self._hanging.clear()
        self._rate = 1.0

    def update(
        self, command_rad: Array, measured_rad: Array | None, target_rad: Array | None = None
    ) -> Following:
        """Advance by one tick.

        Args:
            command_rad: What the servos were commanded last.
            measured_rad: The newest measurement, or None when none has come since the last tick:
                an old one would look like a jam. NaN for a joint that was not measured.
            target_rad: Where the path that is followed leads. A joint that it leads back does not
                slow it: else the way out of a jam would be closed.
        """
        moved_rad = command_rad - self._command_rad
        self._command_rad[:] = command_rad
        self._commands_rad[self._at] = command_rad
        self._at = (self._at + 1) % len(self._commands_rad)
        self._expected_rad += self._gain * (self._commands_rad[self._at] - self._expected_rad)
        self._measured_s += self._period_s
        if measured_rad is not None:
            error_rad = measured_rad - self._expected_rad
            known = np.isfinite(error_rad)
            if not known.all():
                error_rad = np.where(known, error_rad, self._error_rad)
            self._error_rad = error_rad
            beyond = np.abs(error_rad) > self._slow_rad
            if self._hanging or beyond.any():
                self._judge(beyond & known, known, moved_rad)
            self._measured_s = 0.0
        self._rate = min(self._allowed_rate(target_rad), self._rate + self._period_s / RATE_RISE_S)
        blocked = self._blocked()
        return Following(
            self._rate, blocked, self._error_rad, self._sentence(blocked) if blocked else ""
        )

    def relieves(self, target_rad: Array) -> bool:
        """Return whether a target leads the command of every blocked joint back."""
        return all(self._leads_back(joint, target_rad) for joint in self._blocked())

    def _judge(self, beyond: Array, known: Array, moved_rad: Array) -> None:
        """Take the joints whose error was measured in this tick."""
        elapsed_s = min(self._measured_s, LONGEST_GAP_S)
        for joint in np.flatnonzero(known & ~beyond).tolist():
            self._hanging.pop(joint, None)
        for joint in np.flatnonzero(beyond).tolist():
            error_rad = float(self._error_rad[joint])
            direction = -math.copysign(1.0, error_rad)
            hanging = self._hanging.get(joint)
            if hanging is None or hanging.direction != direction:
                hanging = _Hanging(direction, float(self._command_rad[joint]))
                self._hanging[joint] = hanging
            # A retreat stops the clocks; they do not begin anew, or a command that trembles would
            # press for ever.
            if moved_rad[joint] * direction < -RETREAT_RAD_S * self._period_s:
                continue
            pushed_rad = (self._command_rad[joint] - hanging.first_command_rad) * direction
            if pushed_rad >= PUSHED_RAD:
                hanging.beyond_slow_s += elapsed_s
            if abs(error_rad) > self._stop_rad[joint]:
                hanging.beyond_stop_s += elapsed_s
            hanging.blocked |= (
                hanging.beyond_stop_s >= STOP_CONFIRM_S or hanging.beyond_slow_s >= SLOW_CONFIRM_S
            )

    def _allowed_rate(self, target_rad: Array | None) -> float:
        worst = 0.0
        for joint in self._hanging:
            if target_rad is not None and self._leads_back(joint, target_rad):
                continue
            slow_rad, stop_rad = float(self._slow_rad[joint]), float(self._stop_rad[joint])
            beyond_rad = abs(float(self._error_rad[joint])) - slow_rad
            worst = max(worst, min(beyond_rad / (stop_rad - slow_rad), 1.0))
        return 1.0 - worst * worst * (3.0 - 2.0 * worst)

    def _leads_back(self, joint: int, target_rad: Array) -> bool:
        back_rad = (self._command_rad[joint] - target_rad[joint]) * self._hanging[joint].direction
        return bool(back_rad >= RELIEF_RAD)

    def _blocked(self) -> tuple[int, ...]:
        if not self._hanging:
            return ()
        return tuple(sorted(joint for joint, state in self._hanging.items() if state.blocked))

    def _sentence(self, blocked: tuple[int, ...]) -> str:
        hang = ", ".join(
            f"{self._names[joint]} hangs {abs(self._error_rad[joint]):.2f} rad behind"
            for joint in blocked
        )
        verb = "is" if len(blocked) == 1 else "are"
        names = " and ".join(self._names[joint] for joint in blocked)
        return (
            f"{names} {verb} blocked ({hang}): clear the way, or lead back; else support the arm "
            "and call driver/release"
        )
