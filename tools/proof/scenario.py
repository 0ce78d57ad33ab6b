"""One random scenario from a seed: drawn, run, and judged by the independent checker."""

from __future__ import annotations

import copy
import copyreg
import math
import random
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from ruckig import Trajectory
from so101_driver.kinematics import Kinematics
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
from so101_driver.safety.geometry_file import load_geometry

from proof.adversary import Adversary, Poses
from proof.checker import Bounds, Checker
from proof.plain_geometry import PlainArm, PlainGeometry
from proof.world import GEOMETRY_FILE, LIMITS_FILE, URDF_FILE, World

Array = NDArray[np.float64]

PROFILES = ("cautious", "demo")
RATES_HZ = (50, 100, 100, 100, 125, 200, 250)
SUPPLIES_V = (math.nan, 5.0, 7.4, 12.0, 12.3)
BRAKE_S = 4.0
"""No brake takes longer."""

# What never changes once made is shared with copies instead of copied.
for shared in (Trajectory, Geometry, Limits, Settings):
    copyreg.pickle(shared, lambda _: "shared")


@dataclass(frozen=True, slots=True, eq=False)
class Brake:
    """Commands from a state to rest, and the supply with which the arm was armed."""

    supply_v: float
    path: Array


class Judge:
    """The checker with the limits that hold in a world: its servos', by the supply."""

    def __init__(
        self,
        profile: str,
        narrower: tuple[Array, ...],
        period_s: float,
        plain: PlainGeometry | None,
    ) -> None:
        """``narrower`` are position ranges beside the file's; no geometry is checked for None."""
        self._profile, self._narrower = profile, narrower
        self._period_s, self._plain = period_s, plain

    def checker(self, supply_v: float) -> Checker:
        """The checker of a segment that was armed with this supply."""
        bounds = Bounds.read(LIMITS_FILE, self._profile, supply_v, self._narrower)
        arm = None if self._plain is None else plain_arm()
        return Checker(bounds, self._period_s, arm, self._plain)

    def violations(self, world: World, brakes: list[Brake]) -> list[str]:
        """What is illegal in a world's record, and in brakes from its states."""
        found = []
        for number, segment in enumerate(world.segments):
            for violation in self.checker(segment.supply_v).check(np.array(segment.rows)):
                found.append(f"segment {number} of {len(segment.rows)} commands, {violation}")
        for supply_v in {repr(brake.supply_v): brake.supply_v for brake in brakes}.values():
            paths = [b.path for b in brakes if repr(b.supply_v) == repr(supply_v)]
            longest = max(len(path) for path in paths)
            if longest > 3:
                padded = [np.pad(p, ((0, longest - len(p)), (0, 0)), mode="edge") for p in paths]
                problems = self.checker(supply_v).check_many(np.array(padded))
                found += [f"brake, {problem}" for problem in problems]
        return found


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


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """A geometry file as the code under test and as the checker read it, and poses told apart."""

    geometry: Geometry
    plain: PlainGeometry
    poses: Poses


@lru_cache(maxsize=1)
def plain_arm() -> PlainArm:
    """The checker's own forward kinematics."""
    return PlainArm(URDF_FILE, tuple(limits_of("cautious").joint_names))


@lru_cache(maxsize=4)
def limits_of(profile: str) -> Limits:
    """Limits of the file, as the code under test reads them."""
    return Limits.from_file(LIMITS_FILE, profile)


