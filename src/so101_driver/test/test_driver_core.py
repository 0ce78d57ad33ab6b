"""Nothing but a fresh, sane command from one source may move the arm, and failing means holding."""

import math

import numpy as np
import pytest
from so101_driver.arm_driver import phase_step_ns
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_types import (
    Command,
    DriverConfig,
    DriverState,
    Refusal,
    StartAction,
    TorquePhase,
)
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.protocol import ServoError
from so101_driver.readings import Reading, ServoState

from so101_driver import registers as reg

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
FULL = (1000, 1000, 1000, 1000, 1000, 500)
HOME = CALIBRATION.rad_to_ticks([0.1, -0.5, 0.6, 0.3, 0.0, 0.2])
PERIOD_NS = 10_000_000
ROS_OFFSET_NS = 1_700_000_000_000_000_000
SPEED = 2.0
LIFT = np.array([0, 1, 0, 0, 0, 0])

CONFIG = DriverConfig(
    position_limits_rad=np.array([[-1.5, 1.5]] * 5 + [[-0.17, 1.7]]),
    max_speed_rad_s=np.full(6, SPEED),
)


def states(goal=HOME, present=HOME, enabled=True, limits=FULL):
    enabled = [enabled] * 6 if isinstance(enabled, bool) else enabled
    return tuple(
        ServoState(on, int(g), limit, int(p))
        for on, g, limit, p in zip(enabled, goal, limits, present, strict=True)
    )


def readings(now_ns, ids=SERVO_IDS, ticks=HOME, velocity=0):
    data = {
        i: reg.PRESENT_POSITION.encode(int(t)) + reg.PRESENT_VELOCITY.encode(velocity)
        for i, t in zip(SERVO_IDS, ticks, strict=True)
    }
    return {i: Reading(i, data[i], ServoError(0), now_ns) for i in ids}


class Bench:
    """A core with its clocks; remembers what reached the goal registers."""

    def __init__(self, adopt=True):
        self.core = DriverCore(CONFIG, CALIBRATION)
        self.now_ns = 5_000_000_000
        self.ros_shift_ns = ROS_OFFSET_NS
        self.goal = HOME.copy()
        if adopt:
            assert self.core.start(states(), FULL, self.now_ns) is StartAction.ADOPT

    @property
    def ros_ns(self):
        return self.now_ns + self.ros_shift_ns

    @property
    def goal_rad(self):
        return CALIBRATION.ticks_to_rad(self.goal)

    def wait(self, seconds):
        self.now_ns += int(seconds * 1e9)

    def send(self, position, *, stamp_ns=None, sources=1, names=JOINT_NAMES, velocity=()):
        command = Command(
            tuple(names),
            self.ros_ns if stamp_ns is None else stamp_ns,
            tuple(float(v) for v in position),
            tuple(velocity),
        )
        result = self.core.command(command, self.ros_ns, self.now_ns, sources)
        if result.write is not None:
            assert result.write.register is reg.GOAL_POSITION
            self.goal = np.array([result.write.values[i] for i in SERVO_IDS])
        return result.refusal

    def stream(self, position, cycles, period_s=0.01):
        refusals = set()
        for _ in range(cycles):
            self.wait(period_s)
            refusals.add(self.send(position))
        return refusals

    def snapshot(self):
        return self.core.snapshot(self.now_ns)


@pytest.fixture
def bench():
    return Bench()


def moved(bench):
    return not np.array_equal(bench.goal, HOME)


# Starting.


def test_standing_arm_is_adopted_without_a_write(bench):
    assert bench.core.torque is TorquePhase.ON
    assert bench.core.tick(bench.now_ns) == ()
    snapshot = bench.snapshot()
    assert snapshot.goal_rad == pytest.approx(CALIBRATION.ticks_to_rad(HOME))
    assert (snapshot.state, snapshot.reason.code) == (
        DriverState.HOLDING,
        ReasonCode.NO_COMMANDS,
    )


def test_sagging_arm_and_squeezing_gripper_are_adopted():
    bench = Bench(adopt=False)
    present = HOME + np.array([0, -100, 60, 20, 0, 700])
    found = bench.core.start(states(present=present), FULL, bench.now_ns)
    assert found is StartAction.ADOPT
    assert bench.snapshot().goal_rad == pytest.approx(CALIBRATION.ticks_to_rad(HOME))


