"""Samples a path tick by tick; trajectory time never skips."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from so101_driver.safety.types import Array

LEASH_RAD = 0.03
"""How far a scaled reference may be from a command that something holds back: further, and leading
it away again would at first do nothing."""


class Path(Protocol):
    """A motion in time."""

    @property
    def duration_s(self) -> float:
        """When it comes to rest."""
        ...

    def at(self, time_s: float) -> Array:
        """Position at a time since its beginning."""
        ...


class Follower:
    """Reference positions for three successive ticks: before, now and next."""

    def __init__(self, path: Path, time_s: float, period_s: float) -> None:
        """``time_s`` is the path's time of the next command."""
        self._path = path
        self._period_s = period_s
        self._time_s = time_s
        self.before, self.now, self.next = (path.at(time_s + k * period_s) for k in (-2, -1, 0))

    def advance(self, rate: float = 1.0) -> None:
        """Go on by exactly one tick, which is ``rate`` periods of the path's own time."""
        self._time_s += rate * self._period_s
        self.before, self.now = self.now, self.next
        self.next = self._path.at(self._time_s)

    def ahead(self, time_s: float) -> Array:
        """Where the path will be after some of its own time."""
        return self._path.at(self._time_s + time_s)

    @property
    def ended(self) -> bool:
        """Whether the path is at rest from now on."""
        return self._time_s - 2.0 * self._period_s >= self._path.duration_s


class Steps(Protocol):
    """A reference that makes a step with every tick."""

    step: Array


class ScaledReference:
    """Integrates a share of another reference's steps, within bounds and near the command."""

    def __init__(
        self,
        position_rad: Array,
        velocity_rad_s: Array,
        scale: Array,
        lower_rad: Array,
        upper_rad: Array,
        period_s: float,
    ) -> None:
        """``scale`` holds one share per joint."""
        self._scale = scale
        self._lower, self._upper = lower_rad, upper_rad
        self.before = self.now = position_rad - velocity_rad_s * period_s
        self.next = position_rad

    def advance(self, reference: Steps, position_rad: Array) -> None:
        """Go on by a share of the step that a reference makes; ``position_rad`` is commanded."""
        self.before, self.now = self.now, self.next
        step = self._scale * reference.step
        # From outside the bounds it only comes closer, and by no more than its share.
        lower, upper = np.minimum(self._lower, self.now), np.maximum(self._upper, self.now)
        wanted = np.minimum(np.maximum(self.now + step, lower), upper)
        self.next = np.minimum(
            np.maximum(wanted, position_rad - LEASH_RAD), position_rad + LEASH_RAD
        )
