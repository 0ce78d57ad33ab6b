"""The servo bus on a serial port: every reply matched by id, nothing stale, no busy waiting.

Replies of a sync read are sorted by id; a servo that falls silent costs a few milliseconds and is
then asked apart (roster.py). The error byte of each reply is kept. pyserial opens and configures
the port; waiting for bytes is one ``select`` per burst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType

import serial

from so101_driver import protocol
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS
from so101_driver.protocol import ServoError, StatusParser
from so101_driver.readings import Reading
from so101_driver.registers import Register
from so101_driver.roster import Roster

BAUD_RATE = 1_000_000
SYNC_DEADLINE_S = 0.006
"""Six replies take 1.4 ms on the wire and 3 ms with USB in between; 10 ms is the cycle."""
REPLY_GAP_S = 0.004
"""Once servos answer, the next one follows within this: USB hands bytes over every millisecond."""
REPLY_GRACE_S = 0.001
"""After the reply of the servo asked last, nobody else's is expected."""
UNICAST_DEADLINE_S = 0.02
UNICAST_ATTEMPTS = 5
"""Single servos are asked while the arm is set up, when the machine may be busy starting."""


class BusError(Exception):
    """A transaction with one servo failed; the text names the servo."""


class PortLostError(BusError):
    """The port vanished: unplugged, or the simulator has ended."""


