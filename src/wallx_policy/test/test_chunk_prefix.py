"""A prefix is what the arm was told and will be told, at the new chunk's own times, or nothing.

A prefix that is wrong pulls the arm to where it is not: each doubt must lead to none.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from so101_driver.safety.types import Mode, State
from wallx_policy.chunk_prefix import (
    Following,
    JointPrefix,
    NoPrefix,
    NoPrefixReason,
    PrefixBuilder,
    PrefixSettings,
)
from wallx_policy.joined_chunks import JoinedChunks, JoinSettings, TimedChunk
from wallx_policy.latency import SteadyLatency

PERIOD_S, HORIZON = 0.04, 25
TICK_NS, START_NS = 10_000_000, 1_700_000_000_000_000_000
MS = 1_000_000
TRACKING = Following(State.TRACKING, Mode.FULL)


def path(times_s: np.ndarray) -> np.ndarray:
    """A smooth motion of six joints, [times, 6]."""
    times = np.asarray(times_s, dtype=np.float64)[..., None]
    return 0.5 * np.sin(times * np.array([1.0, 1.3, 1.6, 1.9, 2.2, 2.5]) + np.arange(6))


def rows_s(stamp_ns: int, rows: int = HORIZON) -> np.ndarray:
    return (stamp_ns - START_NS) * 1e-9 + PERIOD_S * np.arange(rows)


def note(
    builder: PrefixBuilder, stamp_ns: int, positions: np.ndarray, image_age_s: float = 0.0
) -> None:
    """A chunk that is published at once."""
    builder.note_chunk(
        stamp_ns, image_age_s, PERIOD_S, positions, published_ns=stamp_ns, committed=0
    )


def running(
    chunk_ms: int, until_ms: int, off: float = 0.0, settings: PrefixSettings | None = None
) -> PrefixBuilder:
    """One chunk along the path, and commands that follow it; ``off`` is added to the commands."""
    builder = PrefixBuilder(settings)
    stamp_ns = START_NS + chunk_ms * MS
    note(builder, stamp_ns, path(rows_s(stamp_ns)))
    for tick_ns in range(START_NS, START_NS + until_ms * MS + 1, TICK_NS):
        builder.note_command(tick_ns, path((tick_ns - START_NS) * 1e-9) + off)
    return builder


def build(builder: PrefixBuilder, stamp_ms: float, now_ms: float, latency_s: float | None = 0.18):
    def prefix(**changes: object) -> JointPrefix | NoPrefix:
        options = {
            "now_ns": START_NS + round(now_ms * MS),
            "latency_s": latency_s,
            "following": TRACKING,
        }
        stamp_ns = START_NS + round(stamp_ms * MS)
        return builder.build(stamp_ns, 0.0, PERIOD_S, HORIZON, **{**options, **changes})

    return prefix


@given(st.integers(0, 400), st.integers(10, 300), st.integers(0, 60), st.floats(0.0, 0.3))
def test_rows_are_the_motion_at_the_new_chunks_own_times(
    chunk_ms: int, later_ms: int, waited_ms: int, latency_s: float
) -> None:
    """Whatever the observations' distance: mostly no whole number of periods."""
    stamp_ms = chunk_ms + later_ms
    builder = running(chunk_ms, stamp_ms + waited_ms)
    prefix = build(builder, stamp_ms, stamp_ms + waited_ms, latency_s)()
    assert isinstance(prefix, JointPrefix)
    rows = len(prefix.positions_rad)
    assert rows == math.floor((HORIZON - 1) - later_ms * 1e-3 / PERIOD_S + 1e-6) + 1
    assert prefix.committed == math.ceil((latency_s + 0.02) / PERIOD_S - 1e-6) + 1
    wanted = path(rows_s(START_NS + stamp_ms * MS, rows))
    # A cubic through points 40 ms apart, and 10 ms between commands: a fraction of a servo's tick.
    np.testing.assert_allclose(prefix.positions_rad, wanted, atol=4e-4)


