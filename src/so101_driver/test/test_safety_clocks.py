"""No clock may move the arm: skew is said and refused, jumps, repeats and disorder are survived."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.safety import EventKind, Limit, State

GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)


def skewed(scene: Any, skew_s: float, latency_s: float = 0.05, **changes: Any) -> Any:
    """A chunk ``latency_s`` old, of which its sender knows, by a clock that is ``skew_s`` ahead."""
    return scene.chunk(age_s=latency_s - skew_s, observation_to_publish_s=latency_s, **changes)


@pytest.mark.parametrize("skew_s", [0.03, -0.03])
def test_skew_is_said_and_counted_once_while_chunks_are_followed(new_scene: Any, skew_s: float):
    scene = new_scene().arm()
    for _ in range(20):
        scene.step(chunks=(skewed(scene, skew_s),), ticks=8)
    assert scene.last.state is State.TRACKING
    side = "ahead of" if skew_s > 0.0 else "behind"
    assert f"clock of the chunks' sender is 30 ms {side} this one" in scene.status.reason
    assert scene.status.reason.startswith("following chunks of 'policy'")
    assert scene.status.counts[Limit.CLOCK] == 1
    assert scene.status.clock_skew_s == pytest.approx(skew_s, abs=1e-6)
    # A sender that has gone is not spoken of; one whose clock was set right begins a new session.
    scene.step(ticks=210)
    assert "clock" not in scene.status.reason
    for _ in range(3):
        scene.step(chunks=(skewed(scene, 0.0, session=2),), ticks=8)
    assert "clock" not in scene.status.reason


def test_a_little_skew_is_not_said(new_scene: Any):
    scene = new_scene().arm()
    for _ in range(5):
        scene.step(chunks=(skewed(scene, 0.009),), ticks=8)
    assert "clock" not in scene.status.reason
    assert scene.status.counts[Limit.CLOCK] == 0


@pytest.mark.parametrize(("skew_s", "refused"), [(0.049, False), (0.051, True), (-0.06, True)])
def test_much_skew_refuses_to_arm(new_scene: Any, skew_s: float, refused: bool):
    scene = new_scene()
    scene.step()
    scene.step(chunks=(skewed(scene, skew_s),))
    answer = scene.ask(EventKind.ARM)
    assert answer.success is not refused
    if refused:
        assert "synchronise both with chrony" in answer.message
        assert scene.status.reason_code == "CLOCK_SKEW"
        # A sender that has gone does not matter: the arm can be armed, to be parked.
        scene.step(ticks=210)
        assert scene.ask(EventKind.ARM).success


@pytest.mark.parametrize("jump_s", [-3600.0, -0.06, 0.06, 1.0, 3600.0])
def test_a_jump_of_ros_time_brakes_holds_and_recovers(new_scene: Any, jump_s: float):
    scene = new_scene().arm().track()
    before = len(scene.commands)
    scene.ros_offset_ns += round(jump_s * 1e9)
    scene.step(ticks=60)
    assert scene.last.state is State.HOLD
    assert f"ROS time jumped by {jump_s:+.2f} s" in scene.status.reason
    assert scene.status.counts[Limit.CLOCK] == 1
    positions = np.array([command.positions_rad for command in scene.commands[before - 1 :]])
    steps = np.abs(np.diff(positions, axis=0))
    assert (steps <= scene.limits.velocity_rad_s * 0.01 * (1 + 1e-9)).all()
    assert not steps[-20:].any(), "the jump does not move the arm"
    # A policy that goes on in its session counts from its own clock.
    scene.track()


def test_a_jump_moves_nothing_in_any_state(new_scene: Any):
    scene = new_scene().arm()
    scene.ros_offset_ns -= 10**12
    scene.step(ticks=30)
    assert scene.last.state is State.HOLD
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)
    assert scene.ask(EventKind.PARK).success
    scene.step(ticks=20)
    scene.ros_offset_ns += 10**12
    scene.step(ticks=5)
    assert scene.last.state is State.PARKING, "parking does not depend on ROS time"


def test_repeats_and_disorder_are_counted_and_change_nothing(new_scene: Any):
    def run(disturbed: bool) -> tuple[np.ndarray, int]:
        scene = new_scene().arm()
        for _ in range(10):
            old, new = scene.chunk(), scene.chunk()
            chunks = (old, new, new, old) if disturbed else (old, new)
            scene.step(chunks=chunks, ticks=8)
        return scene.last.positions_rad, scene.status.counts[Limit.STALE_CHUNK]

    calm, none = run(disturbed=False)
    moved, refused = run(disturbed=True)
    np.testing.assert_array_equal(calm, moved)
    assert (none, refused) == (0, 20)


def test_a_restarted_policy_is_followed_without_arming_again(new_scene: Any):
    scene = new_scene().arm().track()
    scene.step(ticks=80)
    assert scene.last.state is State.HOLD
    scene.sequence = 0
    for _ in range(3):
        scene.step(chunks=(scene.chunk(session=99),), ticks=8)
    assert scene.last.state is State.TRACKING
    # In motion, too, if its observations are newer.
    scene.sequence = 0
    scene.step(chunks=(scene.chunk(session=100),), ticks=8)
    assert scene.last.state is State.TRACKING
    assert scene.status.counts[Limit.STALE_CHUNK] == 1, "only the silence was counted"


def test_of_two_policies_of_one_name_the_newer_one_is_followed_alone(new_scene: Any):
    """One that was left running sends newer observations too, but its session was given up."""
    scene = new_scene().arm().track()
    scene.step(chunks=(scene.chunk(session=2),), ticks=4)
    for _ in range(10):
        scene.step(chunks=(scene.chunk(session=1),), ticks=4)
        scene.step(chunks=(scene.chunk(session=2),), ticks=4)
    assert scene.last.state is State.TRACKING
    assert scene.status.counts[Limit.STALE_CHUNK] == 10
    # It may begin anew once the arm holds.
    scene.step(ticks=80)
    assert scene.last.state is State.HOLD
    scene.track(session=1)


def test_missed_ticks_are_made_up_for_within_the_limits(new_scene: Any):
    on_time, late = new_scene().arm(), new_scene().arm()
    target = np.array(GOAL) + 0.25
    for scene, missed in ((on_time, 0), (late, 6)):
        first = scene.chunk(target)
        scene.step(chunks=(first,), ticks=30)
        before = scene.last.positions_rad
        scene.tick += missed
        scene.ns += missed * 10_000_000
        scene.step()
        # One period's worth of motion, whatever time has passed.
        np.testing.assert_allclose(
            scene.last.positions_rad - before, before - scene.commands[-3].positions_rad, atol=1e-4
        )
        scene.step(ticks=29 - missed)
    lag = on_time.last.positions_rad - late.last.positions_rad
    assert (lag > 0.01).all(), "what was slipped is not caught up with by itself"
    for scene in (on_time, late):
        # The next chunk goes through where the arm should be by now.
        again = scene.chunk(target, age_s=0.6)
        begin = np.array(GOAL)
        points = begin + (target - begin) * np.linspace(0, 1, 25)[:, None]
        scene.step(chunks=(replace(again, points_rad=points),), ticks=30)
    np.testing.assert_allclose(on_time.last.positions_rad, late.last.positions_rad, atol=2e-3)
