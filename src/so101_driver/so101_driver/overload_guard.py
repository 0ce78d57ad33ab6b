"""Takes force off a servo that presses too hard for too long, before its own protection trips.

An STS3215 whose duty stays beyond its overload threshold for two seconds drops to a fifth of its
torque, until the next goal is written. Then it presses as before: while goals are streamed at
100 Hz that protection does nothing, and once they stop it lets the arm sink. So the driver watches
the duty itself. It lowers the torque limit of the one joint, no further than what the arm's own
weight needs, and raises it again when the load has fallen.

Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from so101_driver.joints import GRIPPER, JOINT_NAMES

HEAT_ON = 0.8
HEAT_OFF = 0.6
"""The leaky integral of (duty / threshold)² at which a limit is lowered, and may rise again. Steady
duties of 89 % and 77 % of the threshold lead there."""

ACT_SHARE = 0.6
"""A servo at its threshold is acted upon after this share of its own protection time; the rest is
for reading the duty at 10 Hz, twice, and for lowering the limit below the threshold."""

SATURATED = 0.9
"""Share of the limit from which a servo is taken to press with all that it is allowed."""

BELOW_THRESHOLD = 0.95
"""A limit at this share of the threshold never trips the servo."""

YIELD_TICKS = 33
"""A joint pushed back by this much (0.05 rad) while its limit is lowered is carrying a load."""

SUSTAINABLE = (0.4, 0.7, 0.5, 0.4, 0.4, 0.2)
"""Per joint, the share of full torque that the arm itself needs, and so is always left. Stretched,
its own weight asks 0.86 N·m of shoulder_lift, 0.45 of elbow_flex and 0.12 of wrist_flex; the
weakest servo in use (7.4 V part on 5 V) stalls at about 1.35 N·m: 64, 33 and 9 %. The gripper holds
what it grips with 20 %, what its servo's own protection would leave it."""

LONGEST_GAP_S = 0.5
"""Time between two readings that counts; what happened in a longer gap is unknown."""


@dataclass(frozen=True, slots=True)
class OverloadRegisters:
    """A servo's own protection.

    Attributes:
        threshold: Share of full duty beyond which its timer runs.
        after_s: Time after which it trips.
    """

    threshold: float = 0.8
    after_s: float = 2.0


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """How far and how fast limits are lowered.

    Attributes:
        sustainable: Per joint, the share of full torque that is left.
        lower_per_s: Share of full torque by which a limit falls in a second.
        raise_per_s: By which it rises.
    """

    sustainable: tuple[float, ...] = SUSTAINABLE
    lower_per_s: float = 2.0
    raise_per_s: float = 0.25

    def with_gripper(self, share: float) -> GuardConfig:
        """Return the same with another share for the gripper."""
        shares = list(self.sustainable)
        shares[GRIPPER] = share
        return replace(self, sustainable=tuple(shares))


@dataclass(slots=True)
class _Servo:
    """One servo: torques are shares of full duty, 0..1."""

    full: float
    own: OverloadRegisters
    limit: float
    heat: float = 0.0
    observed_ns: int | None = None
    limiting: bool = False
    yielded: bool = False
    pushed_to: float = 0.0
    """Position furthest in the direction of the push, times its sign."""
    push: int = 0


class OverloadGuard:
    """Decides every servo's torque limit; not thread-safe.

    Args:
        config: How far and how fast limits are lowered.
        counters: Counts how often a limit was lowered (``torque_limited_<joint>``), and how often
            that was taken back in part because the joint gave way (``torque_yielded_<joint>``).
    """

    def __init__(self, config: GuardConfig, counters: Counter[str]) -> None:
        self._counters = counters
        self._config = config
        self._servos: list[_Servo] = []
        self._shares: Sequence[float] = ()
        self._advanced_ns = 0

    @property
    def limited(self) -> dict[int, float]:
        """Lowered limits (0..1) by joint index."""
        return {
            index: servo.limit
            for index, servo in enumerate(self._servos)
            if servo.limit < servo.full * self._shares[index] - 1e-6
        }

    def start(
        self, full_limits: Sequence[int], registers: Sequence[OverloadRegisters], now_ns: int
    ) -> None:
        """Begin with cold servos at their full limits (0..1000)."""
        self._servos = [
            _Servo(full / 1000, own, full / 1000)
            for full, own in zip(full_limits, registers, strict=True)
        ]
        self._shares = (1.0,) * len(self._servos)
        self._advanced_ns = now_ns

    def observe(
        self, joint: int, duty: float, present_ticks: int, goal_ticks: int, now_ns: int
    ) -> None:
        """Take one servo's present duty (-1..1), position and goal."""
        servo = self._servos[joint]
        since_ns, servo.observed_ns = servo.observed_ns, now_ns
        if since_ns is None:
            return
        elapsed_s = min((now_ns - since_ns) * 1e-9, LONGEST_GAP_S)
        # Beyond the threshold the servo's timer runs no faster.
        ratio = min(abs(duty) / servo.own.threshold, 1.0)
        time_s = ACT_SHARE * servo.own.after_s / -math.log(1.0 - HEAT_ON)
        servo.heat += (1.0 - math.exp(-elapsed_s / time_s)) * (ratio * ratio - servo.heat)
        saturated = abs(duty) >= SATURATED * servo.limit
        push = 1 if goal_ticks >= present_ticks else -1
        if not servo.limiting:
            if servo.heat >= HEAT_ON:
                servo.limiting = True
                servo.push, servo.pushed_to = push, push * present_ticks
                self._counters[f"torque_limited_{JOINT_NAMES[joint]}"] += 1
            return
        if push != servo.push:
            # Led back by its goal, not pushed back by a load.
            servo.push, servo.pushed_to = push, push * present_ticks
        servo.pushed_to = max(servo.pushed_to, push * present_ticks)
        gave_way = push * present_ticks < servo.pushed_to - YIELD_TICKS
        if saturated and gave_way and not servo.yielded:
            servo.yielded = True
            self._counters[f"torque_yielded_{JOINT_NAMES[joint]}"] += 1
        if servo.heat < HEAT_OFF and not saturated:
            servo.limiting = servo.yielded = False

    def limits(self, now_ns: int, shares: Sequence[float] | None = None) -> tuple[int, ...]:
        """Move the limits on to this time and return them, 0..1000.

        ``shares`` of full torque are not exceeded, whatever a servo's load: it may be hot.
        """
        elapsed_s = min((now_ns - self._advanced_ns) * 1e-9, LONGEST_GAP_S)
        self._advanced_ns = now_ns
        if shares is not None:
            self._shares = shares
        lower, rise = self._config.lower_per_s * elapsed_s, self._config.raise_per_s * elapsed_s
        for joint, servo in enumerate(self._servos):
            target = min(self._target(joint, servo), self._shares[joint] * servo.full)
            if target < servo.limit:
                servo.limit = max(target, servo.limit - lower)
            else:
                servo.limit = min(target, servo.limit + (lower if servo.yielded else rise))
        return tuple(round(servo.limit * 1000) for servo in self._servos)

    def _target(self, joint: int, servo: _Servo) -> float:
        if not servo.limiting:
            return servo.full
        safe = BELOW_THRESHOLD * servo.own.threshold
        # A load that the sustainable share does not hold is held as long as the servo can.
        wanted = safe if servo.yielded else min(self._config.sustainable[joint], safe)
        return min(wanted, servo.full)
