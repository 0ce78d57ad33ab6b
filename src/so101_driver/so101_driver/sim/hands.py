"""Who moves a leader arm: scripted hands, poses over time."""

from __future__ import annotations

import bisect
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

REST_RAD: tuple[float, ...] = (0.0, -0.6, 0.7, 0.6, 0.0, 0.3)
"""Where a leader arm is held unless somebody says otherwise."""
_SWING_RAD = (0.5, 0.25, 0.25, 0.3, 0.6, 0.3)
_PERIODS_S = (7.0, 9.0, 8.0, 6.0, 5.0, 4.0)


class Hand(Protocol):
    """Holds a leader arm."""

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Return where it wants the six joints at a time since it took the arm."""


class StillHand:
    """Holds the arm in one pose, which may be set at any time.

    Attributes:
        held_rad: The pose.
    """

    def __init__(self, held_rad: Sequence[float] = REST_RAD) -> None:
        self.held_rad = tuple(held_rad)

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Return the pose."""
        del now_s
        return self.held_rad


class SineHand:
    """Swings all joints slowly about a pose, each with its own period; begins at rest."""

    def __init__(self, middle_rad: Sequence[float] = REST_RAD) -> None:
        self._middle_rad = tuple(middle_rad)

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Return where the swing is; it grows over the first two seconds."""
        grown = min(1.0, max(0.0, now_s) / 2.0)
        return tuple(
            middle + grown * swing * math.sin(2.0 * math.pi * now_s / period)
            for middle, swing, period in zip(self._middle_rad, _SWING_RAD, _PERIODS_S, strict=True)
        )


class RecordedHand:
    """Follows poses at given times, straight between them; holds the first and the last one.

    Args:
        times_s: Ascending.
        poses_rad: One per time, six joints each.
    """

    def __init__(self, times_s: Sequence[float], poses_rad: Sequence[Sequence[float]]) -> None:
        self._times_s = tuple(times_s)
        self._poses_rad = tuple(tuple(pose) for pose in poses_rad)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a CSV file with the columns ``t_s`` and the six joints, in rad.

        Raises:
            UserError: Naming the file, the line and what is wrong with it.
        """
        try:
            with Path(path).expanduser().open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"cannot read the motion {path} ({error}): give a CSV file, or 'sine'."
            ) from error
        header = ("t_s", *JOINT_NAMES)
        if not rows or tuple(cell.strip() for cell in rows[0]) != header:
            raise UserError(f"{path}, line 1: the columns must be {','.join(header)}.")
        times_s: list[float] = []
        poses_rad: list[list[float]] = []
        for line, row in enumerate(rows[1:], start=2):
            if not row:
                continue
            try:
                values = [float(cell) for cell in row]
            except ValueError as error:
                raise UserError(f"{path}, line {line}: {error}.") from error
            if len(values) != len(header) or not all(math.isfinite(v) for v in values):
                raise UserError(f"{path}, line {line}: expected {len(header)} finite numbers.")
            if times_s and values[0] <= times_s[-1]:
                raise UserError(f"{path}, line {line}: t_s must be larger than the line before.")
            times_s.append(values[0])
            poses_rad.append(values[1:])
        if not times_s:
            raise UserError(f"{path}: there is no pose in it.")
        return cls(times_s, poses_rad)

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Return the pose at a time."""
        after = bisect.bisect_right(self._times_s, now_s)
        if after == 0 or after == len(self._times_s):
            return self._poses_rad[min(after, len(self._times_s) - 1)]
        begin_s, end_s = self._times_s[after - 1 : after + 1]
        share = (now_s - begin_s) / (end_s - begin_s)
        return tuple(
            first + share * (second - first)
            for first, second in zip(*self._poses_rad[after - 1 : after + 1], strict=True)
        )
