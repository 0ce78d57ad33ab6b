"""The servos that SO-101 arms are built from: gear ratio, voltage, strength and speed.

Sources: LeRobot's assembly guide (ratios), the vendor's data sheets (torque and speed of the 1/345
parts). The other ratios scale torque and speed as their gears do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from so101_driver import registers as reg
from so101_driver.registers import Register
from so101_driver.sim.plant import ServoModel

_FOLLOWER_RATIO = 345


@dataclass(frozen=True, slots=True)
class ServoPart:
    """One type of servo.

    Attributes:
        name: Of the vendor.
        gear_ratio: Turns of the motor for one of the output.
        supply_v: Of the adapter that the arm comes with, without load.
        model: Its plant.
        factory: Registers whose factory value differs from the table's.
    """

    name: str
    gear_ratio: int
    supply_v: float
    model: ServoModel
    factory: Mapping[Register, int] = field(default_factory=dict)


def _seven_volt(name: str, gear_ratio: int) -> ServoPart:
    """A 7.4 V servo at the 5 V that SO-101 arms give it."""
    slower = gear_ratio / _FOLLOWER_RATIO
    # 1.62 N·m at 6 V and 1/345; at 5 V it reaches about 3 rad/s.
    stall_nm = 1.62 * 5.0 / 6.0 * slower
    return ServoPart(
        name,
        gear_ratio,
        5.1,
        ServoModel(
            max_speed_radps=3.0 / slower,
            free_speed_radps=3.9 / slower,
            stall_torque_nm=stall_nm,
            stiffness_nm_per_rad=12.0 * stall_nm / 2.94,
            damping_nms_per_rad=1.0 * stall_nm / 2.94,
            nominal_v=5.0,
            motor_inertia_kgm2=0.028 * slower * slower,
            gear_friction_nm=0.08 * stall_nm,
        ),
        {reg.MAX_VOLTAGE: 80},
    )


FOLLOWER_12V = ServoPart("STS3215 C018", 345, 12.2, ServoModel(), {reg.MAX_VOLTAGE: 140})
FOLLOWER_7V4 = _seven_volt("STS3215 C001", 345)
LEADER: tuple[ServoPart, ...] = tuple(
    _seven_volt(name, ratio)
    for name, ratio in (
        ("STS3215 C044", 191),
        ("STS3215 C001", 345),
        ("STS3215 C044", 191),
        ("STS3215 C046", 147),
        ("STS3215 C046", 147),
        ("STS3215 C046", 147),
    )
)
"""Of a leader arm, by joint."""
