"""Reads everything of the servos that tells which arm this is and how it is; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from so101_driver import registers as reg
from so101_driver.calibration_servos import FACTORY, ServoCalibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import servo_name

if TYPE_CHECKING:
    from so101_driver.bus import ServoBus

_NO_ERROR = ServoError(0)
_TABLE_START = reg.FIRMWARE_MAJOR.address
_TABLE_BYTES = reg.VELOCITY_I_GAIN.address + reg.VELOCITY_I_GAIN.size
_STATE_START = reg.TORQUE_ENABLE.address
_STATE_BYTES = reg.PRESENT_CURRENT.address + reg.PRESENT_CURRENT.size - _STATE_START


@dataclass(frozen=True, slots=True)
class ServoReport:
    """What one servo says of itself.

    Attributes:
        servo_id: Its id.
        model: 777 is an STS3215.
        firmware: For example ``3.10``.
        max_temperature_c: Where it protects itself.
        min_voltage_v: Lower end of the supply it accepts.
        max_voltage_v: Upper end; differs between the 7.4 V and the 12 V part.
        max_torque: 0..1000, of its torque after power-on.
        p_gain: Of its position loop; 32 at the factory, 16 after LeRobot or this driver.
        overload_torque: Per cent.
        torque_enabled: Whether it holds now.
        voltage_v: Supply now.
        temperature_c: Now.
        error: What it complains of now.
        calibration: The numbers of its calibration.
    """

    servo_id: int
    model: int = reg.MODEL_NUMBER
    firmware: str = "3.10"
    max_temperature_c: float = 70.0
    min_voltage_v: float = 4.0
    max_voltage_v: float = 8.0
    max_torque: int = 1000
    p_gain: int = 32
    overload_torque: int = 80
    torque_enabled: bool = False
    voltage_v: float = 5.0
    temperature_c: float = 30.0
    error: ServoError = _NO_ERROR
    calibration: ServoCalibration = FACTORY

    @property
    def name(self) -> str:
        """For example ``servo 3 (elbow_flex)``."""
        known = self.servo_id in SERVO_IDS
        return servo_name(self.servo_id) if known else f"servo {self.servo_id}"


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What answered on one port.

    Attributes:
        servos: Those of ids 1 to 6 that answer, by id.
        damaged_replies: Replies that were no whole packets.
        repeated: Questions that had to be asked again.
    """

    servos: tuple[ServoReport, ...] = ()
    damaged_replies: int = 0
    repeated: int = 0

    @property
    def silent(self) -> tuple[int, ...]:
        """Ids that did not answer."""
        there = {servo.servo_id for servo in self.servos}
        return tuple(servo_id for servo_id in SERVO_IDS if servo_id not in there)

    @property
    def complete(self) -> bool:
        """Whether six STS3215 answer."""
        return not self.silent and all(s.model == reg.MODEL_NUMBER for s in self.servos)

    @property
    def calibrations(self) -> dict[str, ServoCalibration]:
        """By joint, of the servos that answer."""
        by_id = {servo.servo_id: servo.calibration for servo in self.servos}
        return {
            name: by_id[servo_id]
            for name, servo_id in zip(JOINT_NAMES, SERVO_IDS, strict=True)
            if servo_id in by_id
        }


def inspect(bus: ServoBus) -> ArmReport:
    """Read every servo that answers; PortLostError if the port goes."""
    from so101_driver.bus import BusError, PortLostError

    servos = []
    for servo_id in SERVO_IDS:
        if not bus.ping(servo_id):
            continue
        try:
            servos.append(inspect_servo(bus, servo_id))
        except PortLostError:
            raise
        except BusError:
            # It answered a moment ago: whoever asks sees it as silent, which it is now.
            continue
    damaged = bus.counters["bad_checksum"] + bus.counters["garbage_bytes"]
    return ArmReport(tuple(servos), damaged, bus.counters["retry"])


def inspect_servo(bus: ServoBus, servo_id: int) -> ServoReport:
    """Read one servo; BusError if it falls silent."""
    table = bus.read_block(servo_id, _TABLE_START, _TABLE_BYTES)
    state = bus.read_block(servo_id, _STATE_START, _STATE_BYTES)

    def held(register: reg.Register) -> int:
        return table.value(register, _TABLE_START)

    def now(register: reg.Register) -> int:
        return state.value(register, _STATE_START)

    return ServoReport(
        servo_id=servo_id,
        model=held(reg.MODEL),
        firmware=f"{held(reg.FIRMWARE_MAJOR)}.{held(reg.FIRMWARE_MINOR)}",
        max_temperature_c=float(held(reg.MAX_TEMPERATURE)),
        min_voltage_v=held(reg.MIN_VOLTAGE) * reg.VOLTAGE_V,
        max_voltage_v=held(reg.MAX_VOLTAGE) * reg.VOLTAGE_V,
        max_torque=held(reg.MAX_TORQUE),
        p_gain=held(reg.P_GAIN),
        overload_torque=held(reg.OVERLOAD_TORQUE),
        torque_enabled=now(reg.TORQUE_ENABLE) != 0,
        voltage_v=now(reg.PRESENT_VOLTAGE) * reg.VOLTAGE_V,
        temperature_c=float(now(reg.PRESENT_TEMPERATURE)),
        error=state.error | ServoError(now(reg.STATUS)),
        calibration=ServoCalibration(
            held(reg.HOMING_OFFSET), held(reg.MIN_POSITION), held(reg.MAX_POSITION)
        ),
    )


def firmware_versions(servos: Sequence[ServoReport]) -> dict[str, list[ServoReport]]:
    """Return the servos by firmware."""
    versions: dict[str, list[ServoReport]] = {}
    for servo in servos:
        versions.setdefault(servo.firmware, []).append(servo)
    return versions