class ServoBus:
    """Transactions with the servos on one port; a context manager, usable from several threads.

    Args:
        port: Device or pseudo-terminal.
        ids: Servos that sync reads ask.
        baud_rate: Ignored by pseudo-terminals.

    Attributes:
        counters: How often each kind of error happened: ``no_reply`` (and ``no_reply_servo_<id>``),
            ``bad_checksum``, ``garbage_bytes``, ``unexpected_reply``, ``late_bytes``, ``retry``,
            ``verify_failed``, ``send_blocked``, ``reopened``, ``servo_error``, and every error bit
            of every reply by servo (``servo_<id>_overload``).

    Raises:
        UserError: The port is missing, busy or forbidden.
    """

    def __init__(
        self, port: str, ids: Sequence[int] = SERVO_IDS, baud_rate: int = BAUD_RATE
    ) -> None:
        self.port = port
        self.ids = tuple(ids)
        self.counters: Counter[str] = Counter()
        self._baud_rate = baud_rate
        self._roster = Roster(self.ids)
        self._lock = threading.Lock()
        self._serial = open_port(port, baud_rate)
        self._fd = self._serial.fileno()

    def __enter__(self) -> ServoBus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the port; the servos keep doing what they were told last."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        # The number of a closed descriptor may be another file's soon.
        self._fd = -1
        with contextlib.suppress(OSError):
            self._serial.close()

    def reopen(self) -> None:
        """Open the port anew after it was lost; UserError while that is not possible."""
        with self._lock:
            self._close()
            self._serial = open_port(self.port, self._baud_rate)
            self._fd = self._serial.fileno()
            self._roster = Roster(self.ids)
            self.counters["reopened"] += 1

    def replaced(self) -> bool:
        """Return whether the port's path leads nowhere, or to another device than the open one."""
        with self._lock:
            try:
                there, ours = os.stat(self.port), os.fstat(self._fd)
            except OSError:
                return True
        return (there.st_rdev, there.st_dev, there.st_ino) != (
            ours.st_rdev,
            ours.st_dev,
            ours.st_ino,
        )

    def ping(self, servo_id: int) -> bool:
        """Return whether a servo answers."""
        return self._ask(protocol.ping(servo_id), servo_id, 0) is not None

    def read_block(self, servo_id: int, address: int, size: int) -> Reading:
        """Read ``size`` bytes from ``address``; BusError if the servo stays silent."""
        reading = self._ask(protocol.read(servo_id, address, size), servo_id, size)
        if reading is None:
            raise BusError(f"servo {servo_id} does not answer")
        return reading

    def read(self, servo_id: int, register: Register) -> int:
        """Read one register; BusError if the servo stays silent."""
        return register.decode(self.read_block(servo_id, register.address, register.size).data)

    def write(self, servo_id: int, register: Register, value: int) -> None:
        """Write one register and read it back; BusError unless the servo then holds the value."""
        packet = protocol.write(servo_id, register.address, register.encode(value))
        for _ in range(UNICAST_ATTEMPTS):
            # A lost reply does not mean a lost write: reading back is what decides.
            self._ask(packet, servo_id, 0, attempts=1)
            held = self.read(servo_id, register)
            if held == value:
                return
            self.counters["verify_failed"] += 1
        raise BusError(
            f"servo {servo_id} keeps {held} in {register.name} although {value} was written"
        )

    def sync_read(
        self, address: int, size: int, deadline_s: float = SYNC_DEADLINE_S
    ) -> dict[int, Reading]:
        """Read the same bytes of all servos; whoever does not answer in time is missing."""
        with self._lock:
            asked = self._roster.asked()
        replies = self._transact(protocol.sync_read(asked, address, size), asked, size, deadline_s)
        with self._lock:
            self._roster.heard(asked, [servo_id for servo_id in asked if servo_id not in replies])
        return replies

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write one register of several servos in one packet, which nobody acknowledges."""
        data = {servo_id: register.encode(value) for servo_id, value in values.items()}
        with self._lock:
            self._send(protocol.sync_write(register.address, data))

    def _ask(
        self, packet: bytes, servo_id: int, size: int, attempts: int = UNICAST_ATTEMPTS
    ) -> Reading | None:
        for attempt in range(attempts):
            if attempt:
                self.counters["retry"] += 1
            replies = self._transact(packet, (servo_id,), size, UNICAST_DEADLINE_S)
            if attempt or servo_id not in replies:
                self._settle()
            if servo_id in replies:
                return replies[servo_id]
        return None

    def _settle(self) -> None:
        """Wait for the line to fall silent after a missed reply.

        It may only be late, and would then be taken for the answer to the next question: nothing
        in a reply tells which register it is about.
        """
        with self._lock:
            while data := self._receive(UNICAST_DEADLINE_S):
                self.counters["late_bytes"] += len(data)

    def _transact(
        self, packet: bytes, ids: Sequence[int], size: int, deadline_s: float
    ) -> dict[int, Reading]:
        """Send a packet and collect one reply of ``size`` bytes from each of ``ids``, in order."""
        waiting = set(ids)
        replies: dict[int, Reading] = {}
        parser = StatusParser(max_parameters=size)
        with self._lock:
            self._discard_late_bytes()
            sent_ns = time.monotonic_ns()
            self._send(packet)
            end_s = sent_ns * 1e-9 + deadline_s
            while waiting:
                data = self._receive(end_s - time.monotonic())
                if not data:
                    break
                for reply in parser.feed(data):
                    if reply.servo_id not in waiting or len(reply.parameters) != size:
                        self.counters["unexpected_reply"] += 1
                        continue
                    waiting.remove(reply.servo_id)
                    replies[reply.servo_id] = Reading(
                        reply.servo_id, reply.parameters, reply.error, sent_ns
                    )
                    if reply.error:
                        self._count_error(reply.servo_id, reply.error)
                if replies:
                    wait_s = REPLY_GAP_S if ids[-1] in waiting else REPLY_GRACE_S
                    end_s = min(end_s, time.monotonic() + wait_s)
            parser.reset()
            for servo_id in waiting:
                self.counters["no_reply"] += 1
                self.counters[f"no_reply_servo_{servo_id}"] += 1
            self._count("bad_checksum", parser.bad_checksums)
            self._count("garbage_bytes", parser.garbage_bytes)
        return replies

    def _count(self, name: str, increment: int) -> None:
        if increment:
            self.counters[name] += increment

    def _count_error(self, servo_id: int, error: ServoError) -> None:
        self.counters["servo_error"] += 1
        for bit in ServoError:
            if bit in error:
                self.counters[f"servo_{servo_id}_{bit.name.lower()}"] += 1

    def _send(self, packet: bytes) -> None:
        try:
            sent = 0
            while sent < len(packet):
                sent += os.write(self._fd, packet[sent:])
        except BlockingIOError:
            # The kernel's buffer is full: nobody takes the bytes at the other end.
            self.counters["send_blocked"] += 1
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self, timeout_s: float) -> bytes:
        """Return what arrives within the time, as soon as anything does; empty if nothing."""
        try:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, timeout_s))
            if not ready:
                return b""
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        if not data:
            # Readable without data is the end of the device.
            raise self._lost(None)
        return data

    def _discard_late_bytes(self) -> None:
        """Throw away what arrived after its deadline, or it would be taken for a fresh reply."""
        while data := self._receive(0.0):
            self.counters["late_bytes"] += len(data)

    def _lost(self, error: Exception | None) -> PortLostError:
        detail = f" ({error})" if error else ""
        return PortLostError(f"the port {self.port} is gone{detail}: check the USB cable and power")


def open_port(port: str, baud_rate: int) -> serial.Serial:
    """Open a port for this process alone; UserError if it is missing, busy or forbidden."""
    try:
        return serial.Serial(port, baud_rate, timeout=0, write_timeout=0, exclusive=True)
    except serial.SerialException as error:
        code = error.errno or getattr(error.__context__, "errno", None)
        raise UserError(_open_problem(port, code, str(error))) from error
    except OSError as error:
        raise UserError(_open_problem(port, error.errno, str(error))) from error


def _open_problem(port: str, code: int | None, text: str) -> str:
    if code == errno.ENOENT:
        return (
            f"the port {port} does not exist: plug in the arm's USB cable and look for "
            "/dev/ttyACM* or /dev/ttyUSB*, or start the simulator first."
        )
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"no permission for the port {port}: add yourself to its group, "
            "sudo usermod -aG dialout $USER, and log in again."
        )
    if code in (errno.EBUSY, errno.EAGAIN):
        return (
            f"the port {port} is in use by another program: end it first "
            f"(fuser -v {port} shows which)."
        )
    return f"cannot open the port {port}: {text}."
