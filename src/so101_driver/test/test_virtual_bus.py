"""The virtual bus answers byte for byte: every byte here went through a real pseudo-terminal.

Golden vectors are those of the servo's protocol description; the state of a silent, locked or
restarted servo must be what a real one would show, since the driver's error paths rely on it.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
import tty
from collections.abc import Iterator

import pytest
from so101_driver.protocol import ServoError, StatusPacket
from so101_driver.sim import GoalWrite, VirtualBus
from so101_driver.sim.tick_scale import TickScale
from so101_driver.sim.virtual_servo import IdealServo

from so101_driver import protocol
from so101_driver import registers as reg

pytestmark = pytest.mark.bus


class RawPort:
    """The driver's end of the pseudo-terminal, without any driver code."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)

    def exchange(self, data: bytes, size: int, timeout_s: float = 2.0) -> bytes:
        os.write(self.descriptor, data)
        reply = b""
        deadline_s = time.monotonic() + timeout_s
        while len(reply) < size:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self.descriptor], [], [], left_s)[0]:
                break
            reply += os.read(self.descriptor, 4096)
        return reply

    def silence(self, data: bytes) -> bytes:
        """Send something that nobody answers; whatever comes before a later ping's reply."""
        tail = protocol.status(1)
        reply = self.exchange(data + protocol.ping(1), len(tail))
        assert reply.endswith(tail)
        return reply.removesuffix(tail)

    def statuses(self, data: bytes, count: int) -> list[StatusPacket]:
        parser = protocol.StatusParser()
        found: list[StatusPacket] = []
        reply = self.exchange(data, count * 6)
        found += parser.feed(reply)
        while len(found) < count and (more := self.exchange(b"", 1, 0.5)):
            found += parser.feed(more)
        return found


@pytest.fixture
def writes() -> list[GoalWrite]:
    return []


@pytest.fixture
def bus(writes: list[GoalWrite]) -> Iterator[VirtualBus]:
    with VirtualBus(on_goal_write=writes.append) as bus:
        yield bus


@pytest.fixture
def port(bus: VirtualBus) -> Iterator[RawPort]:
    port = RawPort(bus.port)
    yield port
    port.close()


def hexa(text: str) -> bytes:
    return bytes.fromhex(text)