@given(st.integers(0, 39), st.integers(10, 80))
def test_by_index_it_would_be_wrong(shift_ms: int, later_ms: int) -> None:
    """The test above can fail: rows of the last chunk, unchanged, are up to half a period off."""
    stamp_ms = later_ms + shift_ms
    builder = running(0, stamp_ms)
    prefix = build(builder, stamp_ms, stamp_ms)()
    skipped = round(stamp_ms * 1e-3 / PERIOD_S)
    by_index = path(PERIOD_S * (skipped + np.arange(5)))
    off_s = abs(stamp_ms * 1e-3 - skipped * PERIOD_S)
    error = np.abs(prefix.positions_rad[:5] - by_index).max()
    assert error == pytest.approx(off_s, abs=0.6 * off_s + 1e-3)


@given(st.floats(-0.04, 0.04), st.integers(0, 120))
def test_what_was_executed_comes_from_the_commands(off: float, waited_ms: int) -> None:
    """And what is to come fades to the chunk, without a jump in between."""
    builder = running(0, 200 + waited_ms, off)
    prefix = build(builder, 200, 200 + waited_ms)()
    assert isinstance(prefix, JointPrefix)
    times_s = rows_s(START_NS + 200 * MS, len(prefix.positions_rad))
    error = prefix.positions_rad - path(times_s)
    last_s = 0.01 * ((200 + waited_ms) // 10)
    expected = off * np.clip(1.0 - (times_s - last_s) / 0.2, 0.0, 1.0)
    np.testing.assert_allclose(error, np.tile(expected[:, None], 6), atol=4e-4)


@given(st.floats(0.0, 0.5))
def test_committed_rows_reach_past_the_arrival(latency_s: float) -> None:
    """The last of them is the first row that is not earlier than the new chunk in effect."""
    builder = running(0, 100)
    prefix = build(builder, 100, 100, latency_s)()
    arrival_s = latency_s + 0.02
    last_s = (prefix.committed - 1) * PERIOD_S
    assert last_s >= arrival_s - 1e-9
    assert last_s < arrival_s + PERIOD_S


def test_without_guide_only_committed_rows_are_given() -> None:
    prefix = build(running(0, 200), 200, 200)(guide=False)
    assert len(prefix.positions_rad) == prefix.committed == 6


def test_while_a_chunk_takes_over_commands_are_between_it_and_the_last() -> None:
    """The second plan is 0.2 rad off; half way there, nobody has left anything."""
    builder = running(0, 200, off=0.1)
    stamp_ns = START_NS + 100 * MS
    note(builder, stamp_ns, path(rows_s(stamp_ns)) + 0.2)
    assert isinstance(build(builder, 200, 200)(), JointPrefix)
    alone = running(0, 200, off=0.1)
    assert build(alone, 200, 200)().reason is NoPrefixReason.LEFT


def test_chunks_of_reached_positions_are_executed_early() -> None:
    """Commands at a time are the chunk's points of 115 ms later."""
    builder = PrefixBuilder(PrefixSettings(lookahead_s=0.115))
    note(builder, START_NS, path(rows_s(START_NS)))
    for tick_ns in range(START_NS - 300 * MS, START_NS + 201 * MS, TICK_NS):
        builder.note_command(tick_ns, path((tick_ns - START_NS) * 1e-9 + 0.115))
    prefix = build(builder, 200, 200)()
    wanted = path(rows_s(START_NS + 200 * MS, len(prefix.positions_rad)))
    np.testing.assert_allclose(prefix.positions_rad, wanted, atol=4e-4)
    # More rows are executed by the time that the chunk arrives.
    assert prefix.committed == math.ceil((0.2 + 0.115) / PERIOD_S) + 1


def test_old_images_leave_fewer_rows_to_commit() -> None:
    builder = PrefixBuilder()
    note(builder, START_NS, path(rows_s(START_NS) + 0.04), image_age_s=0.04)
    for tick_ns in range(START_NS, START_NS + 261 * MS, TICK_NS):
        builder.note_command(tick_ns, path((tick_ns - START_NS) * 1e-9))
    prefix = builder.build(
        START_NS + 200 * MS,
        0.04,
        PERIOD_S,
        HORIZON,
        now_ns=START_NS + 260 * MS,
        latency_s=0.18,
        following=TRACKING,
    )
    assert prefix.committed == 5
    wanted = path(rows_s(START_NS + 200 * MS, len(prefix.positions_rad)) + 0.04)
    np.testing.assert_allclose(prefix.positions_rad, wanted, atol=4e-4)


class TestNone:
    @pytest.mark.parametrize("mode", [None, Mode.SHADOW, Mode.SCALED])
    def test_unless_commands_follow_chunks_in_time(self, mode: Mode | None) -> None:
        refusal = build(running(0, 200), 200, 200)(following=Following(State.TRACKING, mode))
        assert refusal.reason is NoPrefixReason.NOT_FULL
        assert (mode.name if mode else "unknown") in refusal.text

    @pytest.mark.parametrize("state", [None, *(s for s in State if s is not State.TRACKING)])
    def test_unless_safety_tracks(self, state: State | None) -> None:
        refusal = build(running(0, 200), 200, 200)(following=Following(state, Mode.FULL))
        assert refusal.reason is NoPrefixReason.NOT_TRACKING

    def test_before_the_first_chunk_or_after_clearing(self) -> None:
        builder = running(0, 200)
        builder.clear()
        assert build(builder, 200, 200)().reason is NoPrefixReason.NO_CHUNK

    def test_while_the_latency_is_not_known(self) -> None:
        refusal = build(running(0, 200), 200, 200, latency_s=None)()
        assert refusal.reason is NoPrefixReason.NO_LATENCY

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    @pytest.mark.parametrize(("off", "left"), [(0.0495, False), (0.0505, True)])
    def test_when_commands_left_the_chunk(self, sign: float, off: float, left: bool) -> None:
        answer = build(running(0, 200, sign * off), 200, 200)()
        assert isinstance(answer, NoPrefix) is left
        if left:
            assert answer.reason is NoPrefixReason.LEFT
            assert "0.050 rad" in answer.text or "0.051 rad" in answer.text

    def test_when_one_joint_left_it_for_a_moment(self) -> None:
        builder = running(0, 190)
        hit = path(0.2)
        hit[3] += 0.3
        builder.note_command(START_NS + 200 * MS, hit)
        assert build(builder, 190, 200)().reason is NoPrefixReason.LEFT

    def test_when_the_last_chunk_ends_too_early(self) -> None:
        """It lasts until 960 ms; the new chunk would take over a row later than that."""
        builder = running(0, 800)
        assert isinstance(build(builder, 740, 790)(), JointPrefix)
        refusal = build(builder, 770, 790)()
        assert refusal.reason is NoPrefixReason.NO_OVERLAP
        assert "covers 5" in refusal.text

    def test_when_there_is_nothing_left_of_it(self) -> None:
        builder = running(0, 3000)
        assert build(builder, 3000, 3000)().reason is NoPrefixReason.NO_OVERLAP

    def test_when_commands_stopped(self) -> None:
        builder = running(0, 200)
        assert isinstance(build(builder, 200, 299)(), JointPrefix)
        refusal = build(builder, 200, 310)()
        assert refusal.reason is NoPrefixReason.NO_COMMANDS
        assert "0.11 s old" in refusal.text

    def test_when_commands_are_of_another_clock(self) -> None:
        builder = running(0, 400)
        assert isinstance(build(builder, 200, 301)(), JointPrefix)
        assert build(builder, 200, 290)().reason is NoPrefixReason.NO_COMMANDS

    def test_when_they_are_where_a_chunk_leads_that_is_not_in_force_yet(self) -> None:
        builder = running(0, 200, off=0.2)
        later_ns = START_NS + 150 * MS
        builder.note_chunk(
            later_ns,
            0.0,
            PERIOD_S,
            path(rows_s(later_ns)) + 0.2,
            published_ns=START_NS + 190 * MS,
            committed=0,
        )
        assert build(builder, 150, 200)().reason is NoPrefixReason.LEFT

    def test_when_commands_have_a_gap(self) -> None:
        builder = running(0, 200)
        builder.note_command(START_NS + 310 * MS, path(0.31))
        assert build(builder, 210, 310)().reason is NoPrefixReason.NO_COMMANDS
        assert isinstance(build(builder, 310, 310)(), JointPrefix)

    def test_when_commands_do_not_reach_back(self) -> None:
        builder = running(0, 0)
        assert build(builder, -20, 0)().reason is NoPrefixReason.NO_COMMANDS

    def test_when_the_clock_was_set_back(self) -> None:
        builder = running(0, 200)
        builder.note_command(START_NS - 5000 * MS, path(0.0))
        assert build(builder, 200, 200)().reason is NoPrefixReason.NO_COMMANDS

    def test_but_then_it_begins_anew(self) -> None:
        builder = running(0, 50)
        builder.note_command(START_NS + 5000 * MS, path(5.0))
        for tick_ns in range(START_NS + 60 * MS, START_NS + 201 * MS, TICK_NS):
            builder.note_command(tick_ns, path((tick_ns - START_NS) * 1e-9))
        prefix = build(builder, 190, 200)()
        assert isinstance(prefix, JointPrefix)
        np.testing.assert_allclose(prefix.positions_rad[0], path(0.19), atol=4e-4)

    def test_when_a_command_is_not_finite(self) -> None:
        builder = running(0, 90)
        for tick in range(10, 21):
            builder.note_command(START_NS + tick * TICK_NS, np.full(6, math.nan))
        assert build(builder, 200, 200)().reason is NoPrefixReason.NO_COMMANDS


def test_a_chunk_older_than_the_last_begins_a_new_history() -> None:
    builder = running(500, 600)
    note(builder, START_NS, path(rows_s(START_NS)) + 1.0)
    assert build(builder, 500, 600)().reason is NoPrefixReason.LEFT


@given(st.integers(1, 30), st.floats(-2.0, 3.0))
def test_a_chunk_holds_its_ends_and_passes_its_points(rows: int, time_s: float) -> None:
    chunk = TimedChunk(START_NS, PERIOD_S, path(rows_s(START_NS, rows)))
    at = np.array([START_NS + round(time_s * 1e9)])
    inside = bool(chunk.covers(at)[0])
    assert inside == (0 <= at[0] - START_NS <= (rows - 1) * 40 * MS)
    if not inside:
        end = chunk.positions_rad[0 if time_s < 0 else -1]
        np.testing.assert_allclose(chunk.at(at)[0], end, atol=1e-12)
    points_ns = START_NS + np.arange(rows) * 40 * MS
    np.testing.assert_allclose(chunk.at(points_ns), chunk.positions_rad, atol=1e-12)


class TestSteadyLatency:
    def test_the_first_chunks_do_not_count(self) -> None:
        latency = SteadyLatency()
        for total_s in (0.7, 0.4, 0.3):
            latency.add(total_s)
            assert latency.expected_s is None
        for total_s in (0.1, 0.1, 0.1):
            latency.add(total_s)
        assert latency.expected_s == pytest.approx(0.1)

    def test_nothing_is_said_after_too_few(self) -> None:
        latency = SteadyLatency(warm_up=0, least=2)
        latency.add(0.1)
        assert latency.expected_s is None
        latency.add(0.1)
        assert latency.expected_s is not None

    def test_one_slow_chunk_in_a_hundred_changes_nothing_but_one_in_ten_does(self) -> None:
        rare, often = SteadyLatency(), SteadyLatency()
        for count in range(103):
            rare.add(0.5 if count == 50 else 0.1)
            often.add(0.5 if count % 10 == 0 else 0.1)
        assert rare.expected_s == pytest.approx(0.1)
        assert often.expected_s == pytest.approx(0.5)

    def test_it_follows_a_lasting_change(self) -> None:
        latency = SteadyLatency(window=20)
        for total_s in [0.1] * 50 + [0.2] * 20:
            latency.add(total_s)
        assert latency.expected_s == pytest.approx(0.2)


class TestJoining:
    def add(self, joined: JoinedChunks, ms: int, value: float, committed: int = 0) -> None:
        points = np.full((HORIZON, 6), value)
        due_ns = START_NS + ms * MS
        joined.add(TimedChunk(due_ns, PERIOD_S, points), due_ns + 100 * MS, committed)

    def test_a_chunk_fades_in_when_it_arrives_and_the_longer_the_further_it_is(self) -> None:
        for gap, join_ms in ((1e-6, 100), (0.01, 311), (1.0, 500)):
            joined = JoinedChunks()
            self.add(joined, 0, 0.0)
            self.add(joined, 200, gap)
            at_ms = np.array([299, 300, 300 + join_ms / 2, 300 + join_ms, 900])
            shares = joined.at(START_NS + (at_ms * MS).astype(np.int64))[:, 0] / gap
            np.testing.assert_allclose(shares, [0.0, 0.0, 0.5, 1.0, 1.0], atol=0.01)

    def test_committed_rows_delay_it(self) -> None:
        joined = JoinedChunks()
        self.add(joined, 0, 0.0)
        self.add(joined, 200, 1e-6, committed=6)
        at = START_NS + np.array([399, 400, 450, 500]) * MS
        np.testing.assert_allclose(joined.at(at)[:, 0] * 1e6, [0.0, 0.0, 0.5, 1.0], atol=1e-3)

    def test_the_next_waits_until_one_has_begun(self) -> None:
        joined = JoinedChunks()
        self.add(joined, 0, 0.0)
        self.add(joined, 200, 1.0)  # from 300 ms on, for half a second
        without = joined.at(START_NS + np.array([359, 380, 500]) * MS)[:, 0]
        self.add(joined, 201, -1.0)
        both = joined.at(START_NS + np.array([359, 380, 500]) * MS)[:, 0]
        assert both[0] == without[0] > 0.01
        assert (both[1:] < without[1:]).all()

    def test_gentler_limits_take_longer(self) -> None:
        assert JoinSettings(jerk_rad_s3=50.0).duration_s(0.01) > JoinSettings().duration_s(0.01)
        assert JoinSettings(acceleration_rad_s2=1.0).duration_s(0.01) == 0.5

    @given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=12), st.integers(0, 3000))
    def test_it_is_always_between_the_chunks(self, values: list[float], at_ms: int) -> None:
        joined = JoinedChunks()
        for number, value in enumerate(values):
            self.add(joined, 100 * number, value)
        position = joined.at(np.array([START_NS + at_ms * MS]))[0, 0]
        assert min(values) - 1e-9 <= position <= max(values) + 1e-9

    def test_the_numbers_are_those_of_safety(self) -> None:
        """Copied, because they are no part of its interface; this fails when they change."""
        from so101_driver.safety import blending
        from so101_driver.safety.settings import Settings

        from wallx_policy import joined_chunks

        for name in ("JOIN_SHARE", "LONGEST_JOIN_S", "SETTLED"):
            assert getattr(joined_chunks, name) == getattr(blending, name)
        assert blending._FADE_ACCELERATION == joined_chunks.FADE_ACCELERATION
        assert blending._FADE_JERK == joined_chunks.FADE_JERK
        assert Settings().join_s == JoinSettings().join_s
