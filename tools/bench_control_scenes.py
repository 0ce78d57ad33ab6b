"""What `bench_control` compares on: demonstrations, chunk streams, the plant, and the measures."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from so101_driver.calibration import Calibration
from so101_driver.joints import data_path
from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.limits import Limits
from so101_driver.sim.plant import ServoModel

Array = NDArray[np.float64]

TICK_S = 0.01
STEP_S = 0.04
HORIZON = 25
TICKS_PER_CHUNK = 8
JITTER_S = 0.02
"""A chunk is late by up to this on top of a latency above 0."""

OFFSET_RAD, DRIFT_RAD_S, WHITE_RAD = 0.004, 0.015, 0.002
"""Standard deviations of "noisy": every chunk is off as a whole, drifts off along itself (chunks of
a flow policy agree on the near future more than on the far one), and has white noise per point."""

SMOOTHING_S = 0.04
"""Standard deviation of the smoothing of demonstrations: their band ends near 4 Hz."""

CROSSING_S = 0.6
"""Largest lag that the cross-correlation looks for."""

EXCESS = 1e-6
"""Share by which a limit must be exceeded to count as violated."""


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    """A motion that a policy was shown: joint positions over time.

    Attributes:
        name: For tables.
        path: Positions [joints] at a time in seconds.
        duration_s: How long it takes.
    """

    name: str
    path: CubicSpline
    duration_s: float

    def at(self, times_s: Array) -> Array:
        """[times, joints]; before and after, the ends."""
        return self.path(np.clip(times_s, 0.0, self.duration_s))

    def faster(self, factor: float) -> Demonstration:
        """The same way in a fraction of the time."""
        knots = self.path.x / factor
        return Demonstration(
            f"{self.name} x{factor:g}",
            CubicSpline(knots, self.path(self.path.x)),
            self.duration_s / factor,
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """How a policy's chunks differ from the demonstration."""

    latency_s: float
    noisy: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{1e3 * self.latency_s:.0f} ms {'noisy' if self.noisy else 'clean'}"


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A chunk and the tick at which it arrives."""

    tick: int
    chunk: AcceptedChunk


def record_demonstration(seed: int, longest_s: float = 40.0) -> Demonstration:
    """What the expert tells the simulated arm in closed loop, without any limiter between them.

    The folded start outside the position limits is left out. The rest is smoothed to what a person
    who leads an arm does (SMOOTHING_S): the expert's corrections come in small steps.
    """
    from so101_driver.sim.arm_simulation import ArmSimulation
    from wallx_policy.backends.base import BackendSettings, ObjectPose, Observation
    from wallx_policy.backends.expert import ExpertBackend, Phase

    arm = ArmSimulation(seed=seed)
    arm.enable_torque()
    expert = ExpertBackend(BackendSettings())
    rows: list[Array] = []
    spline: CubicSpline | None = None
    waiting: deque[tuple[float, CubicSpline]] = deque()
    for tick in range(round(longest_s / TICK_S)):
        now_s = tick * TICK_S
        while arm.now_s < now_s:
            arm.step()
        if tick % TICKS_PER_CHUNK == 0:
            objects = {}
            for thing in arm.objects():
                w, x, y, z = thing.quaternion_wxyz
                objects[thing.name] = ObjectPose(
                    np.array(thing.position_m), np.array([x, y, z, w]), np.array(thing.size_m)
                )
            stamp_ns = round(now_s * 1e9)
            prediction = expert.predict(
                Observation(stamp_ns, {}, arm.joints_rad(), stamp_ns, "", objects)
            )
            if expert.phase is Phase.DONE:
                break
            times_s = now_s + STEP_S * np.arange(len(prediction.actions_rad))
            waiting.append((now_s + 0.1, CubicSpline(times_s, prediction.actions_rad)))
        while waiting and waiting[0][0] <= now_s:
            spline = waiting.popleft()[1]
        if spline is not None:
            arm.set_goals_rad(spline(now_s))
            rows.append(spline(now_s))
    if expert.phase is not Phase.DONE:
        raise RuntimeError(f"the expert did not finish within {longest_s} s (seed {seed})")
    limits = simulated_limits("cautious")
    points = np.array(rows)
    inside = ((points > limits.lower_rad) & (points < limits.upper_rad)).all(axis=1)
    points = points[np.flatnonzero(~inside)[-1] + 1 :] if not inside.all() else points
    points = gaussian_filter1d(points, SMOOTHING_S / TICK_S, axis=0, mode="nearest")
    return _demonstration(seed, TICK_S * np.arange(len(points)), points)


def _demonstration(seed: int, times_s: Array, points: Array) -> Demonstration:
    return Demonstration(f"expert {seed}", CubicSpline(times_s, points), float(times_s[-1]))


def synthetic_demonstration() -> Demonstration:
    """Eight seconds of smooth motion without the simulator, for a quick look."""
    times_s = TICK_S * np.arange(801)
    middle = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.7])
    swing = 0.4 * np.sin(np.outer(times_s, [1.0, 1.3, 1.6, 1.9, 2.2, 1.1]))
    gently = np.minimum(np.minimum(times_s, times_s[-1] - times_s) / 2.0, 1.0)[:, None]
    points = middle + swing * gently**3 * (10.0 - 15.0 * gently + 6.0 * gently**2)
    return Demonstration("synthetic", CubicSpline(times_s, points), float(times_s[-1]))


def demonstrations(seeds: tuple[int, ...], cache: Path | None) -> list[Demonstration]:
    """Record, or read what an earlier run has recorded."""
    found = []
    for seed in seeds:
        file = None if cache is None else cache / f"demonstration_{seed}.npz"
        if file is not None and file.exists():
            with np.load(file) as data:
                found.append(_demonstration(seed, data["times_s"], data["points_rad"]))
            continue
        one = record_demonstration(seed)
        found.append(one)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, times_s=one.path.x, points_rad=one.path(one.path.x))
    return found


def sampled(demonstration: Demonstration) -> Array:
    """The demonstration at every tick, [ticks, joints]."""
    return demonstration.at(TICK_S * np.arange(round(demonstration.duration_s / TICK_S)))


def stream(
    demonstration: Demonstration, condition: Condition, seed: int, committed_s: float = 0.0
) -> list[Arrival]:
    """Chunks of a policy that repeats a demonstration.

    With ``committed_s``, each chunk repeats the points of the one before that fall into so much
    time from its observation on, as policies do that are conditioned on them.
    """
    random = np.random.default_rng(seed)
    joints = demonstration.at(np.zeros(1)).shape[1]
    offsets_s = STEP_S * np.arange(HORIZON)
    committed = math.ceil(committed_s / STEP_S - 1e-9)
    arrivals, before = [], None
    for tick in range(0, round(demonstration.duration_s / TICK_S), TICKS_PER_CHUNK):
        points = demonstration.at(tick * TICK_S + offsets_s)
        if condition.noisy:
            points = (
                points
                + random.normal(0.0, OFFSET_RAD, joints)
                + random.normal(0.0, DRIFT_RAD_S, joints) * offsets_s[:, None]
                + random.normal(0.0, WHITE_RAD, points.shape)
            )
        steps = 0
        if committed and before is not None:
            steps = committed
            shift = round(TICKS_PER_CHUNK * TICK_S / STEP_S)
            promised = before[shift : shift + steps]
            # What follows is conditioned on the promise: it leaves it gradually.
            off = promised[-1] - points[steps - 1]
            fade = np.exp(-offsets_s[: HORIZON - steps] / 0.2)[:, None]
            points = np.vstack((promised, points[steps:] + fade * off))
        before = points
        latency_s = condition.latency_s
        if latency_s > 0.0:
            latency_s += random.uniform(0.0, JITTER_S)
        arrives = tick + math.ceil(latency_s / TICK_S - 1e-9)
        due_ns = round(tick * TICK_S * 1e9)
        arrivals.append(Arrival(arrives, AcceptedChunk(points, STEP_S, due_ns, steps)))
    arrivals.sort(key=lambda arrival: arrival.tick)
    newest, kept = -1, []
    for arrival in arrivals:
        # Jitter may let one overtake another; whoever takes the later one drops the earlier.
        if arrival.chunk.first_due_ns > newest:
            newest = arrival.chunk.first_due_ns
            kept.append(arrival)
    return kept


def after_plant(commands: Array) -> Array:
    """Where servos of so101_hardware.md §8 go: dead time, lag, speed and acceleration limits.

    ``commands`` may have any number of columns; gravity and friction are left out, because they act
    on every method alike.
    """
    model, slices = ServoModel(), 5
    dt_s = TICK_S / slices
    times_s = TICK_S * np.arange(len(commands))
    delayed = np.searchsorted(times_s, times_s - model.dead_time_s + 1e-9, side="right") - 1
    position, velocity = commands[0].copy(), np.zeros(commands.shape[1])
    most = 39.0
    rows = np.empty_like(commands)
    for tick in range(len(commands)):
        target = commands[max(delayed[tick], 0)]
        for _ in range(slices):
            error = target - position
            size = np.abs(error)
            speed = np.minimum(size / model.lag_s, 0.9 * np.sqrt(2.0 * most * size))
            speed = np.copysign(np.minimum(speed, model.max_speed_radps), error)
            velocity += np.clip(speed - velocity, -most * dt_s, most * dt_s)
            position += velocity * dt_s
        rows[tick] = position
    return rows


@dataclass(frozen=True, slots=True)
class Score:
    """How well one run followed its demonstration; positions in radians.

    Attributes:
        rms_rad: RMS error against the undelayed demonstration.
        lag_s: Delay at which the velocities correlate best.
        peak_jerk: Largest finite-difference jerk, rad/s³.
        rms_jerk: Its root mean square.
        jump_rad: Largest departure from quadratic extrapolation when a chunk takes effect.
        jump_rad_s: Largest change of velocity within that tick.
        violations: Ticks at which a command violates a limit.
        plant_rms_rad: RMS error after the plant, against the demonstration after the plant.
        plant_lag_s: Likewise the lag.
        plant_peak_jerk: Peak jerk after the plant.
    """

    rms_rad: float
    lag_s: float
    peak_jerk: float
    rms_jerk: float
    jump_rad: float
    jump_rad_s: float
    violations: int
    plant_rms_rad: float
    plant_lag_s: float
    plant_peak_jerk: float


def score(commands: Array, wanted: Array, handoffs: Array, limits: Limits, from_tick: int) -> Score:
    """Measure one run from a tick on, when the start's error has been closed."""
    jerk = np.diff(commands, 3, axis=0)[from_tick:] / TICK_S**3
    plant = after_plant(np.hstack((commands, wanted)))
    joints = commands.shape[1]
    moved, ideal = plant[:, :joints], plant[:, joints:]
    jumps = handoff_jumps(commands, handoffs[handoffs >= from_tick])
    return Score(
        rms_rad=rms(commands[from_tick:] - wanted[from_tick:]),
        lag_s=lag_s(commands[from_tick:], wanted[from_tick:]),
        peak_jerk=float(np.abs(jerk).max()),
        rms_jerk=rms(jerk),
        jump_rad=jumps[0],
        jump_rad_s=jumps[1],
        violations=violations(commands, limits),
        plant_rms_rad=rms(moved[from_tick:] - ideal[from_tick:]),
        plant_lag_s=lag_s(moved[from_tick:], ideal[from_tick:]),
        plant_peak_jerk=float(np.abs(np.diff(moved, 3, axis=0)[from_tick:]).max() / TICK_S**3),
    )


