"""A serial line in simulated time: the virtual servos at one end, a driver's bytes at the other.

It keeps what the driver wrote, and when, so that a judge can look at the goals on the wire.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from so101_driver.sim import Fault, FaultScript, ServoChain
from so101_driver.sim.fault_injector import FaultInjector
from so101_driver.sim.servo_line import ServoLine

from bus_proof.plain_codec import parse
from so101_driver import protocol

_BYTE_NS = 10_000
_USB_NS = 125_000
"""A full-speed USB adapter hands bytes over about this late."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the driver wrote to the wire.

    Attributes:
        at_ns: When.
        data: One or more instructions.
    """

    at_ns: int
    data: bytes


class Wire:
    """One end of a port for a driver, with faults; time passes through ``advance``.

    Args:
        arm: The servos.
        advance: Lets simulated time pass until a time in ns.
        now_ns: The simulated time.
        seed: Of the faults.

    Attributes:
        sent: Everything that was written.
        intact: (time in ns, servo id) of every reply that arrived whole.
        opened: How often the port was opened.
    """

    def __init__(
        self,
        arm: ServoChain,
        advance: Callable[[int], None],
        now_ns: Callable[[], int],
        seed: int = 0,
    ) -> None:
        self.sent: list[Sent] = []
        self.intact: list[tuple[int, int]] = []
        self.opened = 0
        self._arm = arm
        self._advance = advance
        self._now_ns = now_ns
        self._injector = FaultInjector(arm, FaultScript(seed=seed))
        self._line = ServoLine(arm, self._injector, seed)
        self._parser = protocol.InstructionParser()
        self._coming: deque[tuple[int, bytes]] = deque()
        self._free_ns = 0
        self._last_ns = 0
        self._generation = 0
        self._was_plugged = True

    # Faults.

    @property
    def plugged(self) -> bool:
        """Whether the cable is in."""
        return self._injector.plugged

    @property
    def generation(self) -> int:
        """Grows whenever the cable has been out: an open port of an older one is dead."""
        return self._generation

    def inject(self, fault: Fault) -> None:
        """Begin a fault."""
        self._injector.add(fault, self._seconds())
        self.update()

    def clear(self) -> None:
        """End all faults."""
        self._injector.clear(None, self._seconds())
        self.update()

    def update(self) -> None:
        """Let faults that are due begin and end."""
        self._injector.update(self._seconds())
        if self._was_plugged and not self.plugged:
            self._generation += 1
            self._coming.clear()
            self._parser.reset()
        self._was_plugged = self.plugged

    # The driver's end.

    def write(self, generation: int, data: bytes) -> int:
        """Take bytes of the driver; OSError when the cable is or was out."""
        self.update()
        if generation != self._generation or not self.plugged:
            raise OSError(errno.EIO, "Input/output error")
        now_ns = self._now_ns()
        self.sent.append(Sent(now_ns, bytes(data)))
        for packet in self._parser.feed(data):
            self._answer(packet)
        return len(data)

    def wait(self, generation: int, timeout_s: float) -> bool:
        """Let time pass until there is something to read; returns whether there is."""
        end_ns = self._now_ns() + max(0, round(timeout_s * 1e9))
        while True:
            self.update()
            if generation != self._generation or not self.plugged:
                return True
            if self._coming and self._coming[0][0] <= self._now_ns():
                return True
            due_ns = min(end_ns, self._coming[0][0] if self._coming else end_ns)
            if due_ns <= self._now_ns():
                return False
            self._advance(due_ns)

    def read(self, generation: int) -> bytes:
        """Return what has come; empty when the cable is or was out."""
        if generation != self._generation or not self.plugged:
            return b""
        data = b""
        while self._coming and self._coming[0][0] <= self._now_ns():
            data += self._coming.popleft()[1]
        if not data:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return data

    # The servos' end.

    def _seconds(self) -> float:
        return self._now_ns() * 1e-9

    def _answer(self, packet: protocol.InstructionPacket) -> None:
        now_ns = self._now_ns()
        wire_ns = max(now_ns, self._free_ns) + _BYTE_NS * (len(packet.parameters) + 6)
        for piece in self._line.carry_out(packet).pieces:
            wire_ns += round(piece.gap_s * 1e9) + _BYTE_NS * len(piece.data)
            # What is late is so in the adapter: the wire is free, but nothing overtakes it.
            self._last_ns = max(self._last_ns, wire_ns + _USB_NS + round(piece.late_s * 1e9))
            self._coming.append((self._last_ns, piece.data))
            # A checksum that is cut off may be replaced by the header behind it.
            for reply in (piece.data, piece.data + b"\xff"):
                self.intact += [(self._last_ns, p[0]) for p in parse(reply, 248).packets]
        self._free_ns = wire_ns
