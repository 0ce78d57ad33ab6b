"""What /diagnostics shows of the safety layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from so101_driver.safety import Mode, State
from so101_driver.safety.readiness import skew_sentence
from wallx_msgs.msg import SafetyStatus

_LATCHED = (SafetyStatus.STATE_ESTOP, SafetyStatus.STATE_FAULT)


@dataclass(frozen=True, slots=True)
class Health:
    """What the node knows beside the status.

    Attributes:
        input_problem: Why an input cannot be trusted, or "".
        warnings: Sentences that hold as long as the node runs: protections that are off.
        missed_ticks: Ticks missed since the last report.
        skew_warning_s: Difference of the clocks beyond which it is reported.
    """

    input_problem: str
    warnings: Sequence[str]
    missed_ticks: int
    skew_warning_s: float


def diagnose(
    status: SafetyStatus, joint_names: Sequence[str], health: Health
) -> tuple[bytes, str, Mapping[str, Any]]:
    """Level, message and values."""
    values = _values(status, joint_names)
    if health.input_problem:
        return DiagnosticStatus.ERROR, health.input_problem, values
    if status.state in _LATCHED:
        return DiagnosticStatus.ERROR, status.reason, values
    warnings = []
    # Written so that NaN, no chunk yet, is no warning.
    skewed = abs(status.clock_skew_s) > health.skew_warning_s
    sentence = skew_sentence(status.clock_skew_s)
    if skewed and sentence.partition(" is ")[0] not in status.reason:
        warnings.append(sentence)
    if health.missed_ticks:
        warnings.append(f"the loop missed {health.missed_ticks} ticks in the last second")
    warnings += health.warnings
    if warnings or skewed:
        return DiagnosticStatus.WARN, "; ".join([status.reason, *warnings]), values
    return DiagnosticStatus.OK, status.reason, values


def _values(status: SafetyStatus, joint_names: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": State(status.state).name,
        "mode": Mode(status.mode).name,
        "reason code": status.reason_code,
        "source": status.source,
        "scale": f"{status.scale:.2f}",
        "servo part": status.servo_part,
        "intent clipped": f"{status.intent_clipped:.3f}",
        "path rate": f"{status.path_rate:.2f}",
        "loop period p50": _time(status.loop_period_p50_s),
        "loop period p99": _time(status.loop_period_p99_s),
        "loop period max": _time(status.loop_period_max_s),
        "missed ticks": status.missed_ticks,
        "chunk age": _time(status.chunk_age_s),
        "clock skew": _time(status.clock_skew_s),
        "clearance": "not watched"
        if math.isnan(status.clearance_m)
        else f"{status.clearance_m * 1e3:.0f} mm ({status.clearance_name})",
    }
    for name, error_rad in zip(joint_names, status.following_error, strict=False):
        values[f"following error {name}"] = f"{error_rad:+.3f} rad"
    for mode, used_s in (
        (Mode.SHADOW, status.shadow_s),
        (Mode.SCALED, status.scaled_s),
        (Mode.FULL, status.full_s),
    ):
        values[f"time in {mode.name}"] = f"{used_s:.0f} s"
    return values | {f"limit {count.name}": count.count for count in status.limit_counts}


def _time(time_s: float) -> str:
    return "unknown" if math.isnan(time_s) else f"{time_s * 1e3:.1f} ms"
