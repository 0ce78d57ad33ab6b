"""Bends a wanted velocity so that the arm slows down before geometry and slides along it.

Each constraint is a clearance d(q) with a gradient. The speed at which d may shrink falls with d as
for a braking car; what is faster is taken out of the velocity along the gradient only, so that
motion along a table goes on. This keeps the verified brake, which guards the constraint, for the
cases that shaping does not foresee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Array, Limit

CLEARANCE_GAIN_PER_S = 8.0
"""Near a constraint the clearance decays with this rate at most."""

BRAKING_SHARE = 0.6
"""Share of the mean deceleration of the whole arm braking."""

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
        closing = -(gradients @ wanted)
        braking_s = self._braking_time_s(wanted)
        # What the arm cannot reach while it brakes does not matter.
        near = np.flatnonzero(closing * braking_s > 2.0 * BRAKING_SHARE * clearances)
        near = near[(closing[near] > 0.0) | (clearances[near] < 0.0)]
        if not len(near):
            return Shaped(wanted, acceleration, acted)
        # All joints braking together take a closing speed to zero in braking_s.
        decelerations = np.maximum(BRAKING_SHARE * closing[near] / max(braking_s, 1e-3), 1e-3)
        allowed, slopes = _allowed_speed(clearances[near], decelerations)
        rows = gradients[near]
        # Joints give way in proportion to their own motion: none is moved that should rest.
        weights = np.abs(wanted) + 1e-6
        pushes = rows * weights
        lengths = np.maximum(np.square(rows) @ weights, 1e-9)
        for _ in range(_PASSES):
            before = wanted
            for k, index in enumerate(near):
                excess = -float(rows[k] @ wanted) - allowed[k]
                if excess > 1e-9:
                    wanted = wanted + pushes[k] * (excess / lengths[k])
                    acted |= self._geometry.limits[index]
            if wanted is before:
                break
        for k in range(len(near)):
            if -float(rows[k] @ wanted) >= allowed[k] - 1e-6:
                # Along the gradient, brake as the allowed speed falls while the arm comes nearer.
                slowing = -slopes[k] * float(rows[k] @ velocity_rad_s)
                missing = slowing - float(rows[k] @ acceleration)
                if missing > 0.0:
                    acceleration = acceleration + pushes[k] * (missing / lengths[k])
        return Shaped(wanted, acceleration, acted)

    def _braking_time_s(self, velocity_rad_s: Array) -> float:
        """Time in which jerk-limited braking stops the slowest joint to stop."""
        speed = np.abs(velocity_rad_s)
        short = 2.0 * np.sqrt(speed / self._jerk)
        long = speed / self._acceleration + self._ramp_s
        return float(np.where(speed < self._acceleration * self._ramp_s, short, long).max())


def _allowed_speed(clearance_m: Array, deceleration: Array) -> tuple[Array, Array]:
    """Speed at which a clearance may shrink, and the derivative of that by the clearance.

    Proportional near zero, then that of a constant deceleration. A violated clearance may not
    shrink at all.
    """
    gain = CLEARANCE_GAIN_PER_S
    linear = deceleration / gain**2
    far = np.sqrt(2.0 * deceleration * np.maximum(clearance_m - 0.5 * linear, 1e-12))
    near = clearance_m <= linear
    speed = np.where(near, gain * np.maximum(clearance_m, 0.0), far)
    slope = np.where(near, np.where(clearance_m > 0.0, gain, 0.0), deceleration / far)
    return speed, slope
