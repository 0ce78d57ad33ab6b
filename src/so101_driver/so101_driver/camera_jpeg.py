"""Complete JPEG files out of what a camera calls MJPG, and their size, without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

_SOI, _EOI, _SOS, _DHT = 0xD8, 0xD9, 0xDA, 0xC4
_SIZED = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
"""Start-of-frame markers, which hold the size."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A complete JPEG file.

    Attributes:
        data: Its bytes, which every decoder takes.
        width: In pixels.
        height: In pixels.
    """

    data: bytes
    width: int
    height: int


def complete_jpeg(data: bytes) -> Jpeg | None:
    """Return the JPEG file that ``data`` starts with, or None if it is cut off or none at all.

    Padding after the end is removed. Webcams may leave out the Huffman tables, which are always
    the same in MJPG; they are put in, because not every decoder knows them.
    """
    if data[:2] != b"\xff\xd8":
        return None
    position, size, has_tables = 2, None, False
    while True:
        if position + 4 > len(data) or data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        if marker == _EOI:
            return None
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _SIZED and position + 9 <= len(data):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            size = width, height
        has_tables = has_tables or marker == _DHT
        if marker == _SOS:
            break
        position += 2 + length
    # In the entropy-coded part 0xFF is always followed by 0 or a restart marker, so that the
    # first end marker is the end; what some devices append may contain another one.
    end = data.find(b"\xff\xd9", position)
    if size is None or 0 in size or end < 0:
        return None
    picture = bytes(data[: end + 2])
    if not has_tables:
        picture = picture[:position] + _standard_tables() + picture[position:]
    return Jpeg(picture, *size)


@cache
def _standard_tables() -> bytes:
    """The Huffman tables of the JPEG standard, which OpenCV's encoder writes unless told not to."""
    colour = np.zeros((16, 16, 3), np.uint8)
    _, encoded = cv2.imencode(".jpg", colour, (cv2.IMWRITE_JPEG_OPTIMIZE, 0))
    data, tables, position = encoded.tobytes(), b"", 2
    while data[position + 1] != _SOS:
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == _DHT:
            tables += data[position : position + length]
        position += length
    return tables
