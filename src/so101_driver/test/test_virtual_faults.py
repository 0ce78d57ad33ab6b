"""Faults, ids, baud rates and the time of the wire, seen from the client's end of the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from so101_driver.errors import UserError
from so101_driver.protocol import StatusParser
from so101_driver.sim import FactoryServos, Fault, FaultKind, FaultScript, IdealArm, VirtualBus
from so101_driver.sim.instructions import CALIBRATE_OFFSET, REBOOT, RECOVERY
from so101_driver.sim.virtual_servo import ServoFaults

from so101_driver import protocol
from so101_driver import registers as reg

pytestmark = pytest.mark.bus

ALL = (1, 2, 3, 4, 5, 6)
DELAY_S = 0.03


class Client:
    """A serial port that is opened as any driver opens it."""

    def __init__(self, path: str | Path, baud: int = 1_000_000) -> None:
        self.port = serial.Serial(str(path), baud, timeout=5.0)

    def exchange(self, data: bytes, size: int) -> bytes:
        """Send what will be answered, and read the answer."""
        self.port.reset_input_buffer()
        self.port.write(data)
        return self.port.read(size)

    def before(self, data: bytes, last: int = 1) -> bytes:
        """Send what may not be answered; what comes before a good servo tells its model."""
        self.port.reset_input_buffer()
        self.port.write(data + protocol.read(last, reg.MODEL.address, reg.MODEL.size))
        tail = protocol.status(last, 0, reg.MODEL.encode(reg.MODEL_NUMBER))
        reply = self.port.read_until(tail)
        assert reply.endswith(tail)
        return reply.removesuffix(tail)

    def sync_ids(self) -> list[int]:
        """Ids whose reply to a sync read is good; servo 1 is."""
        data = self.before(protocol.sync_read(ALL, 56, 4))
        return [packet.servo_id for packet in StatusParser().feed(data)]

    def ping(self, servo_id: int) -> bool:
        reply = self.exchange(protocol.ping(servo_id), 6)
        return [packet.servo_id for packet in StatusParser().feed(reply)] == [servo_id]

    def silent(self, servo_id: int, last: int = 1) -> bool:
        return self.before(protocol.ping(servo_id), last) == b""

    def write(self, servo_id: int, register: reg.Register, value: int) -> bytes:
        return self.exchange(protocol.write(servo_id, register.address, register.encode(value)), 6)

    def close(self) -> None:
        self.port.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[VirtualBus]:
    with VirtualBus(link=tmp_path / "arm") as bus:
        yield bus


@pytest.fixture
def client(bus: VirtualBus) -> Iterator[Client]:
    client = Client(bus.link)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        (FaultKind.DROP, [1, 2, 4, 5, 6]),
        (FaultKind.CHECKSUM, [1, 2, 4, 5, 6]),
        (FaultKind.DUPLICATE, [1, 2, 3, 3, 4, 5, 6]),
        (FaultKind.DEAF, [1, 2, 4, 5, 6]),
        (FaultKind.MUTE, [1, 2, 4, 5, 6]),
        (FaultKind.POWER_CYCLE, [1, 2, 4, 5, 6]),
    ],
)
def test_one_servo_fails(
    bus: VirtualBus, client: Client, kind: FaultKind, heard: list[int]
) -> None:
    assert client.sync_ids() == list(ALL)
    with bus.fault(kind, servo=3):
        assert bus.active_faults[0].kind is kind
        assert client.sync_ids() == heard
    assert bus.fault_counts[kind] == 1
    assert client.sync_ids() == list(ALL)


@pytest.mark.parametrize("kind", [FaultKind.CORRUPT, FaultKind.TRUNCATE, FaultKind.NOISE])
def test_broken_bytes_never_pass_for_good_ones(
    bus: VirtualBus, client: Client, kind: FaultKind
) -> None:
    """A servo's goal reads back as itself or not at all, however its replies are broken."""
    for servo_id in ALL:
        client.write(servo_id, reg.GOAL_POSITION, 1000 + servo_id)
    for servo_id in ALL[1:]:
        bus.inject(Fault(kind=kind, servo=servo_id))
    for _ in range(50):
        for packet in StatusParser().feed(client.before(protocol.sync_read(ALL, 42, 2))):
            if len(packet.parameters) == 2:
                value = reg.GOAL_POSITION.decode(packet.parameters)
                assert value == 1000 + packet.servo_id
    assert bus.fault_counts[kind] == 250


def test_delayed_reply_comes_late_and_so_do_those_behind_it(
    bus: VirtualBus, client: Client
) -> None:
    with bus.fault(FaultKind.DELAY, servo=3, delay_s=DELAY_S):
        client.port.write(protocol.sync_read(ALL, 56, 4))
        begin_s = time.monotonic()
        assert len(client.port.read(20)) == 20
        early_s = time.monotonic() - begin_s
        assert len(client.port.read(40)) == 40
        assert early_s < DELAY_S <= time.monotonic() - begin_s


