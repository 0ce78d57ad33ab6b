"""Times and limits act where they say, not five per cent later: what mutants showed untested."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety.arm_watch import ArmWatch
from so101_driver.safety.chunk_gate import AcceptedChunk, ChunkGate, Refusal
from so101_driver.safety.contact import FollowingWatch
from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import ActionKind, Chunk, JointReading, Limit

STEADY_NS, ROS_NS, MS = 10**10, 10**18, 1_000_000
CHUNK = Chunk(
    stamp_ns=ROS_NS,
    source="policy",
    session=1,
    sequence=1,
    joint_names=("a", "b"),
    points_rad=[[0.0, 0.0], [0.1, 0.1], [0.2, 0.2]],
    offsets_ns=(0, 500 * MS, 1000 * MS),
    image_age_s=0.0,
    action_kind=int(ActionKind.GOAL),
)


def offer(gate: ChunkGate, late_ms: float = 0.0, **changes: object) -> AcceptedChunk | Refusal:
    return gate.offer(
        replace(CHUNK, **changes), STEADY_NS, ROS_NS + round(late_ms * MS), any_session=False
    )


def test_a_chunk_may_be_as_late_as_the_timeout_and_no_later():
    gate = ChunkGate(("a", "b"), Settings(chunk_timeout_s=0.4))
    assert isinstance(offer(gate, 399.0), AcceptedChunk)
    refusal = offer(ChunkGate(("a", "b"), Settings(chunk_timeout_s=0.4)), 401.0)
    assert isinstance(refusal, Refusal)
    assert refusal.limit is Limit.STALE_CHUNK


def test_a_chunk_is_fresh_until_the_timeout():
    gate = ChunkGate(("a", "b"), Settings(chunk_timeout_s=0.4))
    offer(gate)
    assert gate.fresh(STEADY_NS + 399 * MS)
    assert not gate.fresh(STEADY_NS + 401 * MS)


def test_a_single_point_is_a_goal_for_a_bounded_time_only():
    """However far apart they come: no horizon says when a goal is no longer wanted."""
    gate, point = (
        ChunkGate(("a", "b"), Settings()),
        {"points_rad": [[0.1, 0.1]], "offsets_ns": (0,)},
    )
    offer(gate, **point)
    later_ns = 10 * 10**9
    chunk = replace(CHUNK, sequence=2, stamp_ns=ROS_NS + later_ns, **point)
    now_ns = STEADY_NS + later_ns
    assert isinstance(
        gate.offer(chunk, now_ns, ROS_NS + later_ns, any_session=False), AcceptedChunk
    )
    assert gate.fresh(now_ns + 4_990 * MS)
    assert not gate.fresh(now_ns + 5_010 * MS)


def test_reached_positions_are_executed_early_by_the_servos_delay():
    settings = Settings(state_lookahead_s=0.1)
    goal = offer(ChunkGate(("a", "b"), settings))
    state = offer(ChunkGate(("a", "b"), settings), action_kind=int(ActionKind.STATE))
    assert isinstance(goal, AcceptedChunk)
    assert isinstance(state, AcceptedChunk)
    assert goal.first_due_ns == STEADY_NS
    assert state.first_due_ns == STEADY_NS - 100 * MS


def test_a_later_chunk_with_an_older_observation_is_out_of_order():
    gate = ChunkGate(("a", "b"), Settings())
    offer(gate)
    refusal = offer(gate, sequence=2, stamp_ns=ROS_NS - 1)
    assert isinstance(refusal, Refusal)
    assert refusal.limit is Limit.STALE_CHUNK
    assert "older observation" in refusal.reason


@pytest.mark.parametrize(("positions", "words"), [((0.0,), "list 1"), ((0.0, math.nan), "b is")])
def test_an_incomplete_measurement_counts_as_stale(positions: tuple[float, ...], words: str):
    watch = ArmWatch(("a", "b"), Settings())
    reading = JointReading(positions, ROS_NS, STEADY_NS)
    assert watch.update(reading, STEADY_NS, ROS_NS) is Limit.STALE_STATE
    assert words in watch.problem
    assert watch.fresh_reading(STEADY_NS) is None


@pytest.mark.parametrize("dead_time_s", [0.05, 0.085, 0.12])
def test_the_expected_position_begins_to_move_after_the_dead_time(dead_time_s: float):
    limits = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
    settings = Settings(servo_dead_time_s=dead_time_s, servo_lag_s=0.03)
    watch = FollowingWatch(limits, settings)
    watch.start(np.zeros(len(JOINT_NAMES)))
    speed = 1.0
    for tick in range(1, 301):
        watch.update(np.full(len(JOINT_NAMES), speed * tick * 0.01), None)
    # At constant speed it is behind by the dead time and the lag, to a tick.
    behind_s = 3.0 - watch.expected_rad[0] / speed
    assert behind_s == pytest.approx(dead_time_s + 0.03, abs=0.001)


@pytest.mark.parametrize(("jump_ms", "counted"), [(49.0, 0), (-49.0, 0), (51.0, 1), (-51.0, 1)])
def test_ros_time_may_step_by_the_largest_skew(new_scene, jump_ms: float, counted: int):
    scene = new_scene().arm()
    before = scene.status.counts[Limit.CLOCK]
    scene.ros_offset_ns += round(jump_ms * MS)
    scene.step()
    assert scene.status.counts[Limit.CLOCK] - before == counted
