"""Where the simulated arm's objects are, as the expert gets them from a running simulator."""

from __future__ import annotations

import numpy as np
from so101_driver.sim.arm_simulation import ArmSimulation
from wallx_policy.backends.base import ObjectPose


def object_poses(arm: ArmSimulation) -> dict[str, ObjectPose]:
    """Return the objects of a scene by name."""
    poses = {}
    for thing in arm.objects():
        w, x, y, z = thing.quaternion_wxyz
        poses[thing.name] = ObjectPose(
            np.array(thing.position_m), np.array([x, y, z, w]), np.array(thing.size_m)
        )
    return poses
