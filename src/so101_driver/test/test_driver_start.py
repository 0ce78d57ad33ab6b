"""An arm is taken over as it stands, or left alone as it is; nothing moves at a start."""

import numpy as np
import pytest
from bus_proof.driver_bench import DriverBench
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_types import DriverState, Refusal, StartAction, TorquePhase

from so101_driver import registers as reg


@pytest.fixture
def bench():
    return DriverBench()


def test_standing_arm_is_adopted_without_a_write(bench):
    assert bench.core.torque is TorquePhase.ON
    assert bench.core.tick(bench.now_ns) == ()
    snapshot = bench.snapshot()
    assert snapshot.goal_rad == pytest.approx(bench.CALIBRATION.ticks_to_rad(bench.HOME))
    assert (snapshot.state, snapshot.reason.code) == (
        DriverState.HOLDING,
        ReasonCode.NO_COMMANDS,
    )


def test_sagging_arm_and_squeezing_gripper_are_adopted():
    bench = DriverBench(adopt=False)
    sag = [0, -100, 60, 20, 0, 700]
    found = bench.start(sag=sag)
    assert found is StartAction.ADOPT
    assert bench.snapshot().goal_rad == pytest.approx(bench.CALIBRATION.ticks_to_rad(bench.HOME))


def test_arm_far_from_its_goal_is_left_alone():
    bench = DriverBench(adopt=False)
    sag = [0, 0, 200, 0, 0, 0]
    assert bench.start(sag=sag) is StartAction.FAULT
    assert bench.snapshot().state is DriverState.FAULT
    assert "elbow_flex" in bench.snapshot().reason.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.core.tick(bench.now_ns) == ()


def test_limp_arm_is_given_torque_slowly_and_then_follows():
    bench = DriverBench(adopt=False)
    core = bench.core
    found = bench.start(goal=[0] * 6, sag=bench.HOME, enabled=False)
    assert found is StartAction.GIVE_TORQUE
    assert core.snapshot(bench.now_ns).reason.code is ReasonCode.TORQUE_OFF
    assert bench.send(bench.goal_rad) is Refusal.TORQUE
    core.torque_given(bench.HOME.tolist(), bench.now_ns)
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
    bench = DriverBench(adopt=False)
    found = bench.start(limits=(300,) * 6)
    assert found is StartAction.ADOPT
    (write,) = bench.core.tick(bench.now_ns)
    assert write.values[1] == 300
    assert all(bench.snapshot().torque_enabled)
    bench.wait(1.0)
    (write,) = bench.core.tick(bench.now_ns)
    assert (write.values[1], write.values[6]) == (1000, 500)
    assert bench.core.tick(bench.now_ns) == ()


def test_one_limp_servo_among_standing_ones_is_a_fault():
    bench = DriverBench(adopt=False)
    enabled = [True, True, False, True, True, True]
    assert bench.start(enabled=enabled) is StartAction.FAULT
    assert "servo 3 (elbow_flex)" in bench.snapshot().reason.sentence
    assert bench.snapshot().torque_enabled == tuple(enabled)


@pytest.mark.parametrize(
    "found",
    [
        {"sag": 200},
        {"enabled": [True] * 5 + [False]},
        {"other_setting": "servo 3 has p_gain 32 instead of 16"},
    ],
    ids=["far from its goals", "partly limp", "other settings"],
)
def test_an_arm_that_is_left_as_it_is_keeps_its_torque_limits_too(found):
    """A sagging arm would snap back to its goals, into the hands that support it."""
    bench = DriverBench(adopt=False)
    assert bench.start(limits=bench.LOW, **found) is StartAction.FAULT
    assert bench.pass_time(2.0) == []
    writes = bench.release()
    assert max(max(write.values.values()) for write in writes) <= 200


def test_starting_anew_clears_a_fault(bench):
    bench.core.set_fault(Reason(ReasonCode.INTERNAL, "test"))
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.start() is StartAction.ADOPT
    assert bench.stream(bench.goal_rad, 2) == {None}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"goal": DriverBench.HOME + 300}, None),
        ({"sag": 200}, None),
        ({}, Reason(ReasonCode.SETUP_FAILED, "another calibration")),
    ],
    ids=["other goals", "far from its goals", "another arm"],
)
def test_an_arm_that_is_not_as_it_was_left_keeps_its_torque_limits(bench, found, problem):
    bench.core.lose_port(port_lost("gone"))
    bench.core.regain_port(bench.states(limits=bench.LOW, **found), bench.now_ns, problem)
    assert bench.snapshot().state is DriverState.FAULT
    assert bench.pass_time(2.0) == []
