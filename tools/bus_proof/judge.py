"""Says what was wrong in a run: goals on the wire, true joints, published values against the truth.

Packets are read by the plain parser, limits and calibration from their files with the published
formulas; no code of the driver is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bus_proof.plain_codec import parse, signed

SYNC_WRITE, WRITE, BROADCAST = 0x83, 0x03, 254
TORQUE_ENABLE, GOAL = 40, 42
HEADROOM = 1.06
"""Of the speed limit: the driver allows 5 % for jitter and rounding."""
CATCH_UP_S = 0.03
"""As much motion at full speed may be caught up after late commands."""
ROUNDING_RAD = 0.0032
"""Two ticks: one of rounding, one of flicker."""
REST_RAD = 0.02
"""How far a resting arm's joints may stir: a few ticks, and the wobble of a lost and found load."""
COMMAND_PERIOD_NS = 10_000_000
GOALS_SHARE = 0.9
"""Of the commands, that must have become goals while an arm follows."""
STOP_RAD = 0.05
"""How far joint stops give way."""
FOLLOWING_RAD = 0.1
"""How far a joint may be from where its servo should have brought it: sag, and the lag's rest."""
SERVO_LAG_NS = 115_000_000
"""Dead time and lag of a servo."""
OLDEST_S = 0.1
"""A measurement is published after its cycle, at times after what a request takes; its stamp says
when it was asked for, and against that stamp it is judged."""


@dataclass(frozen=True, slots=True)
class GoalOnWire:
    """One goal of one servo."""

    at_ns: int
    servo_id: int
    ticks: int


class Ruler:
    """Limits and conversions, from the files.

    Args:
        data: Folder of ``so101_limits.yaml`` and ``sim_calibration.json``.
        profile: Of the limits.
    """

    def __init__(self, data: Path, profile: str) -> None:
        limits = yaml.safe_load((data / "so101_limits.yaml").read_text())
        joints = json.loads((data / "sim_calibration.json").read_text())
        self.names = tuple(limits["position_rad"])
        self.range_rad = [tuple(limits["position_rad"][name]) for name in self.names]
        speeds = limits["profiles"][profile]["velocity_rad_s"]
        self.speed_rad_s = [speeds[name] for name in self.names]
        self._joints = [joints[name] for name in self.names]

    def radians(self, servo_id: int, ticks: float) -> float:
        """Angle of a position in ticks."""
        joint = self._joints[servo_id - 1]
        low, high = joint["range_min"], joint["range_max"]
        if servo_id == 6:
            lower, upper = self.range_rad[5]
            return lower + (ticks - low) / (high - low) * (upper - lower)
        return math.radians((ticks - (low + high) / 2) * 360 / 4095)


def goals_on_wire(sent: list[Any]) -> list[GoalOnWire]:
    """Return every goal that was written, in order."""
    return [
        GoalOnWire(at_ns, servo_id, signed(data[0], data[1], 15))
        for at_ns, servo_id, address, data in _writes(sent)
        if address == GOAL
    ]


def torque_on_wire(sent: list[Any]) -> list[tuple[int, int, int]]:
    """Return (time in ns, servo, value) of every write that switches torque."""
    return [
        (at_ns, servo_id, data[0])
        for at_ns, servo_id, address, data in _writes(sent)
        if address == TORQUE_ENABLE
    ]


def _writes(sent: list[Any]) -> list[tuple[int, int, int, bytes]]:
    writes = []
    for piece in sent:
        for servo_id, code, parameters in parse(piece.data, 248).packets:
            if code == WRITE:
                writes.append((piece.at_ns, servo_id, parameters[0], parameters[1:]))
            elif code == SYNC_WRITE and servo_id == BROADCAST:
                address, size = parameters[:2]
                for at in range(2, len(parameters), size + 1):
                    block = parameters[at : at + size + 1]
                    writes.append((piece.at_ns, block[0], address, block[1:]))
    return writes


def wrong_goals(goals: list[GoalOnWire], ruler: Ruler, first_rad: np.ndarray) -> list[str]:
    """Goals outside the limits, or further from the one before than the time since then allows."""
    wrong = []
    last: dict[int, tuple[int, float]] = {}
    for goal in goals:
        joint = goal.servo_id - 1
        angle = ruler.radians(goal.servo_id, goal.ticks)
        low, high = ruler.range_rad[joint]
        if not low - ROUNDING_RAD <= angle <= high + ROUNDING_RAD:
            wrong.append(f"goal {angle:.3f} rad of {ruler.names[joint]} is outside its limits")
        before_ns, before = last.get(goal.servo_id, (goal.at_ns, float(first_rad[joint])))
        allowed = (
            ruler.speed_rad_s[joint] * HEADROOM * ((goal.at_ns - before_ns) * 1e-9 + CATCH_UP_S)
        )
        if abs(angle - before) > allowed + ROUNDING_RAD:
            wrong.append(
                f"goal of {ruler.names[joint]} jumped by {abs(angle - before):.3f} rad, "
                f"{allowed:.3f} allowed"
            )
        last[goal.servo_id] = (goal.at_ns, angle)
    return wrong


