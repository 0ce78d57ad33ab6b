"""The geometry of the 100 Hz loop is that of the plain distances that judge it, for any pose.

Twice the same file, read and computed by code that has nothing in common; with the shipped file and
with a tilted table and boxes, in which random poses lie too.
"""

from __future__ import annotations

import numpy as np
import pytest
from proof.scenario import limits_of, surroundings

LIMITS = limits_of("cautious")
EITHER = pytest.mark.parametrize("cluttered", [False, True])


def random_poses(count: int) -> np.ndarray:
    # Beyond the limits too: an arm may start there.
    draw = np.random.default_rng(5)
    return draw.uniform(LIMITS.lower_rad - 0.2, LIMITS.upper_rad + 0.2, (count, 6))


@EITHER
def test_clearances_agree(cluttered):
    around = surroundings(cluttered)
    poses = random_poses(1500)
    mine, plain = around.geometry.clearances(poses), around.plain.clearances(poses)
    # The order of the constraints is each one's own business.
    np.testing.assert_allclose(np.sort(mine, axis=1), np.sort(plain, axis=1), atol=1e-9)
    assert around.geometry.recoverable_m == around.plain.recoverable_m
    assert len(around.geometry.names) == len(around.geometry.limits) == mine.shape[1]


@EITHER
def test_one_pose_and_many_give_the_same(cluttered):
    geometry = surroundings(cluttered).geometry
    for pose in random_poses(60):
        one, _ = geometry.clearances_and_gradients(pose)
        np.testing.assert_allclose(one, geometry.clearances(pose[None])[0], atol=1e-12)


@EITHER
def test_gradients_are_the_slopes_of_the_clearances(cluttered):
    """Kinks apart, and poses so deep that no arm gets there: the nearest face is open then."""
    geometry = surroundings(cluttered).geometry
    h = 1e-6
    wrong, checked = 0, 0
    for pose in random_poses(150):
        clear, gradients = geometry.clearances_and_gradients(pose)
        steps = np.concatenate((np.eye(6), -np.eye(6))) * h
        around = geometry.clearances(pose + steps)
        up, down = (around[:6] - clear) / h, (clear - around[6:]) / h
        smooth = (np.abs(up - down).max(axis=0) < 1e-3) & (clear > -geometry.recoverable_m)
        slopes = 0.5 * (up + down).T
        wrong += (np.abs(slopes - gradients)[smooth] > 2e-3).any(axis=1).sum()
        checked += smooth.sum()
    assert wrong == 0
    assert checked > 150 * 60


def test_the_tip_and_its_jacobian_agree():
    around = surroundings(False)
    poses = random_poses(200)
    tips = around.plain.tips(poses)
    np.testing.assert_allclose(around.geometry.tip_positions(poses), tips, atol=1e-12)
    for pose in poses[:40]:
        steps = 1e-6 * np.eye(6)
        slopes = (around.plain.tips(pose + steps) - around.plain.tips(pose - steps)).T / 2e-6
        np.testing.assert_allclose(around.geometry.tip_jacobian(pose), slopes, atol=1e-7)
