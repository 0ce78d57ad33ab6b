"""A servo bus on a pseudo-terminal: drivers open its path as they open ``/dev/ttyACM0``."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from so101_driver import protocol
from so101_driver import registers as reg
from so101_driver.joints import SERVO_IDS
from so101_driver.protocol import BROADCAST_ID, Instruction, InstructionPacket
from so101_driver.sim.virtual_servo import IdealServo, VirtualServo

_BYTE_S = 10e-6
"""Ten bits at 1 Mbaud."""
_TURNAROUND_S = 50e-6
"""From an instruction's last byte to the reply's first, at return delay 0."""
_DELAY_UNIT_S = 2e-6


class ServoChain(Protocol):
    """What stands behind a bus: servos, the time they live in, and who may touch them.

    Attributes:
        servos: By id.
        lock: Held while servos are read, written or moved.
    """

    servos: Mapping[int, VirtualServo]
    lock: threading.Lock

    @property
    def now_s(self) -> float:
        """Time of the servos' world."""


class IdealArm:
    """Servos without a world: each is at its goal at once."""

    def __init__(self, ids: Sequence[int] = SERVO_IDS) -> None:
        self.servos = {servo_id: IdealServo(servo_id) for servo_id in ids}
        self.lock = threading.Lock()

    @property
    def now_s(self) -> float:
        """Time of the servos' world."""
        return 0.0


@dataclass(frozen=True, slots=True)
class GoalWrite:
    """One decoded write of goals.

    Attributes:
        stamp_ns: When the last byte of the instruction arrived, by the bus's clock.
        servo_ids: Servos in the order of the packet; silent servos are missing.
        goal_ticks: Their goal registers after the write (clamped by the servo).
        goal_rad: The same as joint angles.
    """

    stamp_ns: int
    servo_ids: tuple[int, ...]
    goal_ticks: tuple[int, ...]
    goal_rad: tuple[float, ...]


