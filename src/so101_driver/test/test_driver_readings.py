"""What servos do not answer is unknown, and who may have lost its supply is not commanded."""

import math

import numpy as np
import pytest
from bus_proof.driver_bench import DriverBench
from so101_driver.arm_driver import phase_step_ns
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import DriverState, Refusal
from so101_driver.joints import SERVO_IDS
from so101_driver.readings import ServoState

PERIOD_NS = 10_000_000


@pytest.fixture
def bench():
    return DriverBench()


def test_readings_become_radians_with_signs(bench):
    sample = bench.core.observe(bench.readings(velocity=-300), bench.now_ns)
    assert sample.position_rad == pytest.approx(bench.CALIBRATION.ticks_to_rad(bench.HOME))
    assert sample.velocity_rad_s == pytest.approx(bench.CALIBRATION.tick_rate_to_rad_s([-300] * 6))
    assert (sample.velocity_rad_s < 0).all()


def test_a_silent_servo_is_nan_then_a_fault_on_the_fourth_cycle(bench):
    others = [i for i in SERVO_IDS if i != 3]
    for cycle in range(4):
        assert bench.core.fault is None, cycle
        bench.wait(0.01)
        sample = bench.core.observe(bench.readings(others), bench.now_ns)
        assert np.isnan(sample.position_rad).tolist() == [False, False, True] + [False] * 3
    assert "servo 3 (elbow_flex)" in bench.core.fault.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.snapshot().reading_age_s[2] == math.inf
    assert bench.snapshot().reading_age_s[0] == 0.0


def test_a_servo_that_answers_what_cannot_be_is_named_for_that(bench):
    """An arm that buckles under a push turns faster than its servos can: no fault of a cable."""
    for _ in range(4):
        bench.wait(0.01)
        wild = bench.readings([3], velocity=9000)
        bench.core.observe({**bench.readings(), **wild}, bench.now_ns)
    assert bench.core.fault.code is ReasonCode.SERVO_SILENT
    assert "servo 3 (elbow_flex) moved faster than a servo can" in bench.core.fault.sentence
    assert bench.core.counters["implausible_reading"] == 4


def test_three_missing_cycles_are_tolerated(bench):
    others = [i for i in SERVO_IDS if i != 3]
    for _ in range(5):
        for ids in (others, others, others, SERVO_IDS):
            bench.wait(0.01)
            bench.core.observe(bench.readings(ids), bench.now_ns)
    assert bench.core.fault is None


def test_a_silent_bus_is_a_fault_after_its_time(bench):
    for _ in range(20):
        bench.wait(0.01)
        assert bench.core.observe({}, bench.now_ns) is None
    assert bench.core.fault is None
    bench.wait(0.01)
    bench.core.observe({}, bench.now_ns)
    assert "no servo answers" in bench.core.fault.sentence


def test_a_servo_back_from_a_power_failure_is_a_fault_and_not_commanded(bench):
    bench.stream(bench.goal_rad, 2)
    fallen = bench.states(enabled=[True, False, True, True, True, True])
    assert bench.core.check_states(bench.by_id(fallen)) == ()
    assert "servo 2 (shoulder_lift)" in bench.core.fault.sentence
    assert bench.stream(bench.goal_rad, 3) == {Refusal.FAULT}


def test_a_servo_that_missed_an_answer_gets_no_goal_until_its_state_is_known(bench):
    """It may have lost its supply, and a goal would switch it on wherever it has fallen."""
    bench.stream(bench.goal_rad, 2)
    before = bench.goal.copy()
    bench.core.observe(bench.readings([1, 3, 4, 5, 6]), bench.now_ns)
    bench.wait(0.01)
    command = bench.command(bench.goal_rad + 0.01)
    written = bench.core.command(command, bench.ros_ns, bench.now_ns).write.values
    assert sorted(written) == [1, 3, 4, 5, 6]
    assert bench.snapshot().goal_rad[1] == pytest.approx(bench.CALIBRATION.ticks_to_rad(before)[1])
    bench.core.observe(bench.readings(), bench.now_ns)
    assert bench.core.unverified == {2}
    bench.core.check_states({2: bench.states()[1]}, bench.now_ns)
    assert bench.core.unverified == frozenset()
    bench.wait(0.01)
    assert bench.send(bench.goal_rad + 0.01) is None
    assert bench.core.counters["goals_withheld"] == 1


def test_no_goal_is_written_while_nobody_answers(bench):
    bench.stream(bench.goal_rad, 2)
    goal = bench.snapshot().goal_rad
    bench.core.observe({}, bench.now_ns)
    for _ in range(3):
        bench.wait(0.01)
        command = bench.command(bench.goal_rad + 0.01)
        assert bench.core.command(command, bench.ros_ns, bench.now_ns).write is None
    assert bench.snapshot().goal_rad == pytest.approx(goal)
    assert bench.snapshot().state is DriverState.ACTIVE, "it may be one lost packet"
    for _ in range(10):
        bench.stream(bench.goal_rad, 1)
    snapshot = bench.snapshot()
    assert (snapshot.state, snapshot.reason.code) == (DriverState.HOLDING, ReasonCode.BUS_SILENT)
    bench.core.check_states(bench.by_id(bench.states()), bench.now_ns)
    assert bench.stream(bench.goal_rad + 0.01, 2) == {None}


def test_servos_found_limp_explain_why_they_were_silent(bench):
    for _ in range(4):
        bench.wait(0.01)
        bench.core.observe(bench.readings([1, 3, 4, 5, 6]), bench.now_ns)
    assert bench.core.fault.code is ReasonCode.SERVO_SILENT
    bench.core.check_states({2: ServoState(False, 0, 1000, 0)})
    assert bench.core.fault.code is ReasonCode.POWER_CYCLED
    assert bench.core.counters["faults"] == 1


def test_goals_that_a_lost_packet_left_behind_are_taken_as_they_are(bench):
    bench.stream(bench.goal_rad, 2)
    assert bench.stream(bench.goal_rad + 0.01, 1) == {None}
    assert bench.moved
    left = bench.by_id(bench.states(goal=bench.HOME))
    bench.core.check_states(left, bench.now_ns)
    assert bench.core.counters["goals_corrected"] == 0, "it may be on its way still"
    bench.wait(0.2)
    bench.core.check_states(left, bench.now_ns)
    assert bench.core.counters["goals_corrected"] == 1
    assert bench.snapshot().goal_rad == pytest.approx(bench.CALIBRATION.ticks_to_rad(bench.HOME))


@pytest.mark.parametrize("phase_ns", range(0, PERIOD_NS, 1_300_000))
def test_reads_move_until_they_follow_commands(phase_ns):
    """From any phase, and never by more than one percent of a period at once."""
    due_ns, command_ns = 10**9 + phase_ns, 10**9
    for _ in range(60):
        step_ns = phase_step_ns(due_ns, command_ns)
        assert abs(step_ns) <= PERIOD_NS // 100
        due_ns += PERIOD_NS + step_ns
        command_ns += PERIOD_NS
    assert (due_ns - command_ns) % PERIOD_NS == 2_000_000