GOLDEN = {
    "ping": ("FF FF 01 02 01 FB", "FF FF 01 02 00 FC"),
    "model": ("FF FF 01 04 02 03 02 F3", "FF FF 01 04 00 09 03 EE"),
    "torque on": ("FF FF 01 04 03 28 01 CE", "FF FF 01 02 00 FC"),
    "goal": ("FF FF 01 05 03 2A 00 08 C4", "FF FF 01 02 00 FC"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(port: RawPort, name: str) -> None:
    sent, wanted = map(hexa, GOLDEN[name])
    assert port.exchange(sent, len(wanted)) == wanted


def test_position_read_is_the_golden_one_at_the_middle(bus: VirtualBus, port: RawPort) -> None:
    bus.servos[1].present_ticks = lambda: 2048
    wanted = hexa("FF FF 01 04 00 00 08 F2")
    assert port.exchange(hexa("FF FF 01 04 02 38 02 BE"), len(wanted)) == wanted


def test_sync_write_is_silent_and_sync_read_answers_in_list_order(port: RawPort) -> None:
    goals = {servo: reg.GOAL_POSITION.encode(1000 + servo) for servo in range(1, 7)}
    assert port.silence(protocol.sync_write(42, goals)) == b""
    replies = port.statuses(protocol.sync_read((6, 2, 4), 42, 2), 3)
    assert [reply.servo_id for reply in replies] == [6, 2, 4]
    assert [reg.GOAL_POSITION.decode(reply.parameters) for reply in replies] == [1006, 1002, 1004]


def test_a_silent_servo_leaves_a_gap_only(bus: VirtualBus, port: RawPort) -> None:
    bus.mute(4)
    replies = port.statuses(protocol.sync_read(range(1, 7), 56, 4), 5)
    assert [reply.servo_id for reply in replies] == [1, 2, 3, 5, 6]
    bus.mute(4, muted=False)
    assert len(port.statuses(protocol.sync_read(range(1, 7), 56, 4), 6)) == 6


def test_wrong_checksum_and_unknown_instruction_get_no_answer(
    bus: VirtualBus, port: RawPort
) -> None:
    assert port.silence(hexa("FF FF 01 02 01 FA")) == b""
    assert port.silence(protocol._packet(1, 0x55, b"")) == b""
    assert bus.garbage_bytes == 6


def test_reg_write_waits_for_action(bus: VirtualBus, port: RawPort) -> None:
    before = bus.servos[3].goal_ticks
    packet = protocol.reg_write(3, 42, reg.GOAL_POSITION.encode(1500))
    assert port.statuses(packet, 1)[0].error == 0
    assert port.statuses(protocol.read(3, 64, 1), 1)[0].parameters == b"\x01"
    assert bus.servos[3].goal_ticks == before
    assert port.silence(protocol.action()) == b""
    assert bus.servos[3].goal_ticks == 1500
    assert port.statuses(protocol.read(3, 64, 1), 1)[0].parameters == b"\x00"


def test_read_only_registers_ignore_writes_and_others_are_clamped(port: RawPort) -> None:
    port.statuses(protocol.write(1, reg.MODEL.address, b"\x01\x00"), 1)
    port.statuses(protocol.write(1, reg.P_GAIN.address, b"\xff"), 1)
    assert port.statuses(protocol.read(1, 3, 2), 1)[0].parameters == b"\x09\x03"
    assert port.statuses(protocol.read(1, reg.P_GAIN.address, 1), 1)[0].parameters == b"\xfe"


def test_eeprom_keeps_only_what_was_written_unlocked(bus: VirtualBus, port: RawPort) -> None:
    gain, integral = reg.P_GAIN.address, reg.I_GAIN.address
    port.statuses(protocol.write(1, integral, b"\x07"), 1)
    port.statuses(protocol.write(1, reg.LOCK.address, b"\x00"), 1)
    port.statuses(protocol.write(1, gain, b"\x10"), 1)
    assert port.statuses(protocol.read(1, integral, 1), 1)[0].parameters == b"\x07"
    bus.power_cycle(1)
    assert port.statuses(protocol.read(1, gain, 1), 1)[0].parameters == b"\x10"
    assert port.statuses(protocol.read(1, integral, 1), 1)[0].parameters == b"\x00"
    assert port.statuses(protocol.read(1, reg.LOCK.address, 1), 1)[0].parameters == b"\x01"


def test_goal_write_switches_the_torque_on(bus: VirtualBus, port: RawPort) -> None:
    port.statuses(protocol.write(2, 42, reg.GOAL_POSITION.encode(2100)), 1)
    assert bus.servos[2].settings.enabled
    bus.servos[3].goal_write_enables_torque = False
    port.statuses(protocol.write(3, 42, reg.GOAL_POSITION.encode(2100)), 1)
    assert not bus.servos[3].settings.enabled


def test_servo_clamps_goals_to_its_limits_and_the_log_shows_what_it_took(
    port: RawPort, writes: list[GoalWrite]
) -> None:
    port.statuses(protocol.write(5, reg.MAX_POSITION.address, reg.MAX_POSITION.encode(3000)), 1)
    before_ns = time.time_ns()
    goals = {5: reg.GOAL_POSITION.encode(3500), 6: reg.GOAL_POSITION.encode(-5)}
    assert port.silence(protocol.sync_write(42, goals)) == b""
    assert (writes[-1].servo_ids, writes[-1].goal_ticks) == ((5, 6), (3000, 0))
    assert before_ns <= writes[-1].stamp_ns <= time.time_ns()


def test_no_torque_without_torque_limit(bus: VirtualBus, port: RawPort) -> None:
    limit = reg.TORQUE_LIMIT
    port.statuses(protocol.write(1, limit.address, limit.encode(0)), 1)
    port.statuses(protocol.write(1, 42, reg.GOAL_POSITION.encode(2200)), 1)
    assert bus.servos[1].position_rad == 0.0
    port.statuses(protocol.write(1, limit.address, limit.encode(500)), 1)
    assert bus.servos[1].position_rad == pytest.approx(bus.servos[1].ticks_to_rad(2200))


def test_an_ideal_servo_keeps_nothing_of_the_goals_it_has_reached() -> None:
    servo = IdealServo(1)
    for tick in range(1000, 1100):
        servo.write(reg.GOAL_POSITION.address, reg.GOAL_POSITION.encode(tick), 0.0)
    assert servo.plant.setpoint_rad == servo.position_rad == servo.ticks_to_rad(1099)
    assert not servo.plant._pending


def test_homing_offset_shifts_the_reading_not_the_shaft(bus: VirtualBus, port: RawPort) -> None:
    port.statuses(protocol.write(1, 31, reg.HOMING_OFFSET.encode(-300)), 1)
    reply = port.statuses(protocol.read(1, 56, 2), 1)[0]
    assert abs(reg.PRESENT_POSITION.decode(reply.parameters) - 2348) <= 1
    assert bus.servos[1].position_rad == 0.0


def test_negative_velocity_and_load_carry_their_sign_bits(bus: VirtualBus, port: RawPort) -> None:
    servo = bus.servos[1]
    servo.velocity_radps = -300 * 2 * 3.141592653589793 / 4096
    servo.plant.duty = -0.25
    reply = port.statuses(protocol.read(1, 58, 4), 1)[0]
    assert reply.parameters == hexa("2C 81 FA 04")


def test_overload_bit_travels_in_every_reply(bus: VirtualBus, port: RawPort) -> None:
    servo = bus.servos[6]
    servo.write(reg.TORQUE_ENABLE.address, b"\x01", 0.0)
    servo.position_rad = -2.0
    for _ in range(600):
        servo.torque_nm(0.0, 0.004)
    assert port.statuses(protocol.ping(6), 1)[0].error == ServoError.OVERLOAD
    assert abs(servo.plant.duty) <= 0.21
    reply = port.statuses(protocol.write(6, 42, reg.GOAL_POSITION.encode(2048)), 1)[0]
    assert reply.error == 0


def test_voltage_bit(bus: VirtualBus, port: RawPort) -> None:
    bus.servos[2].supply_v = 3.5
    assert port.statuses(protocol.ping(2), 1)[0].error == ServoError.VOLTAGE


def test_driver_may_vanish_and_come_back(bus: VirtualBus) -> None:
    first = RawPort(bus.port)
    first.statuses(protocol.write(1, 42, reg.GOAL_POSITION.encode(2222)), 1)
    # Dies in the middle of a packet, with an answer unread.
    os.write(first.descriptor, protocol.ping(1) + b"\xff\xff\x01")
    first.close()
    time.sleep(0.02)
    second = RawPort(bus.port)
    second.exchange(protocol.ping(1), 6, 0.2)
    assert second.statuses(protocol.read(1, 42, 2), 1)[-1].parameters == b"\xae\x08"
    assert bus.servos[1].settings.enabled
    second.close()


def test_release_is_seen_when_the_last_driver_closes(bus: VirtualBus) -> None:
    port = RawPort(bus.port)
    assert not bus.wait_until_released(0.05)
    assert port.exchange(protocol.ping(1), 6) == protocol.status(1)
    port.close()
    assert bus.wait_until_released(2.0)


def test_scale_couples_ticks_and_angles_both_ways() -> None:
    scale = TickScale(zero_tick=1966.5, rad_per_tick=0.0015, homing_offset=-200)
    assert scale.angle_rad(scale.encoder_ticks(0.7)) == pytest.approx(0.7)
    assert scale.encoder_ticks(0.0) == 1766.5


def test_no_packet_however_odd_ends_the_bus(bus: VirtualBus, port: RawPort) -> None:
    rng = random.Random(1)
    codes = [*protocol.Instruction, 0x06, 0x55]
    for _ in range(400):
        servo_id = rng.choice((1, 2, 7, protocol.BROADCAST_ID))
        parameters = rng.randbytes(rng.choice((0, 1, 2, 3, 8, 200)))
        os.write(port.descriptor, protocol._packet(servo_id, rng.choice(codes), parameters))
        os.write(port.descriptor, rng.randbytes(3))
        while select.select([port.descriptor], [], [], 0)[0]:
            os.read(port.descriptor, 4096)
    # Random writes may have silenced acknowledgements, never the ping.
    bus.power_cycle(1)
    reply = port.exchange(protocol.ping(1), 4096, 0.5)
    assert protocol.StatusParser().feed(reply)[-1].servo_id == 1


def test_hot_servo_says_so(bus: VirtualBus, port: RawPort) -> None:
    bus.servos[1].plant.temperature_c = 300.0
    reply = port.statuses(protocol.read(1, reg.PRESENT_TEMPERATURE.address, 1), 1)[0]
    assert (reply.error, reply.parameters) == (ServoError.TEMPERATURE, b"\xff")


def test_bus_needs_neither_mujoco_nor_ros_nor_pyserial() -> None:
    code = (
        "import sys, so101_driver.sim; "
        "sys.exit(', '.join({'mujoco', 'rclpy', 'serial'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
