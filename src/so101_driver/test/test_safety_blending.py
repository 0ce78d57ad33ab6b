"""Chunks become one reference: smooth across hand-offs, in each mode as it is described.

The reference is what the limiter is asked to follow. A jump in it is a chunk that is not joined; a
point that it should keep and does not is a promise of the policy that is broken.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from so101_driver.joints import data_path
from so101_driver.safety import Limits, Settings
from so101_driver.safety.blending import LOOK_AHEAD_S, Blender
from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.types import Blend

T = 0.01
LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.7])
TICK_NS = 10_000_000


def blender_of(**changes: object) -> Blender:
    return Blender(LIMITS, replace(Settings(), **changes))


def chunk_of(points: np.ndarray, first_tick: int, step_s: float = 0.04, committed: int = 0):
    points = np.asarray(points, dtype=np.float64)
    if points.ndim == 1:
        points = MIDDLE + points[:, None]
    step_s = step_s if len(points) > 1 else 0.0
    return AcceptedChunk(points, step_s, first_tick * TICK_NS, committed)


def advance(blender: Blender, ticks: int, rate: float = 1.0) -> np.ndarray:
    """References ``next`` of the coming ticks, the present one first."""
    rows = []
    for _ in range(ticks):
        rows.append(blender.next)
        blender.advance(rate)
    return np.array(rows)


def wave(time_s: np.ndarray) -> np.ndarray:
    return 0.4 * np.sin(2.0 * time_s)


@pytest.mark.parametrize("mode", list(Blend))
@pytest.mark.parametrize("latency_ticks", [0, 10, 25])
@pytest.mark.parametrize(
    ("interval_ticks", "count", "step_s"),
    [(50, 50, 0.04), (20, 100, 0.02), (8, 25, 0.04), (4, 10, 0.1), (2, 50, 0.02), (1, 25, 0.04)],
)
def test_the_reference_is_smooth_across_chunks_that_disagree(
    mode, latency_ticks, interval_ticks, count, step_s
):
    """2 to 100 chunks a second; a tenth is lost, and each is off by some milliradians."""
    if latency_ticks * T > 0.4 * (count - 1) * step_s:
        pytest.skip("chunks are over before they come")
    random = np.random.default_rng(3)
    blender, rows = blender_of(blend=mode), []
    for tick in range(600):
        if tick % interval_ticks == 0 and (not tick or random.uniform() > 0.1):
            times_s = tick * T + step_s * np.arange(count)
            points = MIDDLE + wave(times_s)[:, None] + random.normal(0.0, 0.003, 6)
            first = blender.next
            empty = blender.empty
            blender.add(chunk_of(points, tick, step_s), (tick + latency_ticks) * TICK_NS)
            # Taking a chunk changes nothing at that moment: it fades in.
            assert empty or (blender.next == first).all()
        rows.append(blender.next)
        blender.advance()
    # A step of 3 mrad would be a jerk of 3000 rad/s³, one of 0.05 rad/s in the velocity 500.
    jerk = np.abs(np.diff(rows, 3, axis=0)) / T**3
    assert (jerk.max(axis=0) <= 1.5 * LIMITS.jerk_rad_s3).all()
    wanted = MIDDLE + wave(T * (np.arange(600) + latency_ticks))[:, None]
    assert np.abs(np.array(rows) - wanted).max() < (0.02 if interval_ticks < 50 else 0.1)


@pytest.mark.parametrize("mode", list(Blend))
@pytest.mark.parametrize("committed", [0, 4])
def test_it_ends_at_rest_on_the_newest_chunks_last_point(mode, committed):
    blender = blender_of(blend=mode)
    for k in range(4):
        line = 0.5 * (0.08 * k + 0.04 * np.arange(25)) + 0.004 * k
        blender.add(chunk_of(line, 8 * k, committed=committed), (8 * k + 5) * TICK_NS)
        assert not blender.ended
        advance(blender, 8)
    rows = advance(blender, 300)
    assert blender.ended
    np.testing.assert_allclose(rows[-1], MIDDLE + line[-1], atol=1e-9)
    assert np.ptp(rows[-20:], axis=0).max() == 0.0
    assert (np.diff(rows, axis=0) >= -1e-3).all()


def test_a_newer_chunk_has_taken_over_after_the_join_time():
    blender = blender_of(join_s=0.1)
    blender.add(chunk_of(np.zeros(25), 0), 0)
    advance(blender, 20)
    blender.add(chunk_of(np.full(25, 1e-4), 20), 20 * TICK_NS)
    rows = advance(blender, 12)[:, 0]
    assert rows[0] == 0.0
    assert 0.0 < rows[5] < 1e-4
    assert rows[5] == pytest.approx(0.5e-4)
    np.testing.assert_allclose(rows[10:], 1e-4, atol=1e-12)


def test_a_larger_gap_is_joined_for_longer_within_the_limits():
    blender = blender_of(join_s=0.05)
    blender.add(chunk_of(np.zeros(25), 0), 0)
    blender.add(chunk_of(np.full(25, 0.02), 1), TICK_NS)
    rows = advance(blender, 90)
    assert rows[6, 0] < 0.01
    assert rows[-1, 0] == pytest.approx(0.02)
    jerk = np.abs(np.diff(rows, 3, axis=0)).max(axis=0) / T**3
    assert (jerk <= 0.25 * LIMITS.jerk_rad_s3).all()


@pytest.mark.parametrize("mode", list(Blend))
def test_committed_steps_are_left_to_the_chunk_before(mode):
    """Whatever a committed chunk says of that time: nothing of it is in the reference yet."""
    times_s = 0.04 * np.arange(25)
    alone, blended = blender_of(blend=mode), blender_of(blend=mode)
    for blender in (alone, blended):
        blender.add(chunk_of(wave(times_s), 0), 0)
        advance(blender, 10)
    other = wave(times_s + 0.1) + 0.03
    # Taken at tick 12, from tick 10 on; its eighth point is due 28 ticks later, at 38.
    advance(alone, 2)
    advance(blended, 2)
    blended.add(chunk_of(other, 10, committed=8), 12 * TICK_NS)
    kept = advance(blended, 26)
    np.testing.assert_array_equal(kept, advance(alone, 26))
    later = advance(blended, 60), advance(alone, 60)
    assert later[0][30, 0] - later[1][30, 0] > 0.01
    np.testing.assert_allclose(later[0][-3:, 0], blended.next[0], atol=0.01)


def test_a_committed_chunk_alone_just_starts():
    blender = blender_of()
    points = wave(0.04 * np.arange(25))
    blender.add(chunk_of(points, 0, committed=10), 0)
    np.testing.assert_allclose(advance(blender, 5)[4, 0], points[1], atol=1e-6)


def test_committed_chunks_take_over_one_after_the_other_and_others_at_once():
    blender = blender_of(join_s=0.02)
    level = 1e-6 * np.ones(25)
    blender.add(chunk_of(0 * level, 0), 0)
    blender.add(chunk_of(1 * level, 0, committed=11), 0)
    blender.add(chunk_of(2 * level, 0, committed=16), TICK_NS)
    rows = advance(blender, 80)[:, 0] * 1e6
    # Points 10 and 15 are due at 0.4 and 0.6 s; the clock began at the first chunk's add.
    np.testing.assert_allclose(rows[[38, 50, 75]], [0.0, 1.0, 2.0], atol=1e-6)
    blender.clear()
    blender.add(chunk_of(0 * level, 0), 0)
    blender.add(chunk_of(1 * level, 0, committed=11), 0)
    blender.add(chunk_of(3 * level, 0), TICK_NS)
    np.testing.assert_allclose(advance(blender, 60)[10:, 0] * 1e6, 3.0, atol=1e-6)


def test_an_ensemble_weighs_chunks_by_their_age():
    blender = blender_of(blend=Blend.ENSEMBLE, ensemble_decay_per_s=2.0, join_s=0.05)
    for k, value in enumerate((0.0, 1e-4, 3e-4)):
        blender.add(chunk_of(np.full(40, value), 10 * k), 10 * k * TICK_NS)
        advance(blender, 10)
    weights = np.exp(-2.0 * np.array([0.3, 0.2, 0.1]))
    mean = weights @ (0.0, 1e-4, 3e-4) / weights.sum()
    np.testing.assert_allclose(blender.next - MIDDLE, mean, atol=1e-12)


def test_an_ensemble_of_noisy_chunks_is_closer_than_the_latest():
    errors = {}
    for mode in (Blend.LATEST, Blend.ENSEMBLE):
        random, blender, rows = np.random.default_rng(5), blender_of(blend=mode), []
        for tick in range(400):
            if tick % 8 == 0:
                points = wave(tick * T + 0.04 * np.arange(25))[:, None] + MIDDLE
                noisy = points + random.normal(0.0, 0.005, 6)
                blender.add(chunk_of(noisy, tick), (tick + 10) * TICK_NS)
            rows.append(blender.next)
            blender.advance()
        wanted = MIDDLE + wave(T * (np.arange(400) + 10))[:, None]
        errors[mode] = np.sqrt(np.square(rows - wanted)[100:].mean())
    assert errors[Blend.ENSEMBLE] < 0.75 * errors[Blend.LATEST]


@pytest.mark.parametrize("mode", [Blend.ENSEMBLE, Blend.HALF])
def test_chunks_with_committed_steps_are_taken_one_by_one(mode):
    blender = blender_of(blend=mode, join_s=0.02)
    for k in range(5):
        blender.add(chunk_of(np.full(25, 1e-6 * k), 8 * k, committed=2), max(8 * k, 0) * TICK_NS)
        advance(blender, 8)
    np.testing.assert_allclose(blender.next - MIDDLE, 4e-6, atol=1e-12)


def test_half_executes_its_share_before_the_newest_that_waits():
    blender = blender_of(blend=Blend.HALF, half_share=0.5, join_s=0.02)
    blender.add(chunk_of(np.zeros(26), 0), 0)
    for tick, value in ((10, 1e-6), (20, 2e-6)):
        advance(blender, 10)
        blender.add(chunk_of(np.full(26, value), tick), tick * TICK_NS)
    # Half of one second is over at tick 50.
    rows = advance(blender, 60)[:, 0] * 1e6
    np.testing.assert_allclose(rows[:31], 0.0, atol=1e-12)
    np.testing.assert_allclose(rows[33:], 2.0, atol=1e-6)


def test_half_does_not_wait_for_a_chunk_that_has_run_out():
    blender = blender_of(blend=Blend.HALF, half_share=1.0, join_s=0.02)
    blender.add(chunk_of(np.zeros(6), 0), 0)
    advance(blender, 30)
    blender.add(chunk_of(np.full(26, 1e-6), 25), 30 * TICK_NS)
    np.testing.assert_allclose(advance(blender, 5)[3:, 0] * 1e6, 1.0, atol=1e-6)


@pytest.mark.parametrize("mode", list(Blend))
def test_path_time_stands_still_and_never_goes_back(mode):
    random, blender = np.random.default_rng(7), blender_of(blend=mode)
    line = 0.5 * 0.04 * np.arange(25)
    blender.add(chunk_of(line, 0), 0)
    blender.add(chunk_of(line + 0.5 * 0.04, 4), 4 * TICK_NS)
    for _ in range(150):
        before = blender.next
        rate = float(random.choice([0.0, 0.3, 1.0]))
        blender.advance(rate)
        if rate == 0.0:
            np.testing.assert_array_equal(blender.next, before)
        assert (blender.next >= before - 1e-12).all()


def test_the_next_chunk_recovers_what_a_slow_rate_lost():
    blender = blender_of()
    line = 0.2 * 0.04 * np.arange(50)
    blender.add(chunk_of(line, 0), 0)
    advance(blender, 50, rate=0.5)
    assert blender.next[0] == pytest.approx(0.2 * 0.25, abs=1e-6)
    blender.add(chunk_of(line + 0.2 * 0.48, 48), 50 * TICK_NS)
    advance(blender, 60)
    assert blender.next[0] == pytest.approx(0.2 * 1.1, abs=1e-6)


def test_a_chunk_whose_first_point_is_not_due_yet_waits_for_it():
    blender = blender_of(join_s=0.02)
    blender.add(chunk_of(np.zeros(25), 0), 0)
    blender.add(chunk_of(np.full(25, 1e-6), 10), TICK_NS)
    rows = advance(blender, 20)[:, 0] * 1e6
    np.testing.assert_allclose(rows[:9], 0.0, atol=1e-12)
    np.testing.assert_allclose(rows[13:], 1.0, atol=1e-6)


def teleoperated(rate_hz: int, motion, seconds: float, stops_s: float) -> np.ndarray:
    """References while single points come at a rate, until they stop coming."""
    blender, rows, every = blender_of(), [], round(1 / (rate_hz * T))
    for tick in range(round(seconds / T)):
        if tick % every == 0 and tick * T < stops_s:
            point = MIDDLE + motion(np.array([tick * T]))
            blender.add(chunk_of(point[None], tick), (tick + 1) * TICK_NS)
        rows.append(blender.next)
        blender.advance()
    return np.array(rows)


@pytest.mark.parametrize(("rate_hz", "most_rad"), [(50, 0.006), (20, 0.015)])
def test_a_stream_of_single_points_is_a_motion(rate_hz, most_rad):
    rows = teleoperated(rate_hz, wave, 4.0, 4.0)
    wanted = MIDDLE + wave(T * (np.arange(400) + 1))[:, None]
    error = (rows - wanted)[50:]
    # 0.8 rad/s: the error is that of a lag below 10 and 20 ms.
    assert np.sqrt(np.square(error).mean()) <= most_rad
    speed = np.abs(np.diff(rows[:, 0])) / T
    moving = np.abs(0.8 * np.cos(2.0 * T * np.arange(1, 400))) > 0.4
    assert speed[50:][moving[50:]].min() > 0.2


def test_a_stream_that_ends_leaves_the_reference_at_rest_nearby():
    rows = teleoperated(50, lambda time_s: 0.5 * time_s, 3.0, 1.0)
    assert np.ptp(rows[-100:], axis=0).max() == 0.0
    assert 0.5 * 0.98 <= rows[-1, 0] <= 0.5 * (0.98 + LOOK_AHEAD_S + 0.13)


def test_rare_single_points_are_goals():
    rows = teleoperated(2, lambda time_s: 0.05 * np.floor(time_s), 4.0, 3.1)
    np.testing.assert_allclose(rows[-1], MIDDLE + 0.15, atol=1e-9)
    assert (np.diff(rows, axis=0) >= -1e-9).all()


def test_a_step_of_the_chunks_is_free_of_joins():
    """SCALED mode goes the chunks' own way, though each begins behind the one before."""
    blender = blender_of()
    line = 0.5 * 0.04 * np.arange(25)
    for k in range(10):
        blender.add(chunk_of(line, 8 * k), 8 * k * TICK_NS)
        for _ in range(8):
            blender.advance()
            np.testing.assert_allclose(blender.step, 0.5 * T, atol=1e-4)


