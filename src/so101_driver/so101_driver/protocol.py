"""Packets of the Feetech FT-SCS bus ("protocol 0", little-endian), both directions.

Instruction: ``FF FF id length instruction parameters checksum``; status: the same with an error
byte in place of the instruction. The driver builds instructions and parses statuses, the virtual
bus does the opposite, with the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

BROADCAST_ID = 0xFE
MAX_ID = 0xFD
MAX_LENGTH = 250
"""Largest legal length byte: parameters + 2."""

_HEADER = b"\xff\xff"


class Instruction(IntEnum):
    """Instruction codes that an STS3215 knows."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class ServoError(IntFlag):
    """Bits of a status packet's error byte and of the status register (65)."""

    VOLTAGE = 0x01
    ENCODER = 0x02
    TEMPERATURE = 0x04
    CURRENT = 0x08
    OVERLOAD = 0x20


@dataclass(frozen=True, slots=True)
class InstructionPacket:
    """One packet from the host; ``instruction`` may be a code that nobody knows."""

    servo_id: int
    instruction: int
    parameters: bytes


@dataclass(frozen=True, slots=True)
class StatusPacket:
    """One reply of a servo."""

    servo_id: int
    error: ServoError
    parameters: bytes


def checksum(body: bytes) -> int:
    """Return the checksum of a packet's bytes between the header and the checksum."""
    return ~sum(body) & 0xFF


def _packet(servo_id: int, code: int, parameters: bytes) -> bytes:
    if not 0 <= servo_id <= BROADCAST_ID:
        raise ValueError(f"servo id {servo_id} is outside 0..{BROADCAST_ID}")
    length = len(parameters) + 2
    if length > MAX_LENGTH:
        raise ValueError(f"{len(parameters)} parameter bytes do not fit into one packet")
    body = bytes((servo_id, length, code)) + parameters
    return _HEADER + body + bytes((checksum(body),))


def ping(servo_id: int) -> bytes:
    """Build a ping."""
    return _packet(servo_id, Instruction.PING, b"")


def read(servo_id: int, address: int, size: int) -> bytes:
    """Build a read of ``size`` bytes from ``address``."""
    return _packet(servo_id, Instruction.READ, bytes((address, size)))


def write(servo_id: int, address: int, data: bytes) -> bytes:
    """Build a write of ``data`` from ``address`` on."""
    return _packet(servo_id, Instruction.WRITE, bytes((address,)) + data)


def reg_write(servo_id: int, address: int, data: bytes) -> bytes:
    """Build a write that the servo keeps until ``action``."""
    return _packet(servo_id, Instruction.REG_WRITE, bytes((address,)) + data)


def action(servo_id: int = BROADCAST_ID) -> bytes:
    """Build the instruction that carries out pending ``reg_write``s."""
    return _packet(servo_id, Instruction.ACTION, b"")


def sync_read(servo_ids: Sequence[int], address: int, size: int) -> bytes:
    """Build a read of the same registers of several servos; they answer in the order given."""
    return _packet(BROADCAST_ID, Instruction.SYNC_READ, bytes((address, size, *servo_ids)))


def sync_write(address: int, data: Mapping[int, bytes]) -> bytes:
    """Build a write of ``{servo id: data}``, all of one size, which no servo answers."""
    sizes = {len(value) for value in data.values()}
    if len(sizes) != 1:
        raise ValueError(f"a sync write needs data of one size, got sizes {sorted(sizes)}")
    blocks = b"".join(bytes((servo_id,)) + value for servo_id, value in data.items())
    return _packet(BROADCAST_ID, Instruction.SYNC_WRITE, bytes((address, sizes.pop())) + blocks)


def status(servo_id: int, error: int = 0, parameters: bytes = b"") -> bytes:
    """Build a servo's reply."""
    return _packet(servo_id, int(error), parameters)


class _PacketParser:
    """Finds packets in a byte stream; bytes that are no packet are skipped and counted.

    ``max_parameters`` bounds how many bytes a corrupt length byte can swallow.

    Attributes:
        garbage_bytes: Bytes skipped so far while looking for a header.
        bad_checksums: Candidate packets dropped so far because their checksum was wrong.
    """

    def __init__(self, max_parameters: int = MAX_LENGTH - 2) -> None:
        self._max_length = max_parameters + 2
        self._buffer = bytearray()
        self.garbage_bytes = 0
        self.bad_checksums = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes received that do not make a packet yet."""
        return len(self._buffer)

    def reset(self) -> None:
        """Forget an unfinished packet; it counts as garbage."""
        self.garbage_bytes += len(self._buffer)
        self._buffer.clear()

    def _feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        self._buffer += data
        buffer = self._buffer
        while True:
            start = buffer.find(_HEADER)
            if start < 0:
                # A last FF may be the first half of a header.
                keep = 1 if buffer.endswith(b"\xff") else 0
                self._skip(len(buffer) - keep)
                return
            # An id is never FF, so of a run of FFs the last two are the header.
            while len(buffer) > start + 2 and buffer[start + 2] == 0xFF:
                start += 1
            self._skip(start)
            if len(buffer) < 4:
                return
            length = buffer[3]
            if buffer[2] > BROADCAST_ID or not 2 <= length <= self._max_length:
                self._skip(2)
                continue
            if len(buffer) < length + 4:
                return
            body = bytes(buffer[2 : length + 3])
            if checksum(body) != buffer[length + 3]:
                # The length itself may be wrong: look for the next header right behind this one.
                self.bad_checksums += 1
                self._skip(2)
                continue
            del buffer[: length + 4]
            yield body[0], body[2], body[3:]

    def _skip(self, count: int) -> None:
        self.garbage_bytes += count
        del self._buffer[:count]


class StatusParser(_PacketParser):
    """Parses the replies of servos."""

    def feed(self, data: bytes) -> list[StatusPacket]:
        """Take received bytes and return the packets that they complete."""
        return [
            StatusPacket(servo_id, ServoError(code), parameters)
            for servo_id, code, parameters in self._feed(data)
        ]


class InstructionParser(_PacketParser):
    """Parses what a host sends."""

    def feed(self, data: bytes) -> list[InstructionPacket]:
        """Take received bytes and return the packets that they complete."""
        return [
            InstructionPacket(servo_id, code, parameters)
            for servo_id, code, parameters in self._feed(data)
        ]


def encode_sign_magnitude(value: int, sign_bit: int) -> int:
    """Return ``value`` as magnitude with the sign in bit ``sign_bit``; ValueError if too large."""
    magnitude = abs(value)
    if magnitude >= 1 << sign_bit:
        raise ValueError(f"{value} does not fit below sign bit {sign_bit}")
    return magnitude | (1 << sign_bit if value < 0 else 0)


def decode_sign_magnitude(raw: int, sign_bit: int) -> int:
    """Return the signed value of ``raw``, whose sign is bit ``sign_bit``."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude


def little_endian(value: int, size: int) -> bytes:
    """Return an unsigned register value as bytes on the wire."""
    return value.to_bytes(size, "little")


def hex_dump(data: Iterable[int]) -> str:
    """Return bytes as ``FF FF 01``, as data sheets print them."""
    return " ".join(f"{byte:02X}" for byte in data)