def test_arm_far_from_its_goal_is_left_alone():
    bench = Bench(adopt=False)
    present = HOME + np.array([0, 0, 200, 0, 0, 0])
    assert bench.core.start(states(present=present), FULL, bench.now_ns) is StartAction.FAULT
    assert bench.snapshot().state is DriverState.FAULT
    assert "elbow_flex" in bench.snapshot().reason.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.core.tick(bench.now_ns) == ()


def test_limp_arm_is_given_torque_slowly_and_then_follows():
    bench = Bench(adopt=False)
    core = bench.core
    found = core.start(states(goal=np.zeros(6), enabled=False), FULL, bench.now_ns)
    assert found is StartAction.GIVE_TORQUE
    assert core.snapshot(bench.now_ns).reason.code is ReasonCode.TORQUE_OFF
    assert bench.send(bench.goal_rad) is Refusal.TORQUE
    core.torque_given(HOME.tolist(), bench.now_ns)
    limits = []
    while core.torque is TorquePhase.RISING:
        bench.wait(0.01)
        assert bench.send(bench.goal_rad) is Refusal.TORQUE
        (write,) = core.tick(bench.now_ns)
        assert write.register is reg.TORQUE_LIMIT
        limits.append(write.values[1])
        if core.torque is TorquePhase.RISING:
            assert not any(bench.snapshot().torque_enabled)
    assert limits == sorted(limits)
    assert limits[0] <= 30
    assert max(np.diff(limits)) <= 30
    assert limits[-1] == 1000
    assert write.values[6] == 500
    assert all(bench.snapshot().torque_enabled)
    assert bench.stream(bench.goal_rad, 3) == {None}


def test_arm_adopted_in_the_middle_of_a_ramp_gets_the_rest():
    bench = Bench(adopt=False)
    found = bench.core.start(states(limits=(300,) * 6), FULL, bench.now_ns)
    assert found is StartAction.ADOPT
    (write,) = bench.core.tick(bench.now_ns)
    assert write.values[1] == 300
    assert all(bench.snapshot().torque_enabled)
    bench.wait(1.0)
    (write,) = bench.core.tick(bench.now_ns)
    assert (write.values[1], write.values[6]) == (1000, 500)
    assert bench.core.tick(bench.now_ns) == ()


def test_one_limp_servo_among_standing_ones_is_a_fault():
    bench = Bench(adopt=False)
    enabled = [True, True, False, True, True, True]
    assert bench.core.start(states(enabled=enabled), FULL, bench.now_ns) is StartAction.FAULT
    assert "servo 3 (elbow_flex)" in bench.snapshot().reason.sentence
    assert bench.snapshot().torque_enabled == tuple(enabled)


def pass_time(bench, seconds):
    """Cycles without commands; returns what they write."""
    writes = []
    for _ in range(round(seconds * 100)):
        bench.wait(0.01)
        bench.core.observe(readings(bench.now_ns), bench.now_ns)
        writes += bench.core.tick(bench.now_ns)
    return writes


LOW = (200,) * 6
"""Torque limits as a driver leaves them that is killed while it lets the arm down."""


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        (states(present=HOME + 200, limits=LOW), {}),
        (states(enabled=[True] * 5 + [False], limits=LOW), {}),
        (states(limits=LOW), {"other_setting": "servo 3 has p_gain 32 instead of 16"}),
    ],
    ids=["far from its goals", "partly limp", "other settings"],
)
def test_an_arm_that_is_left_as_it_is_keeps_its_torque_limits_too(found, keys):
    """A sagging arm would snap back to its goals, into the hands that support it."""
    bench = Bench(adopt=False)
    assert bench.core.start(found, FULL, bench.now_ns, **keys) is StartAction.FAULT
    assert pass_time(bench, 2.0) == []
    writes = release(bench)
    assert max(max(write.values.values()) for write in writes) <= 200


def test_starting_anew_clears_a_fault(bench):
    bench.core.set_fault(Reason(ReasonCode.INTERNAL, "test"))
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.core.start(states(), FULL, bench.now_ns) is StartAction.ADOPT
    assert bench.stream(bench.goal_rad, 2) == {None}


# Commands.


def test_commands_are_followed(bench):
    target = bench.goal_rad + 0.05
    bench.stream(bench.goal_rad, 2)
    assert bench.stream(target, 20) == {None}
    assert bench.goal.tolist() == CALIBRATION.rad_to_ticks(target).tolist()
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
    assert bench.send(bench.goal_rad + 0.01, velocity=velocity) is Refusal.NON_FINITE
    assert bench.core.counters["refused_non_finite"] == 2
    assert not moved(bench)


