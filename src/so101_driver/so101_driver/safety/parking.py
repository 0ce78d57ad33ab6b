"""The way to the rest pose or to the ready pose: up through a via pose, at rest there, then on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Synchronization, Trajectory

from so101_driver.safety.limits import Limits
from so101_driver.safety.shaping import Guarded
from so101_driver.safety.types import Array

VELOCITY_SHARE = 0.9
ACCELERATION_SHARE = 0.5
JERK_SHARE = 0.5
"""Of the limits: the path is followed exactly, with room to correct."""

NEAR_RAD = 0.1
"""An arm this close to its goal goes there directly."""

CHECK_RAD = 0.05
"""Geometry is checked at poses this far apart, at most 20 mm at the tip."""

CHECK_TOLERANCE_M = 1e-6


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why there is no way: a sentence."""

    sentence: str


class PosesPath:
    """Jerk-limited, synchronised motion from pose to pose, at rest in each."""

    def __init__(self, poses_rad: list[Array], limits: Limits) -> None:
        self._legs = [_leg(begin, end, limits) for begin, end in pairwise(poses_rad)]
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


def plan(
    start_rad: Array, goal_rad: Array, limits: Limits, geometry: Guarded | None, purpose: str
) -> PosesPath | Blocked:
    """Find a way from rest to a goal through the via pose.

    Tried in turn: the joints of the via pose together, one after the other from the base outwards,
    one after the other from the tip inwards. The first way that is legal for the geometry is taken.

    Args:
        start_rad: Where the arm is, or will be once it has braked.
        goal_rad: Rest or ready pose; NaN keeps a joint where it is.
        limits: Limits that the path keeps a share of.
        geometry: None checks nothing.
        purpose: For the sentence, "parking" or "returning".
    """
    inside = np.clip(start_rad, limits.lower_rad, limits.upper_rad)
    via = np.where(np.isnan(limits.via_rad), inside, limits.via_rad)
    # A joint that goes nowhere at the end stays where the via pose has it.
    goal = np.where(np.isnan(goal_rad), via, goal_rad)
    if np.abs(inside - goal).max() <= NEAR_RAD:
        ways = [[goal]]
    else:
        lifted = np.flatnonzero(np.isfinite(limits.via_rad)).tolist()
        ways = [
            [via, goal],
            [*_one_by_one(inside, via, lifted), goal],
            [*_one_by_one(inside, via, lifted[::-1]), goal],
        ]
    problem = ""
    for way in ways:
        poses = [start_rad, *way]
        found = "" if geometry is None else _problem(poses, geometry)
        if not found:
            return PosesPath(poses, limits)
        problem = problem or found
    return Blocked(f"{purpose} would bring {problem}: move the arm by hand")


def _one_by_one(start: Array, end: Array, joints: list[int]) -> list[Array]:
    poses, pose = [], start
    for joint in joints:
        pose = pose.copy()
        pose[joint] = end[joint]
        poses.append(pose)
    return poses


def _problem(poses: list[Array], geometry: Guarded) -> str:
    """What the straight lines between poses come too close to, or "".

    What is violated at the start may only get better, as the limiter demands.
    """
    samples = [poses[0][None]]
    for begin, end in pairwise(poses):
        count = max(int(np.ceil(np.abs(end - begin).max() / CHECK_RAD)), 1)
        samples.append(begin + (end - begin) * (np.arange(1, count + 1) / count)[:, None])
    clearances = geometry.clearances(np.concatenate(samples))
    allowed = np.minimum(clearances[:-1], 0.0) - CHECK_TOLERANCE_M
    # Written so that NaN is a problem too.
    illegal = ~(clearances[1:] >= allowed)
    if not illegal.any():
        return ""
    depths_m = np.where(illegal, -clearances[1:], -np.inf).max(axis=0)
    worst = int(np.argmax(depths_m))
    body, _, other = geometry.names[worst].partition(" to ")
    return f"the {body} {1e3 * depths_m[worst]:.0f} mm too close to {other}"


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
        raise RuntimeError(f"no path from {begin} to {end}: {result}")
    return trajectory
