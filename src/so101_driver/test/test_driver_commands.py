"""Nothing but a fresh, sane command from one source may move the arm, and failing means holding."""

import math

import numpy as np
import pytest
from bus_proof.driver_bench import DriverBench
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import DriverState, Refusal
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import JOINT_NAMES

LIFT = np.array([0, 1, 0, 0, 0, 0])


@pytest.fixture
def bench():
    return DriverBench()


def test_commands_are_followed(bench):
    target = bench.goal_rad + 0.05
    bench.stream(bench.goal_rad, 2)
    assert bench.stream(target, 20) == {None}
    assert bench.goal.tolist() == bench.CALIBRATION.rad_to_ticks(target).tolist()
    assert bench.snapshot().state is DriverState.ACTIVE
    assert bench.snapshot().goal_rad == pytest.approx(target, abs=0.002)
    bench.wait(0.2)
    assert bench.snapshot().state is DriverState.HOLDING


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("joint", range(6))
def test_non_finite_is_refused(bench, bad, joint):
    position = bench.goal_rad + 0.01
    position[joint] = bad
    assert bench.send(position) is Refusal.NON_FINITE
    velocity = [0.0] * 6
    velocity[joint] = bad
    assert bench.send(bench.goal_rad + 0.01, velocity_rad_s=tuple(velocity)) is Refusal.NON_FINITE
    assert bench.core.counters["refused_non_finite"] == 2
    assert not bench.moved


def test_other_joints_are_refused(bench):
    wanted = bench.goal_rad + 0.01
    assert bench.send(wanted, names=JOINT_NAMES[::-1]) is Refusal.JOINTS
    assert bench.send(wanted[:5], names=JOINT_NAMES[:5]) is Refusal.JOINTS
    assert bench.send(wanted[:5]) is Refusal.JOINTS
    assert bench.send([], names=()) is Refusal.JOINTS
    assert not bench.moved


@pytest.mark.parametrize(
    ("age_s", "refusal"),
    [(0.099, None), (0.101, Refusal.STALE), (-0.019, None), (-0.021, Refusal.FUTURE)],
)
def test_age_at_the_limit_and_beyond(bench, age_s, refusal):
    stamp_ns = bench.ros_ns - int(age_s * 1e9)
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=stamp_ns) is refusal
    assert bench.moved is (refusal is None)


def test_repeated_and_reordered_commands_are_refused(bench):
    assert bench.send(bench.goal_rad) is None
    stamp_ns = bench.ros_ns
    bench.wait(0.01)
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=stamp_ns) is Refusal.ORDER
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=stamp_ns - 1) is Refusal.ORDER
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=stamp_ns + 1) is None


def test_a_recorded_command_is_never_fresh(bench):
    hours_ns = 3600 * 10**9
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=bench.ros_ns - hours_ns) is Refusal.STALE
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=0) is Refusal.STALE
    assert not bench.moved


def test_a_clock_set_back_holds_and_then_recovers(bench):
    assert bench.stream(bench.goal_rad, 3) == {None}
    bench.ros_shift_ns -= 3600 * 10**9
    assert bench.stream(bench.goal_rad, 5) == {Refusal.ORDER}
    bench.wait(0.2)
    assert bench.stream(bench.goal_rad, 3) == {None}
    assert not bench.moved


def test_speed_is_limited_over_any_time(bench):
    bench.stream(bench.goal_rad, 2)
    before = bench.goal_rad.copy()
    bench.stream(before + 0.3, 10)
    travelled = bench.goal_rad - before
    assert travelled.max() <= bench.SPEED * 1.05 * (0.1 + 0.03) + 0.002
    assert travelled.min() > 0.15
    assert bench.core.counters["rate_limited"] > 0


def test_a_flood_of_commands_moves_no_faster(bench):
    bench.stream(bench.goal_rad, 2)
    before = bench.goal_rad.copy()
    bench.stream(before + 0.3, 100, period_s=0.001)
    assert (bench.goal_rad - before).max() <= bench.SPEED * 1.05 * (0.1 + 0.03) + 0.002


def test_a_lost_message_is_caught_up_without_freezing(bench):
    bench.stream(bench.goal_rad, 2)
    position = bench.goal_rad.copy()
    for cycle in range(30):
        position += bench.SPEED * 0.01
        bench.wait(0.01)
        if cycle % 5 != 2:
            assert bench.send(position) is None
    assert bench.goal_rad == pytest.approx(position, abs=0.002)
    assert bench.core.counters["rate_limited"] == 0


