"""The measurements themselves: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wallx_policy.evidence.series import JointSeries, ObjectSeries, SafetySeries, SafetyState
from wallx_policy.success import cube_in_tray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TICK_S = 0.01
SEGMENT_GAP_S = 0.25
"""Commands further apart than this belong to two armed segments."""

WIRE_WINDOW_S = 0.1
"""A goal write belongs to a command of at most so long before it."""

HALF_SERVO_TICK_RAD = 0.55 * 2 * np.pi / 4096
"""How far rounding to the servo's 4096 ticks can move a goal, with a little room."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of a quantity in seconds."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Timing:
    """How well a 100 Hz loop kept its period.

    Attributes:
        ticks: Number of intervals.
        rate_hz: Ticks per second.
        period: Of the intervals.
        error_p99_s: 99th percentile of the intervals' distance from the period.
        missed: Ticks that were due and came never, or after the next one was due.
        intervals_s: All intervals [ticks].
    """

    ticks: int
    rate_hz: float
    period: Spread
    error_p99_s: float
    missed: int
    intervals_s: Floats


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Finite differences of the commanded positions with the period, NaN where undefined.

    Attributes:
        velocity: [n, 6] rad/s.
        acceleration: [n, 6] rad/s².
        jerk: [n, 6] rad/s³.
    """

    velocity: Floats
    acceleration: Floats
    jerk: Floats


@dataclass(frozen=True, slots=True)
class WireDelay:
    """How long commands took to the bus.

    Attributes:
        delay_s: Of every write that can be told apart [m].
        at_ns: When these commands were published [m].
        writes: All goal writes of six servos.
        unknown: Writes that no command of the last WIRE_WINDOW_S explains.
    """

    delay_s: Floats
    at_ns: Ints
    writes: int
    unknown: int


def spread(values_s: Floats) -> Spread | None:
    """Return the distribution, None of nothing."""
    if len(values_s) == 0:
        return None
    return Spread(
        len(values_s),
        float(np.percentile(values_s, 50)),
        float(np.percentile(values_s, 99)),
        float(np.max(values_s)),
    )


def rate_hz(times_ns: Ints) -> float | None:
    """Return messages per second between the first and the last; None of fewer than two."""
    if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
        return None
    return float((len(times_ns) - 1) / ((times_ns[-1] - times_ns[0]) * 1e-9))


def longest_pause_s(times_ns: Ints) -> float:
    """Return the longest time between two neighbours, 0 of fewer than two."""
    return float(np.max(np.diff(times_ns)) * 1e-9) if len(times_ns) > 1 else 0.0


def time_in_states(safety: SafetySeries) -> dict[SafetyState, float]:
    """Return the seconds spent in each state, by the statuses' publish times."""
    changes = safety.changes()
    ends = [time_ns for time_ns, _ in changes[1:]] + [int(safety.publish_ns[-1])]
    seconds: dict[SafetyState, float] = {}
    for (start_ns, state), end_ns in zip(changes, ends, strict=True):
        seconds[state] = seconds.get(state, 0.0) + (end_ns - start_ns) * 1e-9
    return seconds


def lost_in_recording(sequence: Ints) -> int:
    """Return how many messages of one publisher the recorder did not get, by the counts' gaps."""
    steps = np.diff(sequence)
    return int(np.sum(steps[steps > 1] - 1))


def armed_segments(commands: JointSeries, safety: SafetySeries | None) -> list[slice]:
    """Return the stretches in which the arm was commanded without a pause.

    A stretch ends where commands pause, or where the safety node was disarmed in between.
    """
    if len(commands) == 0:
        return []
    breaks = np.diff(commands.publish_ns) > SEGMENT_GAP_S * 1e9
    if safety is not None:
        for time_ns, state in safety.changes():
            if state is SafetyState.DISARMED:
                after = int(np.searchsorted(commands.publish_ns, time_ns))
                if 0 < after < len(commands):
                    breaks[after - 1] = True
    edges = [0, *(np.flatnonzero(breaks) + 1), len(commands)]
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def loop_timing(commands: JointSeries, segments: Sequence[slice]) -> Timing | None:
    """Measure the 100 Hz of commands within their segments; None if no segment has two.

    A tick is missed when no command carries its scheduled stamp. A message that only the recorder
    lost is no missed tick: the publisher's count tells.
    """
    intervals: list[Floats] = []
    missed = ticks = 0
    span_s = 0.0
    for segment in segments:
        sent = np.maximum(np.diff(commands.sequence[segment]), 1)
        scheduled = np.rint(np.diff(commands.stamp_ns[segment]) * 1e-9 / TICK_S)
        missed += int(np.sum(np.maximum(scheduled - sent, 0)))
        step_s = np.diff(commands.publish_ns[segment]) * 1e-9
        intervals.append(step_s[sent == 1])
        ticks += int(np.sum(sent))
        span_s += float(np.sum(step_s))
    return _timing(np.concatenate(intervals), ticks, span_s, missed) if intervals else None


