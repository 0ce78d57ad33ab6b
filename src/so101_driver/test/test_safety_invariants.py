"""Whatever comes in, what goes out is legal.

The short form of ``make fuzz-safety``: random scenarios, and a state machine of hypothesis that
looks for the shortest sequence that breaks something. Judged by tools/proof, which shares no code
with the safety layer and has its own tests.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from proof.checker import Bounds, Checker
from proof.scenario import Outcome, brake_path, limits_of, plain_arm, run, surroundings
from proof.world import LIMITS_FILE, Weather, World
from so101_driver.safety import (
    Blend,
    Chunk,
    DriverState,
    EventKind,
    Limit,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
)

SEEDS = range(2, 16)
STEPS = 700
JOINTS = st.sampled_from(
    ["none", "nan", "infinite", "old", "future", "short", "repeated", "teleport"]
)
VALUES = st.one_of(
    st.floats(-4.0, 4.0), st.sampled_from([float("nan"), float("inf"), -1e308, 12.6, 0.0])
)


@cache
def outcome_of(seed: int) -> Outcome:
    return run(seed, STEPS, brakes_every=8)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_input_never_makes_a_command_or_a_brake_illegal(seed):
    outcome = outcome_of(seed)
    assert outcome.violations == []
    assert outcome.steps == STEPS


def test_the_random_runs_reach_every_state_and_most_limits():
    """Or they would prove little."""
    outcomes = {seed: outcome_of(seed) for seed in SEEDS}
    states, limits = Counter(), Counter()
    for outcome in outcomes.values():
        states += outcome.states
        limits += outcome.limits
    assert set(states) == {state.name for state in State}
    seldom = {"JOINT_BLOCKED", "DESYNC", "OTHER_SOURCE", "SUPPLY"}
    assert {limit.name for limit in Limit} - set(limits) <= seldom
    assert sum(outcome.armed for outcome in outcomes.values()) > 0.6 * len(SEEDS) * STEPS
    assert sum(outcome.brakes for outcome in outcomes.values()) > 200


def test_a_scenario_follows_from_its_seed_alone():
    first, again = run(3, 300, brakes_every=5), run(3, 300, brakes_every=5)
    assert (first.states, first.limits, first.brakes) == (again.states, again.limits, again.brakes)


def world_of(**changes) -> World:
    start = np.array([0.0, -0.6, 0.5, 1.1, 0.0, 0.3])
    return World(
        limits_of("cautious"),
        Settings(mode=Mode.FULL, **changes),
        surroundings(cluttered=False).geometry,
        start,
        supply_v=5.0,
    )


def chunk_to(world: World, target: np.ndarray, seconds: float = 1.0, count: int = 25) -> Chunk:
    step_ns = round(seconds * 1e9 / count)
    shares = np.arange(count)[:, None] / max(count - 1, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        points = world.goal + shares * (target - world.goal)
    return Chunk(
        world.ros_ns,
        "policy",
        1,
        world.tick,
        world.limits.joint_names,
        points.tolist(),
        tuple(i * step_ns for i in range(count)),
        0.0,
        1,
    )


def armed(world: World) -> None:
    world.step()
    world.step(events=(OperatorEvent(EventKind.ARM, 1),))
    for _ in range(20):
        world.step()
    assert world.state is State.HOLD


def test_a_stop_does_not_go_on_with_a_motion_that_was_given_up():
    """Disarmed in motion because the driver does not follow, then stopped: nothing is commanded."""
    world = world_of()
    armed(world)
    for _ in range(40):
        world.step()
    world.step((chunk_to(world, world.goal + 0.4),))
    for _ in range(30):
        world.step()
    assert world.command.velocities_rad_s.any()
    world.step(weather=Weather(desync=True))
    assert world.state is State.DISARMED
    for _ in range(10):
        command = world.step(events=(OperatorEvent(EventKind.ESTOP, 2),))
        assert command.state is State.ESTOP and command.output is Output.NONE


class Operation(RuleBasedStateMachine):
    """Operators, policies, drivers and clocks as hypothesis likes; see the module's docstring."""

    around: ClassVar = surroundings(cluttered=True)
    checker: ClassVar = Checker(
        Bounds.read(LIMITS_FILE, "cautious", 5.0), 0.01, plain_arm(), around.plain
    )

    @initialize(
        blend=st.sampled_from(Blend),
        mode=st.sampled_from([Mode.FULL, Mode.FULL, Mode.SCALED, Mode.SHADOW]),
        start=st.integers(0, 999),
        torque=st.booleans(),
    )
    def begin(self, blend, mode, start, torque):
        legal = self.around.poses.legal
        self.world = World(
            limits_of("cautious"),
            Settings(mode=mode, blend=blend, scale=0.2),
            self.around.geometry,
            legal[start % len(legal)],
            supply_v=5.0,
            torque_on=torque,
        )
        self.checked = (0, 0)
        self.session = 1
        self.run_for(2)
        self.world.step(events=(OperatorEvent(EventKind.ARM, 1),))
        self.run_for(8)

    def run_for(self, ticks: int, **weather) -> None:
        for _ in range(ticks):
            self.world.step(weather=Weather(**weather))

    @rule(
        kind=st.integers(0, 4),
        pose=st.integers(0, 999),
        count=st.sampled_from([1, 2, 5, 25, 50]),
        seconds=st.sampled_from([0.1, 0.5, 2.0]),
        committed=st.sampled_from([0, 0, 3, 60]),
        ticks=st.integers(1, 60),
    )
    def send(self, kind, pose, count, seconds, committed, ticks):
        poses = self.around.poses
        group = poses.legal if kind == 4 else poses.illegal[kind % len(poses.illegal)]
        chunk = chunk_to(self.world, group[pose % len(group)], seconds, count)
        self.deliver(chunk, committed, ticks)

    @rule(values=st.lists(VALUES, min_size=6, max_size=6), ticks=st.integers(1, 30))
    def send_values(self, values, ticks):
        self.deliver(chunk_to(self.world, np.array(values), 0.4, 8), 0, ticks)

    def deliver(self, chunk: Chunk, committed: int, ticks: int) -> None:
        fields = {name: getattr(chunk, name) for name in Chunk.__dataclass_fields__}
        fields.update(session=self.session, committed_steps=committed)
        self.world.step((Chunk(**fields),))
        self.run_for(ticks)

    @rule()
    def restart_the_policy(self):
        self.session += 1

    @rule(
        kind=st.sampled_from([k for k in EventKind if k is not EventKind.DEADMAN]),
        mode=st.sampled_from([None, *Mode]),
        scale=st.sampled_from([0.0, 0.1, float("nan")]),
        ticks=st.integers(0, 40),
    )
    def ask(self, kind, mode, scale, ticks):
        self.world.step(events=(OperatorEvent(kind, 2, mode, scale, "policy"),))
        self.run_for(ticks)

    @precondition(lambda self: self.world.state in (State.ESTOP, State.FAULT, State.DISARMED))
    @rule()
    def recover(self):
        self.run_for(60)
        self.world.step(events=(OperatorEvent(EventKind.RESET, 3),))
        self.world.step(events=(OperatorEvent(EventKind.ARM, 4),))
        self.run_for(8)

    @rule(joints=JOINTS, ticks=st.integers(1, 30))
    def measure_badly(self, joints, ticks):
        self.run_for(ticks, joints=joints)

    @rule(driver=st.sampled_from([None, *DriverState]), ticks=st.integers(1, 120))
    def report(self, driver, ticks):
        self.run_for(ticks, driver=driver)

    @rule(desync=st.booleans(), skipped=st.integers(0, 30))
    def disturb(self, desync, skipped):
        self.run_for(1, desync=desync, skipped=skipped)

    @rule(jump_ns=st.sampled_from([-(10**11), -(10**8), 4 * 10**7, 10**9, 2**60]))
    def jump(self, jump_ns):
        self.run_for(1, jump_ns=jump_ns)

    @rule(joints=st.lists(st.integers(0, 5), min_size=1, max_size=3), ticks=st.integers(5, 80))
    def touch(self, joints, ticks):
        self.run_for(ticks, jam=tuple(joints))

    @invariant()
    def what_was_commanded_is_legal(self):
        if not hasattr(self, "world"):
            return
        number, row = self.checked
        segments = self.world.segments
        for index in range(number, len(segments)):
            rows = np.array(segments[index].rows)
            begin = row if index == number else 0
            if begin < len(rows):
                # Three commands before are needed; the first of a segment comes from rest.
                before = None if begin == 0 else rows[[max(begin - k, 0) for k in (3, 2, 1)]]
                assert self.checker.check(rows[begin:], before) == []
        if segments:
            self.checked = (len(segments) - 1, len(segments[-1].rows))

    @invariant()
    def it_can_always_brake(self):
        if hasattr(self, "world") and self.world.command.output is not Output.NONE:
            path = brake_path(self.world)
            assert len(path) == 3 or self.checker.check_many(path[None]) == []


def test_no_sequence_of_operations_makes_a_command_illegal():
    run_state_machine_as_test(
        Operation,
        settings=settings(
            max_examples=8,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
