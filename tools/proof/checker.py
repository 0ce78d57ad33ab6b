"""Says what is illegal in a sequence of commands; shares no code with what it judges.

It reads the same data files (limits, URDF, geometry) in its own way and uses nothing but plain
finite differences, rotation matrices and distances: where it and the safety layer disagree, one of
them is wrong. It imports nothing of this repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from proof.plain_geometry import PlainArm, PlainGeometry

Array = NDArray[np.float64]

RELATIVE = 1e-6
"""Of a motion limit: 1e-16 of rounding in a position becomes 1e-10 in a third difference."""

POSITION_RAD = 1e-8
CLEARANCE_M = 1e-7


@dataclass(frozen=True, slots=True)
class Violation:
    """One illegal thing.

    Attributes:
        path: Which of the sequences that were checked together.
        tick: Row of the sequence in which it shows.
        what: What was exceeded, and by which joint or constraint.
        value: What was found.
        allowed: What is legal.
    """

    path: int
    tick: int
    what: str
    value: float
    allowed: float

    def __str__(self) -> str:
        return f"row {self.tick}: {self.what} is {self.value:.9g}, allowed is {self.allowed:.9g}"


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The numbers of a limits file that bind commands; arrays by joint."""

    names: tuple[str, ...]
    lower: Array
    upper: Array
    tops: tuple[Array, Array, Array]
    tip_speed: float
    recoverable_rad: float

    @classmethod
    def read(
        cls,
        limits_file: Path,
        profile: str,
        supply_v: float = float("nan"),
        narrower: Sequence[Array] = (),
    ) -> Bounds:
        """Read a profile for a supply voltage; ``narrower`` are further [joints, 2] ranges."""
        content = _content(Path(limits_file))
        names = tuple(content["position_rad"])
        lower = [content["position_rad"][name][0] for name in names]
        upper = [content["position_rad"][name][1] for name in names]
        for ranges in narrower:
            for joint in range(len(names)):
                lower[joint] = max(lower[joint], float(ranges[joint][0]))
                upper[joint] = min(upper[joint], float(ranges[joint][1]))
        motion = content["profiles"][profile]
        speeds = [part["velocity_rad_s"] for part in (content["servos"] or {}).values()]
        fitting = [
            part["velocity_rad_s"]
            for part in (content["servos"] or {}).values()
            if part["supply_v"][0] <= supply_v < part["supply_v"][1]
        ]
        # An unknown supply may be the slowest part's.
        fastest = min(fitting or speeds or [float("inf")])
        return cls(
            names,
            np.array(lower),
            np.array(upper),
            (
                np.array([min(motion["velocity_rad_s"][name], fastest) for name in names]),
                np.array([motion["acceleration_rad_s2"][name] for name in names]),
                np.array([motion["jerk_rad_s3"][name] for name in names]),
            ),
            float("inf") if motion["tip_speed_m_s"] is None else motion["tip_speed_m_s"],
            float(content["recoverable_violation_rad"]),
        )