def rms(values: Array) -> float:
    """Root mean square over everything."""
    return float(np.sqrt(np.square(values).mean()))


def lag_s(rows: Array, wanted: Array) -> float:
    """By how much ``rows`` are late: where the velocities' cross-correlation peaks."""
    a, b = np.diff(rows, axis=0), np.diff(wanted, axis=0)
    most = round(CROSSING_S / TICK_S)
    shifts = np.arange(-most, most + 1)
    inner = slice(most, len(b) - most)
    values = np.array([float((a[most + k : len(a) - most + k] * b[inner]).sum()) for k in shifts])
    # A window of the same length for each shift; its energy differs, so it is divided out.
    energy = np.array([float(np.square(a[most + k : len(a) - most + k]).sum()) for k in shifts])
    values /= np.sqrt(np.maximum(energy, 1e-18))
    best = int(values.argmax())
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2.0 * middle + right
        if bend < 0.0:
            return float((shifts[best] + 0.5 * (left - right) / bend) * TICK_S)
    return float(shifts[best] * TICK_S)


def handoff_jumps(commands: Array, ticks: Array) -> tuple[float, float]:
    """Largest jump of position and of velocity at the ticks when chunks take effect."""
    ticks = ticks[(ticks >= 3) & (ticks < len(commands))]
    if not len(ticks):
        return 0.0, 0.0
    extrapolated = 3.0 * (commands[ticks - 1] - commands[ticks - 2]) + commands[ticks - 3]
    change = commands[ticks] - 2.0 * commands[ticks - 1] + commands[ticks - 2]
    return (
        float(np.abs(commands[ticks] - extrapolated).max()),
        float(np.abs(change).max() / TICK_S),
    )


