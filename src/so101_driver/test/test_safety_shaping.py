"""Geometry in the limiter: never passed, whatever is wanted; met softly where shaping works.

The geometry here is made up, so that distances are plain formulas: the tip is 0.4 m times the first
three joints, and it must stay above a floor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from so101_driver.joints import data_path
from so101_driver.safety import Limit, Limits, Mode
from so101_driver.safety.limiter import Limiter

T = 0.01
LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "demo")
FLOOR_M = -0.1
START = np.array([0.0, 0.5, 0.0, 0.0, 0.0, 0.5])


class Floor:
    """The tip's height above a floor, height being 0.4 m times the second joint."""

    names = ("tip to the floor",)
    limits = (Limit.TABLE,)
    recoverable_m = 0.02
    jacobian = np.eye(3, 6) * 0.4
    gradient = jacobian[1:2]

    def clearances(self, positions_rad):
        return positions_rad @ self.gradient.T - FLOOR_M

    def clearances_and_gradients(self, position_rad):
        return position_rad @ self.gradient.T - FLOOR_M, self.gradient

    def tip_positions(self, positions_rad):
        return positions_rad @ self.jacobian.T

    def tip_jacobian(self, _position_rad):
        return self.jacobian


class Unseen(Floor):
    """The same floor, but nothing tells the shaper that it is there."""

    def clearances_and_gradients(self, _position_rad):
        return np.array([1.0]), np.zeros((1, 6))


class Blind(Unseen):
    """Nor does anything tell the shaper how fast the tip gets."""

    def tip_jacobian(self, _position_rad):
        return np.zeros((3, 6))


def heights(positions: np.ndarray) -> np.ndarray:
    return 0.4 * positions[:, 1] - FLOOR_M


def follow(limiter: Limiter, goals: np.ndarray) -> tuple[np.ndarray, Limit]:
    """Commands that follow a list of wanted positions, and all limits that acted."""
    rows, acted = [limiter.position_rad], Limit(0)
    for k in range(1, len(goals) - 1):
        acted |= limiter.track(goals[k - 1], goals[k], goals[k + 1]).acted
        rows.append(limiter.position_rad)
    return np.array(rows), acted


def limiter_at(position: np.ndarray, geometry: Floor, limits: Limits = LIMITS) -> Limiter:
    limiter = Limiter(limits, T, geometry)
    limiter.start(position, limits.lower_rad, limits.upper_rad)
    return limiter


def ramp(joint: int, speed_rad_s: float, ticks: int = 300) -> np.ndarray:
    goals = np.tile(START, (ticks, 1))
    goals[:, joint] += speed_rad_s * T * np.arange(ticks)
    return goals


@pytest.mark.parametrize("speed_rad_s", [0.2, 1.0, 2.5])
def test_the_floor_is_met_softly_and_not_passed(speed_rad_s):
    rows, acted = follow(limiter_at(START, Floor()), ramp(1, -speed_rad_s, 900))
    height = heights(rows)
    assert height.min() >= -1e-9
    assert height[-1] <= 5e-4
    assert Limit.TABLE in acted
    # One approach: it does not bounce, and it does not shake.
    assert (np.diff(height) <= 1e-9).all()
    jerk = np.abs(np.diff(rows[:, 1], 3)) / T**3
    assert jerk[-200:].max() <= 1.0


def test_motion_along_the_floor_goes_on():
    goals = ramp(1, -1.0)
    goals[:, 0] += 0.3 * T * np.arange(len(goals))
    rows, _ = follow(limiter_at(START, Floor()), goals)
    assert heights(rows).min() >= -1e-9
    np.testing.assert_allclose(rows[-1, 0], goals[-2, 0], atol=0.02)
    # Joints that were not asked to move stay.
    np.testing.assert_allclose(rows[:, 2:], rows[0, 2:] * np.ones((len(rows), 1)), atol=1e-9)


@pytest.mark.parametrize("speed_rad_s", [0.2, 1.0, 2.5])
def test_the_verified_brake_guards_what_shaping_does_not_see(speed_rad_s):
    rows, acted = follow(limiter_at(START, Unseen()), ramp(1, -speed_rad_s, 900))
    assert heights(rows).min() >= -1e-9
    assert Limit.TABLE in acted


def test_a_start_below_the_floor_only_rises():
    start = START.copy()
    start[1] = (FLOOR_M - 0.015) / 0.4
    goals = np.tile(start, (400, 1))
    goals[:100, 1] -= 1.0
    goals[100:, 1] += 0.5
    rows, _ = follow(limiter_at(start, Floor()), goals)
    height = heights(rows)
    outside = np.maximum(-height, 0.0)
    assert (np.diff(outside) <= 1e-9).all()
    # Pressed down it hardly moves: shaping leads it out at KEPT_M times its gain, 2.4 mm/s.
    assert height[90] <= height[0] + 0.9 * 0.0024 + 1e-9
    assert height[-1] > 0.1


@pytest.mark.parametrize("unknown", ["clearances", "tip_positions"])
def test_what_the_geometry_does_not_know_is_not_legal(monkeypatch, unknown):
    geometry = Unseen()
    limiter = limiter_at(START, geometry)
    known = getattr(Unseen, unknown)
    monkeypatch.setattr(
        geometry, unknown, lambda rows: known(geometry, rows) * np.nan, raising=False
    )
    rows, _ = follow(limiter, ramp(0, 0.5, 50))
    np.testing.assert_array_equal(rows, np.tile(START, (len(rows), 1)))


@pytest.mark.parametrize("geometry", [Floor(), Unseen(), Blind()])
def test_the_tip_keeps_its_speed_limit(geometry):
    slow = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
    assert slow.tip_speed_m_s < 0.4 * slow.velocity_rad_s[0] * np.sqrt(2)
    goals = np.tile(START, (400, 1))
    goals[5:, 0] += 1.5
    goals[5:, 2] += 1.5
    rows, acted = follow(limiter_at(START, geometry, slow), goals)
    speeds = np.linalg.norm(np.diff(geometry.tip_positions(rows), axis=0), axis=1) / T
    assert speeds.max() <= slow.tip_speed_m_s + 1e-6
    assert speeds.max() >= 0.9 * slow.tip_speed_m_s
    assert Limit.VELOCITY in acted
    np.testing.assert_allclose(rows[-1], goals[-1], atol=1e-3)


def test_a_scaled_motion_does_not_wind_up_at_the_floor(new_scene: Any):
    """Sent into it for five seconds, the arm rises again as soon as it is led up."""

    class Lower(Floor):
        def clearances(self, positions_rad):
            return super().clearances(positions_rad) + 0.18

        def clearances_and_gradients(self, position_rad):
            clearances, gradients = super().clearances_and_gradients(position_rad)
            return clearances + 0.18, gradients

    scene = new_scene(Mode.SCALED, geometry=Lower(), scale=0.2).arm()
    way = np.eye(6)[1] * 0.3
    for _ in range(62):
        scene.step(chunks=(scene.chunk(scene.last.positions_rad - way),), ticks=8)
    lowest = scene.last.positions_rad[1]
    assert lowest == pytest.approx(-0.7, abs=2e-3)
    for _ in range(10):
        scene.step(chunks=(scene.chunk(scene.last.positions_rad + way),), ticks=8)
    assert scene.last.positions_rad[1] > lowest + 0.01
