"""The lines of the table: each measurement beside the bar it has to reach."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES
from so101_driver.safety.limits import Limits

from wallx_policy.evidence import metrics
from wallx_policy.evidence.bag import Topic
from wallx_policy.evidence.metrics import Derivatives, Spread, Timing, WireDelay
from wallx_policy.evidence.series import ChunkSeries, ObjectSeries, SafetySeries
from wallx_policy.success import LIFT_M

CHUNK_RATE_HZ = 10.0
LOOP_RATE_HZ = 100.0
RATE_TOLERANCE = 0.005
CAMERA_RATE_HZ = 10.0
PERIOD_ERROR_MARGIN_S = 0.002
WIRE_DELAY_S = 0.005
CHUNK_LATENCY_S = 0.150
LIMIT_TOLERANCE = 1e-6
CUBE = "red_cube"
TASK_ROWS = ("cube lifted", "cube in the tray")


class Verdict(enum.Enum):
    """How a measurement stands to its bar."""

    MET = "met"
    MISSED = "missed"
    MISSING = "not measured"
    INFORMATION = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        measured: The number as text; what is missing where there is none.
        bar: What it has to reach, empty for information.
        verdict: How it stands.
    """

    name: str
    measured: str
    bar: str
    verdict: Verdict


def _missing(name: str, why: str, bar: str) -> Row:
    return Row(name, why, bar, Verdict.MISSING)


def _judge(reached: bool) -> Verdict:
    return Verdict.MET if reached else Verdict.MISSED


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.01 else f"{seconds * 1e3:.1f}"


def _pause(times_ns: NDArray[np.int64]) -> str:
    return f"longest pause {_ms(metrics.longest_pause_s(times_ns))} ms"


def chunk_rows(chunks: ChunkSeries | None) -> list[Row]:
    """How often chunks came and how old their observations were."""
    rate_bar = f"≥ {CHUNK_RATE_HZ:g} Hz"
    latency_bar = f"p99 ≤ {CHUNK_LATENCY_S * 1e3:g} ms"
    rate = metrics.rate_hz(chunks.publish_ns) if chunks is not None else None
    if chunks is None or rate is None:
        why = "no action_chunk in the bag" if chunks is None else "fewer than two chunks"
        return [
            _missing("chunk rate", why, rate_bar),
            _missing("observation to chunk", why, latency_bar),
        ]
    latency = metrics.spread((chunks.publish_ns - chunks.stamp_ns) * 1e-9)
    assert latency is not None
    count = f"{rate:.1f} Hz ({len(chunks)} chunks, {_pause(chunks.publish_ns)})"
    return [
        Row("chunk rate", count, rate_bar, _judge(rate >= CHUNK_RATE_HZ)),
        Row(
            "observation to chunk",
            f"p50 {_ms(latency.p50_s)}, p99 {_ms(latency.p99_s)}, max {_ms(latency.max_s)} ms",
            latency_bar,
            _judge(latency.p99_s <= CHUNK_LATENCY_S),
        ),
    ]


def command_rows(timing: Timing | None, schedule: Spread | None, bare: Timing | None) -> list[Row]:
    """How well the 100 Hz of commands were kept, beside a bare thread."""
    if timing is None or schedule is None:
        bars = {
            "command rate": f"{LOOP_RATE_HZ:g} Hz",
            "command period error": "bare thread + 2 ms",
            "ticks missed": "bare thread",
        }
        return [_missing(name, "no joint_commands in the bag", bar) for name, bar in bars.items()]
    period = timing.period
    rate = Row(
        "command rate",
        f"{timing.rate_hz:.2f} Hz while armed ({timing.ticks} ticks)",
        f"{LOOP_RATE_HZ:g} Hz",
        _judge(abs(timing.rate_hz / LOOP_RATE_HZ - 1) <= RATE_TOLERANCE),
    )
    bare_text = "no bare thread was measured"
    if bare is not None:
        bare_text = (
            f"bare thread p50 {_ms(bare.period.p50_s)}, p99 {_ms(bare.period.p99_s)}, "
            f"max {_ms(bare.period.max_s)} ms"
        )
    rows = [
        rate,
        Row(
            "command period",
            f"p50 {_ms(period.p50_s)}, p99 {_ms(period.p99_s)}, max {_ms(period.max_s)} ms",
            bare_text,
            Verdict.INFORMATION,
        ),
        Row(
            "scheduled period",
            f"p50 {_ms(schedule.p50_s)}, p99 {_ms(schedule.p99_s)}, "
            f"max {_ms(schedule.max_s)} ms (stamps)",
            "",
            Verdict.INFORMATION,
        ),
    ]
    error = f"p99 {_ms(timing.error_p99_s)} ms"
    missed = f"{timing.missed} of {timing.ticks}"
    if bare is None:
        bar = "bare thread + 2 ms"
        rows.append(Row("command period error", f"{error} (bar unknown)", bar, Verdict.MISSING))
        rows.append(Row("ticks missed", f"{missed} (bar unknown)", "bare thread", Verdict.MISSING))
        return rows
    bar_s = bare.error_p99_s + PERIOD_ERROR_MARGIN_S
    rows.append(
        Row(
            "command period error",
            error,
            f"p99 ≤ {_ms(bar_s)} ms (bare thread {_ms(bare.error_p99_s)} + 2)",
            _judge(timing.error_p99_s <= bar_s),
        )
    )
    rows.append(
        Row(
            "ticks missed",
            missed,
            f"bare thread: {bare.missed} of {bare.ticks}",
            # Compared as shares: the two did not run for exactly the same time.
            _judge(timing.missed * bare.ticks <= bare.missed * timing.ticks),
        )
    )
    return rows


