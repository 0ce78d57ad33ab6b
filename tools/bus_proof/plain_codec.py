"""A second parser of the servo protocol, written from its description and unlike the first.

It takes a whole recording at once and looks at every position in turn; it keeps nothing and skips
nothing cleverly. It imports nothing of this repository: where it and ``so101_driver.protocol``
disagree, one of them is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

OVERHEAD = 6
"""Bytes of a packet beside its parameters: FF FF id length code … sum."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is in a recording.

    Attributes:
        packets: (id, instruction or error byte, parameters) in order.
        unfinished: Bytes at the end that may still become a packet.
        noise: All other bytes.
    """

    packets: tuple[tuple[int, int, bytes], ...]
    unfinished: int
    noise: int


def parse(recording: bytes, largest: int) -> Recording:
    """Find the packets of a recording; ``largest`` is how many parameters one may have."""
    found: list[tuple[int, int, bytes]] = []
    noise = at = 0
    end = len(recording)
    while at < end:
        verdict, size = _look(recording, at, end, largest)
        if verdict == "wait":
            break
        if verdict == "packet":
            found.append((recording[at + 2], recording[at + 4], recording[at + 5 : at + size - 1]))
            at += size
        else:
            noise += 1
            at += 1
    return Recording(tuple(found), end - at, noise)


def _look(recording: bytes, at: int, end: int, largest: int) -> tuple[str, int]:
    """Say whether a packet begins at a position: packet, wait or no."""
    if recording[at] != 255:
        return "no", 0
    if at + 1 == end:
        return "wait", 0
    if recording[at + 1] != 255:
        return "no", 0
    if at + 2 == end:
        return "wait", 0
    if recording[at + 2] == 255:
        return "no", 0
    if at + 3 == end:
        return "wait", 0
    parameters = recording[at + 3] - 2
    if not 0 <= parameters <= largest:
        return "no", 0
    size = parameters + OVERHEAD
    if at + size > end:
        return "wait", 0
    total = sum(recording[at + 2 : at + size])
    # Complement and sum add up to 255, whatever the rest.
    return ("packet", size) if total % 256 == 255 else ("no", 0)


def signed(low: int, high: int, sign_bit: int) -> int:
    """Return the value of two bytes whose sign is a bit of its own; bits above it are ignored."""
    word = low + 256 * high
    magnitude = word % 2**sign_bit
    return -magnitude if word // 2**sign_bit % 2 else magnitude