def test_other_joints_are_refused(bench):
    wanted = bench.goal_rad + 0.01
    assert bench.send(wanted, names=JOINT_NAMES[::-1]) is Refusal.JOINTS
    assert bench.send(wanted[:5], names=JOINT_NAMES[:5]) is Refusal.JOINTS
    assert bench.send(wanted[:5]) is Refusal.JOINTS
    assert bench.send([], names=()) is Refusal.JOINTS
    assert not moved(bench)


@pytest.mark.parametrize(
    ("age_s", "refusal"),
    [(0.099, None), (0.101, Refusal.STALE), (-0.019, None), (-0.021, Refusal.FUTURE)],
)
def test_age_at_the_limit_and_beyond(bench, age_s, refusal):
    stamp_ns = bench.ros_ns - int(age_s * 1e9)
    assert bench.send(bench.goal_rad + 0.01, stamp_ns=stamp_ns) is refusal
    assert moved(bench) is (refusal is None)


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
    assert not moved(bench)


def test_a_clock_set_back_holds_and_then_recovers(bench):
    assert bench.stream(bench.goal_rad, 3) == {None}
    bench.ros_shift_ns -= 3600 * 10**9
    assert bench.stream(bench.goal_rad, 5) == {Refusal.ORDER}
    bench.wait(0.2)
    assert bench.stream(bench.goal_rad, 3) == {None}
    assert not moved(bench)


def test_speed_is_limited_over_any_time(bench):
    bench.stream(bench.goal_rad, 2)
    before = bench.goal_rad.copy()
    bench.stream(before + 0.3, 10)
    travelled = bench.goal_rad - before
    assert travelled.max() <= SPEED * 1.05 * (0.1 + 0.03) + 0.002
    assert travelled.min() > 0.15
    assert bench.core.counters["rate_limited"] > 0


def test_a_flood_of_commands_moves_no_faster(bench):
    bench.stream(bench.goal_rad, 2)
    before = bench.goal_rad.copy()
    bench.stream(before + 0.3, 100, period_s=0.001)
    assert (bench.goal_rad - before).max() <= SPEED * 1.05 * (0.1 + 0.03) + 0.002


def test_a_lost_message_is_caught_up_without_freezing(bench):
    bench.stream(bench.goal_rad, 2)
    position = bench.goal_rad.copy()
    for cycle in range(30):
        position += SPEED * 0.01
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
    assert (bench.goal_rad - before).max() <= SPEED * 1.05 * 0.01 + 0.002


def test_a_far_command_holds_until_commands_start_from_the_goal(bench):
    bench.stream(bench.goal_rad, 2)
    far = bench.goal_rad.copy()
    far[1] += 0.36
    assert bench.stream(far, 20) == {Refusal.DESYNC}
    assert bench.snapshot().reason.code is ReasonCode.DESYNC
    assert bench.stream(bench.goal_rad + 0.1, 3) == {Refusal.DESYNC}
    assert not moved(bench)
    assert bench.stream(bench.goal_rad, 3) == {None}
    assert bench.snapshot().state is DriverState.ACTIVE


def test_after_a_start_commands_must_begin_at_the_goal(bench):
    """They may be those of before, for an arm that stands elsewhere now."""
    assert bench.stream(bench.goal_rad + 0.1, 5) == {Refusal.DESYNC}
    assert not moved(bench)
    assert bench.stream(bench.goal_rad, 2) == {None}
    assert bench.core.start(states(), FULL, bench.now_ns) is StartAction.ADOPT
    assert bench.stream(bench.goal_rad + 0.1, 5) == {Refusal.DESYNC}


def test_an_unknown_goal_counts_as_far_away(bench):
    """NaN compares false with everything: no comparison may let it pass."""
    command = bench.goal_rad.copy()
    bench.core._goals.rad = np.full(6, np.nan)
    assert bench.stream(command, 3) == {Refusal.DESYNC}
    assert not moved(bench)


def test_positions_are_clamped(bench):
    position = bench.goal_rad.copy()
    while position[0] < 1.7:
        position[0] += 0.015
        bench.stream(position, 1)
    assert bench.goal_rad[0] == pytest.approx(1.5, abs=0.001)
    assert bench.core.counters["position_clamped"] > 0


