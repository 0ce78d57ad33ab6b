"""Moves the commanded state one tick at a time, never without a verified way to stop.

The commanded state is a position and its finite differences. Each tick a tracking law proposes the
next acceleration, the limits trim it, and the result is taken only if the brake from there is
legal. Otherwise the brake that was verified last executes its next sample: of one joint when its
own limits are the reason, of all joints when the geometry or the tip's speed is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from so101_driver.safety.brake import REST_VELOCITY_RAD_S, BrakePath, BrakePlanner
from so101_driver.safety.limits import Limits
from so101_driver.safety.shaping import Guarded, Shaper
from so101_driver.safety.types import Array, Limit

POSITION_GAIN_PER_S = 8.0
"""A small position error decays with this rate: 0.37 of it is left after 125 ms."""

VELOCITY_GAIN_PER_S = 25.0
"""Decay rate of a velocity error; three times the other, so that positions do not overshoot."""

APPROACH_SHARE = 0.6
"""Share of the acceleration limit used to slow down towards a goal or a position limit. The rest is
reserve for the time that jerk-limited braking needs to build up."""

RAMP_SHARE = 0.5
"""Likewise, share of the jerk limit used to take a velocity error's acceleration back to zero."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class TrackingStep:
    """What one tick did.

    Attributes:
        acted: Limits that changed the proposal.
        wanted_rad_s: Sum over joints of the speed that the reference asked for.
        removed_rad_s: How much of it limits took away.
    """

    acted: Limit
    wanted_rad_s: float
    removed_rad_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What the tracking law asks for.

    Attributes:
        reference_rad_s: Velocity that the reference asks for, without any limit.
        velocity_rad_s: The same within position limits and geometry.
        acceleration_rad_s2: With which it is approached.
        bounded: Joints whose velocity position limits or geometry changed.
        acted: Limits that did.
    """

    reference_rad_s: Array
    velocity_rad_s: Array
    acceleration_rad_s2: Array
    bounded: NDArray[np.bool_]
    acted: Limit


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A next commanded state with its brake, legal in position and velocity.

    Attributes:
        position_rad: Next command.
        velocity_rad_s: Its finite difference.
        acceleration_rad_s2: The finite difference of that.
        brake: From there to rest.
        inside: Joints whose own acceleration kept to the position limits.
        slow: Joints whose own acceleration kept to the velocity limit.
        legal: Joints that took their own acceleration; the others follow the brake verified last.
    """

    position_rad: Array
    velocity_rad_s: Array
    acceleration_rad_s2: Array
    brake: BrakePath
    inside: NDArray[np.bool_]
    slow: NDArray[np.bool_]
    legal: NDArray[np.bool_]


