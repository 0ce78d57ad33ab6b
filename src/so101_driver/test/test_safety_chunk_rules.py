"""Which chunks are followed, and what is said of those that are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES
from so101_driver.safety import (
    ActionKind,
    EventKind,
    Limit,
    Output,
    State,
)

START = (0.2, -0.6, 0.7, 0.6, 0.1, 0.5)
GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
T = 0.01


def test_a_chunk_is_followed_and_its_silence_stops_the_arm(new_scene: Any):
    scene = new_scene().arm().track()
    assert scene.status.source == "policy"
    moving = np.abs(scene.last.velocities_rad_s).max()
    assert moving > 0.1
    silent = 0
    while scene.last.state is State.TRACKING:
        scene.step()
        silent += 1
    # Twice the interval of 80 ms; 80 ms were over before.
    assert 8 <= silent <= 10
    assert scene.last.state is State.STOPPING
    assert scene.last.output is Output.COMMANDS
    scene.step(ticks=40)
    assert scene.last.state is State.HOLD
    assert "old" in scene.status.reason
    assert scene.status.counts[Limit.STALE_CHUNK] == 1
    scene.track()


@pytest.mark.parametrize(
    ("changes", "limit", "words"),
    [
        ({"action_kind": 0}, Limit.BAD_CHUNK, "action_kind"),
        ({"joint_names": JOINT_NAMES[::-1]}, Limit.BAD_CHUNK, "joints"),
        ({"points_rad": []}, Limit.BAD_CHUNK, "no points"),
        ({"points_rad": [GOAL] * 24}, Limit.BAD_CHUNK, "24 points but 25 times"),
        ({"points_rad": [GOAL] * 24 + [GOAL[:5]]}, Limit.BAD_CHUNK, "5 positions"),
        ({"points_rad": [(*GOAL[:5], math.nan)] * 25}, Limit.BAD_CHUNK, "gripper of point 0"),
        ({"points_rad": [(1e308, *GOAL[1:])] * 25}, Limit.BAD_CHUNK, "shoulder_pan"),
        ({"offsets_ns": (0,) * 25}, Limit.BAD_CHUNK, "0 s apart"),
        ({"offsets_ns": tuple(40_000_000 * i for i in range(1, 26))}, Limit.BAD_CHUNK, "not 0"),
        ({"offsets_ns": tuple(10**6 * i * i for i in range(25))}, Limit.BAD_CHUNK, "equally"),
        ({"image_age_s": math.nan}, Limit.BAD_CHUNK, "image_age_s"),
        ({"age_s": 2.0}, Limit.STALE_CHUNK, "2.00 s after"),
        ({"age_s": -0.051}, Limit.CLOCK, "0.05 s ahead"),
        ({"age_s": -2.31}, Limit.CLOCK, "2.31 s ahead: synchronise with chrony"),
    ],
)
def test_a_bad_chunk_is_refused_and_counted(
    new_scene: Any, changes: dict[str, Any], limit: Limit, words: str
):
    scene = new_scene().arm()
    scene.step(chunks=(scene.chunk(**changes),))
    assert scene.last.state is State.HOLD
    assert scene.status.counts[limit] == 1
    assert limit in scene.last.active_limits
    assert words in scene.status.reason
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_a_stamp_slightly_in_the_future_counts_as_now(new_scene: Any):
    ahead, now = new_scene().arm(), new_scene().arm()
    ahead.step(chunks=(ahead.chunk(age_s=-0.049),), ticks=30)
    now.step(chunks=(now.chunk(age_s=0.0),), ticks=30)
    np.testing.assert_allclose(ahead.last.positions_rad, now.last.positions_rad, atol=1e-12)
    assert ahead.status.clock_skew_s == pytest.approx(0.049)


def test_order_holds_within_a_session_and_sessions_replace_each_other(new_scene: Any):
    scene = new_scene().arm().track()
    first = scene.chunk(session=1)
    scene.step(chunks=(first, first))
    assert scene.status.counts[Limit.STALE_CHUNK] == 1
    scene.step(chunks=(scene.chunk(session=2, age_s=0.3),))
    assert scene.status.counts[Limit.STALE_CHUNK] == 2
    scene.step(chunks=(scene.chunk(session=2, sequence=0),))
    assert scene.status.counts[Limit.STALE_CHUNK] == 2


def test_one_source_is_followed_until_another_is_selected(new_scene: Any):
    scene = new_scene().arm().track()
    scene.step(chunks=(scene.chunk(source="teleop"),))
    assert scene.status.counts[Limit.OTHER_SOURCE] == 1
    assert scene.last.state is State.TRACKING
    assert scene.ask(EventKind.SELECT_SOURCE, text="teleop").success
    assert scene.last.state is State.STOPPING
    scene.step(ticks=60)
    scene.step(chunks=(scene.chunk(source="policy"),))
    assert scene.last.state is State.HOLD
    scene.step(chunks=(scene.chunk(source="teleop"),))
    assert scene.last.state is State.TRACKING


def test_reached_positions_are_executed_ahead_of_commanded_ones(new_scene: Any):
    def at_100_ms(kind: ActionKind) -> float:
        scene = new_scene(state_lookahead_s=0.1).arm()
        scene.step(chunks=(scene.chunk(age_s=0.2, action_kind=int(kind)),), ticks=40)
        return float(scene.last.positions_rad[0])

    assert at_100_ms(ActionKind.STATE) - at_100_ms(ActionKind.GOAL) == pytest.approx(
        0.1 * 0.3 / 0.96, rel=0.2
    )


def test_missed_ticks_slip_time_and_are_counted(new_scene: Any):
    scene = new_scene().arm().track()
    before = scene.last.positions_rad
    scene.tick += 5
    scene.ns += 50_000_000
    scene.step()
    assert scene.status.missed_ticks == 5
    step = np.abs(scene.last.positions_rad - before)
    assert (step <= scene.limits.velocity_rad_s * T * (1 + 1e-9)).all()


def test_what_the_limits_take_away_is_told(new_scene: Any):
    scene = new_scene().arm().track(0.8, target=np.array(GOAL) + 0.1)
    assert scene.status.intent_clipped < 0.35
    scene.track(1.2, target=(12.0, *GOAL[1:]))
    assert scene.status.intent_clipped > 0.5
    assert scene.status.counts[Limit.POSITION] + scene.status.counts[Limit.VELOCITY] > 0
