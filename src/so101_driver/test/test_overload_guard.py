"""A servo must lose force before its own protection trips, and never so much that the arm drops."""

from collections import Counter

import numpy as np
import pytest
from so101_driver.joints import GRIPPER, JOINT_NAMES
from so101_driver.overload_guard import (
    BELOW_THRESHOLD,
    YIELD_TICKS,
    GuardConfig,
    OverloadGuard,
    OverloadRegisters,
)

LIFT = JOINT_NAMES.index("shoulder_lift")
ELBOW = JOINT_NAMES.index("elbow_flex")
FULL = (1000, 1000, 1000, 1000, 1000, 500)
REGISTERS = (OverloadRegisters(),) * 5 + (OverloadRegisters(threshold=0.25),)
CONFIG = GuardConfig()
START_NS = 7_000_000_000
HERE, GOAL = 2000, 2160


class Bench:
    """A guard and the duties that joints want; what they get is cut at the limit."""

    def __init__(self, registers=REGISTERS):
        self.counters = Counter()
        self.guard = OverloadGuard(CONFIG, self.counters)
        self.guard.start(FULL, registers, START_NS)
        self.cycle = 0
        self.wanted = np.zeros(6)
        self.present = [HERE] * 6
        self.log = []

    @property
    def limits(self):
        return np.array(self.guard.limits(START_NS + self.cycle * 10_000_000)) / 1000

    def run(self, seconds, duty=None, joint=LIFT):
        """Pass time at 100 Hz with readings at 10 Hz; returns the duties and limits."""
        if duty is not None:
            self.wanted[joint] = duty
        for _ in range(round(seconds * 100)):
            self.cycle += 1
            limits = self.limits
            got = np.clip(self.wanted, -limits, limits)
            if self.cycle % 10 == 0:
                now_ns = START_NS + self.cycle * 10_000_000
                for index in range(6):
                    self.guard.observe(index, got[index], self.present[index], GOAL, now_ns)
            self.log.append((got.copy(), limits))
        return self.log[-round(seconds * 100) :]


def longest_beyond(log, joint, threshold):
    """Longest unbroken time [s] with a duty beyond a threshold."""
    longest = run = 0
    for duty, _ in log:
        run = run + 1 if abs(duty[joint]) > threshold else 0
        longest = max(longest, run)
    return longest * 0.01


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("excess", [1.01, 1.1, 2.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("before_s", [0.03, 1.07, 4.0])
def test_the_servos_own_timer_never_runs_out(bench, joint, excess, sign, before_s):
    threshold = REGISTERS[joint].threshold
    bench.run(before_s, 0.5 * threshold, joint)
    log = bench.run(8.0, sign * min(excess * threshold, 1.0), joint)
    assert longest_beyond(log, joint, threshold) < 0.85 * REGISTERS[joint].after_s
    assert bench.counters == {f"torque_limited_{JOINT_NAMES[joint]}": 1}
    assert bench.limits[joint] == pytest.approx(CONFIG.sustainable[joint])


def test_a_servo_that_trips_sooner_is_spared_sooner():
    bench = Bench((OverloadRegisters(0.6, 1.0),) * 6)
    log = bench.run(10.0, 1.0)
    assert longest_beyond(log, LIFT, 0.6) < 1.0
    # 0.7 would be beyond this servo's threshold.
    assert bench.limits[LIFT] == pytest.approx(BELOW_THRESHOLD * 0.6, abs=1e-3)


def test_short_efforts_are_free(bench):
    for _ in range(20):
        bench.run(0.6, 1.0)
        bench.run(1.2, 0.3)
    assert bench.limits.tolist() == [full / 1000 for full in FULL]
    assert not bench.counters


def test_a_load_below_the_budget_is_free_for_ever(bench):
    bench.run(60.0, 0.58)
    assert bench.guard.limited == {}


def test_limits_fall_and_rise_in_ramps(bench):
    bench.run(10.0, 1.0)
    bench.run(20.0, 0.1)
    limits = np.array([limits[LIFT] for _, limits in bench.log])
    steps = np.diff(limits)
    assert steps.min() >= -CONFIG.lower_per_s * 0.01 - 2e-3
    assert steps.max() <= CONFIG.raise_per_s * 0.01 + 2e-3
    assert limits[-1] == 1.0
    assert limits.min() == pytest.approx(CONFIG.sustainable[LIFT])


def test_a_joint_that_goes_on_pressing_stays_limited_without_hunting(bench):
    log = bench.run(120.0, 1.0)
    limits = np.array([limits[LIFT] for _, limits in log])
    assert (np.diff(limits) <= 0.0).all()
    assert bench.counters == {"torque_limited_shoulder_lift": 1}


def test_only_the_joint_that_presses_is_limited(bench):
    bench.run(10.0, 1.0)
    assert list(bench.guard.limited) == [LIFT]


def test_a_load_that_sinks_is_held_as_long_as_the_servo_can(bench):
    """A heavy load presses like an obstacle, but it moves the joint when the limit falls."""
    bench.run(3.0, 0.9, ELBOW)
    assert bench.limits[ELBOW] == pytest.approx(CONFIG.sustainable[ELBOW])
    bench.present[ELBOW] -= YIELD_TICKS
    bench.run(1.0)
    assert bench.counters["torque_yielded_elbow_flex"] == 0
    bench.present[ELBOW] -= 1
    log = bench.run(10.0)
    assert bench.limits[ELBOW] == pytest.approx(BELOW_THRESHOLD * REGISTERS[ELBOW].threshold)
    assert longest_beyond(log, ELBOW, REGISTERS[ELBOW].threshold) == 0.0
    assert bench.counters["torque_yielded_elbow_flex"] == 1
    bench.run(10.0, 0.2, ELBOW)
    assert bench.guard.limited == {}


def test_a_gripper_that_is_opened_again_has_not_given_way():
    bench = Bench()
    bench.run(3.0, 0.5, GRIPPER)
    bench.present[GRIPPER] = GOAL + 400
    bench.run(1.0, -0.5, GRIPPER)
    bench.present[GRIPPER] = GOAL + 100
    bench.run(3.0)
    assert bench.counters == {"torque_limited_gripper": 1}
    bench.run(10.0, 0.0, GRIPPER)
    assert bench.guard.limited == {}


def test_the_shares_hold_the_stretched_arm_on_the_weakest_servo(bench):
    stall_nm = 1.35
    for joint, weight_nm in (("shoulder_lift", 0.86), ("elbow_flex", 0.45), ("wrist_flex", 0.12)):
        index = JOINT_NAMES.index(joint)
        assert CONFIG.sustainable[index] * stall_nm > 1.05 * weight_nm
    assert CONFIG.sustainable[GRIPPER] < REGISTERS[GRIPPER].threshold


def test_a_pause_in_the_readings_counts_little(bench):
    bench.run(1.0, 0.9)
    bench.cycle += 6000
    bench.run(0.1)
    assert bench.guard.limited == {}


def test_a_load_that_pulls_the_other_way_is_held_too(bench):
    bench.present[ELBOW] = GOAL + 160
    bench.run(3.0, -0.9, ELBOW)
    bench.present[ELBOW] += YIELD_TICKS + 1
    bench.run(2.0)
    assert bench.limits[ELBOW] == pytest.approx(BELOW_THRESHOLD * REGISTERS[ELBOW].threshold)


def test_start_forgets_the_past(bench):
    bench.run(10.0, 1.0)
    bench.guard.start(FULL, REGISTERS, START_NS)
    assert bench.guard.limited == {}
