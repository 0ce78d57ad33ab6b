"""The arithmetic of calibrating: from encoder readings to a calibration, and what is wrong with it.

Only raw encoder ticks go in, with the servos' own offsets taken out: so nothing needs to be written
to a servo before the result is known to be good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median_low

from so101_driver.calibration import SMALLEST_RANGE_TICKS, JointCalibration
from so101_driver.calibration_files import ArmKind
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.registers import HOMING_OFFSET, MAX_TICK, TICKS_PER_TURN

MID_TICK = MAX_TICK // 2
"""What a servo reads in the middle pose afterwards: 2047, as with LeRobot."""

FULL_TURN_JOINT = "wrist_roll"
"""It has no stops: LeRobot gives it the whole turn, so its range is not swept."""

SWEPT_JOINTS = tuple(name for name in JOINT_NAMES if name != FULL_TURN_JOINT)

STILL_TICKS = 20
"""How much a joint may move (1.8 degrees) while the middle pose is taken."""

TYPICAL_TRAVEL_TICKS: Mapping[str, tuple[int, int]] = {
    "shoulder_pan": (2365, 2662),
    "shoulder_lift": (2315, 2504),
    "elbow_flex": (2200, 2200),
    "wrist_flex": (2082, 2367),
    "gripper": (1456, 1514),
}
"""Travel between the stops on published followers."""

_TRAVEL_MARGIN = 0.1
"""Prints and assembly differ; beyond this share a sweep was incomplete or a joint is modified."""


class Finding(Enum):
    """What a sweep says about a joint."""

    GOOD = "good"
    NOT_MOVED = "not moved"
    WRAPPED = "crossed the wrap"
    TOO_SHORT = "short"
    TOO_LONG = "long"

    @property
    def refuses(self) -> bool:
        """Whether no calibration can be made of it."""
        return self in (Finding.NOT_MOVED, Finding.WRAPPED)


def actual_ticks(present_ticks: int, homing_offset: int) -> int:
    """Return the encoder's own reading: the servo reports it less its offset, modulo a turn."""
    return (present_ticks + homing_offset) % TICKS_PER_TURN


def homing_offset(actual: int) -> int | None:
    """Return the offset that makes an encoder reading the middle, None if none can.

    Of all 4096 readings only 4095 needs an offset (2048) that a servo cannot hold.
    """
    offset = actual - MID_TICK
    return offset if abs(offset) <= HOMING_OFFSET.maximum else None


@dataclass(frozen=True, slots=True)
class StillPose:
    """A pose read several times.

    Attributes:
        actual: Middle reading of each joint.
        spread: How far the readings of each joint lay apart.
    """

    actual: Mapping[str, int]
    spread: Mapping[str, int]

    @classmethod
    def of(cls, samples: Sequence[Mapping[str, int]]) -> StillPose:
        """Combine encoder readings of all joints; a joint may stand at the wrap."""
        actual, spread = {}, {}
        for name in JOINT_NAMES:
            first = samples[0][name]
            moved = sorted(turned(first, sample[name]) for sample in samples)
            actual[name] = (first + median_low(moved)) % TICKS_PER_TURN
            spread[name] = moved[-1] - moved[0]
        return cls(actual, spread)

    @property
    def moving(self) -> tuple[str, ...]:
        """Joints that were not held still."""
        return tuple(name for name in JOINT_NAMES if self.spread[name] > STILL_TICKS)


def turned(start: int, end: int) -> int:
    """Return the shorter way between two encoder readings, -2048..2047."""
    half = TICKS_PER_TURN // 2
    return (end - start + half) % TICKS_PER_TURN - half


class Sweep:
    """Follows the joints while a user moves them; readings are those of the new calibration.

    Args:
        mid: Encoder reading of each joint in the middle pose, which will read 2047.
    """

    def __init__(self, mid: Mapping[str, int]) -> None:
        self._mid = dict(mid)
        # Continuous ticks: they do not jump where the encoder begins a new turn.
        self.now = dict.fromkeys(JOINT_NAMES, MID_TICK)
        self._latest = {name: deque([MID_TICK] * 3, maxlen=3) for name in JOINT_NAMES}
        self.low: dict[str, int] = {}
        self.high: dict[str, int] = {}

    def add(self, actual: Mapping[str, int]) -> None:
        """Take encoder readings of some joints.

        Of three the middle one counts: a byte garbled on the wire passes one checksum in 256, and
        must not become a stop. Between two readings a joint must turn by less than half a turn;
        at 100 readings a second no hand is that fast.
        """
        for name, reading in actual.items():
            before = self.now[name]
            latest = self._latest[name]
            latest.append(before + turned(self._mid[name] + before - MID_TICK, reading))
            now = sorted(latest)[1]
            self.now[name] = now
            self.low[name] = min(now, self.low.get(name, now))
            self.high[name] = max(now, self.high.get(name, now))

    def travel(self, name: str) -> int:
        """Return how far a joint has been moved from end to end."""
        return self.high.get(name, MID_TICK) - self.low.get(name, MID_TICK)

    def finding(self, name: str, kind: ArmKind) -> Finding:
        """Return what is to be said about a swept joint."""
        if self.low.get(name, MID_TICK) < 0 or self.high.get(name, MID_TICK) > MAX_TICK:
            return Finding.WRAPPED
        travel = self.travel(name)
        if travel < SMALLEST_RANGE_TICKS:
            return Finding.NOT_MOVED
        return travel_finding(name, travel, kind)

    def findings(self, kind: ArmKind) -> dict[str, Finding]:
        """Return what is to be said about every swept joint."""
        return {name: self.finding(name, kind) for name in SWEPT_JOINTS}

    def joints(self) -> dict[str, JointCalibration]:
        """Return the calibration; ValueError while a joint's sweep cannot be used."""
        result = {}
        for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True):
            offset = homing_offset(self._mid[name])
            low, high = 0, MAX_TICK
            if name != FULL_TURN_JOINT:
                if self.finding(name, ArmKind.FOLLOWER).refuses:
                    raise ValueError(f"{name} has no range")
                low, high = self.low[name], self.high[name]
            if offset is None:
                raise ValueError(f"{name} has no offset")
            result[name] = JointCalibration(servo_id, 0, offset, low, high)
        return result


def expected_travel(name: str, kind: ArmKind) -> tuple[int, int] | None:
    """Return the least and most ticks of travel that are usual, None where nothing is known.

    A leader's arm has the follower's stops; its trigger in the gripper's place does not.
    """
    if name not in TYPICAL_TRAVEL_TICKS or (kind is ArmKind.LEADER and name == "gripper"):
        return None
    least, most = TYPICAL_TRAVEL_TICKS[name]
    return round(least * (1 - _TRAVEL_MARGIN)), round(most * (1 + _TRAVEL_MARGIN))


def travel_finding(name: str, travel_ticks: int, kind: ArmKind) -> Finding:
    """Compare a joint's travel with what is usual."""
    expected = expected_travel(name, kind)
    if expected is None or expected[0] <= travel_ticks <= expected[1]:
        return Finding.GOOD
    return Finding.TOO_SHORT if travel_ticks < expected[0] else Finding.TOO_LONG