def rate_row(name: str, times_ns: NDArray[np.int64] | None) -> Row:
    """Messages per second of a 100 Hz topic."""
    bar = f"{LOOP_RATE_HZ:g} Hz"
    rate = metrics.rate_hz(times_ns) if times_ns is not None else None
    if times_ns is None or rate is None:
        return _missing(name, "no joint_states in the bag", bar)
    met = abs(rate / LOOP_RATE_HZ - 1) <= RATE_TOLERANCE
    return Row(name, f"{rate:.2f} Hz ({_pause(times_ns)})", bar, _judge(met))


def camera_rows(cameras: Mapping[str, Topic], expected: Sequence[str]) -> list[Row]:
    """Images per second of every expected view and of every other one that was recorded."""
    bar = f"≥ {CAMERA_RATE_HZ:g} Hz"
    rows = []
    for view in dict.fromkeys((*expected, *cameras)):
        name = f"camera {view}"
        rate = metrics.rate_hz(cameras[view].publish_ns) if view in cameras else None
        if rate is None:
            why = "fewer than two images" if view in cameras else "no images in the bag"
            rows.append(_missing(name, why, bar))
        else:
            measured = f"{rate:.1f} Hz ({_pause(cameras[view].publish_ns)})"
            rows.append(Row(name, measured, bar, _judge(rate >= CAMERA_RATE_HZ)))
    return rows


def limit_rows(differences: Derivatives | None, limits: Limits | None) -> list[Row]:
    """Largest finite differences of the commands, each for the joint nearest to its limit."""
    kinds = (
        ("velocity", "rad/s", limits and limits.velocity_rad_s),
        ("acceleration", "rad/s²", limits and limits.acceleration_rad_s2),
        ("jerk", "rad/s³", limits and limits.jerk_rad_s3),
    )
    rows = []
    for kind, unit, limit in kinds:
        name = f"largest {kind}"
        values = getattr(differences, kind) if differences is not None else np.empty((0, 6))
        values = np.abs(values[np.any(np.isfinite(values), axis=1)])
        if len(values) == 0:
            rows.append(_missing(name, "too few joint_commands", "limits"))
            continue
        largest = np.nanmax(values, axis=0)
        if limit is None:
            joint = int(np.argmax(largest))
            measured = f"{largest[joint]:.3g} {unit} ({JOINT_NAMES[joint]})"
            rows.append(_missing(name, measured, "no limits file given"))
            continue
        joint = int(np.argmax(largest / limit))
        share = float(largest[joint] / limit[joint])
        rows.append(
            Row(
                name,
                f"{largest[joint]:.3g} {unit} ({JOINT_NAMES[joint]}, {share:.1%} of its limit)",
                f"≤ {limit[joint]:.3g} {unit}",
                _judge(share <= 1 + LIMIT_TOLERANCE),
            )
        )
    return rows


def wire_row(wire: WireDelay | None) -> Row:
    """How long commands took to the servo bus."""
    bar = f"p99 ≤ {WIRE_DELAY_S * 1e3:g} ms"
    if wire is None:
        return _missing("command to wire", "no joint_commands or no sim/wire_log in the bag", bar)
    delay = metrics.spread(wire.delay_s)
    if delay is None:
        return _missing("command to wire", f"none of {wire.writes} writes could be matched", bar)
    return Row(
        "command to wire",
        f"p50 {_ms(delay.p50_s)}, p99 {_ms(delay.p99_s)}, max {_ms(delay.max_s)} ms "
        f"({delay.count} writes)",
        bar,
        _judge(delay.p99_s <= WIRE_DELAY_S),
    )


def task_rows(objects: ObjectSeries | None) -> list[Row]:
    """What became of the cube."""
    lift_bar = f"≥ {LIFT_M * 1e3:g} mm"
    lift = metrics.lift_m(objects, CUBE) if objects is not None else None
    in_tray = metrics.ended_in_tray(objects, CUBE) if objects is not None else None
    rows = []
    if lift is None:
        rows.append(_missing("cube lifted", f"no {CUBE} in sim/objects", lift_bar))
    else:
        rows.append(Row("cube lifted", f"{lift * 1e3:.0f} mm", lift_bar, _judge(lift >= LIFT_M)))
    if in_tray is None:
        rows.append(_missing("cube in the tray", f"no {CUBE} or no tray in sim/objects", "yes"))
    else:
        rows.append(Row("cube in the tray", "yes" if in_tray else "no", "yes", _judge(in_tray)))
    return rows


def safety_rows(safety: SafetySeries | None) -> list[Row]:
    """What the safety node said of itself; for orientation, without a bar."""
    if safety is None:
        return [_missing("safety states", "no safety/status in the bag", "")]
    states = ", ".join(
        f"{state.name} {seconds:.1f} s" for state, seconds in metrics.time_in_states(safety).items()
    )
    acted = ", ".join(f"{name} {n}" for name, n in safety.limit_counts.items() if n) or "none"
    return [
        Row("safety states", states, "(reported)", Verdict.INFORMATION),
        Row("guards that acted", acted, "(reported)", Verdict.INFORMATION),
    ]