class Checker:
    """Checks sequences of commands that lie one period apart, from rest."""

    def __init__(
        self,
        bounds: Bounds,
        period_s: float,
        arm: PlainArm | None = None,
        geometry: PlainGeometry | None = None,
    ) -> None:
        """Without ``arm`` the tip's speed is not checked, without ``geometry`` no distances are."""
        self.bounds = bounds
        self.arm = arm
        self.geometry = geometry
        self._period_s = period_s

    def check(self, positions: Array, before: Array | None = None) -> list[Violation]:
        """Everything illegal in ``positions`` [ticks, joints], the worst of each kind.

        ``before`` are the three commands before the first one; without it the arm rested there.
        """
        rows = np.asarray(positions, dtype=np.float64)
        if before is None and np.isfinite(rows).all():
            found = self._start(rows[0])
            if found:
                return found
        lead = np.repeat(rows[:1], 3, axis=0) if before is None else np.asarray(before)
        return self.check_many(np.concatenate((lead, rows))[None])

    def check_many(self, paths: Array) -> list[Violation]:
        """The same for [paths, ticks, joints], each with its three commands before."""
        if not np.isfinite(paths).all():
            path, tick, _ = np.argwhere(~np.isfinite(paths))[0]
            return [Violation(int(path), int(tick) - 3, "a position", float("nan"), float("inf"))]
        found = self._motion(paths) + self._positions(paths)
        if self.arm is not None and np.isfinite(self.bounds.tip_speed):
            found += self._tip_speed(paths)
        if self.geometry is not None:
            found += self._distances(paths)
        return found

    def _start(self, position: Array) -> list[Violation]:
        """An arm that stands too deep in what is forbidden is not armed at all."""
        found = []
        bounds = self.bounds
        outside = np.maximum(bounds.lower - position, position - bounds.upper)
        joint = int(outside.argmax())
        if outside[joint] > bounds.recoverable_rad + POSITION_RAD:
            what = f"{bounds.names[joint]} outside its range at the start"
            found.append(Violation(0, 0, what, float(outside[joint]), bounds.recoverable_rad))
        if self.geometry is not None:
            clear = self.geometry.clearances(position[None])[0]
            index, allowed = int(clear.argmin()), -self.geometry.recoverable_m
            if clear[index] < allowed - CLEARANCE_M:
                what = f"clearance of {self.geometry.names[index]} at the start"
                found.append(Violation(0, 0, what, float(clear[index]), allowed))
        return found

    def _motion(self, paths: Array) -> list[Violation]:
        found = []
        series = paths
        for order, name in enumerate(("velocity", "acceleration", "jerk")):
            series = (series[:, 1:] - series[:, :-1]) / self._period_s
            top = self.bounds.tops[order]
            path, tick, joint = _largest(np.abs(series) / top)
            value, allowed = float(series[path, tick, joint]), float(top[joint])
            if not abs(value) <= allowed * (1.0 + RELATIVE):
                what = f"{name} of {self.bounds.names[joint]}"
                found.append(Violation(path, tick + order - 2, what, value, allowed))
        return found

    def _positions(self, paths: Array) -> list[Violation]:
        """Outside its range a joint only comes closer."""
        low, high = self.bounds.lower, self.bounds.upper
        outside = np.maximum(np.maximum(low - paths, paths - high), 0.0)
        path, tick, joint = _largest(outside[:, 1:] - outside[:, :-1])
        before, after = outside[path, tick : tick + 2, joint].tolist()
        if after <= before + POSITION_RAD:
            return []
        what = f"{self.bounds.names[joint]} outside its range"
        return [Violation(path, tick - 2, what, after, before)]

    def _tip_speed(self, paths: Array) -> list[Violation]:
        assert self.arm is not None
        tips = self.arm.tips(paths.reshape(-1, paths.shape[2])).reshape(*paths.shape[:2], 3)
        speed = np.sqrt(((tips[:, 1:] - tips[:, :-1]) ** 2).sum(axis=2)) / self._period_s
        path, tick = _largest(speed)
        value, allowed = float(speed[path, tick]), self.bounds.tip_speed
        if value <= allowed * (1.0 + RELATIVE):
            return []
        return [Violation(path, tick - 2, "speed of the tip", value, allowed)]

    def _distances(self, paths: Array) -> list[Violation]:
        """Inside a region the arm only comes out."""
        assert self.geometry is not None
        clear = self.geometry.clearances(paths.reshape(-1, paths.shape[2]))
        clear = clear.reshape(*paths.shape[:2], -1)
        path, tick, index = _largest(np.minimum(clear[:, :-1], 0.0) - clear[:, 1:])
        before, after = clear[path, tick : tick + 2, index].tolist()
        if after >= min(before, 0.0) - CLEARANCE_M:
            return []
        what = f"clearance of {self.geometry.names[index]}"
        return [Violation(path, tick - 2, what, after, min(before, 0.0))]


@lru_cache(maxsize=4)
def _content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _largest(values: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(values.argmax()), values.shape))
