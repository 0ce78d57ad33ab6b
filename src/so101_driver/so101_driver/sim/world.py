"""The MuJoCo world: arm, table, tray and three cubes, moved by joint torques only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from so101_driver.joints import JOINT_NAMES, data_path

CUBE_NAMES: tuple[str, ...] = ("red_cube", "green_cube", "blue_cube")

FOLDED_RAD: tuple[float, ...] = (0.0, -1.745, 1.69, 0.30, 0.0, -0.17)
"""Pose at power-on: upper arm and forearm on their stops, the gripper clear of the cubes."""

STUCK_FRICTION_NM = 20.0
"""Of a joint that something is caught in; no servo of this arm has 3.5 N·m."""

_AREA_X_M = (0.14, 0.32)
_AREA_Y_M = (-0.07, 0.11)
_MIN_DISTANCE_M = 0.085
"""Between cube centres: an open finger fits in between."""
_PAN_AXIS_M = (0.0388, 0.0)
_REACH_M = (0.115, 0.31)
"""Distance from the pan axis at which the gripper can point straight down and lift."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An object of the scene; pose in base_link.

    Attributes:
        name: ``red_cube``, ``green_cube``, ``blue_cube``, ``tray`` or ``table``.
        position_m: Centre of the object, of its bounding box for the tray.
        quaternion_wxyz: Orientation.
        size_m: Full extents along its own axes.
        rgba: Colour, 0..1.
    """

    name: str
    position_m: tuple[float, float, float]
    quaternion_wxyz: tuple[float, float, float, float]
    size_m: tuple[float, float, float]
    rgba: tuple[float, float, float, float]


class World:
    """The physics; each ``step`` advances it by ``timestep_s``."""

    def __init__(self, joints_rad: Sequence[float] = FOLDED_RAD) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(data_path("so101_scene.xml")))
        self.data = mujoco.MjData(self.model)
        self.timestep_s = float(self.model.opt.timestep)
        joints = [self.model.joint(name) for name in JOINT_NAMES]
        self._qpos_index = np.array([joint.qposadr[0] for joint in joints])
        self._qvel_index = np.array([joint.dofadr[0] for joint in joints])
        self._friction_nm = self.model.dof_frictionloss[self._qvel_index].copy()
        self._stuck: dict[int, float] = {}
        self._tip = self.model.site("gripper_frame_link").id
        self._cube_geoms = {name: self.model.geom(name).id for name in CUBE_NAMES}
        self._pads = (self.model.geom("fixed_pad").id, self.model.geom("moving_pad").id)
        self._arm_geoms = frozenset(np.flatnonzero(self.model.geom_contype == 1).tolist())
        self.set_joints(joints_rad)

    def set_joints(self, joints_rad: Sequence[float]) -> None:
        """Place the arm at rest in a pose; for the start of a simulation and for kinematics."""
        self.data.qpos[self._qpos_index] = joints_rad
        self.data.qvel[self._qvel_index] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def joint_positions_rad(self) -> list[float]:
        """Positions of the six joints."""
        return self.data.qpos[self._qpos_index].tolist()

    def joint_velocities_radps(self) -> list[float]:
        """Velocities of the six joints."""
        return self.data.qvel[self._qvel_index].tolist()

    def set_stuck(self, joint: int, stuck: bool) -> None:
        """Hold a joint where it is, as something caught in it does, or free it again."""
        if stuck:
            self._stuck[joint] = float(self.data.qpos[self._qpos_index[joint]])
        else:
            self._stuck.pop(joint, None)
        friction_nm = STUCK_FRICTION_NM if stuck else self._friction_nm[joint]
        self.model.dof_frictionloss[self._qvel_index[joint]] = friction_nm

    def state(self) -> NDArray[np.float64]:
        """Copy of everything that a picture of the world depends on."""
        return self.data.qpos.copy()

    def step(self, torques_nm: Sequence[float]) -> None:
        """Advance by one time step with these torques on the joints."""
        self.data.ctrl[:] = torques_nm
        mujoco.mj_step(self.model, self.data)
        # Friction is soft here: under a lasting push a joint would creep.
        for joint, position_rad in self._stuck.items():
            self.data.qpos[self._qpos_index[joint]] = position_rad
            self.data.qvel[self._qvel_index[joint]] = 0.0

    def tip_pose(self) -> NDArray[np.float64]:
        """Pose of gripper_frame_link in base_link, 4x4."""
        pose = np.eye(4)
        pose[:3, :3] = self.data.site_xmat[self._tip].reshape(3, 3)
        pose[:3, 3] = self.data.site_xpos[self._tip]
        return pose

    def cube_position_m(self, name: str) -> NDArray[np.float64]:
        """Centre of a cube."""
        return self.data.geom_xpos[self._cube_geoms[name]].copy()

    def objects(self) -> tuple[SceneObject, ...]:
        """All objects with their present poses."""
        cubes = tuple(self._scene_object(name, self._cube_geoms[name]) for name in CUBE_NAMES)
        return (*cubes, self._tray(), self._scene_object("table", self.model.geom("table").id))

    def touching(self, cube: str) -> tuple[bool, bool]:
        """Whether the fixed and the moving finger's pad touch the cube."""
        partners = self._contact_partners(self._cube_geoms[cube])
        return self._pads[0] in partners, self._pads[1] in partners

    def reset_objects(self, seed: int) -> None:
        """Put the cubes at rest at positions drawn from the seed; the arm is not moved.

        The positions are reachable from above, away from the tray, from each other and from the
        arm. Raises RuntimeError when the arm is in the way everywhere.
        """
        rng = np.random.default_rng(seed)
        for _attempt in range(1000):
            centres = rng.uniform(
                (_AREA_X_M[0], _AREA_Y_M[0]), (_AREA_X_M[1], _AREA_Y_M[1]), (len(CUBE_NAMES), 2)
            )
            yaws = rng.uniform(-0.4, 0.4, len(CUBE_NAMES))
            if not _well_placed(centres):
                continue
            for name, centre, yaw in zip(CUBE_NAMES, centres, yaws, strict=True):
                self._place_cube(name, centre, float(yaw))
            mujoco.mj_forward(self.model, self.data)
            if not any(
                self._contact_partners(geom) & self._arm_geoms for geom in self._cube_geoms.values()
            ):
                return
        raise RuntimeError("the arm leaves no room for the cubes; move it away, then reset again")

    def _place_cube(self, name: str, centre_xy_m: NDArray[np.float64], yaw_rad: float) -> None:
        joint = self.model.joint(name)
        at, dof = int(joint.qposadr[0]), int(joint.dofadr[0])
        half_m = float(self.model.geom(name).size[2])
        self.data.qpos[at : at + 7] = (
            *centre_xy_m,
            half_m,
            math.cos(yaw_rad / 2),
            0.0,
            0.0,
            math.sin(yaw_rad / 2),
        )
        self.data.qvel[dof : dof + 6] = 0.0

    def _contact_partners(self, geom: int) -> set[int]:
        contacts = self.data.contact
        pairs = np.asarray(contacts.geom)
        return {int(pair[0] if pair[1] == geom else pair[1]) for pair in pairs if geom in (*pair,)}

    def _scene_object(self, name: str, geom: int) -> SceneObject:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self.data.geom_xmat[geom])
        return SceneObject(
            name=name,
            position_m=tuple(self.data.geom_xpos[geom].tolist()),
            quaternion_wxyz=tuple(quaternion.tolist()),
            size_m=tuple((2.0 * self.model.geom_size[geom]).tolist()),
            rgba=_colour(self.model, geom),
        )

    def _tray(self) -> SceneObject:
        floor, front = self.model.geom("tray_floor"), self.model.geom("tray_front")
        x, y, z = self.model.body("tray").pos.tolist()
        half_height = float(front.size[2])
        return SceneObject(
            name="tray",
            position_m=(x, y, z + half_height),
            quaternion_wxyz=(1.0, 0.0, 0.0, 0.0),
            size_m=(2.0 * float(floor.size[0]), 2.0 * float(floor.size[1]), 2.0 * half_height),
            rgba=_colour(self.model, front.id),
        )


def _colour(model: mujoco.MjModel, geom: int) -> tuple[float, float, float, float]:
    material = int(model.geom_matid[geom])
    rgba = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
    return tuple(float(value) for value in rgba)


def _well_placed(centres_xy_m: NDArray[np.float64]) -> bool:
    reach = np.linalg.norm(centres_xy_m - _PAN_AXIS_M, axis=1)
    if np.any(reach < _REACH_M[0]) or np.any(reach > _REACH_M[1]):
        return False
    gaps = np.linalg.norm(centres_xy_m[:, None] - centres_xy_m[None], axis=2)
    return bool(np.all(gaps[np.triu_indices(len(centres_xy_m), 1)] >= _MIN_DISTANCE_M))