@lru_cache(maxsize=2)
def surroundings(cluttered: bool) -> Surroundings:
    """The shipped geometry, or one with a tilted, lower table and things around the arm."""
    if not cluttered:
        return _surroundings(GEOMETRY_FILE)
    content = yaml.safe_load(GEOMETRY_FILE.read_text(encoding="utf-8"))
    content["table"].update(point_m=[0.2, 0.0, -0.02], normal=[0.1, -0.05, 1.0])
    content["boxes"]["list"] = {
        "post": {"centre_m": [0.3, 0.2, 0.2], "size_m": [0.04, 0.04, 0.5], "rpy_rad": [0, 0, 0.5]},
        "shelf": {"centre_m": [0.2, -0.2, 0.3], "size_m": [0.3, 0.1, 0.02], "rpy_rad": [0.2, 0, 0]},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "geometry.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return _surroundings(path)


def _surroundings(path: Path) -> Surroundings:
    plain = PlainGeometry(path, plain_arm())
    draw = np.random.default_rng(0)
    bounds = Bounds.read(LIMITS_FILE, "cautious")
    every = draw.uniform(bounds.lower, bounds.upper, (6000, len(bounds.names)))
    clear = plain.clearances(every)
    kinds = np.array([_kind(name) for name in plain.names])
    illegal = tuple(every[(clear[:, kinds == kind] < 0.0).any(axis=1)] for kind in np.unique(kinds))
    limits = limits_of("cautious")
    geometry = load_geometry(path, Kinematics.from_urdf(URDF_FILE), limits.joint_names)
    return Surroundings(geometry, plain, Poses(every[(clear >= 0.0).all(axis=1)], illegal))


def _kind(name: str) -> str:
    for kind in ("the table", "tip to", "to box"):
        if kind in name:
            return kind
    return "itself"


def draw_world(seed: int) -> tuple[World, Judge, Poses]:
    """The world of a scenario, the judge of it, and poses to go for."""
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
    around = surroundings(cluttered=draw.random() < 0.3)
    supply_v = draw.choice(SUPPLIES_V)
    start = _start(draw, limits, around)
    world = World(
        limits,
        settings,
        around.geometry if guarded else None,
        start,
        supply_v,
        torque_on=draw.random() < 0.5,
    )
    judge = Judge(profile, tuple(narrower), settings.period_s, around.plain if guarded else None)
    return world, judge, around.poses


def _start(draw: random.Random, limits: Limits, around: Surroundings) -> Array:
    """A legal pose, one just outside the limits, or one inside a region."""
    kind = draw.random()
    legal = around.poses.legal
    start = legal[draw.randrange(len(legal))].copy()
    if kind < 0.6:
        return np.clip(start, limits.lower_rad, limits.upper_rad)
    if kind < 0.75:
        for joint in draw.sample(range(len(start)), draw.choice([1, 2, len(start)])):
            beyond = draw.uniform(-0.05, 1.05 * limits.recoverable_violation_rad)
            low, high = limits.lower_rad[joint], limits.upper_rad[joint]
            start[joint] = draw.choice([low - beyond, high + beyond])
        return start
    if kind < 0.9:
        # The folded arm: it rests on its stops and on itself.
        folded = np.where(np.isnan(limits.rest_rad), 0.1, limits.rest_rad)
        return folded + np.array([draw.uniform(-0.15, 0.15) for _ in folded])
    group = draw.choice(around.poses.illegal)
    inside = group[draw.randrange(len(group))]
    # Somewhere on the way from there to a legal pose, the arm is as deep as wished.
    wished_m = draw.uniform(0.0, 1.1 * around.plain.recoverable_m)
    way = inside + np.linspace(0.0, 1.0, 100)[:, None] * (start - inside)
    depth = -around.plain.clearances(way).min(axis=1)
    return way[int(np.abs(depth - wished_m).argmin())]


def run(seed: int, steps: int, brakes_every: int) -> Outcome:
    """Run and judge a scenario; never raises for what the code under test does."""
    begun_s = time.perf_counter()
    outcome = Outcome(seed)
    with np.errstate(all="ignore"):
        world, judge, poses = draw_world(seed)
        adversary = Adversary(world, poses, seed)
        picker = random.Random(seed + 1)
        brakes: list[Brake] = []
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
                        brakes.append(Brake(world.segments[-1].supply_v, brake_path(world)))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            text = f"step {outcome.steps}: {type(error).__name__} in {place}: {error}"
            outcome.violations.append(text)
        for limit, count in world.supervisor.status(world.steady_ns).counts.items():
            outcome.limits[Limit(limit).name or ""] += count
        outcome.brakes = len(brakes)
        outcome.violations += judge.violations(world, brakes)
    outcome.seconds = time.perf_counter() - begun_s
    return outcome


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
