"""What the driver knows, as ROS messages and diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from so101_driver import registers as reg
from so101_driver.driver_reasons import Reason, strain_sentence, torque_limited
from so101_driver.driver_types import DriverSnapshot, DriverState
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import Reading
from wallx_msgs.msg import DriverStatus, NamedCount

STATES = {
    DriverState.ACTIVE: DriverStatus.STATE_ACTIVE,
    DriverState.HOLDING: DriverStatus.STATE_HOLDING,
    DriverState.FAULT: DriverStatus.STATE_FAULT,
}


@dataclass(frozen=True, slots=True)
class Servos:
    """What the servos answered lately, by id.

    Attributes:
        details: Newest blocks of 15 bytes from 56.
        errors: Error bits of the replies since the last report.
    """

    details: Mapping[int, Reading]
    errors: Mapping[int, ServoError]


def idle_status(state: int, reason: Reason, stamp: Time) -> DriverStatus:
    """Status of a driver without an arm."""
    message = DriverStatus(
        state=state,
        reason=reason.sentence,
        reason_code=reason.code.value,
        joint_names=list(JOINT_NAMES),
    )
    message.header.stamp = stamp
    return message


def status_message(
    snapshot: DriverSnapshot, servos: Servos, counters: Mapping[str, int], stamp: Time
) -> DriverStatus:
    """Status of a driver with an arm."""
    details = [servos.details.get(servo_id) for servo_id in SERVO_IDS]
    message = DriverStatus(
        state=STATES[snapshot.state],
        reason=_sentence(snapshot),
        reason_code=snapshot.reason.code.value,
        joint_names=list(JOINT_NAMES),
        torque_enabled=list(snapshot.torque_enabled),
        goal_position=snapshot.goal_rad.tolist(),
        reading_age_s=snapshot.reading_age_s.tolist(),
        error_bits=[int(servos.errors.get(servo_id, 0)) for servo_id in SERVO_IDS],
        load=_scaled(details, reg.PRESENT_LOAD, reg.DUTY),
        temperature_c=_scaled(details, reg.PRESENT_TEMPERATURE, 1.0),
        voltage_v=_scaled(details, reg.PRESENT_VOLTAGE, reg.VOLTAGE_V),
        current_a=_scaled(details, reg.PRESENT_CURRENT, reg.CURRENT_A),
        torque_limit=snapshot.torque_limit.tolist(),
        counters=[
            NamedCount(name=name, count=int(count)) for name, count in sorted(counters.items())
        ],
    )
    message.header.stamp = stamp
    return message


def diagnose(
    snapshot: DriverSnapshot,
    servos: Servos,
    counters: Mapping[str, int],
    cycle_s: Sequence[float],
) -> tuple[bytes, str, dict[str, Any]]:
    """Level, message and values for /diagnostics; ``cycle_s`` are p50 and p99 of a bus cycle."""
    values: dict[str, Any] = dict(counters)
    values["bus cycle p50 / p99 ms"] = " / ".join(f"{1e3 * quantile:.2f}" for quantile in cycle_s)
    warnings = [strain_sentence(strain) for strain in snapshot.strains]
    if snapshot.limited:
        warnings.append(torque_limited(snapshot.limited).sentence)
    for index, (name, servo_id) in enumerate(zip(JOINT_NAMES, SERVO_IDS, strict=True)):
        error = servos.errors.get(servo_id, ServoError(0))
        if error:
            warnings.append(f"{name} reports {error.name}")
        reading = servos.details.get(servo_id)
        if reading is None:
            continue
        temperature = reading.value(reg.PRESENT_TEMPERATURE, reg.DIAGNOSTICS_ADDRESS)
        voltage = reading.value(reg.PRESENT_VOLTAGE, reg.DIAGNOSTICS_ADDRESS) * reg.VOLTAGE_V
        values[name] = (
            f"{temperature} °C, {voltage:.1f} V, {error.name or 'no errors'}, "
            f"torque limit {snapshot.torque_limit[index]:.0%}, "
            f"last reply {1e3 * snapshot.reading_age_s[index]:.0f} ms ago"
        )
    if snapshot.state is DriverState.FAULT:
        return DiagnosticStatus.ERROR, snapshot.reason.sentence, values
    if warnings:
        return DiagnosticStatus.WARN, "; ".join(warnings), values
    return DiagnosticStatus.OK, snapshot.reason.sentence or snapshot.state.value, values


def _sentence(snapshot: DriverSnapshot) -> str:
    """The reason, and what the servos suffer from where that is not the reason itself."""
    if snapshot.state is DriverState.ACTIVE:
        return snapshot.reason.sentence
    strains = [strain_sentence(strain) for strain in snapshot.strains]
    said = snapshot.reason.sentence
    return "; ".join([said, *(strain for strain in strains if strain not in said)])


def _scaled(details: Sequence[Reading | None], register: reg.Register, unit: float) -> list[float]:
    return [
        float("nan")
        if detail is None
        else float(detail.value(register, reg.DIAGNOSTICS_ADDRESS) * unit)
        for detail in details
    ]