def test_brown_out_silences_all_and_leaves_power_on_registers(
    bus: VirtualBus, client: Client
) -> None:
    client.write(2, reg.GOAL_POSITION, 2222)
    with bus.fault(FaultKind.BROWN_OUT, for_s=60.0):
        client.port.timeout = 0.1
        assert client.exchange(protocol.sync_read(ALL, 56, 4), 60) == b""
        client.port.timeout = 5.0
    assert client.sync_ids() == list(ALL)
    assert bus.servos[2].memory.value(reg.TORQUE_ENABLE) == 0
    assert bus.servos[2].goal_ticks == 0


def test_stuck_joint_takes_goals_and_stays(bus: VirtualBus, client: Client) -> None:
    with bus.fault(FaultKind.STUCK, servo=5):
        client.write(5, reg.GOAL_POSITION, 2500)
        assert abs(bus.servos[5].present_ticks() - 2048) <= 1
    client.write(5, reg.GOAL_POSITION, 2500)
    assert abs(bus.servos[5].present_ticks() - 2500) <= 1


def test_id_clash_garbles_what_differs_and_moves_both(bus: VirtualBus, client: Client) -> None:
    client.write(3, reg.GOAL_POSITION, 1000)
    client.write(4, reg.GOAL_POSITION, 3000)
    with bus.fault(FaultKind.ID_CLASH, servo=3, other=4):
        replies = [StatusParser().feed(client.before(protocol.read(3, 42, 2))) for _ in range(10)]
        assert not all(replies)
        assert client.silent(4)
        client.write(3, reg.GOAL_POSITION, 1500)
        assert [bus.servos[n].goal_ticks for n in (3, 4)] == [1500, 1500]
    assert client.ping(4)


def test_unplugged_the_port_is_gone_and_replugged_it_is_back_under_its_link(
    bus: VirtualBus, client: Client
) -> None:
    client.write(2, reg.GOAL_POSITION, 2222)
    before = bus.port
    with bus.fault(FaultKind.UNPLUG):
        assert bus.port == ""
        assert not os.path.lexists(bus.link)
        assert not os.path.exists(before)
        with pytest.raises(serial.SerialException):
            client.port.read(1)
        with pytest.raises(serial.SerialException):
            client.port.write(b"x")
        client.close()
    again = Client(bus.link)
    assert again.sync_ids() == list(ALL)
    # The servos have their own supply: they hold what they held.
    assert bus.servos[2].goal_ticks == 2222
    assert bus.servos[2].settings.enabled
    again.close()


def test_half_a_packet_before_unplugging_does_not_eat_the_first_one_after(
    bus: VirtualBus, client: Client
) -> None:
    # Once the ping is answered the rest has been read, too.
    half = protocol.write(1, 21, bytes(20))[:5]
    assert client.exchange(protocol.ping(2) + half, 6) == protocol.status(2)
    with bus.fault(FaultKind.UNPLUG):
        client.close()
    again = Client(bus.link)
    assert again.ping(1)
    again.close()


def test_replugging_waits_while_something_else_is_in_the_links_place(bus: VirtualBus) -> None:
    with bus.fault(FaultKind.UNPLUG):
        bus.link.write_text("in the way")
    assert bus.port == ""
    bus.link.unlink()
    deadline_s = time.monotonic() + 2.0
    while not bus.port:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    client = Client(bus.link)
    assert client.ping(1)
    client.close()


def test_plugged_and_unplugged_often_it_leaves_no_descriptors(bus: VirtualBus) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(20):
        with bus.fault(FaultKind.UNPLUG):
            pass
    assert count() == before
    client = Client(bus.link)
    assert client.ping(1)
    client.close()


def test_closing_removes_the_link_and_a_link_in_use_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "run" / "arm"
    with VirtualBus(link=link) as bus:
        assert os.readlink(link) == bus.port
        with pytest.raises(UserError, match="exists already"):
            VirtualBus(link=link)
        assert os.readlink(link) == bus.port
    assert not os.path.lexists(link)
    # Of a bus that was killed.
    link.symlink_to("/dev/pts/99999")
    with VirtualBus(link=link):
        assert link.exists()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        VirtualBus(link=file)
    assert file.read_text() == "precious"


def test_a_closed_bus_leaves_no_fault_in_the_servos() -> None:
    """The next bus on the same servos would neither know of it nor end it."""
    arm = IdealArm()
    with VirtualBus(arm) as bus:
        bus.inject(Fault(kind=FaultKind.MUTE, servo=4))
        bus.inject(Fault(kind=FaultKind.STUCK, servo=5))
        assert arm.servos[5].stuck
    assert arm.servos[4].faults == ServoFaults()
    assert not arm.servos[5].stuck
    assert bus.fault_counts[FaultKind.MUTE] == 1


def test_same_seed_and_packets_give_the_same_bytes() -> None:
    def answers(seed: int) -> bytes:
        faults = tuple(
            Fault(kind=kind, servo=servo_id, probability=0.2)
            for kind in (FaultKind.DROP, FaultKind.CORRUPT, FaultKind.NOISE, FaultKind.TRUNCATE)
            for servo_id in ALL[1:]
        )
        with VirtualBus(faults=FaultScript(faults, seed), wire_timing=False) as bus:
            client = Client(bus.port)
            found = client.before(protocol.sync_read(ALL, 42, 2) * 20)
            client.close()
        assert len(found) > 500
        return found

    first = answers(1)
    assert first == answers(1)
    assert first != answers(2)


