"""Chunks overlap: the path behind them must not change in hindsight nor exceed its speed."""

import numpy as np
import pytest
from wallx_policy.backends.joint_path import Bounds, JointPath, Segment

BOUNDS = Bounds(1.0, 4.0, 50.0)
A, B, C = np.zeros(6), np.array([0.5, -1.0, 0.2, 0.0, 0.0, 0.1]), np.full(6, 0.3)


@pytest.mark.parametrize("knots", [[A, B], [A, C, B], [A, 0.2 * B, 0.4 * B, 0.7 * B, B]])
def test_a_segment_starts_and_ends_at_rest_within_its_bounds(knots):
    segment = Segment.through(knots, 1_000_000_000, BOUNDS)
    times_ns = np.arange(900_000_000, segment.end_ns + 100_000_000, 1_000_000)
    path = np.array([segment.at(int(t)) for t in times_ns])
    velocity = np.diff(path, axis=0) / 1e-3
    acceleration = np.diff(velocity, axis=0) / 1e-3
    assert np.array_equal(path[0], knots[0])
    assert np.allclose(path[-1], knots[-1])
    assert np.abs(velocity).max() <= 1.0 + 1e-6
    assert np.abs(acceleration).max() <= 4.0 + 1e-2
    assert not velocity[0].any()
    assert not velocity[-1].any()


def test_appending_leaves_the_past_alone():
    path = JointPath(A)
    assert np.array_equal(path.at(5), A)
    path.append(Segment.through([A, B], 100, BOUNDS))
    before = [path.at(t) for t in range(0, 10**9, 10**8)]
    end_ns = path.end_ns
    path.append(Segment.through([B, C], end_ns + 50, BOUNDS))
    assert np.array_equal(before, [path.at(t) for t in range(0, 10**9, 10**8)])
    assert np.allclose(path.at(end_ns + 25), B)
    assert np.allclose(path.end_rad, path.at(10**12))
    assert np.allclose(path.end_rad, C)


def test_a_segment_cannot_replace_one_that_still_runs():
    path = JointPath(A)
    path.append(Segment.through([A, B], 100, BOUNDS))
    with pytest.raises(ValueError, match="may not start before"):
        path.append(Segment.through([B, C], 200, BOUNDS))