class Limiter:
    """The commanded state of all joints and its verified brake.

    Attributes:
        position_rad: Last commanded position.
        velocity_rad_s: Its finite difference.
        acceleration_rad_s2: The finite difference of that.
    """

    def __init__(self, limits: Limits, period_s: float, geometry: Guarded | None = None) -> None:
        self._period_s = period_s
        self._geometry = geometry
        self._tip_speed = limits.tip_speed_m_s
        self._shaper = None if geometry is None else Shaper(geometry, limits)
        self._velocity = limits.velocity_rad_s
        self._acceleration = limits.acceleration_rad_s2
        self._step = limits.jerk_rad_s3 * period_s
        self._approach = APPROACH_SHARE * self._acceleration
        self._ramp = RAMP_SHARE * limits.jerk_rad_s3
        self._planner = BrakePlanner(
            self._velocity, self._acceleration, limits.jerk_rad_s3, period_s
        )
        self.start(0.5 * (limits.lower_rad + limits.upper_rad), limits.lower_rad, limits.upper_rad)

    def start(self, position_rad: Array, lower_rad: Array, upper_rad: Array) -> None:
        """Begin at rest. A joint may start outside its bounds; it can then only move inwards."""
        self._lower, self._upper = lower_rad, upper_rad
        self.position_rad = np.array(position_rad, dtype=np.float64)
        self.velocity_rad_s = np.zeros_like(self.position_rad)
        self.acceleration_rad_s2 = np.zeros_like(self.position_rad)
        self._brake = self._planner.plan(
            self.position_rad, self.velocity_rad_s, self.acceleration_rad_s2
        )

    def set_bounds(self, lower_rad: Array, upper_rad: Array) -> None:
        """Change the position limits; only at rest, where every brake is legal."""
        if not self.at_rest:
            raise ValueError("position limits can only change at rest")
        self._lower, self._upper = lower_rad, upper_rad

    @property
    def at_rest(self) -> bool:
        """Whether the commanded state no longer changes."""
        return not (self.velocity_rad_s.any() or self.acceleration_rad_s2.any())

    @property
    def resting_rad(self) -> Array:
        """Where the verified brake comes to rest."""
        return self.position_rad if self.at_rest else self._brake.positions_rad[-1]

    def brake(self) -> None:
        """Execute the next sample of the verified brake."""
        self._take(self._brake, self._brake.shifted())

    def track(self, before_rad: Array, now_rad: Array, next_rad: Array) -> TrackingStep:
        """Follow a reference for one tick.

        Args:
            before_rad: Reference one tick before ``now_rad``.
            now_rad: Reference at the time of the present commanded position.
            next_rad: Reference at the time of the command to be made.
        """
        wanted = self._wanted(before_rad, now_rad, next_rad)
        proposal, acted = wanted.acceleration_rad_s2, wanted.acted
        slowest = self.acceleration_rad_s2 - self._step
        fastest = self.acceleration_rad_s2 + self._step
        least = self._velocity_bound(self._velocity + self.velocity_rad_s)
        most = self._velocity_bound(self._velocity - self.velocity_rad_s)
        chosen = np.minimum(np.maximum(proposal, -least), most)
        chosen = np.minimum(np.maximum(chosen, -self._acceleration), self._acceleration)
        chosen = np.minimum(np.maximum(chosen, slowest), fastest)

        candidate = self._candidate(chosen)
        if not candidate.inside.all():
            acted |= Limit.POSITION
        if ((proposal > most) | (proposal < -least)).any() or not candidate.slow.all():
            acted |= Limit.VELOCITY
        if (np.abs(proposal) > self._acceleration).any():
            acted |= Limit.ACCELERATION
        if ((proposal > fastest) | (proposal < slowest)).any():
            acted |= Limit.JERK
        limited = wanted.bounded | (chosen != proposal) | ~candidate.legal

        violated = self._violated(candidate)
        if violated:
            # Trimming joint by joint turned the motion; the same direction, slower, may be legal.
            acted |= violated
            limited[:] = True
            candidate = self._candidate(self._straight(wanted.velocity_rad_s))
            violated = self._violated(candidate)
        if violated:
            self.brake()
        else:
            self.position_rad = candidate.position_rad
            self.velocity_rad_s = candidate.velocity_rad_s
            self.acceleration_rad_s2 = candidate.acceleration_rad_s2
            self._brake = candidate.brake
        speed = np.abs(wanted.reference_rad_s)
        removed = np.minimum(np.abs(wanted.reference_rad_s - self.velocity_rad_s), speed)
        return TrackingStep(acted, float(speed.sum()), float(removed[limited].sum()))

    def _wanted(self, before_rad: Array, now_rad: Array, next_rad: Array) -> _Wanted:
        """The tracking law: feedforward of the reference, and closing the distance to it.

        Soft towards position limits and geometry, so that the verified brake is not needed.
        """
        t, p, v = self._period_s, self.position_rad, self.velocity_rad_s
        reference_v = (now_rad - before_rad) / t + self._returning(now_rad - p)[0]

        lower, upper = self._bounds()
        before, now, following = (
            np.minimum(np.maximum(row, lower), upper) for row in (before_rad, now_rad, next_rad)
        )
        bounded_v = (now - before) / t
        feedforward = (following - 2.0 * now + before) / t**2
        feedforward = np.minimum(np.maximum(feedforward, -self._approach), self._approach)
        closing, slope = self._returning(now - p)
        target_v = bounded_v + closing
        highest, high_slope = self._closing(upper - p)
        lowest, low_slope = self._closing(lower - p)
        proposal = feedforward + slope * (bounded_v - v)
        proposal = np.where(target_v > highest, -high_slope * v, proposal)
        proposal = np.where(target_v < lowest, -low_slope * v, proposal)
        bounded = (now_rad != now) | (target_v > highest) | (target_v < lowest)
        acted = Limit.POSITION if bounded.any() else Limit(0)
        target_v = np.minimum(np.maximum(target_v, lowest), highest)
        if self._shaper is not None:
            shaped = self._shaper.shape(p, v, target_v, proposal)
            bounded |= shaped.velocity_rad_s != target_v
            acted |= shaped.acted
            target_v, proposal = shaped.velocity_rad_s, shaped.acceleration_rad_s2
        excess = np.abs(target_v) / self._velocity
        most = float(excess.max())
        if most > 1.0:
            # All joints slow down alike: that keeps the direction, and with it nearly the path
            # (docs/tracking.md compares). From those that only wait for others nothing is taken.
            target_v, proposal = target_v / most, proposal / most
            bounded |= excess > 1.0
            acted |= Limit.VELOCITY
        proposal = proposal + _closing_rate(target_v - v, VELOCITY_GAIN_PER_S, self._ramp)[0]
        return _Wanted(reference_v, target_v, proposal, bounded, acted)

    def _straight(self, target_rad_s: Array) -> Array:
        """The largest legal step from braking towards a velocity, with the direction of all joints.

        Trimming each joint by itself changes the direction; along a constraint that matters.
        """
        brake = self._brake.accelerations_rad_s2[0]
        wish = VELOCITY_GAIN_PER_S * (target_rad_s - self.velocity_rad_s) - brake
        a = self.acceleration_rad_s2
        most = np.minimum(a + self._step, self._acceleration) - brake
        least = np.maximum(a - self._step, -self._acceleration) - brake
        room = np.where(wish > 0.0, most, least)
        share = np.min(room[wish != 0.0] / wish[wish != 0.0], initial=1.0)
        return brake + max(share, 0.0) * wish

    def _candidate(self, acceleration_rad_s2: Array) -> _Candidate:
        """The state after one tick of an acceleration.

        A joint takes it only if the brake that follows is within the joint's limits, else it
        follows the brake that was verified last.
        """
        t = self._period_s
        lower, upper = self._bounds()
        next_v = self.velocity_rad_s + t * acceleration_rad_s2
        next_p = self.position_rad + t * next_v
        path = self._planner.plan(next_p, next_v, acceleration_rad_s2)
        inside = (np.maximum(path.positions_rad.max(axis=0), next_p) <= upper + _TOLERANCE) & (
            np.minimum(path.positions_rad.min(axis=0), next_p) >= lower - _TOLERANCE
        )
        # Outside its limits a joint only comes closer, at every tick of its brake too.
        inside &= (next_p <= self._upper) | (path.velocities_rad_s.max(axis=0) <= _TOLERANCE)
        inside &= (next_p >= self._lower) | (path.velocities_rad_s.min(axis=0) >= -_TOLERANCE)
        slow = np.abs(path.velocities_rad_s).max(axis=0) <= self._velocity + _TOLERANCE
        stops = np.abs(path.velocities_rad_s[-1]) <= REST_VELOCITY_RAD_S
        legal = inside & slow & stops & (np.abs(next_v) <= self._velocity + _TOLERANCE)
        if not legal.all():
            stored, path = self._brake, path.merged(legal, self._brake.shifted())
            next_p = np.where(legal, next_p, stored.positions_rad[0])
            next_v = np.where(legal, next_v, stored.velocities_rad_s[0])
            acceleration_rad_s2 = np.where(
                legal, acceleration_rad_s2, stored.accelerations_rad_s2[0]
            )
        return _Candidate(next_p, next_v, acceleration_rad_s2, path, inside, slow, legal)

    def _bounds(self) -> tuple[Array, Array]:
        """Position limits, wider where the arm started outside: from there it may only return."""
        p = self.position_rad
        return np.minimum(self._lower, p), np.maximum(self._upper, p)

    def _violated(self, candidate: _Candidate) -> Limit:
        """Limits of the geometry that the next command or the brake from there would violate.

        A constraint that is violated already may only become less so.
        """
        if self._geometry is None:
            return Limit(0)
        rows = np.vstack((self.position_rad, candidate.position_rad, candidate.brake.positions_rad))
        clearances = self._geometry.clearances(rows)
        # Written so that NaN is a violation too.
        worse = ~(clearances[1:] >= np.minimum(clearances[:-1], 0.0) - _TOLERANCE)
        violated = Limit(0)
        for index in np.flatnonzero(worse.any(axis=0)):
            violated |= self._geometry.limits[index]
        tips = self._geometry.tip_positions(rows)
        steps = np.sqrt(np.square(np.diff(tips, axis=0)).sum(axis=1))
        if not steps.max() <= self._tip_speed * self._period_s + _TOLERANCE:
            violated |= Limit.VELOCITY
        return violated

    def _take(self, path: BrakePath, rest: BrakePath) -> None:
        self.position_rad = path.positions_rad[0]
        self.velocity_rad_s = path.velocities_rad_s[0]
        self.acceleration_rad_s2 = path.accelerations_rad_s2[0]
        self._brake = rest
        if (
            np.abs(self.velocity_rad_s).max() <= REST_VELOCITY_RAD_S
            and not path.accelerations_rad_s2.any()
        ):
            self.velocity_rad_s = np.zeros_like(self.velocity_rad_s)
            self.acceleration_rad_s2 = np.zeros_like(self.velocity_rad_s)

    def _closing(self, error_rad: Array) -> tuple[Array, Array]:
        return _closing_rate(error_rad, POSITION_GAIN_PER_S, self._approach)

    def _returning(self, error_rad: Array) -> tuple[Array, float]:
        """Closing with one gain for all joints, so that the way back is straight; and its slope.

        The joint that is furthest for its limits sets the gain.
        """
        size = np.abs(error_rad)
        rate, slope = self._closing(size)
        gains = np.where(size > 1e-9, rate / np.maximum(size, 1e-9), POSITION_GAIN_PER_S)
        slowest = int(gains.argmin())
        return gains[slowest] * error_rad, float(slope[slowest])

    def _velocity_bound(self, room_rad_s: Array) -> Array:
        """Largest acceleration after which full jerk still keeps the speed within ``room_rad_s``.

        The speed gained while an acceleration x falls to zero by steps d is at most
        T (x + d/2)² / 2d, so x = sqrt(2 d room / T) - d/2.
        """
        room = np.maximum(room_rad_s, 0.0)
        return np.sqrt(2.0 * self._step * room / self._period_s) - 0.5 * self._step


def _closing_rate(error: Array, gain_per_s: float, most: Array) -> tuple[Array, Array]:
    """Rate at which an error should shrink, and the derivative of that by the error.

    Proportional near zero; from where this would make the rate change faster than ``most``, the
    rate that reaches zero by changing at ``most``.
    """
    size = np.abs(error)
    linear = most / gain_per_s**2
    far = np.sqrt(2.0 * most * np.maximum(size - 0.5 * linear, 1e-12))
    near = size <= linear
    rate = np.where(near, gain_per_s * error, np.copysign(far, error))
    return rate, np.where(near, gain_per_s, most / far)
