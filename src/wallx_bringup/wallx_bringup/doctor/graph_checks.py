"""What a running graph says of its arm and its clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from so101_driver.joints import JOINT_NAMES
from so101_driver.protocol import ServoError

from wallx_bringup.doctor.report import Check, failed, passed, skipped, warned

SKEW_S = 0.02
"""A chunk's stamps are off by as much: 2 cm at 1 m/s."""
LARGE_SKEW_S = 0.5
_HOT_C = 60.0
"""A servo lets go at 70 °C unless it was set otherwise, which the status does not tell."""


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """From ``driver/status``; lists are in the order of the joints.

    Attributes:
        state: Name of its state.
        reason: Its sentence.
        temperature_c: NaN while unknown.
        voltage_v: NaN while unknown.
        error_bits: Status bytes.
    """

    state: str
    reason: str
    temperature_c: tuple[float, ...] = ()
    voltage_v: tuple[float, ...] = ()
    error_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SafetyStatus:
    """From ``safety/status``.

    Attributes:
        state: Name of its state.
        reason: Its sentence.
        clock_skew_s: The policy's clock less this machine's; NaN while unknown.
    """

    state: str
    reason: str
    clock_skew_s: float = math.nan


@dataclass(frozen=True, slots=True)
class GraphReading:
    """What was heard from a graph; None where nothing was."""

    driver: DriverStatus | None = None
    safety: SafetyStatus | None = None


def check_graph(reading: GraphReading, simulated: bool) -> list[Check]:
    """Check what a running graph says.

    Args:
        reading: What was heard.
        simulated: Whether its arm is a simulated one.
    """
    arm = "simulated arm" if simulated else "arm"
    return [
        _check_driver(reading.driver, arm),
        _check_condition(reading.driver, arm),
        _check_safety(reading.safety),
        _check_skew(reading.safety),
    ]


def _check_driver(driver: DriverStatus | None, arm: str) -> Check:
    name = "graph driver"
    if driver is None:
        return failed(
            name,
            "a graph runs, but its driver says nothing.",
            "read the driver's log (`wallx graphs` names the graph), and start it again.",
        )
    said = f"{driver.state}{f': {driver.reason}' if driver.reason else ''}"
    if driver.state in ("FAULT", "UNKNOWN"):
        return failed(
            name,
            f"the {arm}'s driver is in {said}",
            "see to what it says, then: wallx call safety/reset",
        )
    return passed(name, f"the {arm}'s driver is {said or 'running'}")


def _check_condition(driver: DriverStatus | None, arm: str) -> Check:
    name = "graph servos"
    if driver is None:
        return skipped(name, "not known: the driver says nothing.")
    complaints = [
        f"{joint}: {_bits(bits)}"
        for joint, bits in zip(JOINT_NAMES, driver.error_bits, strict=False)
        if bits
    ]
    if complaints:
        return failed(
            name,
            f"servos of the {arm} complain: {'; '.join(complaints)}.",
            "park the arm, end the graph, and find what the arm pressed against or what its supply "
            "lacks.",
        )
    warm = [value for value in driver.temperature_c if math.isfinite(value)]
    volts = [value for value in driver.voltage_v if math.isfinite(value)]
    if not warm or not volts:
        return skipped(name, f"the driver of the {arm} has no temperatures and voltages yet.")
    supply = f"{min(volts):.1f}"
    if max(volts) - min(volts) >= 0.1:
        supply += f" to {max(volts):.1f}"
    text = f"warmest servo {max(warm):.0f} °C, supply {supply} V"
    if max(warm) > _HOT_C:
        joint = JOINT_NAMES[driver.temperature_c.index(max(warm))]
        return warned(name, f"{joint} is hot: {text}.", "let it rest in a pose without force.")
    return passed(name, f"no error bits; {text} (from driver/status).")


def _check_safety(safety: SafetyStatus | None) -> Check:
    name = "graph safety"
    if safety is None:
        return failed(
            name,
            "a graph runs, but its safety node says nothing.",
            "read its log (`wallx graphs` names the graph), and start the graph again.",
        )
    said = f"{safety.state}{f': {safety.reason}' if safety.reason else ''}"
    if safety.state in ("FAULT", "ESTOP"):
        return warned(
            name,
            f"the safety node is in {said}",
            "see to what it says, then: wallx call safety/reset",
        )
    return passed(name, f"the safety node is in {said}")


def _check_skew(safety: SafetyStatus | None) -> Check:
    name = "graph clocks"
    if safety is None or not math.isfinite(safety.clock_skew_s):
        return skipped(name, "no policy has sent a chunk yet, so its clock is not known.")
    skew_s = safety.clock_skew_s
    side = "ahead of" if skew_s > 0 else "behind"
    text = f"the policy's clock is {abs(skew_s) * 1e3:.0f} ms {side} the arm's"
    fix = "let both machines follow one time server: sudo apt install chrony (on both)."
    if abs(skew_s) > LARGE_SKEW_S:
        return failed(name, f"{text}: its chunks are refused or come at the wrong time.", fix)
    if abs(skew_s) > SKEW_S:
        return warned(name, f"{text}: every motion comes at a time that is off by as much.", fix)
    return passed(name, f"{text}, which is close enough.")


def _bits(bits: int) -> str:
    names = [bit.name.lower() for bit in ServoError if bits & bit]
    return ", ".join(names) or f"0x{bits:02X}"
