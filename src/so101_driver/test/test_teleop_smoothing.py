"""A hand's motion without the encoders' grain: still when it is still, and not late."""

from __future__ import annotations

import numpy as np
import pytest
from so101_driver.teleop_smoothing import LONGEST_GAP_S, HandFilter, Play

TICK_RAD = 2.0 * np.pi / 4095
PERIOD_NS = 20_000_000


def test_flicker_of_a_tick_moves_nothing_and_more_does():
    play = Play()
    rng = np.random.default_rng(1)
    held = [play.update(np.array([2000.0 + rng.integers(2)])) for _ in range(50)]
    assert np.ptp(held) == 0.0
    moved = [play.update(np.array([float(2000 + k)]))[0] for k in range(10)]
    assert moved[-1] == 2008.0
    assert (np.diff(moved) >= 0.0).all()


@pytest.mark.parametrize("period_ns", [10_000_000, 20_000_000, 50_000_000])
def test_constant_speed_is_followed_without_lag_at_any_rate(period_ns):
    smooth = HandFilter()
    for k in range(200):
        stamp_ns = k * period_ns
        at = smooth.update(np.array([1.5, -0.3]) * stamp_ns * 1e-9, stamp_ns)
    assert np.allclose(at, np.array([1.5, -0.3]) * stamp_ns * 1e-9, atol=1e-6)


def test_noise_shrinks():
    smooth = HandFilter()
    rng = np.random.default_rng(2)
    noise = rng.uniform(-TICK_RAD, TICK_RAD, 2000)
    out = [smooth.update(noise[k : k + 1], k * PERIOD_NS)[0] for k in range(len(noise))]
    assert np.std(out[100:]) < 0.7 * np.std(noise)


def test_a_hand_that_accelerates_is_led_by_what_the_docstring_says():
    smooth = HandFilter()
    for k in range(100):
        time_s = k * PERIOD_NS * 1e-9
        behind = 0.5 * 10.0 * time_s**2 - smooth.update(
            np.array([0.5 * 10.0 * time_s**2]), k * PERIOD_NS
        )
    assert behind[0] == pytest.approx(0.0135, abs=0.001)


def test_a_gap_starts_anew():
    smooth = HandFilter()
    for k in range(50):
        smooth.update(np.array([0.05 * k]), k * PERIOD_NS)
    later_ns = 50 * PERIOD_NS + round(2 * LONGEST_GAP_S * 1e9)
    assert smooth.update(np.array([0.0]), later_ns)[0] == 0.0
    assert smooth.update(np.array([0.0]), later_ns + PERIOD_NS)[0] == 0.0
