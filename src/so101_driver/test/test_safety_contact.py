"""A blocked joint must stop the arm soon; lag, sag and lost measurements must not seem one."""

import math
import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from so101_driver.joints import GRIPPER, JOINT_NAMES, data_path
from so101_driver.safety.contact import (
    RATE_RISE_S,
    SLOW_CONFIRM_S,
    STOP_CONFIRM_S,
    FollowingWatch,
)
from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings

PERIOD_S = 0.01
LIFT = JOINT_NAMES.index("shoulder_lift")
LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
SLOW_RAD = float(LIMITS.following_slow_rad[LIFT])
STOP_RAD = float(LIMITS.following_stop_rad[LIFT])
HOME = np.zeros(len(JOINT_NAMES))
UNIT = np.eye(len(JOINT_NAMES))[LIFT]


class Arm:
    """Servos with dead time and lag; joints may hang below them or be held."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.watch = FollowingWatch(LIMITS, settings)
        self.watch.start(HOME)
        dead_ticks = round(settings.servo_dead_time_s / PERIOD_S)
        self.line = deque([HOME] * (dead_ticks + 1), maxlen=dead_ticks + 1)
        self.gain = 1.0 - math.exp(-PERIOD_S / settings.servo_lag_s)
        self.servo_rad = HOME.copy()
        self.command_rad = HOME.copy()
        self.sag_rad = np.zeros_like(HOME)
        self.held_rad: np.ndarray | None = None
        self.last = self.watch.update(HOME, HOME)

    @property
    def measured_rad(self):
        if self.held_rad is not None:
            return self.held_rad
        return self.servo_rad - self.sag_rad

    def tick(self, command_rad, *, measured=True, target_rad=None):
        self.line.append(np.array(command_rad))
        self.servo_rad = self.servo_rad + self.gain * (self.line[0] - self.servo_rad)
        self.command_rad = np.array(command_rad)
        reading = self.measured_rad if measured else None
        self.last = self.watch.update(self.command_rad, reading, target_rad)
        return self.last

    def go(self, velocity_rad_s, seconds, **keys):
        """Command one joint at a speed; returns the results."""
        step_rad = UNIT * velocity_rad_s * PERIOD_S
        return [
            self.tick(self.command_rad + step_rad, **keys) for _ in range(round(seconds / PERIOD_S))
        ]

    def press(self, rad):
        """Hold the joint and command it so far beyond, in 0.1 s."""
        self.held_rad = self.measured_rad.copy()
        return self.go(rad / 0.1, 0.1)


@pytest.fixture
def arm():
    return Arm()


def test_lag_and_sag_at_full_speed_are_no_error(arm):
    arm.sag_rad[LIFT] = 0.10
    speed = LIMITS.velocity_rad_s[LIFT]
    passed = arm.go(speed, 1.0) + arm.go(-speed, 1.0) + arm.go(0.0, 0.5)
    assert all(result.rate == 1.0 and result.blocked == () for result in passed)
    assert max(abs(result.error_rad[LIFT] + 0.10) for result in passed) < 0.03


def test_the_command_itself_is_far_ahead_of_a_moving_joint(arm):
    """Without the model the plain distance would fill most of the margin."""
    arm.go(LIMITS.velocity_rad_s[LIFT], 0.5)
    assert abs(arm.measured_rad - arm.command_rad)[LIFT] > 0.7 * SLOW_RAD


@pytest.mark.parametrize("dead_time_s", [0.0, 0.004, 0.085, 0.2])
def test_any_dead_time_is_met_at_constant_speed(dead_time_s):
    arm = Arm(Settings(servo_dead_time_s=dead_time_s))
    arm.go(1.0, 1.0)
    behind_s = float((arm.command_rad - arm.watch.expected_rad)[LIFT])
    assert behind_s == pytest.approx(dead_time_s + 0.03, abs=1e-6)


def test_nothing_is_expected_before_the_dead_time(arm):
    """85 ms are eight whole ticks; the other half tick is taken as lag."""
    expected = []
    for _ in range(12):
        arm.watch.update(UNIT * 0.1, HOME)
        expected.append(float(arm.watch.expected_rad[LIFT]))
    assert expected[:8] == [0.0] * 8
    assert expected[8] == pytest.approx(0.1 * PERIOD_S / (PERIOD_S + 0.035))
    assert (np.diff(expected[7:]) > 0.0).all()


def test_rate_falls_smoothly_from_slow_to_stop(arm):
    arm.held_rad = HOME
    rates = {}
    for error_rad in np.linspace(0.0, STOP_RAD + 0.05, 70):
        watch = FollowingWatch(LIMITS, Settings())
        watch.start(UNIT * error_rad)
        rates[error_rad] = watch.update(UNIT * error_rad, HOME).rate
    assert all(rate == 1.0 for error, rate in rates.items() if error <= SLOW_RAD)
    assert all(rate == 0.0 for error, rate in rates.items() if error >= STOP_RAD)
    steps = np.diff(list(rates.values()))
    assert (steps <= 0.0).all()
    assert steps.min() > -0.1


def test_rate_rises_slowly(arm):
    arm.press(STOP_RAD * 2)
    arm.go(0.0, 0.1)
    assert arm.last.rate == 0.0
    arm.held_rad = None
    rates = np.array([result.rate for result in arm.go(0.0, 1.0)])
    assert np.diff(rates).max() <= PERIOD_S / RATE_RISE_S + 1e-9
    assert rates[-1] == 1.0


def test_the_worst_joint_decides(arm):
    watch = arm.watch
    watch.start(HOME)
    near = watch.update(HOME, UNIT * (SLOW_RAD + 0.01)).rate
    watch.start(HOME)
    both = watch.update(HOME, UNIT * (SLOW_RAD + 0.01) + np.eye(6)[0] * 0.24).rate
    assert both < near < 1.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_beyond_stop_is_blocked_after_its_time(arm, sign):
    arm.press(sign * (STOP_RAD + 0.1))
    seconds = 0.0
    while not arm.last.blocked:
        over = abs(arm.last.error_rad[LIFT]) > STOP_RAD
        seconds += PERIOD_S if over else 0.0
        arm.tick(arm.command_rad)
        assert seconds < 1.0
    assert seconds == pytest.approx(STOP_CONFIRM_S, abs=1.5 * PERIOD_S)
    assert arm.last.blocked == (LIFT,)
    assert "shoulder_lift is blocked" in arm.last.sentence


def test_one_wild_measurement_is_no_jam(arm):
    for _ in range(5):
        arm.held_rad = UNIT * 2.0
        arm.tick(HOME)
        arm.held_rad = None
        arm.go(0.0, 0.05)
        assert arm.last.blocked == ()


def test_pushed_on_beyond_slow_is_blocked_too(arm):
    between = (SLOW_RAD + STOP_RAD) / 2
    arm.press(between - 0.02)
    arm.go(0.0, 0.15)
    arm.go(0.02, 1.0)
    results = arm.go(0.0, SLOW_CONFIRM_S)
    assert abs(arm.last.error_rad[LIFT]) < STOP_RAD
    assert results[-1].blocked == (LIFT,)


def test_a_load_beyond_slow_at_rest_is_not_blocked(arm):
    arm.go(0.5, 1.0)
    arm.go(0.0, 0.5)
    arm.sag_rad[LIFT] = (SLOW_RAD + STOP_RAD) / 2
    results = arm.go(0.0, 3.0)
    assert all(result.blocked == () and 0.0 < result.rate < 1.0 for result in results)


def test_a_slowed_path_ends_blocked_however_slowly(arm):
    """The rate is near 0 before the stop error is reached: the jam must be named all the same."""
    for speed in (0.1, 0.5, 1.5):
        arm = Arm()
        arm.held_rad = HOME
        seconds = 0.0
        while not arm.last.blocked:
            arm.go(speed * arm.last.rate, PERIOD_S)
            seconds += PERIOD_S
            assert seconds < SLOW_RAD / speed + 2.0


def test_retreating_is_never_blocked_and_trembling_does_not_help(arm):
    arm.press(STOP_RAD + 0.15)
    arm.go(-0.3, 0.4)
    assert arm.last.blocked == ()

    trembling = Arm()
    trembling.press(STOP_RAD + 0.15)
    for _ in range(30):
        trembling.go(0.3, PERIOD_S)
        trembling.go(-0.3, PERIOD_S)
    assert trembling.last.blocked == (LIFT,)


def test_blocked_stays_until_the_error_falls_below_slow(arm):
    arm.press(STOP_RAD + 0.05)
    arm.go(0.0, 0.5)
    assert arm.last.blocked == (LIFT,)
    while abs(arm.last.error_rad[LIFT]) > SLOW_RAD:
        assert arm.last.blocked == (LIFT,)
        arm.go(-0.1, PERIOD_S)
    assert arm.last.blocked == ()
    assert arm.last.sentence == ""


def test_relief_leads_every_blocked_joint_back(arm):
    arm.press(STOP_RAD + 0.05)
    arm.go(0.0, 0.5)
    command = arm.command_rad
    assert arm.watch.relieves(command - 0.1 * UNIT)
    assert arm.watch.relieves(HOME - 1.0 * UNIT)
    assert not arm.watch.relieves(command)
    assert not arm.watch.relieves(command + 0.1 * UNIT)
    assert not arm.watch.relieves(command + 0.5 * np.eye(6)[0])
    assert not arm.watch.relieves(np.full(6, math.nan))
    assert Arm().watch.relieves(command)


def test_the_way_out_is_open(arm):
    """At the stop error the rate is 0, but a target that leads back is followed at full speed."""
    arm.press(STOP_RAD + 0.05)
    arm.go(0.0, 0.5)
    assert arm.tick(arm.command_rad, target_rad=arm.command_rad + 0.1 * UNIT).rate == 0.0
    arm.go(0.0, RATE_RISE_S, target_rad=HOME)
    assert arm.last.rate == pytest.approx(1.0)
    assert arm.last.blocked == (LIFT,)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_missing_measurements_are_no_jam(arm, missing):
    arm.go(1.0, 0.3)
    reading = None if missing is None else np.full(6, missing)
    for _ in range(100):
        arm.line.append(arm.command_rad)
        arm.command_rad = arm.command_rad + UNIT * 0.01
        result = arm.watch.update(arm.command_rad, reading)
        assert (result.rate, result.blocked) == (1.0, ())
        assert np.isfinite(result.error_rad).all()


def test_one_joint_that_is_not_measured_keeps_its_error_and_the_others_are_watched(arm):
    arm.press(STOP_RAD + 0.05)
    reading = HOME.copy()
    reading[0] = math.nan
    for _ in range(50):
        result = arm.watch.update(arm.command_rad, reading)
    assert result.error_rad[0] == 0.0
    assert result.blocked == (LIFT,)
    reading = HOME.copy()
    reading[LIFT] = math.nan
    held = result.error_rad[LIFT]
    for _ in range(50):
        result = arm.watch.update(HOME, reading)
    assert result.error_rad[LIFT] == held
    assert (result.rate, result.blocked) == (0.0, (LIFT,))


def test_measurements_at_half_the_rate_take_no_longer(arm):
    arm.press(STOP_RAD + 0.1)
    seconds = 0.0
    while not arm.last.blocked:
        arm.tick(arm.command_rad, measured=round(seconds / PERIOD_S) % 2 == 0)
        seconds += PERIOD_S
        assert seconds < STOP_CONFIRM_S + 0.2


def test_a_gripper_may_hang_behind_for_ever(arm):
    closed = HOME - np.eye(6)[GRIPPER] * 1.0
    for _ in range(300):
        result = arm.watch.update(closed, HOME)
    assert (result.rate, result.blocked) == (1.0, ())
    assert result.error_rad[GRIPPER] == pytest.approx(1.0)


def test_start_forgets_everything(arm):
    arm.press(STOP_RAD + 0.05)
    arm.go(0.0, 0.5)
    arm.watch.start(HOME)
    for reading in (None, HOME):
        result = arm.watch.update(HOME, reading)
        assert (result.rate, result.blocked) == (1.0, ())
        assert result.error_rad == pytest.approx(HOME)


def test_seven_joints_and_no_limits_at_all():
    names = tuple("abcdefg")
    limits = replace(
        LIMITS,
        joint_names=names,
        following_slow_rad=np.full(7, math.nan),
        following_stop_rad=np.full(7, math.nan),
    )
    watch = FollowingWatch(limits, Settings())
    watch.start(np.zeros(7))
    for _ in range(200):
        result = watch.update(np.ones(7), np.zeros(7))
    assert (result.rate, result.blocked) == (1.0, ())


def test_an_update_is_cheap(arm):
    arm.press(STOP_RAD + 0.1)
    arm.go(0.0, 0.5)
    command, measured = arm.command_rad, arm.measured_rad
    took = []
    for _ in range(500):
        begin = time.thread_time_ns()
        arm.watch.update(command, measured, command)
        took.append(time.thread_time_ns() - begin)
    # 10 µs; what other processes take of the machine does not count.
    assert np.median(took) < 100_000
