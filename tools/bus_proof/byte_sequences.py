"""Draws byte sequences: packets as they are sent, and everything that can happen to them on a wire.

Each sequence follows from its seed. For the kinds of damage that an eight-bit checksum always
detects, what must come out is known exactly, without any parser.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

Packet = tuple[int, int, bytes]


class Kind(Enum):
    """What was done to the packets."""

    CLEAN = "clean"
    ONE_BYTE_WRONG = "one byte wrong"
    CUT_OFF = "cut off"
    PIECES_MISSING = "pieces missing"
    INTERLEAVED = "two interleaved"
    COLLIDED = "two at once"
    NOISE_BETWEEN = "noise in between"
    BITS_FLIPPED = "bits flipped"
    RANDOM = "random bytes"


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence of bytes.

    Attributes:
        kind: How it was made.
        data: The bytes.
        sent: Packets that were sent, before the damage.
        expected: What must come out, or None where chance may make other packets of the bytes.
        pieces: The same bytes as they arrive.
        largest: Most parameters that the reader of these bytes accepts.
    """

    kind: Kind
    data: bytes
    sent: tuple[Packet, ...]
    expected: tuple[Packet, ...] | None
    pieces: tuple[bytes, ...]
    largest: int


def draw(seed: int) -> Sequence:
    """Return the sequence of a seed."""
    rng = random.Random(seed)
    kind = rng.choice(tuple(Kind))
    plain = kind is Kind.ONE_BYTE_WRONG
    packets = tuple(_packet(rng, plain) for _ in range(rng.randint(1, 7)))
    wires = [wire(packet) for packet in packets]
    expected: tuple[Packet, ...] | None = None
    match kind:
        case Kind.CLEAN:
            data, expected = b"".join(wires), packets
        case Kind.ONE_BYTE_WRONG:
            hit = rng.randrange(len(wires))
            wires[hit] = _one_byte_wrong(rng, wires[hit])
            data = b"".join(wires)
            expected = packets[:hit] + packets[hit + 1 :]
        case Kind.CUT_OFF:
            whole = b"".join(wires)
            data = whole[rng.randrange(len(whole)) :][: rng.randrange(1, len(whole) + 1)]
        case Kind.PIECES_MISSING:
            whole = bytearray(b"".join(wires))
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(whole))
                del whole[at : at + rng.randint(1, 6)]
                whole = whole or bytearray(b"\xff")
            data = bytes(whole)
        case Kind.INTERLEAVED:
            data = _interleave(rng, b"".join(wires[::2]), b"".join(wires[1::2]))
        case Kind.COLLIDED:
            data = _collide(rng, b"".join(wires[::2]), b"".join(wires[1::2]))
        case Kind.NOISE_BETWEEN:
            data = b"".join(_noise(rng) + one for one in wires) + _noise(rng)
        case Kind.BITS_FLIPPED:
            bits = bytearray(b"".join(wires))
            for _ in range(rng.randint(1, 8)):
                bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
            data = bytes(bits)
        case Kind.RANDOM:
            data = _noise(rng, 80)
    return Sequence(
        kind, data, packets, expected, _pieces(rng, data), rng.choice((248, 248, 18, 15, 4))
    )


def wire(packet: Packet) -> bytes:
    """Return a packet's bytes on the wire."""
    servo_id, code, parameters = packet
    body = bytes((servo_id, len(parameters) + 2, code)) + parameters
    return b"\xff\xff" + body + bytes((255 - sum(body) % 256,))


def _packet(rng: random.Random, plain: bool) -> Packet:
    """Draw a reply of the kinds a driver asks for; ``plain`` ones hold no FF and need no luck."""
    size = rng.choice((0, 2, 4, 4, 4))
    top = 254 if plain else 255
    code = rng.choice((0, 0, 0, 1, 4, 32, 33))
    return rng.randint(1, 6), code, bytes(rng.randint(0, top) for _ in range(size))


def _one_byte_wrong(rng: random.Random, data: bytes) -> bytes:
    """Change one byte that is neither the length (it frames the packet) nor becomes a header."""
    damaged = bytearray(data)
    at = rng.choice([i for i in range(len(data)) if i != 3])
    damaged[at] = rng.choice([value for value in range(255) if value != damaged[at]])
    return bytes(damaged)


def _interleave(rng: random.Random, one: bytes, other: bytes) -> bytes:
    left, right = list(one), list(other)
    merged = []
    while left or right:
        source = left if left and (not right or rng.random() < 0.5) else right
        for _ in range(rng.choice((1, 1, 2, 5))):
            if source:
                merged.append(source.pop(0))
    return bytes(merged)


def _collide(rng: random.Random, one: bytes, other: bytes) -> bytes:
    """Two servos talk at once: on an open-collector line a zero wins."""
    shift = rng.randint(0, 8)
    other = bytes([255] * shift) + other
    size = max(len(one), len(other))
    return bytes(
        a & b for a, b in zip(one.ljust(size, b"\xff"), other.ljust(size, b"\xff"), strict=True)
    )


def _noise(rng: random.Random, most: int = 12) -> bytes:
    likely = (255, 255, 0, 1, 2, 3, 4, 5, 6, 254)
    return bytes(
        rng.choice(likely) if rng.random() < 0.6 else rng.randint(0, 255)
        for _ in range(rng.randint(0, most))
    )


def _pieces(rng: random.Random, data: bytes) -> tuple[bytes, ...]:
    """Cut the bytes as reads deliver them: whole, by the byte, or in bursts."""
    way = rng.random()
    if way < 0.3:
        return (data,)
    longest = 1 if way < 0.5 else 20
    pieces, at = [], 0
    while at < len(data):
        size = rng.randint(1, longest)
        pieces.append(data[at : at + size])
        at += size
    return tuple(pieces)
