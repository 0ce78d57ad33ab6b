"""What was given up leaves nothing behind: no path, no scale, no share of clipped motion.

Each of these survived as a mutant once.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from proof.scenario import limits_of, surroundings
from proof.world import World
from so101_driver.safety import Chunk, EventKind, Limit, Mode, OperatorEvent, Settings, State

READY_RAD = np.array([0.0, -0.6, 0.5, 1.1, 0.0, 0.3])
ASIDE_RAD = READY_RAD + np.array([0.8, 0.0, 0.0, 0.0, 0.0, 0.0])


def chunk_to(world: World, target: np.ndarray, seconds: float) -> Chunk:
    points = world.goal + np.linspace(0.0, 1.0, 25)[:, None] * (target - world.goal)
    step_ns = round(seconds * 1e9 / 24)
    offsets = tuple(i * step_ns for i in range(25))
    names = world.limits.joint_names
    return Chunk(world.ros_ns, "policy", 1, world.tick, names, points.tolist(), offsets, 0.0, 1)


def ask(world: World, kind: EventKind, **details) -> bool:
    command = world.step(events=(OperatorEvent(kind, 7, **details),))
    return all(result.success for result in command.results)


def run_for(world: World, ticks: int) -> None:
    for _ in range(ticks):
        world.step()


@pytest.fixture
def world():
    world = World(
        limits_of("cautious"),
        Settings(mode=Mode.FULL, scaled_radius_rad=0.2, scale=0.1),
        surroundings(cluttered=False).geometry,
        READY_RAD,
        supply_v=5.0,
        torque_on=True,
    )
    run_for(world, 60)
    assert ask(world, EventKind.ARM)
    run_for(world, 30)
    assert world.state is State.HOLD
    return world


def test_a_path_from_before_a_stop_does_not_live_on(world):
    world.step((chunk_to(world, ASIDE_RAD, 3.0),))
    run_for(world, 60)
    ask(world, EventKind.ESTOP)
    run_for(world, 60)
    assert ask(world, EventKind.RESET) and ask(world, EventKind.ARM)
    stands = np.array(world.goal)
    world.step((chunk_to(world, stands, 1.0),))
    run_for(world, 60)
    assert world.state is State.TRACKING
    np.testing.assert_allclose(world.goal, stands, atol=2e-3)


def test_full_mode_after_scaled_knows_neither_scale_nor_neighbourhood(world):
    assert ask(world, EventKind.SET_MODE, mode=Mode.SCALED)
    begun = np.array(world.goal)
    world.step((chunk_to(world, ASIDE_RAD, 1.5),))
    run_for(world, 300)
    assert 0.01 < np.abs(world.goal - begun).max() < 0.2
    assert ask(world, EventKind.SET_MODE, mode=Mode.FULL)
    world.step((chunk_to(world, ASIDE_RAD, 1.5),))
    run_for(world, 300)
    np.testing.assert_allclose(world.goal, ASIDE_RAD, atol=0.02)


def test_a_new_neighbourhood_begins_where_scaled_mode_does(world):
    """Once it has been left and taken again, at the pose of that time."""
    assert ask(world, EventKind.SET_MODE, mode=Mode.SCALED)
    assert ask(world, EventKind.SET_MODE, mode=Mode.FULL)
    world.step((chunk_to(world, ASIDE_RAD, 1.5),))
    run_for(world, 300)
    assert ask(world, EventKind.SET_MODE, mode=Mode.SCALED)
    for _ in range(6):
        world.step((chunk_to(world, ASIDE_RAD + 0.5, 0.5),))
        run_for(world, 80)
    moved = (world.goal - ASIDE_RAD)[:5]
    assert (moved > 0.01).all() and (moved <= 0.21).all()


def test_what_was_clipped_before_arming_again_is_forgotten(world):
    world.step((chunk_to(world, READY_RAD + 6.0, 0.5),))
    run_for(world, 20)
    status = world.supervisor.status(world.steady_ns)
    assert status.intent_clipped > 0.1
    ask(world, EventKind.ESTOP)
    run_for(world, 40)
    assert ask(world, EventKind.RESET) and ask(world, EventKind.ARM)
    assert world.supervisor.status(world.steady_ns).intent_clipped == 0.0


@pytest.mark.parametrize("kind", [EventKind.ESTOP, EventKind.DISARM])
def test_a_request_to_arm_that_is_given_up_is_answered(kind):
    world = World(limits_of("cautious"), Settings(mode=Mode.FULL), None, READY_RAD)
    run_for(world, 3)
    world.step(events=(OperatorEvent(EventKind.ARM, 11),))
    command = world.step(events=(OperatorEvent(kind, 12),))
    answers = {result.number: result.success for result in command.results}
    assert answers == {11: False, 12: True}
    # The driver's torque comes nevertheless: nothing is armed by it.
    run_for(world, 20)
    assert world.torque and world.state is not State.HOLD


def test_a_motion_beyond_every_limit_says_which_limits_acted(world):
    world.step((chunk_to(world, READY_RAD + 6.0, 0.3),))
    acted = Limit(0)
    for _ in range(120):
        acted |= world.step().active_limits
    assert {Limit.POSITION, Limit.VELOCITY, Limit.ACCELERATION, Limit.JERK} <= set(acted)


def test_an_unknown_supply_counts_as_the_slowest_servo(world):
    assert world.limits.servo_part(math.nan).velocity_rad_s == 2.5


def test_wider_limits_of_urdf_and_calibration_widen_nothing():
    limits = limits_of("cautious")
    wide = np.array([[-9.0, 9.0]] * 6)
    same = limits.intersected(wide, wide)
    np.testing.assert_array_equal(same.lower_rad, limits.lower_rad)
    np.testing.assert_array_equal(same.upper_rad, limits.upper_rad)
    np.testing.assert_array_equal(same.rest_rad, limits.rest_rad)


def test_no_chunk_is_taken_while_a_parking_arm_brakes(world):
    world.step((chunk_to(world, ASIDE_RAD, 3.0),))
    run_for(world, 100)
    assert ask(world, EventKind.PARK)
    run_for(world, 60)
    assert world.state is State.PARKING
    ask(world, EventKind.SET_MODE, mode=Mode.SCALED)
    states = set()
    for _ in range(60):
        states.add(world.step((chunk_to(world, ASIDE_RAD, 1.0),)).state)
    assert State.TRACKING not in states and world.state is State.DISARMED


@pytest.mark.parametrize("kind", [EventKind.ESTOP, EventKind.DISARM])
def test_what_was_stopped_on_purpose_does_not_arm_itself(kind):
    world = World(
        limits_of("cautious"),
        Settings(mode=Mode.FULL, auto_arm=True),
        None,
        READY_RAD,
        torque_on=True,
    )
    run_for(world, 3)
    ask(world, kind)
    ask(world, EventKind.RESET)
    for _ in range(100):
        world.step((chunk_to(world, READY_RAD, 1.0),))
    assert world.state is State.DISARMED
    assert ask(world, EventKind.ARM) and world.state is State.HOLD