class VirtualBus:
    """Answers the Feetech protocol byte for byte on a pseudo-terminal.

    ``with VirtualBus() as bus: ServoBus(bus.port, ...)``. The bus outlives its clients: a driver
    that dies and comes back finds the servos as it left them, torque and goals included.

    Args:
        arm: The servos; without it ideal ones with the given ``ids``.
        ids: Bus ids of the ideal servos.
        on_goal_write: Called in the bus's thread for every write of goals.
        clock_ns: Clock of ``GoalWrite.stamp_ns``; ROS time in the simulator.
        wire_timing: Whether replies take the time that they take at 1 Mbaud.
    """

    def __init__(
        self,
        arm: ServoChain | None = None,
        *,
        ids: Sequence[int] = SERVO_IDS,
        on_goal_write: Callable[[GoalWrite], None] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        wire_timing: bool = True,
    ) -> None:
        self.arm: ServoChain = arm or IdealArm(ids)
        self.goal_writes = 0
        self._on_goal_write = on_goal_write
        self._clock_ns = clock_ns
        self._wire_timing = wire_timing
        self._parser = protocol.InstructionParser()
        self._master, self._slave = os.openpty()
        # Our own open slave keeps the terminal alive, and raw, while no driver has it open.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._port = os.ttyname(self._slave)
        self._stop_read, self._stop_write = os.pipe()
        self._hung_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="virtual bus", daemon=True)

    @property
    def port(self) -> str:
        """Path of the pseudo-terminal."""
        return self._port

    @property
    def servos(self) -> Mapping[int, VirtualServo]:
        """The servos by id."""
        return self.arm.servos

    @property
    def garbage_bytes(self) -> int:
        """Bytes received that were no packet."""
        return self._parser.garbage_bytes

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and close the pseudo-terminal."""
        if self._thread.is_alive():
            os.write(self._stop_write, b".")
            self._thread.join()
        for name in ("_slave", "_master", "_stop_read", "_stop_write"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def mute(self, servo_id: int, muted: bool = True) -> None:
        """Let a servo ignore every packet, or answer again."""
        with self.arm.lock:
            self.servos[servo_id].muted = muted

    def power_cycle(self, servo_id: int) -> None:
        """Cut a servo's supply for a moment."""
        with self.arm.lock:
            self.servos[servo_id].power_cycle()

    def wait_until_released(self, timeout_s: float) -> bool:
        """Keep answering until no driver has the port open; returns whether that happened.

        Call it once, at the end: afterwards the bus may answer nobody any more.
        """
        if self._slave >= 0:
            slave, self._slave = self._slave, -1
            os.close(slave)
        return self._hung_up.wait(timeout_s)

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        poller.register(self._stop_read, select.POLLIN)
        while True:
            events = dict(poller.poll())
            if self._stop_read in events:
                return
            try:
                data = os.read(self._master, 4096)
            except OSError:
                # EIO: the last open slave is gone.
                data = b""
            if not data:
                self._hung_up.set()
                return
            stamp_ns = self._clock_ns()
            for packet in self._parser.feed(data):
                self._answer(packet, len(packet.parameters) + 6, stamp_ns)

    def _answer(self, packet: InstructionPacket, received_bytes: int, stamp_ns: int) -> None:
        with self.arm.lock:
            replies, goals = self._execute(packet)
            delay_s = _BYTE_S * (received_bytes + sum(len(reply) for _, reply in replies)) + sum(
                _TURNAROUND_S + _DELAY_UNIT_S * servo.memory.value(reg.RETURN_DELAY)
                for servo, _ in replies
            )
            write = GoalWrite(
                stamp_ns,
                tuple(servo.servo_id for servo in goals),
                tuple(servo.goal_ticks for servo in goals),
                tuple(servo.goal_rad() for servo in goals),
            )
        if replies:
            if self._wire_timing:
                time.sleep(delay_s)
            self._send(b"".join(reply for _, reply in replies))
        if goals:
            self.goal_writes += 1
            if self._on_goal_write is not None:
                self._on_goal_write(write)

    def _send(self, data: bytes) -> None:
        try:
            os.write(self._master, data)
        except OSError:
            # Nobody reads: the driver closed the port (poll reports it) or the buffer is full.
            return

    def _execute(
        self, packet: InstructionPacket
    ) -> tuple[list[tuple[VirtualServo, bytes]], list[VirtualServo]]:
        """Return the replies in wire order and the servos whose goal was written."""
        replies: list[tuple[VirtualServo, bytes]] = []
        goals: list[VirtualServo] = []
        now_s = self.arm.now_s
        parameters = packet.parameters

        if packet.instruction == Instruction.SYNC_READ:
            if packet.servo_id == BROADCAST_ID and _is_read(parameters[:2]):
                for servo in self._present(parameters[2:]):
                    replies.append((servo, _reply(servo, servo.read(*parameters[:2]))))
            return replies, goals
        if packet.instruction == Instruction.SYNC_WRITE:
            if packet.servo_id == BROADCAST_ID and len(parameters) >= 2:
                address, size = parameters[:2]
                for start in range(2, len(parameters) - size, size + 1):
                    for servo in self._present(parameters[start : start + 1]):
                        data = parameters[start + 1 : start + 1 + size]
                        if servo.write(address, data, now_s):
                            goals.append(servo)
            return replies, goals

        broadcast = packet.servo_id == BROADCAST_ID
        for servo in self._present(tuple(self.servos) if broadcast else (packet.servo_id,)):
            answer: bytes | None = b""
            match packet.instruction:
                case Instruction.PING:
                    pass
                case Instruction.READ if _is_read(parameters):
                    answer = servo.read(*parameters)
                case Instruction.WRITE if len(parameters) >= 2:
                    if servo.write(parameters[0], parameters[1:], now_s):
                        goals.append(servo)
                case Instruction.REG_WRITE if len(parameters) >= 2:
                    servo.reg_write(parameters[0], parameters[1:])
                case Instruction.ACTION:
                    if servo.action(now_s):
                        goals.append(servo)
                case _:
                    answer = None
            asks = packet.instruction in (Instruction.PING, Instruction.READ)
            if answer is None or (broadcast and packet.instruction != Instruction.PING):
                continue
            if asks or servo.memory.value(reg.RESPONSE_LEVEL):
                replies.append((servo, _reply(servo, answer)))
        return replies, goals

    def _present(self, ids: Sequence[int]) -> list[VirtualServo]:
        return [
            servo
            for servo in (self.servos.get(servo_id) for servo_id in ids)
            if servo is not None and not servo.muted
        ]


def _is_read(parameters: bytes) -> bool:
    """Whether these are an address and a size that fits into one reply."""
    return len(parameters) == 2 and parameters[1] <= protocol.MAX_LENGTH - 2


def _reply(servo: VirtualServo, parameters: bytes) -> bytes:
    return protocol.status(servo.servo_id, servo.error, parameters)
