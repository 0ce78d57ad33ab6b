"""Setting up may not move the arm, wear its EEPROM out, or accept another arm's numbers."""

import pytest
from so101_driver.bus import ServoBus
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
    goals = arm_setup.give_torque(bus, CALIBRATION)
    for servo_id, goal in zip(SERVO_IDS, goals, strict=True):
        servo = calibrated_servos.servos[servo_id]
        assert servo.position_rad == before[servo_id]
        assert servo.memory.value(reg.TORQUE_ENABLE) == 1
        assert servo.memory.value(reg.TORQUE_LIMIT) == 0
        assert servo.goal_ticks == goal
        assert abs(goal - servo.present_ticks()) <= 1


def test_states_are_read_in_one_block(bus, calibrated_servos):
    calibrated_servos.servos[4].memory.put(reg.GOAL_POSITION, 1234)
    states = arm_setup.read_states(bus)
    assert states[3].goal_ticks == 1234
    assert not states[3].torque_enabled
    assert abs(states[3].present_ticks - calibrated_servos.servos[4].present_ticks()) <= 1
