"""Setting up may not move the arm, wear its EEPROM out, or accept another arm's numbers."""

import math

import pytest
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS, data_path

from so101_driver import arm_setup
from so101_driver import registers as reg

pytestmark = pytest.mark.bus

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))


@pytest.fixture
def bus(calibrated_servos):
    with ServoBus(calibrated_servos.port) as opened:
        yield opened


def memory(servos, servo_id, register):
    return servos.servos[servo_id].memory.value(register)


def test_six_servos_are_identified(bus):
    arm_setup.identify(bus)


def test_silent_servos_are_named(bus, calibrated_servos):
    calibrated_servos.mute(3)
    with pytest.raises(UserError, match=r"servo 3 \(elbow_flex\) does not answer"):
        arm_setup.identify(bus)
    calibrated_servos.mute(4)
    with pytest.raises(UserError, match=r"servo 4 \(wrist_flex\) do not answer"):
        arm_setup.identify(bus)
    for servo_id in SERVO_IDS:
        calibrated_servos.mute(servo_id)
    with pytest.raises(UserError, match="power supply"):
        arm_setup.identify(bus)


def test_another_servo_model_is_named(bus, calibrated_servos):
    calibrated_servos.servos[2].memory.put(reg.MODEL, 1540)
    with pytest.raises(UserError, match=r"servo 2 \(shoulder_lift\).* model 1540"):
        arm_setup.identify(bus)


def test_mixed_firmware_is_refused_naming_the_servos_unless_allowed(bus, calibrated_servos):
    calibrated_servos.servos[2].memory.put(reg.FIRMWARE_MINOR, 9)
    with pytest.raises(UserError, match=r"3\.9 in servo 2 \(shoulder_lift\).*allow_mixed_firmware"):
        arm_setup.identify(bus)
    arm_setup.identify(bus, allow_mixed_firmware=True)


def test_nothing_is_written_to_an_arm_that_is_set_up(bus, calibrated_servos):
    arm_setup.apply(bus, arm_setup.differences(bus))
    writes = []
    for servo in calibrated_servos.servos.values():
        servo.write = lambda *write: writes.append(write)
    arm_setup.identify(bus)
    arm_setup.check_calibration(bus, CALIBRATION)
    arm_setup.apply(bus, arm_setup.differences(bus))
    arm_setup.lock(bus)
    assert writes == []


def test_only_what_differs_is_written_and_the_lock_is_closed_again(bus, calibrated_servos):
    arm_setup.apply(bus, arm_setup.differences(bus))
    calibrated_servos.servos[3].memory.put(reg.P_GAIN, 20)
    calibrated_servos.servos[4].memory.put(reg.ACCELERATION, 7)
    writes = []
    for servo in calibrated_servos.servos.values():

        def logged(address, data, now_s, servo=servo, write=servo.write):
            writes.append((servo.servo_id, address, bytes(data)))
            return write(address, data, now_s)

        servo.write = logged
    arm_setup.apply(bus, arm_setup.differences(bus))
    lock, gain = reg.LOCK.address, reg.P_GAIN.address
    assert writes == [
        (3, lock, b"\x00"),
        (3, gain, b"\x10"),
        (3, lock, b"\x01"),
        (4, reg.ACCELERATION.address, b"\xfe"),
    ]


def test_an_eeprom_left_open_is_locked(bus, calibrated_servos):
    calibrated_servos.servos[5].memory.put(reg.LOCK, 0)
    arm_setup.lock(bus)
    assert memory(calibrated_servos, 5, reg.LOCK) == 1


def test_the_grippers_limits_against_burning_out(bus, calibrated_servos):
    arm_setup.apply(bus, arm_setup.differences(bus))
    assert memory(calibrated_servos, 6, reg.PROTECTION_CURRENT) * reg.CURRENT_A < 1.7
    assert memory(calibrated_servos, 6, reg.OVERLOAD_TORQUE) == 25
    ratings = arm_setup.read_ratings(bus)
    assert [rating.full_limit for rating in ratings] == [1000] * 5 + [500]
    assert ratings[5].overload.threshold == 0.25
    assert ratings[0].health.max_temperature_c == 70.0


@pytest.mark.parametrize("register", [reg.HOMING_OFFSET, reg.MIN_POSITION, reg.MAX_POSITION])
def test_another_arms_calibration_is_refused(bus, calibrated_servos, register):
    arm_setup.check_calibration(bus, CALIBRATION)
    servo = calibrated_servos.servos[3].memory
    servo.put(register, servo.value(register) + 1)
    with pytest.raises(UserError, match=rf"servo 3 .*{register.name}.*sim_calibration"):
        arm_setup.check_calibration(bus, CALIBRATION)


