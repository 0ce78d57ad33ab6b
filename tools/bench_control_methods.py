"""Ways to turn chunks into commands: ours, and what others do. One object per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from bench_control_scenes import TICK_S, Array, Arrival
from ruckig import InputParameter, Result, Ruckig, Trajectory
from scipy.interpolate import CubicSpline
from so101_driver.safety import limiter
from so101_driver.safety.blending import Blender
from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.limiter import Limiter
from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings


class Method(Protocol):
    """Makes one command per tick."""

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Take a chunk before the tick's command."""
        ...

    def command(self, tick: int) -> Array:
        """Position to command at this tick."""
        ...


class Ours:
    """The shipped chain: blended chunks, followed by the limiter."""

    def __init__(self, start_rad: Array, limits: Limits, settings: Settings) -> None:
        self._blender = Blender(limits, settings)
        self._limiter = Limiter(limits, TICK_S)
        self._limiter.start(start_rad, limits.lower_rad, limits.upper_rad)

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Take a chunk."""
        self._blender.add(chunk, round(tick * TICK_S * 1e9))

    def command(self, tick: int) -> Array:
        """Position to command."""
        if self._blender.empty:
            self._limiter.brake()
        else:
            self._limiter.track(self._blender.before, self._blender.now, self._blender.next)
            self._blender.advance(self.rate())
        return self._limiter.position_rad

    def rate(self) -> float:
        """Share of a tick by which path time advances."""
        return 1.0


class OnArrival:
    """(a) Each chunk from its first point on when it arrives, straight from point to point."""

    def __init__(self, start_rad: Array) -> None:
        self._last = start_rad
        self._begin_s = 0.0
        self._times_s, self._points = np.zeros(1), start_rad[None]

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Go from the last command to the second point, and on from there."""
        self._begin_s = (tick - 1) * TICK_S
        points = chunk.points_rad[1:]
        self._points = np.vstack((self._last, points))
        self._times_s = chunk.step_s * np.arange(len(self._points))

    def command(self, tick: int) -> Array:
        """Position to command."""
        time_s = tick * TICK_S - self._begin_s
        self._last = np.array(
            [np.interp(time_s, self._times_s, column) for column in self._points.T]
        )
        return self._last


class WeightedAverage:
    """(b) A queue by step index; where chunks overlap, 0.3 of the old and 0.7 of the new."""

    def __init__(self, start_rad: Array, old_share: float = 0.3) -> None:
        self._start = start_rad
        self._old_share = old_share
        self._queue: dict[int, Array] = {}
        self._step_s = 1.0
        self._executed = -1

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Merge into the queue; steps that are over are skipped."""
        self._step_s = chunk.step_s
        first = round(chunk.first_due_ns * 1e-9 / chunk.step_s)
        newest: dict[int, Array] = {}
        for index, point in enumerate(chunk.points_rad, start=first):
            if index < self._executed:
                continue
            old = self._queue.get(index)
            newest[index] = (
                point if old is None else self._old_share * old + (1 - self._old_share) * point
            )
        if self._executed in self._queue:
            newest.setdefault(self._executed, self._queue[self._executed])
        self._queue = newest

    def command(self, tick: int) -> Array:
        """Position to command, on the line from the present step's action to the next one's."""
        if not self._queue:
            return self._start
        along = tick * TICK_S / self._step_s
        index = int(along + 1e-9)
        self._executed = index
        last = max(self._queue)
        begin = self._queue.get(min(max(index, min(self._queue)), last))
        end = self._queue.get(min(max(index + 1, min(self._queue)), last))
        return begin + (along - index) * (end - begin)


class SplinePerMessage:
    """(c) A cubic spline through each chunk from its arrival on, at rest at both ends."""

    def __init__(self, start_rad: Array) -> None:
        self._last = start_rad
        self._begin_s = 0.0
        self._spline: CubicSpline | None = None
        self._end_s = 0.0

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Begin at the last command, at rest."""
        self._begin_s = (tick - 1) * TICK_S
        points = np.vstack((self._last, chunk.points_rad[1:]))
        times_s = chunk.step_s * np.arange(len(points))
        self._end_s = float(times_s[-1])
        self._spline = CubicSpline(times_s, points, bc_type="clamped")

    def command(self, tick: int) -> Array:
        """Position to command."""
        if self._spline is not None:
            self._last = self._spline(min(tick * TICK_S - self._begin_s, self._end_s))
        return self._last


