"""The way to the rest pose: up through a via pose, at rest there, then down."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Synchronization, Trajectory

from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Array

VELOCITY_SHARE = 0.9
ACCELERATION_SHARE = 0.5
JERK_SHARE = 0.5
"""Of the limits: parking is followed exactly, with room to correct."""

NEAR_RAD = 0.1
"""An arm this close to its rest pose goes there directly."""


class ParkingPath:
    """Jerk-limited, synchronised motion from a pose at rest to the rest pose."""

    def __init__(self, start_rad: Array, limits: Limits) -> None:
        start = np.clip(start_rad, limits.lower_rad, limits.upper_rad)
        via = np.where(np.isnan(limits.via_rad), start, limits.via_rad)
        rest = np.where(np.isnan(limits.rest_rad), via, limits.rest_rad)
        poses = (
            [start_rad, rest] if np.abs(start - rest).max() <= NEAR_RAD else [start_rad, via, rest]
        )
        self._legs = [_leg(begin, end, limits) for begin, end in pairwise(poses)]
        self.duration_s = sum(leg.duration for leg in self._legs)

    def at(self, time_s: float) -> Array:
        """Position at a time since the start; before and after the path, its ends."""
        time_s = max(time_s, 0.0)
        for leg in self._legs[:-1]:
            if time_s < leg.duration:
                return np.array(leg.at_time(time_s)[0])
            time_s -= leg.duration
        last = self._legs[-1]
        return np.array(last.at_time(min(time_s, last.duration))[0])


def _leg(begin: Array, end: Array, limits: Limits) -> Trajectory:
    joints = len(begin)
    request = InputParameter(joints)
    request.current_position = begin.tolist()
    request.target_position = end.tolist()
    request.max_velocity = (VELOCITY_SHARE * limits.velocity_rad_s).tolist()
    request.max_acceleration = (ACCELERATION_SHARE * limits.acceleration_rad_s2).tolist()
    request.max_jerk = (JERK_SHARE * limits.jerk_rad_s3).tolist()
    # All joints on a straight line in joint space, from rest to rest.
    request.synchronization = Synchronization.Phase
    trajectory = Trajectory(joints)
    result = Ruckig(joints).calculate(request, trajectory)
    if result not in (Result.Working, Result.Finished):
        raise RuntimeError(f"no parking path from {begin} to {end}: {result}")
    return trajectory