def test_settings_are_written_once_and_survive_a_power_failure(bus, calibrated_servos):
    calibrated_servos.servos[1].memory.put(reg.PHASE, 0x1C)
    missing = arm_setup.differences(bus)
    assert (1, reg.P_GAIN, 32, 16) in {(d.servo_id, d.register, d.held, d.wanted) for d in missing}
    arm_setup.apply(bus, missing)
    assert arm_setup.differences(bus) == []
    assert memory(calibrated_servos, 1, reg.PHASE) == 0x0C
    assert memory(calibrated_servos, 6, reg.MAX_TORQUE) == 500
    assert memory(calibrated_servos, 5, reg.MAX_TORQUE) == 1000
    full = [rating.full_limit for rating in arm_setup.read_ratings(bus)]
    assert full == [1000, 1000, 1000, 1000, 1000, 500]
    calibrated_servos.power_cycle(1)
    assert memory(calibrated_servos, 1, reg.P_GAIN) == 16
    left = {difference.register for difference in arm_setup.differences(bus)}
    assert left == {reg.ACCELERATION, reg.MAX_ACCELERATION}


def test_giving_torque_moves_nothing_even_with_a_stale_goal(bus, calibrated_servos):
    """The virtual servos switch on at a goal write, as real ones are reported to."""
    before = {i: calibrated_servos.servos[i].position_rad for i in SERVO_IDS}
    for servo_id in SERVO_IDS:
        calibrated_servos.servos[servo_id].memory.put(reg.GOAL_POSITION, 2900)
    goals = arm_setup.give_torque(bus, CALIBRATION, arm_setup.read_states(bus))
    for servo_id, goal in zip(SERVO_IDS, goals, strict=True):
        servo = calibrated_servos.servos[servo_id]
        assert servo.position_rad == before[servo_id]
        assert servo.memory.value(reg.TORQUE_ENABLE) == 1
        assert servo.memory.value(reg.TORQUE_LIMIT) == 0
        assert servo.goal_ticks == goal
        assert abs(goal - servo.present_ticks()) <= 1


def turn(servos, servo_id, ticks):
    """Turn a joint by hand."""
    servo = servos.servos[servo_id]
    servo.position_rad += ticks * 2 * math.pi / reg.TICKS_PER_TURN


def torques(servos):
    return [
        (memory(servos, servo_id, reg.TORQUE_ENABLE), memory(servos, servo_id, reg.TORQUE_LIMIT))
        for servo_id in SERVO_IDS
    ]


def test_a_joint_a_little_beyond_its_range_is_switched_on_at_its_end(bus, calibrated_servos):
    end = CALIBRATION.joints["elbow_flex"].range_max
    turn(calibrated_servos, 3, end + 100 - calibrated_servos.servos[3].present_ticks())
    assert arm_setup.give_torque(bus, CALIBRATION, arm_setup.read_states(bus))[2] == end


def test_a_joint_far_outside_its_range_is_not_switched_on(bus, calibrated_servos):
    """Its goal would be the range's end: it would turn there as its torque rises."""
    end = CALIBRATION.joints["elbow_flex"].range_max
    turn(calibrated_servos, 3, end + 150 - calibrated_servos.servos[3].present_ticks())
    before = torques(calibrated_servos)
    with pytest.raises(UserError, match=r"elbow_flex\) stands 13° outside its calibrated range"):
        arm_setup.give_torque(bus, CALIBRATION, arm_setup.read_states(bus))
    assert torques(calibrated_servos) == before


def test_a_joint_that_moves_meanwhile_is_not_switched_on_and_the_others_are_let_go(
    bus, calibrated_servos
):
    found = arm_setup.read_states(bus)
    before = torques(calibrated_servos)
    turn(calibrated_servos, 4, 300)
    with pytest.raises(UserError, match=r"wrist_flex\) moved by 26°"):
        arm_setup.give_torque(bus, CALIBRATION, found)
    assert torques(calibrated_servos) == before


def test_servos_are_let_go_when_one_fails_while_being_switched_on(bus, calibrated_servos):
    before = torques(calibrated_servos)
    found = arm_setup.read_states(bus)
    write, servo = calibrated_servos.servos[5].write, calibrated_servos.servos[5]

    def ignore_goals(address, data, now_s):
        return address == reg.GOAL_POSITION.address or write(address, data, now_s)

    servo.write = ignore_goals
    with pytest.raises(BusError, match="servo 5 keeps"):
        arm_setup.give_torque(bus, CALIBRATION, found)
    assert torques(calibrated_servos) == before


def test_states_are_read_in_one_block(bus, calibrated_servos):
    calibrated_servos.servos[4].memory.put(reg.GOAL_POSITION, 1234)
    states = arm_setup.read_states(bus)
    assert states[3].goal_ticks == 1234
    assert not states[3].torque_enabled
    assert abs(states[3].present_ticks - calibrated_servos.servos[4].present_ticks()) <= 1
