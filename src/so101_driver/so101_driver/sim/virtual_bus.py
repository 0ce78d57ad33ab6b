"""A servo bus on a pseudo-terminal: drivers open its path as they open ``/dev/ttyACM0``."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from so101_driver import protocol
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS
from so101_driver.protocol import InstructionPacket
from so101_driver.sim.chains import IdealArm, ServoChain
from so101_driver.sim.fault_injector import FaultInjector, Piece
from so101_driver.sim.faults import Fault, FaultKind, FaultScript
from so101_driver.sim.servo_line import BITS_PER_BYTE, ServoLine
from so101_driver.sim.terminal import Terminal
from so101_driver.sim.virtual_servo import VirtualServo

_LONGEST_NAP_S = 0.02
"""Simulated time may run slower than the clock: look again for faults that are due."""
_REPLUG_TIMEOUT_S = 2.0


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
        wire_timing: Whether replies take the time that they take on the wire.
        faults: What goes wrong, in seconds of the arm's time since ``start``.
        link: Where to make a link to the port. A client that shall survive ``unplug`` opens the
            link, because the port's own path changes.
    """

    def __init__(
        self,
        arm: ServoChain | None = None,
        *,
        ids: Sequence[int] = SERVO_IDS,
        on_goal_write: Callable[[GoalWrite], None] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        wire_timing: bool = True,
        faults: FaultScript | None = None,
        link: str | Path | None = None,
    ) -> None:
        self.arm: ServoChain = arm or IdealArm(ids)
        self.goal_writes = 0
        self._on_goal_write = on_goal_write
        self._clock_ns = clock_ns
        self._wire_timing = wire_timing
        self._parser = protocol.InstructionParser()
        script = faults or FaultScript()
        self._injector = FaultInjector(self.arm, script)
        self._line = ServoLine(self.arm, self._injector, script.seed)
        self._terminal = Terminal(None if link is None else Path(link))
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._hung_up = threading.Event()
        self._settled = threading.Condition()
        self._changes_asked = 0
        self._changes_done = 0
        self._wire_free_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="virtual bus", daemon=True)

    @property
    def port(self) -> str:
        """Path of the pseudo-terminal; empty while it is unplugged."""
        return self._terminal.port

    @property
    def link(self) -> Path | None:
        """Path of the link to the port, which stays the same."""
        return self._terminal.link

    @property
    def servos(self) -> Mapping[int, VirtualServo]:
        """The servos by their ids at the start."""
        return self.arm.servos

    @property
    def garbage_bytes(self) -> int:
        """Bytes received that were no packet."""
        return self._parser.garbage_bytes

    @property
    def fault_counts(self) -> Mapping[FaultKind, int]:
        """How often each kind of fault has begun, or has struck a packet."""
        return self._injector.counts

    @property
    def active_faults(self) -> tuple[Fault, ...]:
        """The faults of this moment."""
        with self.arm.lock:
            return self._injector.active

    def start(self) -> None:
        """Begin to answer; a script's time begins."""
        with self.arm.lock:
            self._injector.start(self.arm.now_s)
            self._injector.update(self.arm.now_s)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, end all faults and close the pseudo-terminal."""
        self._stopping = True
        if self._thread.is_alive():
            self._wake()
            self._thread.join()
        with self.arm.lock:
            self._injector.clear(None, self.arm.now_s)
        self._terminal.unplug()
        for name in ("_wake_read", "_wake_write"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # What goes wrong.

    def inject(self, fault: Fault) -> int:
        """Add a fault, ``at_s`` from now; returns a handle for ``clear``.

        When this returns, a fault without ``at_s`` is active.
        """
        with self.arm.lock:
            handle = self._injector.add(fault, self.arm.now_s)
            self._injector.update(self.arm.now_s)
        self._settle()
        return handle

    def clear(self, handle: int | None = None) -> None:
        """End a fault, or all of them."""
        with self.arm.lock:
            self._injector.clear(handle, self.arm.now_s)
        self._settle()

    @contextlib.contextmanager
    def fault(self, kind: FaultKind, **options: float) -> Iterator[None]:
        """Have a fault inside a ``with`` block: ``with bus.fault(FaultKind.MUTE, servo=4):``."""
        handle = self.inject(Fault(kind=kind, **options))
        try:
            yield
        finally:
            self.clear(handle)

    def mute(self, servo_id: int, muted: bool = True) -> None:
        """Let a servo ignore every packet, or answer again."""
        with self.arm.lock:
            self.servos[servo_id].muted = muted

    def power_cycle(self, servo_id: int) -> None:
        """Cut a servo's supply for a moment."""
        with self.arm.lock:
            self.servos[servo_id].power_cycle(self.arm.now_s)

    def wait_until_released(self, timeout_s: float) -> bool:
        """Keep answering until no driver has the port open; returns whether that happened.

        Call it once, at the end: afterwards the bus may answer nobody any more.
        """
        if not self._terminal.port:
            return True
        self._terminal.release()
        return self._hung_up.wait(timeout_s)

    def _wake(self) -> None:
        os.write(self._wake_write, b".")

    def _settle(self) -> None:
        """Wait until the bus's thread has taken over a change."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            with self._settled:
                self._changes_asked += 1
                asked = self._changes_asked
                self._wake()
                self._settled.wait_for(lambda: self._changes_done >= asked, _REPLUG_TIMEOUT_S)

    # The bus's thread.

    def _serve(self) -> None:
        while not self._stopping:
            asked = self._changes_asked
            with self.arm.lock:
                self._injector.update(self.arm.now_s)
                nap_s = min(self._injector.next_change_s() - self.arm.now_s, _LONGEST_NAP_S)
                endless = math.isinf(self._injector.next_change_s())
            if not self._plug_or_unplug():
                nap_s, endless = _LONGEST_NAP_S, False
            poller = select.poll()
            poller.register(self._wake_read, select.POLLIN)
            if self._terminal.descriptor >= 0:
                poller.register(self._terminal.descriptor, select.POLLIN)
            with self._settled:
                self._changes_done = asked
                self._settled.notify_all()
            events = dict(poller.poll(None if endless else max(1.0, 1e3 * nap_s)))
            if self._wake_read in events:
                os.read(self._wake_read, 4096)
                continue
            if self._terminal.descriptor in events and not self._receive():
                self._hung_up.set()
                return

    def _plug_or_unplug(self) -> bool:
        """Bring the terminal into the state that the faults ask for; False if that must wait."""
        if self._injector.plugged == (self._terminal.descriptor >= 0):
            return True
        if not self._injector.plugged:
            self._terminal.unplug()
            self._parser.reset()
            return True
        try:
            self._terminal.plug()
        except UserError:
            # Somebody has put something else in the link's place meanwhile.
            return False
        return True

    def _receive(self) -> bool:
        """Take what has come and answer it; returns False when the last client has left."""
        try:
            data = os.read(self._terminal.descriptor, 4096)
        except OSError:
            # EIO: the last open slave is gone.
            data = b""
        if not data:
            return False
        stamp_ns = self._clock_ns()
        for packet in self._parser.feed(data):
            self._answer(packet, len(packet.parameters) + 6, stamp_ns)
        return True

    def _answer(self, packet: InstructionPacket, received_bytes: int, stamp_ns: int) -> None:
        baud = self._terminal.baud()
        byte_s = BITS_PER_BYTE / baud if self._wire_timing else 0.0
        # The instruction needs the wire after whatever is on it.
        wire_s = max(time.monotonic(), self._wire_free_s) + byte_s * received_bytes
        with self.arm.lock:
            self._injector.update(self.arm.now_s)
            answer = self._line.carry_out(packet, baud)
            write = GoalWrite(
                stamp_ns,
                tuple(servo.servo_id for servo in answer.goals),
                tuple(servo.goal_ticks for servo in answer.goals),
                tuple(servo.goal_rad() for servo in answer.goals),
            )
        self._send(answer.pieces, wire_s, byte_s)
        if write.servo_ids:
            self.goal_writes += 1
            if self._on_goal_write is not None:
                self._on_goal_write(write)

    def _send(self, pieces: Sequence[Piece], wire_s: float, byte_s: float) -> None:
        """Put replies on the wire, those without a delay of their own in one go."""
        ready = b""
        for piece in pieces:
            if piece.late_s > 0.0:
                self._write_at(ready, wire_s)
                ready = b""
                wire_s += piece.late_s
            gap_s = piece.gap_s if self._wire_timing else 0.0
            wire_s += gap_s + byte_s * len(piece.data)
            ready += piece.data
        self._write_at(ready, wire_s)
        self._wire_free_s = wire_s

    def _write_at(self, data: bytes, wire_s: float) -> None:
        if not data:
            return
        wait_s = wire_s - time.monotonic()
        if wait_s > 0.0:
            time.sleep(wait_s)
        # Nobody reads: the driver closed the port (poll reports it) or the buffer is full.
        with contextlib.suppress(OSError):
            os.write(self._terminal.descriptor, data)