def bare_timing(periods_s: Floats) -> Timing | None:
    """Measure the bare thread that ran beside, from the intervals between its wake-ups.

    It sleeps to absolute deadlines and never skips one, so a tick counts as missed when it woke up
    after the next tick was due.
    """
    late_s = np.cumsum(periods_s) - TICK_S * np.arange(1, len(periods_s) + 1)
    missed = int(np.sum(late_s >= TICK_S))
    return _timing(periods_s, len(periods_s), float(np.sum(periods_s)), missed)


def _timing(intervals_s: Floats, ticks: int, span_s: float, missed: int) -> Timing | None:
    period = spread(intervals_s)
    if period is None:
        return None
    error_p99_s = float(np.percentile(np.abs(intervals_s - TICK_S), 99))
    return Timing(ticks, ticks / span_s, period, error_p99_s, missed, intervals_s)


def scheduled_period(commands: JointSeries, segments: Sequence[slice]) -> Spread | None:
    """Return the distribution of the intervals between scheduled stamps."""
    steps = [np.diff(commands.stamp_ns[segment]) * 1e-9 for segment in segments]
    return spread(np.concatenate(steps)) if steps else None


def derivatives(commands: JointSeries, segments: Sequence[slice]) -> Derivatives:
    """Differentiate commanded positions tick by tick inside each segment.

    The safety layer's limits are finite differences with the nominal period over consecutive
    commands, whatever the clock did. Where the recorder lost a command, nothing is computed.
    """
    results = [np.full(commands.position_rad.shape, np.nan) for _ in range(3)]
    for segment in segments:
        consecutive = np.diff(commands.sequence[segment], prepend=commands.sequence[segment][:1])
        values = commands.position_rad[segment]
        for result in results:
            step = np.full(values.shape, np.nan)
            step[1:] = np.diff(values, axis=0) / TICK_S
            step[consecutive > 1] = np.nan
            result[segment] = step
            values = step
    return Derivatives(*results)


def wire_delay(commands: JointSeries, wire: JointSeries) -> WireDelay:
    """Match goal writes on the bus to the commands behind them, by value.

    While the arm rests, writes look alike and cannot be told apart. A write counts only if exactly
    one command of the WIRE_WINDOW_S before it rounds to its six ticks, and only the first such
    write of a command counts.
    """
    delays: list[float] = []
    at: list[int] = []
    unknown = 0
    last = -1
    window_ns = int(WIRE_WINDOW_S * 1e9)
    first = np.searchsorted(commands.publish_ns, wire.stamp_ns - window_ns)
    end = np.searchsorted(commands.publish_ns, wire.stamp_ns, side="right")
    for j in range(len(wire)):
        candidates = commands.position_rad[first[j] : end[j]]
        distance = np.abs(candidates - wire.position_rad[j])
        matches = np.flatnonzero(np.all(distance <= HALF_SERVO_TICK_RAD, axis=1))
        if len(matches) == 0:
            unknown += 1
            continue
        k = int(first[j] + matches[0])
        if len(matches) > 1 or k <= last:
            continue
        last = k
        delays.append(float(wire.stamp_ns[j] - commands.publish_ns[k]) * 1e-9)
        at.append(int(commands.publish_ns[k]))
    return WireDelay(np.array(delays), np.array(at, np.int64), len(wire), unknown)


def lift_m(objects: ObjectSeries, cube: str) -> float | None:
    """Return how far the cube's centre rose above where it first lay; None if it is absent."""
    height = objects.height_m(cube)
    height = height[np.isfinite(height)]
    return float(np.max(height) - height[0]) if len(height) else None


def ended_in_tray(objects: ObjectSeries, cube: str) -> bool | None:
    """Return whether the cube rests in the tray at the end; None if either is absent."""
    if not objects.poses or cube not in objects.poses[-1] or "tray" not in objects.poses[-1]:
        return None
    return cube_in_tray(objects.poses[-1], cube)