def test_a_start_outside_the_limits_may_only_return():
    bench = Bench(adopt=False)
    folded = CALIBRATION.rad_to_ticks([0.0, -1.7, 1.6, 0.0, 0.0, 0.0])
    bench.core.start(states(goal=folded, present=folded), FULL, bench.now_ns)
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
    assert not moved(bench)
    assert bench.stream(bench.goal_rad, 2) == {None}


# Emergency stop.


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
    assert not moved(bench)


# Readings.


def test_readings_become_radians_with_signs(bench):
    sample = bench.core.observe(readings(bench.now_ns, velocity=-300), bench.now_ns)
    assert sample.position_rad == pytest.approx(CALIBRATION.ticks_to_rad(HOME))
    assert sample.velocity_rad_s == pytest.approx(CALIBRATION.tick_rate_to_rad_s([-300] * 6))
    assert (sample.velocity_rad_s < 0).all()


def test_a_silent_servo_is_nan_then_a_fault_on_the_fourth_cycle(bench):
    others = [i for i in SERVO_IDS if i != 3]
    for cycle in range(4):
        assert bench.core.fault is None, cycle
        bench.wait(0.01)
        sample = bench.core.observe(readings(bench.now_ns, others), bench.now_ns)
        assert np.isnan(sample.position_rad).tolist() == [False, False, True] + [False] * 3
    assert "servo 3 (elbow_flex)" in bench.core.fault.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.snapshot().reading_age_s[2] == math.inf
    assert bench.snapshot().reading_age_s[0] == 0.0


def test_three_missing_cycles_are_tolerated(bench):
    others = [i for i in SERVO_IDS if i != 3]
    for _ in range(5):
        for ids in (others, others, others, SERVO_IDS):
            bench.wait(0.01)
            bench.core.observe(readings(bench.now_ns, ids), bench.now_ns)
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
    fallen = states(enabled=[True, False, True, True, True, True])
    assert bench.core.check_states(dict(zip(SERVO_IDS, fallen, strict=True))) == ()
    assert "servo 2 (shoulder_lift)" in bench.core.fault.sentence
    assert bench.stream(bench.goal_rad, 3) == {Refusal.FAULT}


def test_a_servo_that_missed_an_answer_gets_no_goal_until_its_state_is_known(bench):
    """It may have lost its supply, and a goal would switch it on wherever it has fallen."""
    bench.stream(bench.goal_rad, 2)
    before = bench.goal.copy()
    bench.core.observe(readings(bench.now_ns, [1, 3, 4, 5, 6]), bench.now_ns)
    bench.wait(0.01)
    command = Command(JOINT_NAMES, bench.ros_ns, tuple((bench.goal_rad + 0.01).tolist()))
    written = bench.core.command(command, bench.ros_ns, bench.now_ns).write.values
    assert sorted(written) == [1, 3, 4, 5, 6]
    assert bench.snapshot().goal_rad[1] == pytest.approx(CALIBRATION.ticks_to_rad(before)[1])
    bench.core.observe(readings(bench.now_ns), bench.now_ns)
    assert bench.core.unverified == {2}
    bench.core.check_states({2: states()[1]}, bench.now_ns)
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
        command = Command(JOINT_NAMES, bench.ros_ns, tuple((bench.goal_rad + 0.01).tolist()))
        assert bench.core.command(command, bench.ros_ns, bench.now_ns).write is None
    assert bench.snapshot().goal_rad == pytest.approx(goal)
    assert bench.snapshot().state is DriverState.ACTIVE, "it may be one lost packet"
    for _ in range(10):
        bench.stream(bench.goal_rad, 1)
    snapshot = bench.snapshot()
    assert (snapshot.state, snapshot.reason.code) == (DriverState.HOLDING, ReasonCode.BUS_SILENT)
    bench.core.check_states(dict(zip(SERVO_IDS, states(), strict=True)), bench.now_ns)
    assert bench.stream(bench.goal_rad + 0.01, 2) == {None}


def test_servos_found_limp_explain_why_they_were_silent(bench):
    for _ in range(4):
        bench.wait(0.01)
        bench.core.observe(readings(bench.now_ns, [1, 3, 4, 5, 6]), bench.now_ns)
    assert bench.core.fault.code is ReasonCode.SERVO_SILENT
    bench.core.check_states({2: ServoState(False, 0, 1000, 0)})
    assert bench.core.fault.code is ReasonCode.POWER_CYCLED
    assert bench.core.counters["faults"] == 1


