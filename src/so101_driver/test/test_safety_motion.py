"""How the arm moves: the brake is exact, tracking has no lag, and nothing overshoots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from so101_driver.joints import data_path
from so101_driver.safety import Limits
from so101_driver.safety.brake import BrakePlanner
from so101_driver.safety.follower import Follower
from so101_driver.safety.limiter import Limiter
from so101_driver.safety.reference import ChunkPath
from so101_driver.safety.types import Limit

T = 0.01
LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
TOPS = (LIMITS.velocity_rad_s, LIMITS.acceleration_rad_s2, LIMITS.jerk_rad_s3)
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.7])


def shares(positions: np.ndarray) -> list[float]:
    """Largest velocity, acceleration and jerk as shares of their limits."""
    differences = [np.diff(positions, order, axis=0) / T**order for order in (1, 2, 3)]
    return [float((abs(d) / top).max()) for d, top in zip(differences, TOPS, strict=True)]


def path_of(points: np.ndarray, step_s: float = 0.04, tolerance_rad: float = 0.005) -> ChunkPath:
    return ChunkPath(points, step_s, tolerance_rad, LIMITS)


def limiter_at(position: np.ndarray) -> Limiter:
    limiter = Limiter(LIMITS, T)
    limiter.start(position, LIMITS.lower_rad, LIMITS.upper_rad)
    return limiter


def test_the_brake_ends_at_rest_within_the_limits():
    rng = np.random.default_rng(0)
    for _ in range(300):
        velocity, acceleration, jerk = (
            rng.uniform(low, high, 6) for low, high in ((0.5, 4), (2, 20), (30, 300))
        )
        v = rng.uniform(-velocity, velocity)
        a = rng.choice([-1.0, 0.0, 1.0, rng.uniform(-1, 1)], 6) * acceleration
        path = BrakePlanner(velocity, acceleration, jerk, T).plan(np.zeros(6), v, a)
        accelerations = np.vstack([a, path.accelerations_rad_s2])
        assert (np.abs(accelerations) <= acceleration * (1 + 1e-12)).all()
        assert (np.abs(np.diff(accelerations, axis=0)) <= jerk * T * (1 + 1e-9)).all()
        np.testing.assert_allclose(path.velocities_rad_s[-1], 0.0, atol=1e-12)
        np.testing.assert_array_equal(path.accelerations_rad_s2[-1], 0.0)
        np.testing.assert_allclose(
            path.positions_rad[-1], T * path.velocities_rad_s.sum(axis=0), atol=1e-12
        )


def test_the_brake_is_nearly_the_fastest_there_is():
    v = LIMITS.velocity_rad_s
    path = BrakePlanner(*TOPS, T).plan(np.zeros(6), v, np.zeros(6))
    ticks = (np.abs(path.velocities_rad_s) > 1e-9).sum(axis=0)
    continuous_s = v / TOPS[1] + TOPS[1] / TOPS[2]
    assert (ticks * T <= continuous_s + 2 * T).all()


def track(
    motion: Callable[[float], np.ndarray], latency_s: float, noise_rad: float = 0.0
) -> np.ndarray:
    """Commands that follow 1 s long chunks of a motion, 12.5 of them a second."""
    rng = np.random.default_rng(1)
    limiter = limiter_at(motion(0.0))
    waiting: list[tuple[float, ChunkPath]] = []
    follower, rows = None, []
    for tick in range(500):
        time_s = tick * T
        if tick % 8 == 0:
            points = np.array([motion(time_s + 0.04 * i) for i in range(25)])
            waiting.append((time_s, path_of(points + noise_rad * rng.normal(size=points.shape))))
        while waiting and waiting[0][0] + latency_s <= time_s + 1e-9:
            stamp_s, path = waiting.pop(0)
            follower = Follower(path, time_s - stamp_s, T)
        if follower is None:
            limiter.brake()
        else:
            limiter.track(follower.before, follower.now, follower.next)
            follower.advance()
        rows.append(limiter.position_rad)
    return np.array(rows)


def sine(time_s: float) -> np.ndarray:
    u = min(time_s / 1.5, 1.0)
    return MIDDLE + 0.5 * u**3 * (10 - 15 * u + 6 * u * u) * np.sin(2 * np.pi * 0.3 * time_s)


@pytest.mark.parametrize(
    ("latency_s", "noise_rad", "most_rad"),
    [(0.1, 0.0, 0.001), (0.3, 0.0, 0.001), (0.2, 0.003, 0.003), (0.2, 0.01, 0.006)],
)
def test_chunks_with_latency_are_followed_without_lag(latency_s, noise_rad, most_rad):
    commands = track(sine, latency_s, noise_rad)
    wanted = np.array([sine(tick * T) for tick in range(500)])
    error = (commands - wanted)[100:]
    assert np.sqrt((error**2).mean()) <= most_rad
    assert max(shares(commands)) <= 1.000001


@pytest.mark.parametrize("distance_rad", [0.01, 0.1, 0.5, 1.0])
def test_a_far_point_is_reached_without_overshoot(distance_rad):
    limiter = limiter_at(MIDDLE)
    goal = MIDDLE + distance_rad
    rows = []
    for _ in range(250):
        limiter.track(goal, goal, goal)
        rows.append(limiter.position_rad)
    positions = np.array(rows)
    assert (positions <= goal + 1e-9).all()
    np.testing.assert_allclose(positions[-1], goal, atol=1e-6)
    assert max(shares(positions)) <= 1.000001
    # At rest it stays at rest.
    assert np.ptp(positions[-20:], axis=0).max() <= 2e-6


def test_a_position_limit_is_reached_softly_and_not_passed():
    limiter = limiter_at(MIDDLE)
    rows, stops = [], 0
    for tick in range(400):
        ahead = MIDDLE + 1.2 * T * np.array([tick - 1, tick, tick + 1])[:, None]
        step = limiter.track(*ahead)
        stops += bool(step.acted & 1)
        rows.append(limiter.position_rad)
    positions = np.array(rows)
    assert (positions <= LIMITS.upper_rad + 1e-9).all()
    np.testing.assert_allclose(positions[-1], LIMITS.upper_rad, atol=1e-3)
    assert max(shares(positions)) <= 1.000001
    assert stops > 100
    # Softly: no joint trembles, it slows down once and stays.
    late = np.diff(positions, axis=0)[-100:]
    assert (late >= -1e-9).all()


def test_a_far_pose_is_approached_on_a_straight_line():
    """Too fast for one joint, all slow down alike; trimming that one would bend the way by 0.25."""
    way = np.array([1.2, -0.6, 0.3, 0.0, 0.0, 0.1])
    limiter, rows = limiter_at(MIDDLE), []
    for _ in range(200):
        step = limiter.track(*(3 * [MIDDLE + way]))
        rows.append(limiter.position_rad)
        if len(rows) == 50:
            assert Limit.VELOCITY in step.acted
    moved = np.array(rows) - MIDDLE
    along = np.outer(moved @ way / (way @ way), way)
    assert np.abs(moved - along).max() < 0.05
    np.testing.assert_allclose(moved[-1], way, atol=1e-3)


def test_a_joint_at_its_limit_does_not_slow_the_others():
    limiter, rows = limiter_at(MIDDLE), []
    speeds = np.array([0.0, 0.0, 0.0, 0.0, 0.8, 1.9])
    for tick in range(250):
        limiter.track(*(MIDDLE + speeds * T * (tick + k) for k in (-1, 0, 1)))
        rows.append(limiter.position_rad)
    np.testing.assert_allclose(rows[-1][5], LIMITS.upper_rad[5], atol=1e-3)
    np.testing.assert_allclose(rows[-1][4], MIDDLE[4] + 0.8 * T * 250, atol=2e-3)


def test_the_verified_brake_guards_where_the_tracking_law_would_pass():
    """With so little jerk the law begins to slow down too late; only the acceptance rule helps."""
    weak = replace(LIMITS, jerk_rad_s3=np.full(6, 10.0))
    limiter = Limiter(weak, T)
    limiter.start(MIDDLE, weak.lower_rad, weak.upper_rad)
    rows = []
    for tick in range(600):
        goal = weak.upper_rad + 1.0 if tick < 300 else weak.lower_rad - 1.0
        limiter.track(goal, goal, goal)
        rows.append(limiter.position_rad)
    positions = np.array(rows)
    assert (positions <= weak.upper_rad + 1e-8).all()
    assert (positions >= weak.lower_rad - 1e-8).all()
    assert np.abs(np.diff(positions, 3, axis=0)).max() <= 10.0 * T**3 * 1.000001


def test_a_joint_outside_its_limits_only_comes_back():
    start = LIMITS.upper_rad + 0.1
    limiter = limiter_at(start)
    further, rows = start + 1.0, [start]
    for tick in range(300):
        goal = further if tick < 50 else MIDDLE
        limiter.track(goal, goal, goal)
        rows.append(limiter.position_rad)
    positions = np.array(rows)
    outside = np.maximum(positions - LIMITS.upper_rad, 0.0)
    assert (np.diff(outside, axis=0) <= 1e-9).all()
    np.testing.assert_allclose(positions[-1], MIDDLE, atol=1e-3)


def test_bounds_cannot_change_in_motion():
    limiter = limiter_at(MIDDLE)
    limiter.track(MIDDLE, MIDDLE, MIDDLE + 0.1)
    with pytest.raises(ValueError, match="at rest"):
        limiter.set_bounds(LIMITS.lower_rad, LIMITS.upper_rad)


def test_a_path_passes_within_the_tolerance_and_is_smooth():
    rng = np.random.default_rng(2)
    times = 0.04 * np.arange(25)
    clean = 0.3 * np.sin(3.0 * times)[:, None] * np.ones(6)
    noisy = clean + rng.uniform(-0.004, 0.004, clean.shape)
    path = path_of(noisy)
    inner = [i for i in range(25) if times[i] < times[-1] - 0.3]
    fitted = np.array([path.at(times[i]) for i in inner])
    assert np.abs(fitted - noisy[inner]).max() <= 0.005 + 1e-9
    samples = np.array([path.at(0.002 * k) for k in range(300)])
    bends = np.diff(samples, 2, axis=0) / 0.002**2
    assert np.abs(bends).max() <= 0.51 * TOPS[1].max()
    # Clean points are not smoothed at all.
    exact = path_of(clean)
    np.testing.assert_allclose([exact.at(times[i]) for i in inner], clean[inner], atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 25])
def test_a_path_ends_at_rest_on_its_last_point(count):
    points = MIDDLE + 0.03 * np.arange(count)[:, None] * np.ones(6)
    path = path_of(points)
    np.testing.assert_allclose(path.at(path.duration_s), points[-1], atol=1e-9)
    np.testing.assert_array_equal(path.at(path.duration_s + 1.0), path.at(path.duration_s + 2.0))
    follower = Follower(path, 0.0, T)
    limiter = limiter_at(points[0])
    rows = []
    for _ in range(round(path.duration_s / T) + 60):
        limiter.track(follower.before, follower.now, follower.next)
        follower.advance()
        rows.append(limiter.position_rad)
    assert follower.ended
    assert (np.array(rows) <= points[-1] + 1e-3).all()
    np.testing.assert_allclose(rows[-1], points[-1], atol=1e-3)


def test_a_short_chunk_beyond_the_velocity_limit_is_not_overrun():
    points = MIDDLE + 0.2 * np.arange(5)[:, None] * np.ones(6)
    path = path_of(points)
    limiter, follower, rows = limiter_at(points[0]), Follower(path, 0.0, T), []
    for _ in range(200):
        limiter.track(follower.before, follower.now, follower.next)
        follower.advance()
        rows.append(limiter.position_rad)
    assert (np.array(rows) <= points[-1] + 2e-3).all()
