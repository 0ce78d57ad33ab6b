"""Torque goes slowly, spares servos in trouble, and is never cut from an arm that stands."""

import numpy as np
import pytest
from bus_proof.driver_bench import DriverBench
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_types import DriverState, Refusal, StartAction
from so101_driver.joints import GRIPPER, SERVO_IDS

from so101_driver import registers as reg


@pytest.fixture
def bench():
    return DriverBench()


def test_a_hot_arm_follows_with_less_torque_says_so_and_recovers(bench):
    writes = bench.follow(2.0, temperature=66)
    snapshot = bench.snapshot()
    assert (snapshot.state, snapshot.reason.code) == (DriverState.ACTIVE, ReasonCode.SERVO_HOT)
    assert "shoulder_pan is at 66 °C and lets go at 70 °C" in snapshot.reason.sentence
    assert snapshot.torque_limit == pytest.approx([0.6, 0.7, 0.6, 0.6, 0.6, 0.3])
    steps = [write.values[1] for write in writes if 1 in write.values]
    assert min(np.diff([1000, *steps])) >= -30, "torque must not be cut at once"
    bench.follow(4.0, temperature=45)
    assert bench.snapshot().reason.code is ReasonCode.NONE
    assert bench.snapshot().torque_limit == pytest.approx([1.0] * 5 + [0.5])


def test_an_arm_at_its_heat_limit_stops_and_holds_with_torque(bench):
    bench.follow(11.0, temperature=69)
    assert bench.snapshot().state is DriverState.FAULT
    assert bench.snapshot().reason.code is ReasonCode.SERVO_HOT
    assert all(bench.snapshot().torque_enabled)
    assert (bench.snapshot().torque_limit[:5] >= 0.6).all()
    assert bench.stream(bench.goal_rad, 2) == {Refusal.FAULT}


def test_a_failing_supply_takes_torque_off_and_then_stops_the_arm(bench):
    bench.follow(1.0, volts=4.2)
    assert bench.snapshot().reason.code is ReasonCode.SUPPLY_VOLTAGE
    assert bench.snapshot().torque_limit[0] == pytest.approx(0.7)
    bench.follow(4.0, volts=3.6)
    assert bench.snapshot().state is DriverState.FAULT
    assert all(bench.snapshot().torque_enabled)


def test_release_lowers_torque_slowly_before_it_is_off(bench):
    writes = bench.release()
    limits = [w.values[1] for w in writes if w.register is reg.TORQUE_LIMIT]
    assert limits == sorted(limits, reverse=True)
    assert len(limits) >= 300
    assert limits[-1] == 0
    assert writes[-1].register is reg.TORQUE_ENABLE
    assert set(writes[-1].values.values()) == {0}
    assert bench.snapshot().reason.code is ReasonCode.TORQUE_OFF


def test_release_works_in_a_fault_too(bench):
    bench.core.set_fault(Reason(ReasonCode.INTERNAL, "test"))
    assert bench.release()[-1].register is reg.TORQUE_ENABLE


def test_switching_off_is_repeated_until_seen_and_limits_are_restored_only_then(bench):
    bench.release()
    assert not bench.core.limp()
    one_on = bench.states(enabled=[False] * 5 + [True], limits=(0,) * 6)
    (write,) = bench.core.check_states(bench.by_id(one_on))
    assert (write.register, write.values) == (reg.TORQUE_ENABLE, {6: 0})
    all_off = bench.states(enabled=False, limits=(0,) * 6)
    (write,) = bench.core.check_states(bench.by_id(all_off))
    assert write.register is reg.TORQUE_LIMIT
    assert write.values[GRIPPER + 1] == 500
    assert bench.core.limp()
    restored = bench.states(enabled=False)
    assert bench.core.check_states(bench.by_id(restored)) == ()


@pytest.mark.parametrize("on", [SERVO_IDS, (2, 3)])
@pytest.mark.parametrize("regained", [False, True])
def test_an_arm_that_somebody_else_has_switched_on_is_not_dropped(bench, on, regained):
    """It was let go and its cable moved to another program, which stood it up again."""
    bench.all_off()
    standing = bench.states(enabled=[i in on for i in SERVO_IDS], goal=bench.HOME + 300)
    if regained:
        bench.core.lose_port(port_lost("gone"))
        bench.core.regain_port(standing, bench.now_ns)
    for _ in range(3):
        assert bench.core.check_states(bench.by_id(standing)) == ()
        assert bench.pass_time(0.1) == []
    assert bench.snapshot().reason.code is ReasonCode.AT_START
    assert "servo 2 (shoulder_lift)" in bench.snapshot().reason.sentence
    assert bench.send(bench.goal_rad) is Refusal.FAULT
    assert bench.release()[-1].register is reg.TORQUE_ENABLE


def test_servos_left_on_by_a_switching_on_that_failed_are_switched_off(bench):
    bench.all_off()
    assert bench.start(enabled=False) is StartAction.GIVE_TORQUE
    bench.core.set_fault(Reason(ReasonCode.SETUP_FAILED, "test"))
    half = bench.states(enabled=[True] * 3 + [False] * 3, limits=(0,) * 6)
    (write,) = bench.core.check_states(bench.by_id(half))
    assert (write.register, write.values) == (reg.TORQUE_ENABLE, {1: 0, 2: 0, 3: 0})


def test_torque_rises_again_no_further_than_a_hot_servo_is_allowed(bench):
    bench.follow(2.0, temperature=66)
    held = bench.snapshot().torque_limit
    assert held[0] == pytest.approx(0.6)
    bench.core.lose_port(port_lost("gone"))
    bench.core.regain_port(bench.states(limits=bench.LOW), bench.now_ns)
    assert bench.snapshot().state is DriverState.HOLDING
    writes = bench.pass_time(1.0)
    assert max(write.values[1] for write in writes) == 600
    assert bench.snapshot().torque_limit == pytest.approx(held)