class AlignedCubic:
    """(f) The newest chunk's natural cubic spline by time, as it is."""

    def __init__(self, start_rad: Array) -> None:
        self._start = start_rad
        self._spline: CubicSpline | None = None
        self._end_s = 0.0

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Take the newest."""
        times_s = chunk.first_due_ns * 1e-9 + chunk.step_s * np.arange(len(chunk.points_rad))
        self._spline = CubicSpline(times_s, chunk.points_rad, bc_type="natural")
        self._end_s = float(times_s[-1])

    def command(self, tick: int) -> Array:
        """Position to command."""
        return self.state(tick * TICK_S)[0]

    def state(self, time_s: float) -> tuple[Array, Array, Array]:
        """Position, velocity and acceleration."""
        rest = np.zeros_like(self._start)
        if self._spline is None:
            return self._start, rest, rest
        if time_s > self._end_s:
            return self._spline(self._end_s), rest, rest
        return self._spline(time_s), self._spline(time_s, 1), self._spline(time_s, 2)


class AlignedRuckig:
    """(d) Ruckig per joint towards where the newest chunk, aligned by time, will be.

    ``ahead_s`` is its smoothing: it aims at the state so far ahead and takes at least that long.
    """

    def __init__(self, start_rad: Array, limits: Limits, ahead_s: float, order: int = 2) -> None:
        self._aligned = AlignedCubic(start_rad)
        self._order = order
        self._ahead_s = ahead_s
        self._limits = limits
        joints = len(start_rad)
        self._request = InputParameter(1)
        self._solver, self._trajectory = Ruckig(1), Trajectory(1)
        self._state = [(float(p), 0.0, 0.0) for p in start_rad]
        self._joints = joints

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Take the newest."""
        self._aligned.add(chunk, tick)

    def command(self, tick: int) -> Array:
        """Position to command: one tick along the trajectory."""
        # The command is one tick after the state that it starts from.
        position, velocity, acceleration = self._aligned.state(
            tick * TICK_S + self._ahead_s - TICK_S
        )
        limits, request = self._limits, self._request
        for joint in range(self._joints):
            top_v = float(limits.velocity_rad_s[joint])
            top_a = float(limits.acceleration_rad_s2[joint])
            top_j = float(limits.jerk_rad_s3[joint])
            p, v, a = self._state[joint]
            request.current_position = [p]
            request.current_velocity = [v]
            request.current_acceleration = [a]
            target_a = float(np.clip(acceleration[joint], -0.5 * top_a, 0.5 * top_a))
            if self._order < 2:
                target_a = 0.0
            room = top_v - target_a**2 / (2.0 * top_j) - 1e-3
            request.target_position = [
                float(np.clip(position[joint], limits.lower_rad[joint], limits.upper_rad[joint]))
            ]
            target_v = float(np.clip(velocity[joint], -room, room)) if self._order else 0.0
            request.target_velocity = [target_v]
            request.target_acceleration = [target_a]
            request.max_velocity, request.max_acceleration = [top_v], [top_a]
            request.max_jerk = [top_j]
            request.minimum_duration = self._ahead_s
            result = self._solver.calculate(request, self._trajectory)
            if result in (Result.Working, Result.Finished):
                p, v, a = (row[0] for row in self._trajectory.at_time(TICK_S))
            else:
                p, v, a = p + v * TICK_S, v, 0.0
            self._state[joint] = (p, v, a)
        return np.array([p for p, _, _ in self._state])


@contextmanager
def limiter_gain(position_gain_per_s: float) -> Iterator[None]:
    """Run with another gain of the limiter's tracking law; the velocity's keeps its ratio."""
    shipped = limiter.POSITION_GAIN_PER_S, limiter.VELOCITY_GAIN_PER_S
    limiter.POSITION_GAIN_PER_S = position_gain_per_s
    limiter.VELOCITY_GAIN_PER_S = position_gain_per_s * shipped[1] / shipped[0]
    try:
        yield
    finally:
        limiter.POSITION_GAIN_PER_S, limiter.VELOCITY_GAIN_PER_S = shipped


class BestMix:
    """Not a method but a floor: all chunks alive, weighed by what is known of their noise.

    No limits, no continuity; no way to combine the chunks linearly at one time has less error.
    """

    def __init__(self, start_rad: Array, variance: Callable[[float], float]) -> None:
        self._start = start_rad
        self._variance = variance
        self._alive: list[tuple[float, CubicSpline]] = []

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Keep it until it ends."""
        times_s = chunk.first_due_ns * 1e-9 + chunk.step_s * np.arange(len(chunk.points_rad))
        self._alive.append((float(times_s[0]), CubicSpline(times_s, chunk.points_rad)))

    def command(self, tick: int) -> Array:
        """Position to command."""
        now_s = tick * TICK_S
        self._alive = [one for one in self._alive if now_s <= one[1].x[-1]]
        if not self._alive:
            return self._start
        weights = np.array([1.0 / self._variance(now_s - first_s) for first_s, _ in self._alive])
        points = np.array([spline(now_s) for _, spline in self._alive])
        return weights @ points / weights.sum()


class BehindLimiter:
    """(e) Another method whose commands our limiter follows."""

    def __init__(self, method: Method, start_rad: Array, limits: Limits) -> None:
        self._method = method
        self._limiter = Limiter(limits, TICK_S)
        self._limiter.start(start_rad, limits.lower_rad, limits.upper_rad)
        self._rows = [start_rad, start_rad]

    def add(self, chunk: AcceptedChunk, tick: int) -> None:
        """Hand it on."""
        self._method.add(chunk, tick)

    def command(self, tick: int) -> Array:
        """Position to command."""
        before, now = self._rows
        following = self._method.command(tick)
        self._limiter.track(before, now, following)
        self._rows = [now, following]
        return self._limiter.position_rad


def run(method: Method, arrivals: list[Arrival], ticks: int) -> tuple[Array, Array]:
    """Commands [ticks, joints] and the ticks at which chunks arrived."""
    rows, handoffs, waiting = [], [], list(reversed(arrivals))
    for tick in range(ticks):
        newest = None
        while waiting and waiting[-1].tick <= tick:
            newest = waiting.pop().chunk
        if newest is not None:
            method.add(newest, tick)
            handoffs.append(tick)
        rows.append(method.command(tick))
    return np.array(rows), np.array(handoffs)
