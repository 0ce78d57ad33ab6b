"""LeRobot's own bus class against the virtual bus: connects, configures, calibrates, reads, writes.

A virtual arm that LeRobot cannot use would prove nothing about a real one. ``lerobot`` is no
dependency: without it this file is skipped (docs/driver-proof.md says how to run it).
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lerobot.motors.feetech", reason="needs lerobot")

from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus, OperatingMode
from so101_driver.calibration import Calibration
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim import FactoryServos, FaultKind, VirtualBus

from so101_driver import registers as reg

pytestmark = pytest.mark.bus

FILE = data_path("sim_calibration.json")
CALIBRATION = {
    name: MotorCalibration(**entry) for name, entry in json.loads(FILE.read_text()).items()
}
OURS = Calibration.load(FILE)


def motors(mode=MotorNormMode.DEGREES):
    return {
        name: Motor(servo_id, "sts3215", MotorNormMode.RANGE_0_100 if name == "gripper" else mode)
        for servo_id, name in zip(SERVO_IDS, JOINT_NAMES, strict=True)
    }


def lerobot_bus(port, mode=MotorNormMode.DEGREES, calibration=CALIBRATION):
    bus = FeetechMotorsBus(port=port, motors=motors(mode), calibration=dict(calibration))
    handler = bus.port_handler
    set_timeout = handler.setPacketTimeout

    def patient(packet_length):
        """Its 50 ms are too few for a busy test machine."""
        set_timeout(packet_length)
        handler.packet_timeout += 500.0

    handler.setPacketTimeout = patient
    return bus


@pytest.fixture
def bus(calibrated_servos):
    opened = lerobot_bus(calibrated_servos.port)
    opened.connect()
    yield opened
    if opened.is_connected:
        opened.disconnect(disable_torque=False)


def configure(bus):
    """What LeRobot's follower does when it connects."""
    with bus.torque_disabled():
        bus.configure_motors()
        for motor in bus.motors:
            bus.write("Operating_Mode", motor, OperatingMode.POSITION.value)
            bus.write("P_Coefficient", motor, 16)
            bus.write("I_Coefficient", motor, 0)
            bus.write("D_Coefficient", motor, 32)
            if motor == "gripper":
                bus.write("Max_Torque_Limit", motor, 500)
                bus.write("Protection_Current", motor, 250)
                bus.write("Overload_Torque", motor, 25)


def test_connects_with_its_handshake_and_finds_the_calibration(bus):
    """The handshake asks all six for model and firmware."""
    assert bus.is_connected
    assert bus.is_calibrated
    assert bus.read_calibration() == CALIBRATION
    assert bus.broadcast_ping() == dict.fromkeys(SERVO_IDS, reg.MODEL_NUMBER)


def test_configures_as_its_follower_does(bus, calibrated_servos):
    configure(bus)
    servos = calibrated_servos.servos
    for servo_id in SERVO_IDS:
        value = servos[servo_id].memory.value
        assert value(reg.P_GAIN) == 16
        assert value(reg.RETURN_DELAY) == 0
        assert value(reg.ACCELERATION) == value(reg.MAX_ACCELERATION) == 254
        assert value(reg.TORQUE_ENABLE) == value(reg.LOCK) == 1
    gripper = servos[SERVO_IDS[GRIPPER]].memory.value
    assert gripper(reg.MAX_TORQUE) == 500
    assert gripper(reg.OVERLOAD_TORQUE) == 25


@pytest.mark.parametrize("mode", [MotorNormMode.DEGREES, MotorNormMode.RANGE_M100_100])
def test_writes_goals_and_reads_the_same_positions_back(calibrated_servos, mode):
    bus = lerobot_bus(calibrated_servos.port, mode)
    bus.connect()
    configure(bus)
    goals = dict(zip(JOINT_NAMES, (10.0, -20.0, 30.0, -5.0, 45.0, 60.0), strict=True))
    bus.sync_write("Goal_Position", goals)
    positions = bus.sync_read("Present_Position")
    # LeRobot truncates to a tick, and the position flickers by half of one.
    assert positions == pytest.approx(goals, abs=0.25)
    goal_ticks = bus.sync_read("Goal_Position", normalize=False)
    held = {
        n: calibrated_servos.servos[i].goal_ticks
        for i, n in zip(SERVO_IDS, JOINT_NAMES, strict=True)
    }
    assert goal_ticks == held
    if mode is MotorNormMode.DEGREES:
        joint = OURS.joints["shoulder_pan"]
        assert joint.ticks_to_degrees(held["shoulder_pan"]) == pytest.approx(10.0, abs=0.1)
    bus.disconnect()
    assert all(s.memory.value(reg.TORQUE_ENABLE) == 0 for s in calibrated_servos.servos.values())


def test_calibrates(bus, calibrated_servos):
    """Half-turn homing and the ranges, as its calibration writes them."""
    bus.disable_torque()
    for servo in calibrated_servos.servos.values():
        servo.position_rad += 0.2
    offsets = bus.set_half_turn_homings()
    assert bus.sync_read("Present_Position", normalize=False) == pytest.approx(
        dict.fromkeys(JOINT_NAMES, 2047), abs=1
    )
    assert set(offsets) == set(JOINT_NAMES)
    bus.write_calibration(CALIBRATION)
    assert bus.is_calibrated


def test_sets_up_a_fresh_servo():
    """Its ``setup_motor`` finds a servo at any baud rate and gives it its id."""
    with VirtualBus(FactoryServos(1)) as virtual:
        bus = lerobot_bus(virtual.port, calibration={})
        bus.setup_motor("elbow_flex")
        assert virtual.servos[1].bus_id == 3
        assert bus.ping("elbow_flex") == reg.MODEL_NUMBER
        bus.port_handler.closePort()


def test_errors_reach_it(bus, calibrated_servos):
    with (
        calibrated_servos.fault(FaultKind.OVERLOAD, servo=6),
        pytest.raises(RuntimeError, match=r"[Oo]verload"),
    ):
        bus.read("Present_Position", "gripper", normalize=False)
    with (
        calibrated_servos.fault(FaultKind.MUTE, servo=4),
        pytest.raises(ConnectionError, match="no status packet"),
    ):
        bus.sync_read("Present_Position")
    assert len(bus.sync_read("Present_Position", num_retry=2)) == len(SERVO_IDS)
