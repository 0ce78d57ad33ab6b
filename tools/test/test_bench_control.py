"""`make bench-control` compares fairly only if its measures are right and its tool runs at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("ruckig")

import bench_control_methods as methods
import bench_control_scenes as scenes
import bench_control_scores as scores

TOOLS = Path(__file__).resolve().parents[1]
T = 0.01


def motion(delay_s: float = 0.0) -> np.ndarray:
    times_s = T * np.arange(800) - delay_s
    return 0.4 * np.sin(np.outer(times_s, [1.0, 1.7])) + 0.1 * np.sin(3.1 * times_s)[:, None]


@pytest.mark.parametrize("delay_s", [-0.083, 0.0, 0.02, 0.137, 0.4])
def test_the_lag_is_what_it_was_made(delay_s):
    assert scores.lag_s(motion(delay_s), motion()) == pytest.approx(delay_s, abs=0.003)


def test_noise_is_no_lag():
    noisy = motion() + np.random.default_rng(0).normal(0.0, 2e-4, motion().shape)
    assert scores.lag_s(noisy, motion()) == pytest.approx(0.0, abs=0.01)


def test_jumps_at_hand_offs_are_told_apart_from_motion():
    ticks = np.array([300, 500])
    smooth = scores.handoff_jumps(motion(), ticks)
    assert smooth[0] < 1e-5
    jumped = motion()
    jumped[300:] += 0.02
    assert scores.handoff_jumps(jumped, ticks)[0] == pytest.approx(0.02, rel=0.01)
    kinked = motion()
    kinked[500:] += 0.3 * T * np.arange(1, 301)[:, None]
    position, velocity = scores.handoff_jumps(kinked, ticks)
    assert velocity == pytest.approx(0.3, rel=0.05)
    assert position == pytest.approx(0.3 * T, rel=0.05)
    # Elsewhere than at a hand-off it is no hand-off's jump.
    assert scores.handoff_jumps(jumped, np.array([100]))[0] < 1e-5


def test_violations_are_counted_by_tick():
    limits = scenes.simulated_limits("cautious")
    start = 0.5 * (limits.lower_rad + limits.upper_rad)
    still = np.tile(start, (100, 1))
    assert scores.violations(still, limits) == 0
    outside = still.copy()
    outside[:, 0] = limits.upper_rad[0] + 0.001
    assert scores.violations(outside, limits) == 100
    jumped = still.copy()
    jumped[50:, 1] += 0.02
    # Too fast in one tick, too strong in two, too jerky in three.
    assert scores.violations(jumped, limits) == 3


def test_the_plant_has_its_dead_time_and_lag():
    times_s = T * np.arange(800)
    slow = 0.5 * np.sin(times_s)[:, None]
    # A ramp is late by dead time plus lag, and by the half tick that a held command is old.
    assert scores.lag_s(scores.after_plant(slow), slow) == pytest.approx(0.12, abs=0.012)
    step = np.zeros((200, 1))
    step[20:] = 0.1
    moved = scores.after_plant(step)[:, 0]
    assert np.argmax(moved > 1e-9) == pytest.approx(28, abs=1)
    assert moved[-1] == pytest.approx(0.1, abs=1e-3)


def test_the_distance_from_a_path_is_not_the_distance_in_time():
    way = motion()
    assert scores.path_deviation(motion(0.05)[100:700], way).max() < 1e-3
    beside = np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(
        scores.path_deviation(np.array([[0.5, 0.2], [1.3, 0.4]]), beside), [0.2, 0.5]
    )


def test_a_stream_without_noise_says_the_demonstration():
    demonstration = scenes.synthetic_demonstration()
    for latency_s in (0.0, 0.2):
        arrivals = scenes.stream(demonstration, scenes.Condition(latency_s, False), seed=0)
        for arrival in arrivals:
            stamp_s = arrival.chunk.first_due_ns * 1e-9
            assert -1e-9 <= arrival.tick * T - stamp_s - latency_s <= 0.031
            times_s = stamp_s + 0.04 * np.arange(25)
            np.testing.assert_allclose(arrival.chunk.points_rad, demonstration.at(times_s))


def test_committed_chunks_repeat_what_was_promised():
    demonstration, condition = scenes.synthetic_demonstration(), scenes.Condition(0.1, True)
    chunks = [one.chunk for one in scenes.stream(demonstration, condition, 0, committed_s=0.16)]
    for before, after in pairwise(chunks):
        assert after.committed_steps == 4
        np.testing.assert_allclose(after.points_rad[:4], before.points_rad[2:6])


@pytest.mark.parametrize(
    ("name", "lag_s", "error_rad"),
    [("OnArrival", 0.2, None), ("WeightedAverage", 0.0, 0.002), ("AlignedCubic", 0.0, 1e-4)],
)
def test_baselines_do_what_they_are_said_to_do(name, lag_s, error_rad):
    demonstration = scenes.synthetic_demonstration()
    wanted = scenes.sampled(demonstration)
    arrivals = scenes.stream(demonstration, scenes.Condition(0.2, False), seed=0)
    commands, handoffs = methods.run(getattr(methods, name)(wanted[0]), arrivals, len(wanted))
    assert len(handoffs) > 90
    assert scores.lag_s(commands[100:], wanted[100:]) == pytest.approx(lag_s, abs=0.02)
    if error_rad is not None:
        assert scores.rms((commands - wanted)[100:]) < error_rad


def test_the_tool_runs_and_ours_violates_nothing(tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench_control.py"), "--quick", "--out", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "RMS error" in done.stdout
    report = json.loads((tmp_path / "control.json").read_text(encoding="utf-8"))
    for condition, rows in report["main"].items():
        for name, row in rows.items():
            assert np.isfinite([v for v in row.values() if not isinstance(v, str)]).all()
            if name.startswith("ours"):
                assert row["violations"] == 0, (condition, name)
    for row in report["aims"]:
        # Not rates: only that time alignment and joining are not broken.
        assert row["ratio"] < 1.0, row
    fast = {row["variant"][:4]: row for row in report["fast"]}
    assert fast["(ii)"]["violations"] == 0
    for name in ("example", "comparison", "fast"):
        assert (tmp_path / f"control_{name}.png").stat().st_size > 10_000
