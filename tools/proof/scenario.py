"""One random scenario from a seed: drawn, run, and judged by the independent checker."""

from __future__ import annotations

import copy
import copyreg
import math
import random
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from ruckig import Trajectory
from so101_driver.safety import (
    Blend,
    EventKind,
    Limit,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
)
from so101_driver.safety.geometry import Geometry

from proof.adversary import Adversary, Poses
from proof.checker import Bounds, Checker
from proof.plain_geometry import PlainArm, PlainGeometry
from proof.world import GEOMETRY_FILE, LIMITS_FILE, URDF_FILE, World, shipped_geometry

Array = NDArray[np.float64]

PROFILES = ("cautious", "demo")
RATES_HZ = (50, 100, 100, 100, 125, 200, 250)
SUPPLIES_V = (math.nan, 5.0, 7.4, 12.0, 12.3)
BRAKE_S = 4.0
"""No brake takes longer."""

# What never changes once made is shared with copies instead of copied.
for shared in (Trajectory, Geometry, Limits, Settings):
    copyreg.pickle(shared, lambda _: "shared")


@dataclass(slots=True)
class Outcome:
    """What a scenario did.

    Attributes:
        seed: Replays it.
        steps: Steps done.
        armed: Steps that commanded something.
        brakes: States from which the brake was run to its end and checked.
        states: Steps spent in each state.
        transitions: Changes of state, "HOLD to TRACKING".
        limits: How often each limit acted.
        violations: Sentences; empty is the aim.
        seconds: Time it took.
    """

    seed: int
    steps: int = 0
    armed: int = 0
    brakes: int = 0
    states: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


@lru_cache(maxsize=1)
def plain_arm() -> PlainArm:
    """The checker's own forward kinematics."""
    return PlainArm(URDF_FILE, tuple(limits_of("cautious").joint_names))


@lru_cache(maxsize=1)
def plain_geometry() -> PlainGeometry:
    """The checker's own distances."""
    return PlainGeometry(GEOMETRY_FILE, plain_arm())


@lru_cache(maxsize=4)
def limits_of(profile: str) -> Limits:
    """Limits of the file, as the code under test reads them."""
    return Limits.from_file(LIMITS_FILE, profile)


@lru_cache(maxsize=1)
def geometry() -> Geometry:
    """The geometry under test."""
    return shipped_geometry(limits_of("cautious"))


@lru_cache(maxsize=1)
def poses() -> Poses:
    """Random poses, told apart by the checker's distances."""
    draw = np.random.default_rng(0)
    bounds = Bounds.read(LIMITS_FILE, "cautious")
    every = draw.uniform(bounds.lower, bounds.upper, (3000, len(bounds.names)))
    fine = (plain_geometry().clearances(every) >= 0.0).all(axis=1)
    return Poses(every[fine], every[~fine])


def draw_world(seed: int) -> tuple[World, Checker]:
    """The world of a scenario and the checker for it."""
    draw = random.Random(seed ^ 0x5AFE)
    profile = draw.choice(PROFILES)
    limits = limits_of(profile)
    narrower = [plain_arm().ranges]
    calibrated = None
    if draw.random() < 0.3:
        # Another arm's calibration: its stops lie somewhere else.
        calibrated = np.array(
            [
                [low + draw.uniform(-0.2, 0.6), high - draw.uniform(-0.2, 0.6)]
                for low, high in plain_arm().ranges
            ]
        )
        narrower.append(calibrated)
    limits = limits.intersected(plain_arm().ranges, calibrated)
    settings = Settings(
        period_s=1.0 / draw.choice(RATES_HZ),
        mode=draw.choice([Mode.FULL, Mode.FULL, Mode.FULL, Mode.SCALED, Mode.SHADOW]),
        scale=draw.choice([0.1, 0.15, 0.2]),
        auto_arm=draw.random() < 0.2,
        deadman_required=draw.random() < 0.2,
        source=draw.choice(["", "", "policy"]),
        chunk_timeout_s=draw.choice([0.0, 0.0, 0.0, 0.3]),
        scaled_gripper=draw.random() < 0.3,
        scaled_radius_rad=draw.choice([0.5, 0.5, 0.1]),
        blend=draw.choice([Blend.LATEST, Blend.LATEST, Blend.ENSEMBLE, Blend.HALF]),
        join_s=draw.choice([0.1, 0.1, 0.0, 0.3]),
        half_share=draw.choice([0.5, 0.2, 1.0]),
        watch_following=draw.random() < 0.7,
        needs_driver=draw.random() < 0.9,
    )
    guarded = draw.random() < 0.85
    supply_v = draw.choice(SUPPLIES_V)
    start = _start(draw, limits)
    world = World(
        limits,
        settings,
        geometry() if guarded else None,
        start,
        supply_v,
        torque_on=draw.random() < 0.5,
    )
    bounds = Bounds.read(LIMITS_FILE, profile, supply_v, narrower)
    checker = Checker(
        bounds,
        settings.period_s,
        plain_arm() if guarded else None,
        plain_geometry() if guarded else None,
    )
    return world, checker


