"""The simulated arm as a driver leaves it: configured, torque on, standing in mid-air."""

from __future__ import annotations

from so101_driver.joints import GRIPPER, SERVO_IDS
from so101_driver.sim.arm_simulation import ArmSimulation

from so101_driver import registers as reg

RAISED_RAD = (0.1, -0.4, 0.3, 0.3, 0.1, 0.4)
_SETTLE_S = 0.6


def set_up_servos(arm: ArmSimulation) -> None:
    """Write what the driver writes when it sets an arm up, and let it hold its pose."""

    def write(servo_id: int, register: reg.Register, value: int) -> None:
        arm.servos[servo_id].write(register.address, register.encode(value), arm.now_s)

    for servo_id in SERVO_IDS:
        write(servo_id, reg.ACCELERATION, 254)
        write(servo_id, reg.MAX_ACCELERATION, 254)
    gripper = SERVO_IDS[GRIPPER]
    for register, value in (
        (reg.LOCK, 0),
        (reg.PROTECTION_CURRENT, 250),
        (reg.OVERLOAD_TORQUE, 25),
        (reg.LOCK, 1),
    ):
        write(gripper, register, value)
    arm.enable_torque()
    arm.run(_SETTLE_S)
