"""The whole virtual arm without threads or clocks: world, servos, registers, in lockstep."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from so101_driver import registers as reg
from so101_driver.calibration import Calibration
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim.calibrated import eeprom, scales
from so101_driver.sim.parts import FOLLOWER_12V, ServoPart
from so101_driver.sim.plant import ServoModel
from so101_driver.sim.virtual_servo import VirtualServo
from so101_driver.sim.world import FOLDED_RAD, SceneObject, World

_SUPPLY_OHM = 0.08
"""Cable and adapter: the servos see less while they pull."""


class ArmSimulation:
    """An SO-101 with its plant, a table, cubes and a tray.

    Behind a ``VirtualBus`` it is the virtual arm; without one it runs closed loops faster than real
    time. Two instances with the same arguments and the same calls give the same numbers.

        arm = ArmSimulation(seed=3)
        arm.enable_torque()
        arm.set_goals_rad(goal)
        arm.run(0.04)
        arm.joints_rad(), arm.tip_pose(), arm.objects()

    A cube of 25 mm held by the gripper has its centre in gripper_frame_link; the pads are parallel
    then, at 0.14 rad of the gripper joint. Gripping is commanding less than that.

    Args:
        seed: Of the cubes' positions and of the encoders' flicker.
        calibration: Of the virtual arm; it is in the servos' EEPROM too, as after calibrating.
        part: Servo of all joints, which says the supply too.
        model: Plant of all joints instead of the part's.
        start_rad: Pose at power-on.
        goal_write_enables_torque: See VirtualServo.

    Attributes:
        world: The physics.
        servos: By bus id.
        lock: To be held by whoever uses this object beside a ``VirtualBus``.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        calibration: Calibration | None = None,
        part: ServoPart = FOLLOWER_12V,
        model: ServoModel | None = None,
        start_rad: Sequence[float] = FOLDED_RAD,
        goal_write_enables_torque: bool = True,
    ) -> None:
        if calibration is None:
            calibration = Calibration.load(data_path("sim_calibration.json"))
        tick_scales = scales(calibration)
        self.world = World(start_rad)
        self.lock = threading.Lock()
        self._steps = 0
        self._supply_v = part.supply_v
        self.servos = {
            servo_id: VirtualServo(
                servo_id,
                scale=tick_scales[index],
                position_rad=start_rad[index],
                registers=eeprom(calibration.joints[name], is_gripper=index == GRIPPER),
                part=part,
                model=model,
                seed=seed,
                goal_write_enables_torque=goal_write_enables_torque,
            )
            for index, (servo_id, name) in enumerate(zip(SERVO_IDS, JOINT_NAMES, strict=True))
        }
        self._chain = tuple(self.servos.values())
        self.reset(seed)

    # Time.

    @property
    def timestep_s(self) -> float:
        """Length of one physics step."""
        return self.world.timestep_s

    @property
    def now_s(self) -> float:
        """Simulated time."""
        return self._steps * self.world.timestep_s

    def step(self) -> None:
        """Advance by one physics step."""
        now_s, dt_s = self.now_s, self.world.timestep_s
        supply_v = self._supply_v - _SUPPLY_OHM * sum(
            servo.plant.current_a for servo in self._chain
        )
        torques = []
        for servo, position, velocity in zip(
            self._chain,
            self.world.joint_positions_rad(),
            self.world.joint_velocities_radps(),
            strict=True,
        ):
            servo.position_rad, servo.velocity_radps = position, velocity
            servo.supply_v = supply_v
            torques.append(servo.torque_nm(now_s, dt_s))
        self.world.step(torques)
        self._steps += 1

    def run(self, duration_s: float) -> None:
        """Advance by ``duration_s``, rounded to whole steps."""
        for _ in range(round(duration_s / self.world.timestep_s)):
            self.step()

    def set_stuck(self, servo_id: int, stuck: bool) -> None:
        """Hold a servo's joint where it is, as something caught in it does, or free it."""
        self.world.set_stuck(tuple(self.servos).index(servo_id), stuck)

    # The servos, as a driver uses them.

    def set_goals_ticks(self, goals: Mapping[int, int]) -> None:
        """Write goals, in ticks by servo id."""
        for servo_id, ticks in goals.items():
            data = reg.GOAL_POSITION.encode(ticks)
            self.servos[servo_id].write(reg.GOAL_POSITION.address, data, self.now_s)

    def set_goals_rad(self, goals_rad: Sequence[float]) -> None:
        """Write the goals of all six joints, quantised to ticks as on the wire."""
        self.set_goals_ticks(
            {
                servo.servo_id: servo.rad_to_ticks(float(goal))
                for servo, goal in zip(self._chain, goals_rad, strict=True)
            }
        )

    def enable_torque(self) -> None:
        """Hold the present pose."""
        self.set_goals_ticks({servo.servo_id: servo.present_ticks() for servo in self._chain})
        self._write_all(reg.TORQUE_ENABLE, 1)

    def disable_torque(self) -> None:
        """Let the arm go limp."""
        self._write_all(reg.TORQUE_ENABLE, 0)

    def joint_ticks(self) -> NDArray[np.int64]:
        """Present positions as the bus reads them, with the encoders' flicker."""
        self._publish_positions()
        return np.array([servo.present_ticks() for servo in self._chain], dtype=np.int64)

    def joints_rad(self) -> NDArray[np.float64]:
        """Present positions as a driver sees them: quantised, flickering by a tick."""
        return np.array(
            [
                servo.ticks_to_rad(int(ticks))
                for servo, ticks in zip(self._chain, self.joint_ticks(), strict=True)
            ]
        )

    # The world, as nobody on a real arm can see it.

    def tip_pose(self) -> NDArray[np.float64]:
        """True pose of gripper_frame_link in base_link, 4x4."""
        return self.world.tip_pose()

    def objects(self) -> tuple[SceneObject, ...]:
        """Cubes, tray and table with their present poses."""
        return self.world.objects()

    def cube_position_m(self, name: str) -> NDArray[np.float64]:
        """Centre of a cube."""
        return self.world.cube_position_m(name)

    def gripped(self, name: str) -> bool:
        """Whether both fingers touch a cube."""
        return all(self.world.touching(name))

    def in_tray(self, name: str) -> bool:
        """Whether a cube's centre is over the tray and low enough to lie in it."""
        objects = {thing.name: thing for thing in self.objects()}
        cube, tray = objects[name], objects["tray"]
        rim_m = tray.position_m[2] + tray.size_m[2] / 2
        return (
            abs(cube.position_m[0] - tray.position_m[0]) < tray.size_m[0] / 2
            and abs(cube.position_m[1] - tray.position_m[1]) < tray.size_m[1] / 2
            and cube.position_m[2] < rim_m + cube.size_m[2] / 2
        )

    def reset(self, seed: int) -> None:
        """Put the cubes back at positions drawn from the seed; the arm is not moved."""
        self.world.reset_objects(seed)

    def _write_all(self, register: reg.Register, value: int) -> None:
        self._publish_positions()
        for servo in self._chain:
            servo.write(register.address, register.encode(value), self.now_s)

    def _publish_positions(self) -> None:
        for servo, position in zip(self._chain, self.world.joint_positions_rad(), strict=True):
            servo.position_rad = position
