"""Bends a wanted velocity so that the arm slows down before geometry and slides along it.

Each constraint is a clearance d(q) with a gradient. Two things must hold of a velocity: the pose in
which the joints come to rest, each braking for itself, keeps clear of the constraint; and d does
not shrink faster than in proportion to itself. What is too fast is taken out of the joints that
move towards the constraint, so that motion along a table goes on. This keeps the verified brake,
which guards the constraint, for what shaping does not foresee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Array, Limit

CLEARANCE_GAIN_PER_S = 8.0
"""A clearance decays with this rate at most."""

KEPT_M = 0.0003
"""Clearance that is aimed at, so that motion along a curved constraint has room."""

STOPPING_SHARE = 0.7
"""Share of a clearance that stopping may use up; the rest is for its curvature."""

TIP_SPEED_SHARE = 0.95
"""Of the limit: the rest is reserve for the acceleration that is still there."""

_PASSES = 4
"""Rounds over the constraints; more than one matters only in a corner between two."""


class Guarded(Protocol):
    """What the limiter needs of a Geometry."""

    @property
    def names(self) -> tuple[str, ...]:
        """One per constraint, for messages."""
        ...

    @property
    def limits(self) -> tuple[Limit, ...]:
        """TABLE, SELF_COLLISION or WORKSPACE, per constraint."""
        ...

    @property
    def recoverable_m(self) -> float:
        """How deep a start may violate a constraint."""
        ...

    def clearances(self, positions_rad: Array) -> Array:
        """[poses, joints] to [poses, constraints], metres; negative is a violation."""
        ...

    def clearances_and_gradients(self, position_rad: Array) -> tuple[Array, Array]:
        """[joints] to [constraints] and [constraints, joints]."""
        ...

    def tip_positions(self, positions_rad: Array) -> Array:
        """[poses, joints] to [poses, 3], metres."""
        ...

    def tip_jacobian(self, position_rad: Array) -> Array:
        """[joints] to [3, joints]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Shaped:
    """A motion that respects geometry, and what that changed.

    Attributes:
        velocity_rad_s: The velocity to aim at.
        acceleration_rad_s2: The acceleration that keeps it.
        acted: Limits that changed them.
    """

    velocity_rad_s: Array
    acceleration_rad_s2: Array
    acted: Limit


class Shaper:
    """Shapes motion for one geometry and one set of limits."""

    def __init__(self, geometry: Guarded, limits: Limits) -> None:
        self._geometry = geometry
        self._acceleration = limits.acceleration_rad_s2
        self._jerk = limits.jerk_rad_s3
        self._ramp_s = self._acceleration / self._jerk
        self._tip_speed = TIP_SPEED_SHARE * limits.tip_speed_m_s

    def shape(
        self,
        position_rad: Array,
        velocity_rad_s: Array,
        wanted_rad_s: Array,
        wanted_rad_s2: Array,
    ) -> Shaped:
        """Shape what is wanted of an arm at a position that moves at a velocity."""
        wanted, acceleration, acted = wanted_rad_s, wanted_rad_s2, Limit(0)
        tip = self._geometry.tip_jacobian(position_rad) @ wanted
        tip_speed = math.sqrt(float(tip @ tip))
        if tip_speed > self._tip_speed:
            scale = self._tip_speed / tip_speed
            wanted, acceleration = scale * wanted, scale * acceleration
            acted |= Limit.VELOCITY
        clearances, gradients = self._geometry.clearances_and_gradients(position_rad)
        stopping_s = 0.5 * self._braking_times_s(wanted)
        shrinking = -(gradients @ wanted)
        used = -(gradients @ (stopping_s * wanted))
        room = np.maximum(clearances - KEPT_M, -KEPT_M)
        near = np.flatnonzero(
            (used > STOPPING_SHARE * room) | (shrinking > CLEARANCE_GAIN_PER_S * room)
        )
        if not len(near):
            return Shaped(wanted, acceleration, acted)
        # Per constraint two rows: what may be used up by stopping, and the rate of shrinking.
        rows = np.vstack((gradients[near] * stopping_s, gradients[near]))
        most = np.concatenate((STOPPING_SHARE * room[near], CLEARANCE_GAIN_PER_S * room[near]))
        # Joints give way in proportion to their own motion: none is moved that should rest.
        weights = np.abs(wanted)
        pushes = rows * weights
        lengths = np.maximum(np.square(rows) @ weights, 1e-12)
        bound = np.zeros(len(rows), dtype=bool)
        for _ in range(_PASSES):
            before = wanted
            for k in range(len(rows)):
                excess = -float(rows[k] @ wanted) - most[k]
                if excess > 1e-9:
                    wanted = wanted + pushes[k] * (excess / lengths[k])
                    bound[k] = True
            if wanted is before:
                break
        # What is bound falls while the arm comes nearer; so much it must brake.
        nearing = np.maximum(-(gradients[near] @ velocity_rad_s), 0.0)
        slowing = np.concatenate((0.5 * STOPPING_SHARE * nearing, CLEARANCE_GAIN_PER_S * nearing))
        for k in np.flatnonzero(bound):
            acted |= self._geometry.limits[near[k % len(near)]]
            missing = slowing[k] - float(rows[k] @ acceleration)
            if missing > 0.0:
                acceleration = acceleration + pushes[k] * (missing / lengths[k])
        return Shaped(wanted, acceleration, acted)

    def _braking_times_s(self, velocity_rad_s: Array) -> Array:
        """Time in which jerk-limited braking stops each joint."""
        speed = np.abs(velocity_rad_s)
        short = 2.0 * np.sqrt(speed / self._jerk)
        long = speed / self._acceleration + self._ramp_s
        return np.where(speed < self._acceleration * self._ramp_s, short, long)