def test_first_command_after_a_pause_gets_one_period_only(bench):
    bench.stream(bench.goal_rad, 2)
    bench.wait(30.0)
    before = bench.goal_rad.copy()
    assert bench.send(before + 0.3) is None
    assert (bench.goal_rad - before).max() <= bench.SPEED * 1.05 * 0.01 + 0.002


def test_a_far_command_holds_until_commands_start_from_the_goal(bench):
    bench.stream(bench.goal_rad, 2)
    far = bench.goal_rad.copy()
    far[1] += 0.36
    assert bench.stream(far, 20) == {Refusal.DESYNC}
    assert bench.snapshot().reason.code is ReasonCode.DESYNC
    assert bench.stream(bench.goal_rad + 0.1, 3) == {Refusal.DESYNC}
    assert not bench.moved
    assert bench.stream(bench.goal_rad, 3) == {None}
    assert bench.snapshot().state is DriverState.ACTIVE


def test_an_unknown_goal_counts_as_far_away(bench):
    """NaN compares false with everything: no comparison may let it pass."""
    command = bench.goal_rad.copy()
    bench.core._goals.rad = np.full(6, np.nan)
    assert bench.stream(command, 3) == {Refusal.DESYNC}
    assert not bench.moved


def test_positions_are_clamped(bench):
    position = bench.goal_rad.copy()
    while position[0] < 1.7:
        position[0] += 0.015
        bench.stream(position, 1)
    assert bench.goal_rad[0] == pytest.approx(1.5, abs=0.001)
    assert bench.core.counters["position_clamped"] > 0


def test_a_start_outside_the_limits_may_only_return():
    bench = DriverBench(adopt=False)
    folded = bench.CALIBRATION.rad_to_ticks([0.0, -1.7, 1.6, 0.0, 0.0, 0.0])
    bench.start(goal=folded)
    bench.goal = folded.copy()
    start = bench.goal_rad.copy()
    assert bench.stream(start, 3) == {None}
    assert bench.goal.tolist() == folded.tolist()
    bench.stream(start - 0.05 * LIFT, 10)
    assert bench.goal_rad[1] == pytest.approx(start[1], abs=0.001)
    bench.stream(start + 0.1 * LIFT, 20)
    assert bench.goal_rad[1] == pytest.approx(-1.6, abs=0.002)
    bench.stream(start, 20)
    assert bench.goal_rad[1] == pytest.approx(-1.6, abs=0.002)


def test_two_publishers_hold_the_arm_and_one_may_go_on_from_the_goal(bench):
    bench.stream(bench.goal_rad, 2)
    bench.wait(0.01)
    assert bench.send(bench.goal_rad + 0.01, sources=2) is Refusal.MULTIPLE_SOURCES
    bench.wait(0.15)
    assert bench.send(bench.goal_rad + 0.01, sources=2) is Refusal.MULTIPLE_SOURCES
    assert bench.snapshot().reason.code is ReasonCode.MULTIPLE_SOURCES
    assert bench.stream(bench.goal_rad + 0.1, 2) == {Refusal.DESYNC}
    assert not bench.moved
    assert bench.stream(bench.goal_rad, 2) == {None}


def test_braking_is_followed_after_an_estop_and_then_the_arm_freezes(bench):
    bench.stream(bench.goal_rad, 2)
    bench.core.estop(bench.now_ns)
    bench.core.safety(SafetyPhase.STOPPED)
    assert bench.stream(bench.goal_rad + 0.02, 50) == {None}
    bench.wait(0.15)
    assert bench.snapshot().reason.code is ReasonCode.ESTOP
    assert bench.stream(bench.goal_rad, 3) == {Refusal.ESTOP}
    bench.core.safety(SafetyPhase.DISARMED)
    assert bench.stream(bench.goal_rad, 3) == {Refusal.ESTOP}
    bench.core.safety(SafetyPhase.HOLD)
    assert bench.stream(bench.goal_rad, 3) == {None}


def test_estop_with_safety_silent_freezes_at_once(bench):
    bench.core.estop(bench.now_ns)
    assert bench.snapshot().reason.code is ReasonCode.ESTOP
    assert bench.stream(bench.goal_rad, 3) == {Refusal.ESTOP}
    bench.core.safety(SafetyPhase.HOLD)
    bench.core.safety(SafetyPhase.MOVING)
    assert bench.stream(bench.goal_rad, 3) == {Refusal.ESTOP}


def test_safety_that_ignores_the_estop_is_not_followed(bench):
    bench.stream(bench.goal_rad, 2)
    bench.core.estop(bench.now_ns)
    bench.core.safety(SafetyPhase.MOVING)
    bench.stream(bench.goal_rad, 35)
    assert bench.stream(bench.goal_rad + 0.02, 3) == {Refusal.ESTOP}
    assert not bench.moved
