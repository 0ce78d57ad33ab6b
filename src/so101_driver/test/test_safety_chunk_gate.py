"""What the gate tells of a sender: its clock from the fastest chunk, its promises only if sound."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from so101_driver.safety.chunk_gate import SKEW_CHUNKS, AcceptedChunk, ChunkGate, Refusal
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import ActionKind, Chunk, Limit

JOINTS = ("a", "b")
ROS_NS = 10**18
MS = 1_000_000
CHUNK = Chunk(
    stamp_ns=ROS_NS,
    source="policy",
    session=1,
    sequence=1,
    joint_names=JOINTS,
    points_rad=[[0.0, 0.0], [0.1, 0.1], [0.2, 0.2]],
    offsets_ns=(0, 40 * MS, 80 * MS),
    image_age_s=0.0,
    action_kind=int(ActionKind.GOAL),
    observation_to_publish_s=0.05,
)


def measured(gate: ChunkGate, skew_ms: float, under_way_ms: float, **changes: object) -> float:
    """The skew known after a chunk, 50 ms in the making, of a clock that is ahead."""
    chunk = replace(CHUNK, stamp_ns=ROS_NS + round(skew_ms * MS), **changes)
    gate.measure_skew(chunk, ROS_NS + round((50 + under_way_ms) * MS))
    return 1e3 * gate.skew_s


def test_the_fastest_chunk_tells_the_clocks_difference():
    gate = ChunkGate(JOINTS, Settings())
    assert math.isnan(gate.skew_s)
    assert measured(gate, 20.0, under_way_ms=9.0) == pytest.approx(11.0)
    assert measured(gate, 20.0, under_way_ms=1.0) == pytest.approx(19.0)
    assert measured(gate, 20.0, under_way_ms=30.0) == pytest.approx(19.0)
    # A clock that was set right is believed once the window has passed.
    for _ in range(SKEW_CHUNKS):
        last = measured(gate, 0.0, under_way_ms=2.0)
    assert last == pytest.approx(-2.0)


def test_a_tick_that_runs_late_is_no_skew():
    gate = ChunkGate(JOINTS, Settings())
    arrived_ns = ROS_NS + round(51 * MS)
    late = replace(CHUNK, stamp_ns=ROS_NS, received_ros_ns=arrived_ns)
    gate.measure_skew(late, arrived_ns - round(100 * MS))
    assert 1e3 * gate.skew_s == pytest.approx(-1.0)


def test_skew_is_of_one_sender_and_survives_arming_but_no_jump():
    gate = ChunkGate(JOINTS, Settings())
    measured(gate, 100.0, 0.0)
    gate.restart()
    assert 1e3 * gate.skew_s == pytest.approx(100.0)
    assert measured(gate, 3.0, 0.0, session=2) == pytest.approx(3.0)
    gate.forget()
    assert math.isnan(gate.skew_s)
    gate.offer(CHUNK, 10**9, ROS_NS, any_session=True)
    measured(gate, 3.0, 0.0)
    assert measured(gate, 500.0, 0.0, source="other") == pytest.approx(3.0)


@pytest.mark.parametrize("sending_s", [math.nan, math.inf, -0.1, 1e308])
def test_a_sender_that_does_not_know_its_latency_tells_nothing(sending_s: float):
    gate = ChunkGate(JOINTS, Settings())
    gate.measure_skew(replace(CHUNK, observation_to_publish_s=sending_s), ROS_NS)
    assert math.isnan(gate.skew_s)
    assert isinstance(gate.offer(CHUNK, 10**9, ROS_NS, any_session=True), AcceptedChunk)


@pytest.mark.parametrize(("committed", "sound"), [(0, True), (3, True), (4, False), (-1, False)])
def test_no_more_steps_are_committed_than_there_are(committed: int, sound: bool):
    gate = ChunkGate(JOINTS, Settings())
    answer = gate.offer(replace(CHUNK, committed_steps=committed), 10**9, ROS_NS, any_session=True)
    if sound:
        assert isinstance(answer, AcceptedChunk)
        assert answer.committed_steps == committed
    else:
        assert isinstance(answer, Refusal)
        assert answer.limit is Limit.BAD_CHUNK
        assert "committed" in answer.reason
