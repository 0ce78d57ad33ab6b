"""Which unit a data set is in, told from its statistics, and why.

LeRobot records an SO-101's arm joints in degrees from mid-range, or in −100..100 of the calibrated
range, which it clips; simulators record radians. Nothing in a checkpoint says which. Only what
excludes a unit counts here; what merely speaks for one is said and left to the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wallx_policy.contract_types import Channel, Statistics, Unit

GRIPPER = "gripper"
WORDS: Mapping[Unit, str] = {
    Unit.RAD: "radians",
    Unit.DEG: "degrees",
    Unit.RANGE_100: "±100 of the calibrated range",
    Unit.PERCENT: "percent of its opening",
    Unit.METRE: "metres",
    Unit.PLAIN: "plain numbers",
}

_RAD_MAXIMUM = 3.3
"""Largest angle of an arm joint in radians: half a turn and some slack."""
_RANGE_MAXIMUM = 100.5
"""Largest value of a ±100 or percent channel; the conversion clips at 100."""
_TRAVEL_DEG: Mapping[str, float] = {
    "shoulder_pan": 117.0,
    "shoulder_lift": 110.0,
    "elbow_flex": 97.0,
    "wrist_flex": 104.0,
    "wrist_roll": 180.0,
}
"""Half of the widest travel of published calibrations."""
_TRAVEL_SLACK_DEG = 25.0
"""How far beyond it a joint may read whose calibration left out a part of its range."""
_CLIPPED = 1e-3
"""An end this near to ±100, or to ±1, lies there and not by chance."""
_LIFT = "shoulder_lift"
"""A simulated arm may end at exactly ±100 degrees here: that is the URDF's limit."""
_GRIPPER_RAD = (-0.5, 2.1)
"""Widest gripper angles; the URDF has −0.17 to 1.75."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What statistics say about the unit of some channels.

    Attributes:
        units: Those that are not excluded; None without statistics.
        reason: Why, as the end of a sentence.
    """

    units: frozenset[Unit] | None
    reason: str

    @property
    def only(self) -> Unit | None:
        """The unit, if just one is left."""
        return next(iter(self.units)) if self.units is not None and len(self.units) == 1 else None

    def words(self) -> str:
        """Return the units that are left, for a sentence."""
        left = sorted(unit.value for unit in self.units or ())
        return " or ".join(WORDS[Unit(value)] for value in left) or "no known unit"


def possible_units(statistics: Statistics, channels: Sequence[Channel]) -> frozenset[Unit] | None:
    """Return the units that the arm joints' statistics can be in; None without statistics."""
    return judge_arm(statistics, channels).units


def judge_arm(statistics: Statistics, channels: Sequence[Channel]) -> Verdict:
    """Judge all arm joints together, as recordings use one unit for all of them.

    Signs and offsets of the channels are undone first; their units are not looked at. Where only
    mean and deviation are known, a joint is known to reach the root of their squares' sum.
    """
    ends = {name: e for name, e in _ends(statistics, channels).items() if name != GRIPPER}
    if not ends:
        return Verdict(None, "there are no statistics")
    far = {name: float(np.abs(values).max()) for name, values in ends.items()}
    widest = max(far, key=far.__getitem__)
    reach = f"{widest} reaches {far[widest]:.4g}"
    if far[widest] <= _RAD_MAXIMUM:
        return _radians(far, ends, reach)
    if far[widest] > _RANGE_MAXIMUM:
        beyond = _beyond(far, _TRAVEL_SLACK_DEG)
        if beyond:
            return Verdict(
                frozenset(),
                f"{reach}; in degrees {beyond} would be far beyond its travel: the zeros or signs "
                "of an older calibration, or another robot",
            )
        return Verdict(frozenset({Unit.DEG}), f"{reach}, beyond ±100")
    clipped = [name for name, values in ends.items() if _at(values, 100.0) and name != _LIFT]
    if len(clipped) > 1 and far[widest] <= 100.0 + _CLIPPED:
        return Verdict(
            frozenset({Unit.RANGE_100}), f"{' and '.join(clipped)} end at exactly 100, clipped"
        )
    hint = _beyond(far, 0.0)
    leaning = f"; in degrees {hint} would be beyond its travel, which speaks for ±100"
    return Verdict(
        frozenset({Unit.DEG, Unit.RANGE_100}),
        f"{reach}, which is too far for radians and not beyond ±100{leaning if hint else ''}",
    )