def test_goals_that_a_lost_packet_left_behind_are_taken_as_they_are(bench):
    bench.stream(bench.goal_rad, 2)
    assert bench.stream(bench.goal_rad + 0.01, 1) == {None}
    assert moved(bench)
    left = dict(zip(SERVO_IDS, states(goal=HOME), strict=True))
    bench.core.check_states(left, bench.now_ns)
    assert bench.core.counters["goals_corrected"] == 0, "it may be on its way still"
    bench.wait(0.2)
    bench.core.check_states(left, bench.now_ns)
    assert bench.core.counters["goals_corrected"] == 1
    assert bench.snapshot().goal_rad == pytest.approx(CALIBRATION.ticks_to_rad(HOME))


def sweep(now_ns, temperature=40, volts=12.0, duty=0):
    """A long read of all servos."""
    data = b"".join(
        [
            reg.PRESENT_VELOCITY.encode(0),
            reg.PRESENT_LOAD.encode(duty),
            bytes([round(volts / reg.VOLTAGE_V), temperature]),
            bytes(7),
        ]
    )
    ticks = {i: reg.PRESENT_POSITION.encode(int(t)) for i, t in zip(SERVO_IDS, HOME, strict=True)}
    return {i: Reading(i, ticks[i] + data, ServoError(0), now_ns) for i in SERVO_IDS}


def follow(bench, seconds, **measured):
    writes = []
    for cycle in range(round(seconds * 100)):
        bench.wait(0.01)
        bench.send(bench.goal_rad)
        if cycle % 10 == 0:
            bench.core.observe(sweep(bench.now_ns, **measured), bench.now_ns)
        writes += bench.core.tick(bench.now_ns)
    return writes


def test_a_hot_arm_follows_with_less_torque_says_so_and_recovers(bench):
    writes = follow(bench, 2.0, temperature=66)
    snapshot = bench.snapshot()
    assert (snapshot.state, snapshot.reason.code) == (DriverState.ACTIVE, ReasonCode.SERVO_HOT)
    assert "shoulder_pan is at 66 °C and lets go at 70 °C" in snapshot.reason.sentence
    assert snapshot.torque_limit == pytest.approx([0.6, 0.7, 0.6, 0.6, 0.6, 0.3])
    steps = [write.values[1] for write in writes if 1 in write.values]
    assert min(np.diff([1000, *steps])) >= -30, "torque must not be cut at once"
    follow(bench, 4.0, temperature=45)
    assert bench.snapshot().reason.code is ReasonCode.NONE
    assert bench.snapshot().torque_limit == pytest.approx([1.0] * 5 + [0.5])


def test_an_arm_at_its_heat_limit_stops_and_holds_with_torque(bench):
    follow(bench, 11.0, temperature=69)
    assert bench.snapshot().state is DriverState.FAULT
    assert bench.snapshot().reason.code is ReasonCode.SERVO_HOT
    assert all(bench.snapshot().torque_enabled)
    assert (bench.snapshot().torque_limit[:5] >= 0.6).all()
    assert bench.stream(bench.goal_rad, 2) == {Refusal.FAULT}


def test_a_failing_supply_takes_torque_off_and_then_stops_the_arm(bench):
    follow(bench, 1.0, volts=4.2)
    assert bench.snapshot().reason.code is ReasonCode.SUPPLY_VOLTAGE
    assert bench.snapshot().torque_limit[0] == pytest.approx(0.7)
    follow(bench, 4.0, volts=3.6)
    assert bench.snapshot().state is DriverState.FAULT
    assert all(bench.snapshot().torque_enabled)


# Releasing.


def release(bench):
    writes = []
    bench.core.release(3.0, bench.now_ns)
    while bench.core.torque is TorquePhase.FALLING:
        bench.wait(0.01)
        assert bench.send(bench.goal_rad) in (Refusal.TORQUE, Refusal.FAULT)
        writes += bench.core.tick(bench.now_ns)
    return writes


def test_release_lowers_torque_slowly_before_it_is_off(bench):
    writes = release(bench)
    limits = [w.values[1] for w in writes if w.register is reg.TORQUE_LIMIT]
    assert limits == sorted(limits, reverse=True)
    assert len(limits) >= 300
    assert limits[-1] == 0
    assert writes[-1].register is reg.TORQUE_ENABLE
    assert set(writes[-1].values.values()) == {0}
    assert bench.snapshot().reason.code is ReasonCode.TORQUE_OFF


