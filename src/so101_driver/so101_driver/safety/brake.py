"""The jerk-limited brake in discrete time: from any state to rest, one acceleration per tick.

Motion is a sequence of positions one period T apart; velocity, acceleration and jerk are its
finite differences. A brake is the sequence of accelerations that takes the velocity to exactly zero
and the acceleration with it. With d = jerk · T, n-step brakes form the family

    b_n(i) = max(a - i·d,  -A,  -(n - i)·d),        i = 1 .. n      (for motion in + direction)

fall at full jerk, stay at -A, rise at full jerk. The sum of b_n shrinks with n, so two neighbours
n - 1 and n end with velocities of opposite sign, and one convex combination of them ends at rest.
Acceleration and jerk bounds are convex: the combination obeys them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from so101_driver.safety.types import Array

REST_VELOCITY_RAD_S = 1e-9
"""Below this a joint is at rest; what rounding leaves, far below a servo's tick."""


@dataclass(frozen=True, slots=True, eq=False)
class BrakePath:
    """Successive states from the next tick on, [ticks, joints]; the last row is at rest.

    Attributes:
        positions_rad: Positions.
        velocities_rad_s: Velocities.
        accelerations_rad_s2: Accelerations.
    """

    positions_rad: Array
    velocities_rad_s: Array
    accelerations_rad_s2: Array

    def shifted(self) -> BrakePath:
        """The path one tick later."""
        return BrakePath(
            _shift(self.positions_rad, None),
            _shift(self.velocities_rad_s, 0.0),
            _shift(self.accelerations_rad_s2, 0.0),
        )

    def merged(self, take: np.ndarray, other: BrakePath) -> BrakePath:
        """Joints of this path where ``take`` is true, of the other elsewhere."""
        return BrakePath(
            np.where(take, self.positions_rad, other.positions_rad),
            np.where(take, self.velocities_rad_s, other.velocities_rad_s),
            np.where(take, self.accelerations_rad_s2, other.accelerations_rad_s2),
        )


class BrakePlanner:
    """Plans brakes for all joints at once."""

    def __init__(
        self,
        velocity_rad_s: Array,
        acceleration_rad_s2: Array,
        jerk_rad_s3: Array,
        period_s: float,
    ) -> None:
        self._period_s = period_s
        self._top_acceleration = acceleration_rad_s2
        self._step = jerk_rad_s3 * period_s
        self._scalars = list(zip(self._top_acceleration.tolist(), self._step.tolist(), strict=True))
        # Longest legal brake: top speed plus what full acceleration still adds, at full braking.
        ramp_s = acceleration_rad_s2 / jerk_rad_s3
        fastest = velocity_rad_s + 0.5 * acceleration_rad_s2 * ramp_s
        longest_s = float(np.max(fastest / acceleration_rad_s2 + 3.0 * ramp_s))
        self.ticks = math.ceil(longest_s / period_s) + 4
        self._index = np.arange(1, self.ticks + 1, dtype=np.float64)[:, None]

    def plan(
        self, position_rad: Array, velocity_rad_s: Array, acceleration_rad_s2: Array
    ) -> BrakePath:
        """Brake from a state whose acceleration and speed are within the limits.

        A state too fast to stop within ``ticks`` gives a path that does not end at rest; whoever
        checks the path against the velocity limit refuses it.
        """
        signs, lengths, shares, ramps = [], [], [], []
        for v, a, (top, step) in zip(
            velocity_rad_s.tolist(), acceleration_rad_s2.tolist(), self._scalars, strict=True
        ):
            sign, length, share, ramp = _profile(v / self._period_s, a, top, step, self.ticks)
            signs.append(sign)
            lengths.append(length)
            shares.append(share)
            ramps.append(ramp)
        sign, length, share = np.array(signs), np.array(lengths), np.array(shares)
        start = acceleration_rad_s2 * sign
        fall = np.maximum(start - self._index * self._step, -self._top_acceleration)
        longer = np.maximum(fall, np.minimum(self._index - length, 0.0) * self._step)
        shorter = np.maximum(fall, np.minimum(self._index - length + 1.0, 0.0) * self._step)
        if any(ramps):
            ramp = np.minimum(start + self._index * self._step, 0.0)
            shorter = np.where(ramps, ramp, shorter)
        accelerations = (shorter + share * (longer - shorter)) * sign
        velocities = velocity_rad_s + self._period_s * np.cumsum(accelerations, axis=0)
        positions = position_rad + self._period_s * np.cumsum(velocities, axis=0)
        return BrakePath(positions, velocities, accelerations)


def _profile(
    speed: float, acceleration: float, top: float, step: float, most_ticks: int
) -> tuple[float, float, float, bool]:
    """Return direction, ticks n, share of b_n, and whether the shorter partner is the bare ramp.

    ``speed`` is the velocity divided by the period: the sum of accelerations that must be undone.
    The bare ramp takes the acceleration to zero at full jerk, without braking any further.
    """
    size = abs(acceleration) / step
    whole = math.floor(size)
    ramp_sum = math.copysign(
        whole * abs(acceleration) - step * whole * (whole + 1) / 2, acceleration
    )
    residual = speed + ramp_sum
    sign = 1.0 if residual >= 0.0 else -1.0
    a, need = acceleration * sign, speed * sign
    least = math.ceil(size - 1e-9)
    ramp_sum *= sign
    if need + ramp_sum <= 1e-12 * step:
        return sign, float(least), 0.0, a < 0.0 or least == 0
    falling = math.floor(max(a + top, 0.0) / step)
    rising = math.floor(top / step)
    corner = max(falling + rising + 1, least)
    corner_sum = _brake_sum(a, top, step, corner, falling, rising)
    if -corner_sum < need:
        length = corner + math.ceil((need + corner_sum) / top - 1e-12)
        length = min(length, most_ticks)
    else:
        low, length = least, corner
        while low < length:
            middle = (low + length) // 2
            if -_brake_sum(a, top, step, middle, falling, rising) >= need:
                length = middle
            else:
                low = middle + 1
    ramp = length == least
    less = -ramp_sum if ramp else -_brake_sum(a, top, step, length - 1, falling, rising)
    more = -_brake_sum(a, top, step, length, falling, rising)
    share = (need - less) / (more - less) if more > less else 1.0
    return sign, float(length), min(max(share, 0.0), 1.0), ramp and a < 0.0


def _brake_sum(a: float, top: float, step: float, length: int, falling: int, rising: int) -> float:
    """Sum of b_n; ``falling`` and ``rising`` are the ticks between a, -A and 0 at full jerk."""
    if length >= falling + rising + 1:
        plateau = length - falling - rising - 1
        return (
            falling * a
            - step * falling * (falling + 1) / 2
            - top * plateau
            - step * rising * (rising + 1) / 2
        )
    fall = max(math.floor((a / step + length) / 2), 0)
    rise = length - fall - 1
    return fall * a - step * fall * (fall + 1) / 2 - step * rise * (rise + 1) / 2


def _shift(rows: Array, fill: float | None) -> Array:
    last = rows[-1:] if fill is None else np.full_like(rows[-1:], fill)
    return np.concatenate((rows[1:], last))