def test_a_chunk_that_has_waited_steps_by_its_speed():
    """Not by its whole way of the time in which it waited for its turn."""
    blender = blender_of(blend=Blend.HALF, half_share=0.8, join_s=0.02)
    line = 0.5 * 0.04 * np.arange(26)
    blender.add(chunk_of(line, 0), 0)
    blender.add(chunk_of(line, 0), 0)
    for _ in range(100):
        blender.advance()
        assert np.abs(blender.step).max() <= 0.5 * T + 1e-4


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sequence_of_chunks_gives_a_finite_reference_near_the_points(data):
    blender = blender_of(
        blend=data.draw(st.sampled_from(list(Blend))),
        join_s=data.draw(st.sampled_from([0.0, 0.05, 0.3])),
        half_share=data.draw(st.sampled_from([0.1, 0.5, 1.0])),
    )
    now_ns, lowest, highest = 10**12, np.full(6, math.inf), np.full(6, -math.inf)
    for _ in range(data.draw(st.integers(1, 25))):
        count = data.draw(st.sampled_from([1, 1, 2, 3, 10, 100]))
        random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
        spread_rad = data.draw(st.sampled_from([0.0, 0.01, 2.0]))
        points = MIDDLE + random.normal(0.0, spread_rad, (count, 6))
        chunk = AcceptedChunk(
            points,
            data.draw(st.sampled_from([0.002, 0.04, 1.0])) if count > 1 else 0.0,
            now_ns - data.draw(st.sampled_from([-(10**9), 0, 1, 10**8, 10**10])),
            data.draw(st.integers(0, count)),
        )
        lowest, highest = np.minimum(lowest, points.min(0)), np.maximum(highest, points.max(0))
        blender.add(chunk, now_ns)
        for _ in range(data.draw(st.sampled_from([0, 1, 7, 60]))):
            before, now, following = blender.before, blender.now, blender.next
            blender.advance(data.draw(st.sampled_from([0.0, 0.5, 1.0])))
            assert (blender.before == now).all()
            assert (blender.now == following).all()
            assert np.isfinite(blender.next).all()
            del before
            now_ns += TICK_NS
    # Splines pass between points, and streams go on a little: by much less than they span.
    room = 0.5 * (highest - lowest) + LOOK_AHEAD_S * LIMITS.velocity_rad_s
    assert (blender.next <= highest + room).all()
    assert (blender.next >= lowest - room).all()
