"""What must be true for the arm to be armed, and to stay armed; every answer is a sentence."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from so101_driver.safety.limits import Limits
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.types import Array, DriverReading, DriverState

DRIVER_TIMEOUT_S = 1.0
"""The driver reports ten times a second."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the arm is not armed, or no longer."""

    code: ReasonCode
    sentence: str


def driver_problem(driver: DriverReading | None, joints: int, steady_ns: int) -> Problem | None:
    """Why the driver cannot execute commands; holding is no problem before commands come."""
    if driver is None:
        return Problem(ReasonCode.DRIVER_SILENT, "the driver has not reported yet")
    age_s = (steady_ns - driver.received_ns) * 1e-9
    if age_s > DRIVER_TIMEOUT_S:
        return Problem(ReasonCode.DRIVER_SILENT, f"the driver has not reported for {age_s:.1f} s")
    if driver.state not in (DriverState.ACTIVE, DriverState.HOLDING):
        return Problem(
            ReasonCode.DRIVER_NOT_READY,
            f"the driver is {driver.state.name}: {driver.reason or 'it gives no reason'}",
        )
    if len(driver.torque_on) != joints or len(driver.goal_rad) != joints:
        return Problem(
            ReasonCode.DRIVER_NOT_READY,
            f"the driver reports {len(driver.torque_on)} joints instead of {joints}",
        )
    return None


def supply_v(driver: DriverReading | None) -> float:
    """Median of the servos' supply voltages; NaN while none is known."""
    known = [] if driver is None else [v for v in driver.voltage_v if math.isfinite(v)]
    return statistics.median(known) if known else math.nan


def skew_sentence(skew_s: float) -> str:
    """How the clock of the chunks' sender differs from this one."""
    side = "ahead of" if skew_s > 0.0 else "behind"
    return (
        f"the clock of the chunks' sender is {1e3 * abs(skew_s):.0f} ms {side} this one: "
        "synchronise both with chrony"
    )


def start_problem(position_rad: Array, limits: Limits) -> str:
    """Why the arm cannot be armed in a pose, or "": a joint stands too far outside its limits."""
    for name, position, lower, upper in zip(
        limits.joint_names,
        position_rad.tolist(),
        limits.lower_rad.tolist(),
        limits.upper_rad.tolist(),
        strict=True,
    ):
        violation = max(lower - position, position - upper)
        if not violation <= limits.recoverable_violation_rad:
            allowed = math.degrees(limits.recoverable_violation_rad)
            return (
                f"{name} stands {math.degrees(violation):.1f} degrees outside its limits; only "
                f"{allowed:.1f} can be recovered: move it by hand or check the calibration"
            )
    return ""
