"""A virtual leader arm: limp servos that a scripted hand moves, for teleoperation."""

from __future__ import annotations

import threading

from so101_driver.calibration import Calibration
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim.calibrated import eeprom, scales
from so101_driver.sim.hands import Hand, StillHand
from so101_driver.sim.parts import LEADER
from so101_driver.sim.virtual_servo import VirtualServo

_STEP_S = 0.01
_HAND_SPEED_RADPS = 6.0
"""A hand catches up with where it wants to be, it does not jump."""


class LeaderArm:
    """The servos of a leader arm and the hand that holds it; without physics.

    A limp joint is where the hand holds it. While a servo has torque it follows its goal instead,
    and the hand gives way, as a person does who feels the arm pull.

        arm = LeaderArm(hand=SineHand())
        with RealTimeRunner(arm), VirtualBus(arm) as bus: ...

    Args:
        calibration: Of the arm; it is in the servos' EEPROM too. None for the virtual arms' own.
        hand: Who holds it; may be replaced at any time.
        seed: Of the encoders' flicker.

    Attributes:
        servos: By bus id.
        lock: To be held by whoever uses this object beside a ``VirtualBus``.
    """

    timestep_s = _STEP_S

    def __init__(
        self, *, calibration: Calibration | None = None, hand: Hand | None = None, seed: int = 0
    ) -> None:
        if calibration is None:
            calibration = Calibration.load(data_path("sim_calibration.json"))
        self.hand: Hand = hand or StillHand()
        self.lock = threading.Lock()
        self._steps = 0
        start_rad = self.hand.pose_rad(0.0)
        self.servos = {
            servo_id: VirtualServo(
                servo_id,
                scale=scale,
                position_rad=start_rad[index],
                registers=eeprom(calibration.joints[name], is_gripper=index == GRIPPER),
                part=LEADER[index],
                seed=seed,
            )
            for index, (servo_id, name, scale) in enumerate(
                zip(SERVO_IDS, JOINT_NAMES, scales(calibration), strict=True)
            )
        }

    @property
    def now_s(self) -> float:
        """Time of the arm."""
        return self._steps * _STEP_S

    def set_stuck(self, servo_id: int, stuck: bool) -> None:
        """Hold a joint where it is, or free it."""
        self.servos[servo_id].stuck = stuck

    def step(self) -> None:
        """Advance by one step."""
        wanted_rad = self.hand.pose_rad(self.now_s)
        for servo, hand_rad in zip(self.servos.values(), wanted_rad, strict=True):
            servo.torque_nm(self.now_s, _STEP_S)
            holds = servo.settings.enabled and servo.settings.torque_limit > 0.0
            target_rad = servo.plant.setpoint_rad if holds else hand_rad
            largest = _HAND_SPEED_RADPS * _STEP_S
            change = max(-largest, min(largest, target_rad - servo.position_rad))
            if servo.stuck:
                change = 0.0
            servo.velocity_radps = change / _STEP_S
            servo.position_rad += change
        self._steps += 1

    def run(self, duration_s: float) -> None:
        """Advance by ``duration_s``, rounded to whole steps."""
        for _ in range(round(duration_s / _STEP_S)):
            self.step()