def test_release_works_in_a_fault_too(bench):
    bench.core.set_fault(Reason(ReasonCode.INTERNAL, "test"))
    assert release(bench)[-1].register is reg.TORQUE_ENABLE


def test_switching_off_is_repeated_until_seen_and_limits_are_restored_only_then(bench):
    release(bench)
    assert not bench.core.limp()
    one_on = states(enabled=[False] * 5 + [True], limits=(0,) * 6)
    (write,) = bench.core.check_states(dict(zip(SERVO_IDS, one_on, strict=True)))
    assert (write.register, write.values) == (reg.TORQUE_ENABLE, {6: 0})
    all_off = states(enabled=False, limits=(0,) * 6)
    (write,) = bench.core.check_states(dict(zip(SERVO_IDS, all_off, strict=True)))
    assert write.register is reg.TORQUE_LIMIT
    assert write.values[GRIPPER + 1] == 500
    assert bench.core.limp()
    restored = states(enabled=False)
    assert bench.core.check_states(dict(zip(SERVO_IDS, restored, strict=True))) == ()


def all_off(bench):
    """Let the arm go, and see it limp."""
    release(bench)
    bench.core.check_states(dict(zip(SERVO_IDS, states(enabled=False), strict=True)))
    assert bench.core.limp()


@pytest.mark.parametrize("on", [SERVO_IDS, (2, 3)])
@pytest.mark.parametrize("regained", [False, True])
def test_an_arm_that_somebody_else_has_switched_on_is_not_dropped(bench, on, regained):
    """It was let go and its cable moved to another program, which stood it up again."""
    all_off(bench)
    standing = states(enabled=[i in on for i in SERVO_IDS], goal=HOME + 300, present=HOME + 300)
    if regained:
        bench.core.lose_port(port_lost("gone"))
        bench.core.regain_port(standing, bench.now_ns)
    for _ in range(3):
        assert bench.core.check_states(dict(zip(SERVO_IDS, standing, strict=True))) == ()
        assert pass_time(bench, 0.1) == []
    assert bench.snapshot().reason.code is ReasonCode.AT_START
    assert "servo 2 (shoulder_lift)" in bench.snapshot().reason.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert release(bench)[-1].register is reg.TORQUE_ENABLE


def test_servos_left_on_by_a_switching_on_that_failed_are_switched_off(bench):
    all_off(bench)
    assert bench.core.start(states(enabled=False), FULL, bench.now_ns) is StartAction.GIVE_TORQUE
    bench.core.set_fault(Reason(ReasonCode.SETUP_FAILED, "test"))
    half = states(enabled=[True] * 3 + [False] * 3, limits=(0,) * 6)
    (write,) = bench.core.check_states(dict(zip(SERVO_IDS, half, strict=True)))
    assert (write.register, write.values) == (reg.TORQUE_ENABLE, {1: 0, 2: 0, 3: 0})


# A port that was lost.


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (states(goal=HOME + 300, present=HOME + 300, limits=LOW), None),
        (states(present=HOME + 200, limits=LOW), None),
        (states(limits=LOW), Reason(ReasonCode.SETUP_FAILED, "another calibration")),
    ],
    ids=["other goals", "far from its goals", "another arm"],
)
def test_an_arm_that_is_not_as_it_was_left_keeps_its_torque_limits(bench, found, problem):
    bench.core.lose_port(port_lost("gone"))
    bench.core.regain_port(found, bench.now_ns, problem)
    assert bench.snapshot().state is DriverState.FAULT
    assert pass_time(bench, 2.0) == []


def test_torque_rises_again_no_further_than_a_hot_servo_is_allowed(bench):
    follow(bench, 2.0, temperature=66)
    held = bench.snapshot().torque_limit
    assert held[0] == pytest.approx(0.6)
    bench.core.lose_port(port_lost("gone"))
    bench.core.regain_port(states(limits=LOW), bench.now_ns)
    assert bench.snapshot().state is DriverState.HOLDING
    writes = pass_time(bench, 1.0)
    assert max(write.values[1] for write in writes) == 600
    assert bench.snapshot().torque_limit == pytest.approx(held)


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