def violations(commands: Array, limits: Limits) -> int:
    """Ticks at which a position, velocity, acceleration or jerk limit is violated."""
    bad = ((commands > limits.upper_rad + EXCESS) | (commands < limits.lower_rad - EXCESS)).any(1)
    rates = (limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
    for order, top in enumerate(rates, start=1):
        over = np.abs(np.diff(commands, order, axis=0)) / TICK_S**order > top * (1.0 + EXCESS)
        bad[order:] |= over.any(axis=1)
    return int(bad.sum())


def path_deviation(commands: Array, way: Array) -> Array:
    """Distance in joint space of each command from a polyline, radians (Euclidean)."""
    begin, leg = way[:-1], np.diff(way, axis=0)
    length = np.maximum(np.square(leg).sum(axis=1), 1e-18)
    nearest = np.empty(len(commands))
    for index, point in enumerate(commands):
        along = np.clip(((point - begin) * leg).sum(axis=1) / length, 0.0, 1.0)
        off = begin + along[:, None] * leg - point
        nearest[index] = np.sqrt(np.square(off).sum(axis=1).min())
    return nearest


def simulated_limits(profile: str) -> Limits:
    """The limits of the simulated arm."""
    from so101_driver.safety.limits import effective_limits

    return effective_limits(
        data_path("so101_limits.yaml"),
        profile,
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
