"""Finds servos at any id and baud rate, for the time before every servo has its own id.

Only questions are asked, nothing is written. Every baud rate is a moment of its own on the port,
so nothing else may use it meanwhile.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import serial

from so101_driver import protocol
from so101_driver.bus import PortLostError, open_port
from so101_driver.protocol import StatusParser
from so101_driver.registers import BAUD_RATES

_STATUS_BYTES = 6
_BITS_PER_BYTE = 10
_ANSWER_S = 0.006
"""Until a servo with the factory's return delay (0.5 ms) has been heard through a USB adapter."""
_PATIENT_S = 0.03
"""Until it has been heard through an adapter that collects bytes for 16 ms (FTDI's)."""
_QUIET_S = 0.008


@dataclass(frozen=True, slots=True)
class Found:
    """Where a servo answers."""

    servo_id: int
    baud_rate: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back after a ping.

    Attributes:
        ids: Whoever answered with a whole packet.
        garbled: Bytes came that are no packet, as when several servos answer at once.
    """

    ids: tuple[int, ...] = ()
    garbled: bool = False


class SearchLine:
    """A port at one baud rate, for pings only; a context manager.

    Raises:
        UserError: The port is missing, busy or forbidden.
    """

    def __init__(self, port: str, baud_rate: int) -> None:
        self._port = port
        self._baud_rate = baud_rate
        self._serial: serial.Serial = open_port(port, baud_rate)

    def __enter__(self) -> SearchLine:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._serial.close()

    def ping(self, servo_id: int, wait_s: float = _ANSWER_S) -> Heard:
        """Ask one id; what comes late is heard by a later call, and tells its id."""
        return self._ask(servo_id, wait_s, 0.001)

    def ping_all(self) -> Heard:
        """Ask everybody at once: sound with a single servo, otherwise replies collide."""
        return self._ask(protocol.BROADCAST_ID, _PATIENT_S, _QUIET_S)

    def _ask(self, servo_id: int, wait_s: float, quiet_s: float) -> Heard:
        wire_s = 2 * _STATUS_BYTES * _BITS_PER_BYTE / self._baud_rate
        parser = StatusParser(max_parameters=0)
        ids: list[int] = []
        try:
            self._serial.reset_input_buffer()
            self._serial.write(protocol.ping(servo_id))
            end_s = time.monotonic() + wire_s + wait_s
            while (left_s := end_s - time.monotonic()) > 0:
                ready, _, _ = select.select([self._serial.fileno()], [], [], left_s)
                if not ready:
                    break
                replies = parser.feed(self._serial.read(4096))
                ids += [reply.servo_id for reply in replies]
                if servo_id in ids and servo_id != protocol.BROADCAST_ID:
                    wait_s = quiet_s
                end_s = min(end_s, time.monotonic() + wire_s + wait_s)
        except (serial.SerialException, OSError) as error:
            raise PortLostError(
                f"the port {self._port} is gone ({error}): check the USB cable and power"
            ) from error
        parser.reset()
        return Heard(tuple(ids), parser.garbage_bytes > 0 or parser.bad_checksums > 0)


def answering(port: str, ids: Iterable[int], baud_rate: int = BAUD_RATES[0]) -> tuple[int, ...]:
    """Return which of some ids answer at one baud rate, be it late or only when asked again."""
    ids = tuple(ids)
    heard: set[int] = set()
    with SearchLine(port, baud_rate) as line:
        for servo_id in (*ids, *ids):
            if servo_id not in heard:
                heard |= set(line.ping(servo_id, _PATIENT_S).ids)
    return tuple(servo_id for servo_id in ids if servo_id in heard)


@dataclass(frozen=True, slots=True)
class Search:
    """What a search through all baud rates found.

    Attributes:
        servos: Who answers where.
        collided: Baud rates at which replies were garbled: several servos share an id there.
    """

    servos: tuple[Found, ...]
    collided: tuple[int, ...]

    @property
    def several(self) -> bool:
        """Whether more than one servo is connected."""
        return len(self.servos) > 1 or bool(self.collided)


def search(
    port: str,
    ids: Iterable[int],
    baud_rates: Iterable[int] = BAUD_RATES,
    broadcast: bool = True,
) -> Search:
    """Look for servos at every baud rate.

    Args:
        port: Serial port; nobody else may have it open.
        ids: Ids that are also asked one by one: with several servos nothing else is reliable.
        baud_rates: Where to look.
        broadcast: Whether to ask everybody at once too, which finds a single servo at any id.
    """
    servos: list[Found] = []
    collided: list[int] = []
    ids = tuple(ids)
    for baud_rate in baud_rates:
        with SearchLine(port, baud_rate) as line:
            garbled = False
            found: set[int] = set()
            if broadcast:
                heard = line.ping_all()
                found |= set(heard.ids)
                garbled |= heard.garbled or len(set(heard.ids)) != len(heard.ids)
            for servo_id in ids:
                heard = line.ping(servo_id)
                found |= set(heard.ids)
                garbled |= heard.garbled
        servos += [Found(servo_id, baud_rate) for servo_id in sorted(found)]
        if garbled:
            collided.append(baud_rate)
    return Search(tuple(servos), tuple(collided))
