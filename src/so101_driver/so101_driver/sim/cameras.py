"""The simulator's cameras, and the frames that the renderer's process sends for them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera of the scene; its name is the MJCF camera's."""

    name: str
    width: int
    height: int

    def intrinsics(self, fovy_deg: float) -> tuple[float, float, float, float]:
        """Return fx, fy, cx, cy in pixels of an ideal pinhole with this vertical field of view."""
        focal = 0.5 * self.height / math.tan(math.radians(fovy_deg) / 2.0)
        return focal, focal, 0.5 * (self.width - 1), 0.5 * (self.height - 1)


VIEWS: tuple[CameraView, ...] = (
    CameraView("face_view", 320, 240),
    CameraView("wrist_view", 240, 240),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One rendered picture.

    Attributes:
        view: Which camera.
        stamp_ns: Time of the rendered state: the exposure.
        jpeg: The compressed picture.
        rgb: The same uncompressed, row by row, when it was asked for; otherwise empty.
        render_s: Time that rendering and compressing took.
    """

    view: CameraView
    stamp_ns: int
    jpeg: bytes
    rgb: bytes
    render_s: float


class Reply(IntEnum):
    """What the renderer's process sends."""

    READY = 1
    FAILED = 2
    FRAME = 3


REQUEST = struct.Struct("<qBI")
"""Stamp [ns], bit mask of views wanted uncompressed, bytes of the state that follows."""

HEADER = struct.Struct("<BBqdII")
"""Reply, index of the view, stamp [ns], seconds of rendering, bytes of the two payloads."""


def read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    """Read ``size`` bytes, or return None when the other side is gone."""
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            return None
        data += more
    return data