def wrong_motion(
    truth: list[tuple[int, np.ndarray, np.ndarray]], ruler: Ruler, falls: frozenset[int]
) -> list[str]:
    """True joints outside their limits or faster than they may be; ``falls`` lost their torque."""
    times_s = np.array([at_ns for at_ns, _, _ in truth]) * 1e-9
    joints = np.array([joints for _, joints, _ in truth])
    speeds = np.abs(np.diff(joints, axis=0)) / np.diff(times_s)[:, None]
    wrong = []
    for index, name in enumerate(ruler.names):
        low, high = ruler.range_rad[index]
        if joints[:, index].min() < low - STOP_RAD or joints[:, index].max() > high + STOP_RAD:
            wrong.append(f"{name} went beyond its limits")
        if index not in falls and speeds[:, index].max() > ruler.speed_rad_s[index] * HEADROOM:
            wrong.append(f"{name} moved at {speeds[:, index].max():.2f} rad/s")
    return wrong


def not_followed(
    goals: list[GoalOnWire],
    truth: list[tuple[int, np.ndarray, np.ndarray]],
    wanted: Callable[[int], np.ndarray],
    begin_ns: int,
    ruler: Ruler,
    falls: frozenset[int],
) -> list[str]:
    """Joints whose goals since a time are not the commanded ones, or that do not go there.

    ``wanted`` gives the commanded positions at a time in ns; joints of ``falls`` may lie somewhere.
    """
    lowest, highest = np.transpose(ruler.range_rad)

    def commanded(at_ns: int) -> np.ndarray:
        return np.clip(wanted(at_ns), lowest, highest)

    wrong = []
    since = [entry for entry in truth if entry[0] >= begin_ns]
    away = np.abs([joints - commanded(at_ns - SERVO_LAG_NS) for at_ns, joints, _ in since])
    for joint, name in enumerate(ruler.names):
        mine = [g for g in goals if g.servo_id == joint + 1 and g.at_ns >= begin_ns]
        if len(mine) * COMMAND_PERIOD_NS < GOALS_SHARE * (since[-1][0] - begin_ns):
            wrong.append(f"{name} got {len(mine)} goals in the end")
        off = [ruler.radians(g.servo_id, g.ticks) - commanded(g.at_ns)[joint] for g in mine]
        if off and max(map(abs, off)) > ROUNDING_RAD:
            wrong.append(f"{name} got goals {max(map(abs, off)):.3f} rad from its commands")
        if joint not in falls and away[:, joint].max() > FOLLOWING_RAD:
            wrong.append(f"{name} is {away[:, joint].max():.3f} rad from where it should be")
    return wrong


def stirred(truth: list[tuple[int, np.ndarray, np.ndarray]], falls: frozenset[int]) -> list[str]:
    """Joints of a resting arm that moved although their servos had torque."""
    joints = np.array([joints for _, joints, _ in truth])
    away = np.abs(joints - joints[0]).max(axis=0)
    return [
        f"joint {index + 1} stirred by {away[index]:.3f} rad"
        for index in range(len(away))
        if index not in falls and away[index] > REST_RAD
    ]


def stale_values(
    samples: list[tuple[int, Any]], truth: list[tuple[int, np.ndarray, np.ndarray]]
) -> list[str]:
    """Published positions that their encoder has not shown since the measurement's stamp."""
    times_ns = np.array([at_ns for at_ns, _, _ in truth])
    shown = np.array([encoders for _, _, encoders in truth])
    wrong = []
    for now_ns, sample in samples:
        if sample is None:
            continue
        if not 0 <= (now_ns - sample.stamp_ns) * 1e-9 <= OLDEST_S:
            wrong.append(f"stamp {(now_ns - sample.stamp_ns) * 1e-6:.1f} ms old")
        first = max(0, int(np.searchsorted(times_ns, sample.stamp_ns, side="right")) - 1)
        last = int(np.searchsorted(times_ns, now_ns, side="right"))
        window = shown[first:last]
        position = sample.position_rad
        with np.errstate(invalid="ignore"):
            off = np.maximum(window.min(axis=0) - position, position - window.max(axis=0))
            for joint in np.flatnonzero(off > ROUNDING_RAD):
                wrong.append(f"position of joint {joint + 1} is off by {off[joint]:.3f} rad")
    return wrong


def flattering_ages(
    snapshots: list[tuple[int, Any]], intact: list[tuple[int, int]], begin_ns: int
) -> list[str]:
    """Ages of readings that are younger than the servo's last whole reply on the wire."""
    wrong = []
    newest = [begin_ns] * 6
    replies = iter(sorted(intact))
    coming = next(replies, None)
    for now_ns, snapshot in snapshots:
        while coming is not None and coming[0] <= now_ns:
            if 1 <= coming[1] <= 6:
                newest[coming[1] - 1] = coming[0]
            coming = next(replies, None)
        for joint, age_s in enumerate(snapshot.reading_age_s):
            if age_s < (now_ns - newest[joint]) * 1e-9 - 1e-6:
                wrong.append(f"age of joint {joint + 1} is given as {age_s:.3f} s")
    return wrong