def _start(draw: random.Random, limits: Limits) -> Array:
    """A legal pose, one just outside the limits, or one inside a region."""
    kind = draw.random()
    known = poses()
    if kind < 0.6:
        start = known.legal[draw.randrange(len(known.legal))]
        return np.clip(start, limits.lower_rad, limits.upper_rad)
    if kind < 0.75:
        start = known.legal[draw.randrange(len(known.legal))].copy()
        for joint in draw.sample(range(len(start)), draw.choice([1, 2, len(start)])):
            beyond = draw.uniform(-0.05, 1.05 * limits.recoverable_violation_rad)
            low, high = limits.lower_rad[joint], limits.upper_rad[joint]
            start[joint] = draw.choice([low - beyond, high + beyond])
        return start
    if kind < 0.9:
        # The folded arm: it rests on its stops and on itself.
        folded = np.where(np.isnan(limits.rest_rad), 0.1, limits.rest_rad)
        return folded + np.array([draw.uniform(-0.15, 0.15) for _ in folded])
    start = known.illegal[draw.randrange(len(known.illegal))]
    depth = plain_geometry().clearances(start[None])[0].min()
    if depth < -0.03:
        # Half way to a legal pose there may be one that only just violates.
        for share in np.linspace(0.0, 1.0, 40):
            between = start + share * (known.legal[0] - start)
            if plain_geometry().clearances(between[None])[0].min() > -0.018:
                return between
    return start


def run(seed: int, steps: int, brakes_every: int) -> Outcome:
    """Run and judge a scenario; never raises for what the code under test does."""
    begun_s = time.perf_counter()
    outcome = Outcome(seed)
    with np.errstate(all="ignore"):
        world, checker = draw_world(seed)
        adversary = Adversary(world, poses(), seed)
        picker = random.Random(seed + 1)
        brakes: list[Array] = []
        before = State.DISARMED
        try:
            while outcome.steps < steps:
                adversary.step()
                outcome.steps += 1
                command = world.command
                assert command is not None
                outcome.states[command.state.name] += 1
                if command.state is not before:
                    outcome.transitions[f"{before.name} to {command.state.name}"] += 1
                    before = command.state
                if command.output is not Output.NONE:
                    outcome.armed += 1
                    if brakes_every and picker.randrange(brakes_every) == 0:
                        brakes.append(brake_path(world))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            text = f"step {outcome.steps}: {type(error).__name__} in {place}: {error}"
            outcome.violations.append(text)
        for limit, count in world.supervisor.status(world.steady_ns).counts.items():
            outcome.limits[Limit(limit).name or ""] += count
        outcome.brakes = len(brakes)
        outcome.violations += judge(world, checker, brakes)
    outcome.seconds = time.perf_counter() - begun_s
    return outcome


def judge(world: World, checker: Checker, brakes: list[Array]) -> list[str]:
    """What the checker finds in a world's record."""
    found = []
    for number, segment in enumerate(world.segments):
        for violation in checker.check(np.array(segment.rows)):
            found.append(f"segment {number} of {len(segment.rows)} commands, {violation}")
    longest = max((len(path) for path in brakes), default=0)
    if longest > 3:
        padded = np.array(
            [np.vstack((path, np.repeat(path[-1:], longest - len(path), 0))) for path in brakes]
        )
        found += [f"brake, {violation}" for violation in checker.check_many(padded)]
    return found


def brake_path(world: World) -> Array:
    """Stop a copy of the supervisor: its last three commands and those until it rests.

    Raises AssertionError when it does not come to rest.
    """
    rows = world.segments[-1].rows
    path = [rows[max(len(rows) - back, 0)] for back in (3, 2, 1)]
    supervisor = copy.deepcopy(world.supervisor)
    tick, steady_ns, ros_ns = world.tick, world.steady_ns, world.ros_ns
    events = (OperatorEvent(EventKind.ESTOP),)
    for _ in range(round(BRAKE_S / world.settings.period_s)):
        tick += 1
        steady_ns += world.period_ns
        ros_ns += world.period_ns
        command = supervisor.step(tick, steady_ns, ros_ns, world.arm, (), events)
        events = ()
        if command.output is Output.NONE:
            break
        assert command.positions_rad is not None
        path.append(np.array(command.positions_rad))
    else:
        raise AssertionError("the brake does not end")
    if len(path) > 3:
        assert np.abs(path[-1] - path[-2]).max() <= 1e-9, "the brake ends in motion"
    return np.array(path)
