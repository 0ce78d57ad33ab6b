"""What must be true for the arm to be armed, and to stay armed; every answer is a sentence."""

from __future__ import annotations

import math

from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Array, DriverReading, DriverState

DRIVER_TIMEOUT_S = 1.0
"""The driver reports ten times a second."""


def driver_problem(driver: DriverReading | None, joints: int, steady_ns: int) -> str:
    """Why the driver cannot execute commands, or ""; holding is no problem before commands come."""
    if driver is None:
        return "the driver has not reported yet"
    age_s = (steady_ns - driver.received_ns) * 1e-9
    if age_s > DRIVER_TIMEOUT_S:
        return f"the driver has not reported for {age_s:.1f} s"
    if driver.state not in (DriverState.ACTIVE, DriverState.HOLDING):
        return f"the driver is {driver.state.name}: {driver.reason or 'it gives no reason'}"
    if len(driver.torque_on) != joints or len(driver.goal_rad) != joints:
        return f"the driver reports {len(driver.torque_on)} joints instead of {joints}"
    return ""


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
                f"{allowed:.0f} can be recovered: move it by hand or check the calibration"
            )
    return ""
