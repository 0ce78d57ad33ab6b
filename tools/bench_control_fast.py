"""Chunks that are faster than the limits: what is kept, the path or the time?

The same demonstrations, replayed too fast. Compared are trimming each joint by itself, slowing all
joints alike (what the limiter does), and scaling the time along the path, with the lag given up or
kept when the next chunk comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from bench_control_methods import Ours, run
from bench_control_scenes import (
    TICK_S,
    Array,
    Condition,
    Demonstration,
    sampled,
    stream,
)
from bench_control_scores import lag_s, path_deviation, rms, violations
from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.limiter import Limiter
from so101_driver.safety.limits import Limits
from so101_driver.safety.reference import ChunkPath
from so101_driver.safety.settings import Settings

AFTER_S = 3.0
"""The demonstration's end is held for so long, so that what lags can arrive."""


class TrimmingLimiter(Limiter):
    """Trims each joint's velocity by itself, which turns the direction."""

    def _wanted(self, *rows: Array):  # type: ignore[no-untyped-def]
        top = self._velocity
        self._velocity = np.full_like(top, np.inf)
        try:
            return super()._wanted(*rows)
        finally:
            self._velocity = top


class TimeScaled(Ours):
    """Scales time along the newest chunk's path so that it needs no more than the limits.

    With ``most_lag_s`` the next chunk is entered as late as the reference is, and only then; what
    lags more than that is given up. Without, each chunk is entered at its own time.
    """

    look_s, grid_s = 0.5, 0.02
    """How far ahead the path's needs are seen, and how finely."""

    catching_up_per_s, fastest = 2.0, 1.25
    time_constant_s = 0.04

    def __init__(
        self, start_rad: Array, limits: Limits, settings: Settings, most_lag_s: float
    ) -> None:
        super().__init__(start_rad, limits, settings)
        self._limits, self._settings = limits, settings
        self._most_lag_s = most_lag_s
        self._path: ChunkPath | None = None
        self._time_s = self._lag_s = 0.0
        self._rate = 1.0
        self._waiting: list[AcceptedChunk] = []

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Take a chunk now, or when the reference gets to its first point."""
        self._lag_s = min(self._lag_s, self._most_lag_s)
        self._waiting.append(chunk)

    def command(self, tick: int) -> Array:
        """Position to command."""
        now_s = tick * TICK_S - self._lag_s
        for index in range(len(self._waiting) - 1, -1, -1):
            chunk = self._waiting[index]
            time_s = now_s - chunk.first_due_ns * 1e-9
            if time_s >= -1e-9:
                self._path = ChunkPath(
                    chunk.points_rad, chunk.step_s, self._settings.fit_tolerance_rad, self._limits
                )
                self._time_s = time_s
                late_ns = round(self._lag_s * 1e9)
                super().add(replace(chunk, first_due_ns=chunk.first_due_ns + late_ns), tick)
                del self._waiting[: index + 1]
                break
        if self._path is not None:
            self._change_rate(self._path)
        return super().command(tick)

    def rate(self) -> float:
        """Share of a tick by which path time advances."""
        return self._rate

    def _change_rate(self, path: ChunkPath) -> None:
        limits, grid_s = self._limits, self.grid_s
        times_s = self._time_s + grid_s * np.arange(round(self.look_s / grid_s))
        rows = np.array([path.at(time_s) for time_s in times_s])
        speed = np.maximum(np.abs(np.diff(rows, axis=0)) / grid_s, 1e-6)[:-1]
        bend = np.maximum(np.abs(np.diff(rows, 2, axis=0)) / grid_s**2, 1e-6)
        square = np.minimum(
            np.square((0.98 * limits.velocity_rad_s / speed).min(axis=1)),
            (0.6 * limits.acceleration_rad_s2 / bend).min(axis=1),
        )
        slowing = float((0.3 * limits.acceleration_rad_s2 / speed.max(axis=0)).min())
        # The square of the rate may fall by twice the deceleration per second of path time.
        allowed = float(np.sqrt((square + 2.0 * slowing * grid_s * np.arange(len(square))).min()))
        most = 1.0 + min(self.catching_up_per_s * self._lag_s, self.fastest - 1.0)
        self._rate += (min(allowed, most) - self._rate) * TICK_S / self.time_constant_s
        self._time_s += self._rate * TICK_S
        self._lag_s = max(self._lag_s + (1.0 - self._rate) * TICK_S, 0.0)


@dataclass(frozen=True, slots=True)
class FastScore:
    """How a demonstration that is too fast was followed; joint-space radians.

    Attributes:
        deviation_rms_rad: Distance of the commands from the demonstration's path.
        deviation_p99_rad: Its 99th percentile.
        lag_s: Delay by cross-correlation.
        rms_rad: RMS error against the demonstration in time.
        late_s: How much later than the demonstration the last tenth of the way is reached.
        violations: Ticks at which a limit is violated.
    """

    deviation_rms_rad: float
    deviation_p99_rad: float
    lag_s: float
    rms_rad: float
    late_s: float
    violations: int


def variants(limits: Limits, settings: Settings) -> dict[str, Callable[[Array], Ours]]:
    """Ways to follow what is too fast, by name."""

    def trimming(make: Callable[[Array], Ours]) -> Callable[[Array], Ours]:
        def made(start: Array) -> Ours:
            method = make(start)
            method._limiter = TrimmingLimiter(limits, TICK_S)
            method._limiter.start(start, limits.lower_rad, limits.upper_rad)
            return method

        return made

    def scaled(most_lag_s: float) -> Callable[[Array], Ours]:
        return lambda start: TimeScaled(start, limits, settings, most_lag_s)

    return {
        "(i) each joint trimmed": trimming(lambda start: Ours(start, limits, settings)),
        "(ii) direction kept (shipped)": lambda start: Ours(start, limits, settings),
        "(iii) time scaled, lag given up": trimming(scaled(0.0)),
        "(iii) time scaled, lag up to 0.5 s": trimming(scaled(0.5)),
        "(ii) and (iii), lag given up": scaled(0.0),
        "(ii) and (iii), lag up to 0.5 s": scaled(0.5),
    }


def compare_fast(
    demonstrations: list[Demonstration],
    factors: tuple[float, ...],
    limits: Limits,
    settings: Settings,
) -> list[dict[str, object]]:
    """One row per variant and factor, averaged over demonstrations; 100 ms latency, clean."""
    rows: list[dict[str, object]] = []
    condition = Condition(0.1, noisy=False)
    for factor in factors:
        for name, make in variants(limits, settings).items():
            scores = []
            for demonstration in demonstrations:
                fast = demonstration.faster(factor)
                moving = sampled(fast)
                wanted = np.vstack(
                    (moving, np.repeat(moving[-1:], round(AFTER_S / TICK_S), axis=0))
                )
                commands, _ = run(make(wanted[0]), stream(fast, condition, seed=1), len(wanted))
                scores.append(_fast_score(commands, wanted, sampled(demonstration)[::2], limits))
            mean = {
                key: float(np.mean([asdict(s)[key] for s in scores])) for key in asdict(scores[0])
            }
            rows.append({"factor": factor, "variant": name, **mean})
    return rows


def _fast_score(commands: Array, wanted: Array, way: Array, limits: Limits) -> FastScore:
    begun = round(1.0 / TICK_S)
    off = path_deviation(commands[begun:], way)

    def arrives(rows: Array) -> int:
        """Tick from which on the last pose is no further than a tenth of the whole way's extent."""
        near = np.abs(rows - wanted[-1]).max(axis=1) <= 0.1 * np.ptp(wanted, axis=0).max()
        return len(near) - int(np.argmin(near[::-1])) if not near.all() else 0

    return FastScore(
        deviation_rms_rad=rms(off),
        deviation_p99_rad=float(np.percentile(off, 99)),
        lag_s=lag_s(commands[begun:], wanted[begun:]),
        rms_rad=rms(commands[begun:] - wanted[begun:]),
        late_s=(arrives(commands) - arrives(wanted)) * TICK_S,
        violations=violations(commands, limits),
    )