def judge_gripper(statistics: Statistics, channels: Sequence[Channel], arm: Unit | None) -> Verdict:
    """Judge the gripper; ``arm`` is the unit of the other joints, if it is known."""
    ends = _ends(statistics, channels).get(GRIPPER)
    if ends is None:
        return Verdict(None, "there are no statistics of a gripper")
    low, high = float(ends.min()), float(ends.max())
    where = f"its values lie in {low:.4g} to {high:.4g}"
    radians = low >= _GRIPPER_RAD[0] and high <= _GRIPPER_RAD[1]
    percent = low >= 100.0 - _RANGE_MAXIMUM and high <= _RANGE_MAXIMUM
    if arm is not Unit.RAD:
        fitting = {Unit.PERCENT} if percent else set()
        return Verdict(frozenset(fitting), f"{where} and LeRobot records 0 to 100")
    if not radians:
        fitting = {Unit.PERCENT} if percent else set()
        return Verdict(frozenset(fitting), f"{where}, too far for radians")
    if low < -0.02 or high > 1.05:
        return Verdict(frozenset({Unit.RAD}), f"{where}, like an angle and not like a share")
    return Verdict(
        frozenset(),
        f"{where}, which may be radians or a share of the opening from 0 to 1",
    )


def _radians(far: Mapping[str, float], ends: Mapping[str, np.ndarray], reach: str) -> Verdict:
    beyond = _beyond({name: float(np.degrees(v)) for name, v in far.items()}, _TRAVEL_SLACK_DEG)
    if beyond:
        return Verdict(
            frozenset(),
            f"{reach}; in radians {beyond} would be far beyond its travel: the zeros or signs of "
            "an older calibration, or another robot",
        )
    ones = [name for name, values in ends.items() if _at(values, 1.0)]
    if len(ones) > 1 and max(far.values()) <= 1.0 + _CLIPPED:
        return Verdict(
            frozenset(), f"{' and '.join(ones)} end at exactly 1: they are normalised already"
        )
    return Verdict(
        frozenset({Unit.RAD}), f"{reach} and no joint more; in degrees the arm would hardly move"
    )


def _beyond(far: Mapping[str, float], slack: float) -> str:
    """Return the joint that is furthest beyond its travel, ``far`` being degrees; or nothing."""
    excess = {
        # wrist_roll turns in full: nothing is left out of its range.
        name: value - _TRAVEL_DEG[name] - (min(slack, 5.0) if name == "wrist_roll" else slack)
        for name, value in far.items()
        if name in _TRAVEL_DEG
    }
    worst = max(excess, key=excess.__getitem__, default="")
    return worst if worst and excess[worst] > 0.0 else ""


def _at(values: np.ndarray, end: float) -> bool:
    return bool((np.abs(np.abs(values) - end) < _CLIPPED).any())


def _ends(statistics: Statistics, channels: Sequence[Channel]) -> dict[str, np.ndarray]:
    """Return values that each joint is known to reach, with signs and offsets undone."""
    for low, high in ((statistics.min, statistics.max), (statistics.q01, statistics.q99)):
        if low is not None and high is not None:
            return {
                c.name: c.sign * (np.array([low[i], high[i]], dtype=np.float64) - c.offset)
                for i, c in enumerate(channels)
            }
    if statistics.mean is None or statistics.std is None:
        return {}
    found = {}
    for i, channel in enumerate(channels):
        mean = channel.sign * (statistics.mean[i] - channel.offset)
        # Some value lies at least this far from zero, on a side that nobody knows.
        far = mean if channel.name == GRIPPER else float(np.hypot(mean, statistics.std[i]))
        found[channel.name] = np.array([far])
    return found
