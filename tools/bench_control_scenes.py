"""What `bench_control` compares on: demonstrations, chunk streams and limits."""

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
    from scene_objects import object_poses
    from so101_driver.sim.arm_simulation import ArmSimulation
    from wallx_policy.backends.base import BackendSettings, Observation
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
            stamp_ns = round(now_s * 1e9)
            prediction = expert.predict(
                Observation(stamp_ns, {}, arm.joints_rad(), stamp_ns, "", object_poses(arm))
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


def simulated_limits(profile: str) -> Limits:
    """The limits of the simulated arm."""
    from so101_driver.safety.limits import effective_limits

    return effective_limits(
        data_path("so101_limits.yaml"),
        profile,
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