def test_replies_take_the_time_of_their_bytes_gaps_and_return_delays() -> None:
    def seconds(delay: int, timing: bool) -> float:
        arm = IdealArm()
        for servo in arm.servos.values():
            servo.memory.put(reg.RETURN_DELAY, delay)
        with VirtualBus(arm, wire_timing=timing) as bus:
            client = Client(bus.port)
            taken = []
            for _ in range(10):
                begin_s = time.monotonic()
                client.exchange(protocol.sync_read(ALL, 56, 15), 126)
                taken.append(time.monotonic() - begin_s)
            client.close()
        return min(taken)

    # 14 + 126 bytes of 10 us and six gaps of 50 us: 1.7 ms; 250 units of 2 us each: 3 ms more.
    assert 1.7e-3 <= seconds(0, True) < 3.5e-3
    assert 4.7e-3 <= seconds(250, True) < 6.5e-3
    assert seconds(250, False) < 1.5e-3


def test_instructions_need_the_wire_too() -> None:
    """A reply cannot come before the bytes of everything that was sent before have passed."""
    with VirtualBus() as bus:
        client = Client(bus.port)
        goals = protocol.sync_write(42, dict.fromkeys(ALL, b"\x00\x08"))
        begin_s = time.monotonic()
        client.exchange(goals * 100 + protocol.ping(1), 6)
        taken_s = time.monotonic() - begin_s
        client.close()
    assert taken_s >= 100 * 26 * 10e-6


def test_a_servo_answers_to_its_new_id_only(bus: VirtualBus, client: Client) -> None:
    client.write(6, reg.ID, 9)
    assert client.silent(6)
    assert client.ping(9)
    # Written with the EEPROM locked: gone with the supply.
    bus.power_cycle(6)
    assert client.ping(6)


def test_a_servo_answers_at_its_baud_rate_only(bus: VirtualBus) -> None:
    fast = Client(bus.link)
    fast.write(6, reg.BAUD_RATE, 4)
    assert fast.silent(6)
    fast.close()
    slow = Client(bus.link, 115_200)
    assert slow.ping(6)
    assert slow.silent(5, last=6)
    # While the bus waits for its last client to leave, too.
    assert not bus.wait_until_released(0.05)
    assert slow.ping(6)
    slow.close()


def test_level_0_answers_to_reads_and_pings_only(client: Client) -> None:
    level = protocol.write(1, reg.RESPONSE_LEVEL.address, reg.RESPONSE_LEVEL.encode(0))
    assert client.before(level) == b""
    write = protocol.write(1, reg.P_GAIN.address, reg.P_GAIN.encode(20))
    assert client.before(write) == b""
    assert client.exchange(protocol.read(1, 21, 1), 7)[5] == 20
    assert client.ping(1)


def test_vendor_instructions(bus: VirtualBus, client: Client) -> None:
    offset = protocol._packet(2, CALIBRATE_OFFSET, (1000).to_bytes(2, "little"))
    assert client.exchange(offset, 6) == protocol.status(2)
    assert abs(bus.servos[2].present_ticks() - 1000) <= 1
    assert client.exchange(protocol._packet(2, CALIBRATE_OFFSET, b""), 6) == protocol.status(2)
    assert abs(bus.servos[2].present_ticks() - 2048) <= 1
    client.write(2, reg.P_GAIN, 16)
    assert client.exchange(protocol._packet(2, RECOVERY, b""), 6) == protocol.status(2)
    assert bus.servos[2].memory.value(reg.P_GAIN) == 32
    client.write(2, reg.TORQUE_ENABLE, 1)
    assert client.before(protocol._packet(2, REBOOT, b"")) == b""
    assert bus.servos[2].memory.value(reg.TORQUE_ENABLE) == 0


def test_fresh_servos_share_id_1_until_they_are_given_their_own() -> None:
    arm = FactoryServos(3)
    with VirtualBus(arm) as bus:
        client = Client(bus.port)
        for number, servo_id in ((1, 6), (2, 5)):
            arm.connect({number})
            assert client.ping(1)
            client.write(1, reg.LOCK, 0)
            client.write(1, reg.ID, servo_id)
            assert client.ping(servo_id)
        with bus.fault(FaultKind.MUTE, servo=3):
            assert arm.connected == (2,)
        assert arm.connected == (2,)
        arm.connect({1, 2, 3})
        assert [servo_id for servo_id in (1, 5, 6) if client.ping(servo_id)] == [1, 5, 6]
        # A broadcast ping is answered by all, one after the other.
        reply = client.exchange(protocol.ping(protocol.BROADCAST_ID), 18)
        assert [packet.servo_id for packet in StatusParser().feed(reply)] == [1, 5, 6]
        client.close()
