#!/usr/bin/env python3
"""How often capsules and the URDF's shapes disagree: the figures of docs/geometry.md.

The truth are MuJoCo's distances between the shapes, in random poses within the joints' limits.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations, pairwise

import mujoco
import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import TIP, Kinematics
from so101_driver.safety.geometry_file import load_geometry
from so101_driver.safety.types import Limit

Array = NDArray[np.float64]

FAR_M = 0.05
"""Distances beyond this are not told apart."""
DEPTH_M = 0.01
"""How far fingertips may be commanded below the table."""


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Of the shapes in some poses; negative where they overlap.

    Attributes:
        apart_m: Between every two links that share no joint, [poses] each.
        above_m: Between the arm and the table, [poses].
    """

    apart_m: dict[frozenset[str], Array]
    above_m: Array

    @property
    def closest_m(self) -> Array:
        """Smallest distance between any two links, [poses]."""
        return np.min(list(self.apart_m.values()), axis=0)


def random_poses(arm: Kinematics, count: int, seed: int) -> Array:
    """Return poses within the URDF's limits, [count, joints]."""
    low, high = arm.position_limits_rad.T
    return np.random.default_rng(seed).uniform(low, high, (count, len(low)))


def true_distances(arm: Kinematics, poses_rad: Array) -> Distances:
    """Return what MuJoCo measures in these poses."""
    model = mujoco.MjModel.from_xml_path(str(data_path("so101_scene.xml")))
    data = mujoco.MjData(model)
    table = model.geom("table").id
    model.geom_size[table, :2] = 3.0  # the geometry's table has no edge
    joints = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
    links = [name for name in arm.link_names if name != TIP]
    of_body = {model.body(link).id: link for link in links}
    solid: dict[str, list[int]] = {link: [] for link in links}
    for geom in range(model.ngeom):
        link = of_body.get(int(model.geom_bodyid[geom]))
        if link is not None and model.geom_contype[geom] == 1:
            solid[link].append(geom)
    scratch = np.zeros(6)

    def distance(first: list[int], second: list[int]) -> float:
        return min(
            mujoco.mj_geomDistance(model, data, a, b, FAR_M, scratch) for a in first for b in second
        )

    neighbours = {frozenset(pair) for pair in pairwise(links)}
    pairs = [pair for pair in combinations(links, 2) if frozenset(pair) not in neighbours]
    apart = {frozenset(pair): np.empty(len(poses_rad)) for pair in pairs}
    above = np.empty(len(poses_rad))
    for index, pose in enumerate(poses_rad):
        data.qpos[joints] = pose
        mujoco.mj_kinematics(model, data)
        for first, second in pairs:
            apart[frozenset((first, second))][index] = distance(solid[first], solid[second])
        above[index] = min(distance(solid[link], [table]) for link in links[1:])
    return Distances(apart, above)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--poses", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=12)
    options = parser.parse_args()
    arm = Kinematics.from_urdf(data_path("so101.urdf"))
    geometry = load_geometry(data_path("so101_geometry.yaml"), arm, JOINT_NAMES)
    poses = random_poses(arm, options.poses, options.seed)
    true = true_distances(arm, poses)
    clear = geometry.clearances(poses)
    kinds = np.array(geometry.limits)
    itself = clear[:, kinds == Limit.SELF_COLLISION].min(axis=1)
    table = clear[:, kinds == Limit.TABLE].min(axis=1)
    overlaps = true.closest_m < 0.0
    missed = overlaps & (itself >= 0.0)
    false = ~overlaps & (itself < 0.0)
    deep = true.above_m < -DEPTH_M
    print(
        f"{overlaps.sum()} of {len(poses)} poses overlap; {missed.sum()} of these are taken for "
        f"legal, at most {-1e3 * true.closest_m[missed].min(initial=0.0):.1f} mm deep"
    )
    print(
        f"{false.sum()} are refused though nothing overlaps: median "
        f"{1e3 * np.median(true.closest_m[false]):.1f} mm apart, at most "
        f"{1e3 * true.closest_m[false].max():.1f} mm"
    )
    print(
        f"{deep.sum()} are more than {1e3 * DEPTH_M:.0f} mm in the table, of which "
        f"{(deep & (table >= 0.0)).sum()} are taken for legal; "
        f"{((table < 0.0) & (true.above_m > 0.0)).sum()} are refused with everything above it"
    )


if __name__ == "__main__":
    main()
