"""Where pictures come from: a device, a video file or a folder, behind one small protocol."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from so101_driver.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""What counts as a picture in a folder."""


class SourceError(UserError):
    """A source cannot be opened or has stopped giving pictures; one sentence names it and why."""


class SourceKind(Enum):
    """What a source is; the value is what a user reads."""

    DEVICE = "camera"
    VIDEO = "video file"
    FOLDER = "image folder"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What is asked of a source.

    Attributes:
        width: In pixels; 0 takes 640 of a device, a file's own.
        height: In pixels; 0 takes 480 of a device, a file's own.
        rate_hz: Pictures per second; 0 takes 30 of a device, a video's own, 15 of a folder.
        fourcc: Pixel format of a device: ``MJPG`` or ``YUYV``.
        autofocus: Whether a device may focus by itself.
        focus: Fixed focus in the device's own units; -1 leaves it.
        exposure_s: Fixed exposure; 0 is automatic.
        white_balance_k: Fixed white balance in kelvin; 0 is automatic.
    """

    width: int = 0
    height: int = 0
    rate_hz: float = 0.0
    fourcc: str = "MJPG"
    autofocus: bool = False
    focus: int = -1
    exposure_s: float = 0.0
    white_balance_k: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What an open source gives.

    Attributes:
        kind: What it is.
        name: As the user gave it.
        width: In pixels.
        height: In pixels.
        rate_hz: Pictures per second, as the device or file says.
        fourcc: Pixel format, or what a file is coded in.
        notes: Sentences for the user: what was asked for and is not had.
    """

    kind: SourceKind
    name: str
    width: int
    height: int
    rate_hz: float
    fourcc: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture; exactly one of ``jpeg`` and ``bgr`` is there.

    Attributes:
        width: In pixels.
        height: In pixels.
        jpeg: A complete JPEG file, as the camera compressed it.
        bgr: uint8 [height, width, 3], blue first, as OpenCV gives it.
        device_ns: When the device says it was taken, on CLOCK_MONOTONIC; None if it does not say.
    """

    width: int
    height: int
    jpeg: bytes | None = None
    bgr: NDArray[np.uint8] | None = None
    device_ns: int | None = None

    def rgb(self) -> NDArray[np.uint8]:
        """Return uint8 [height, width, 3], red first.

        Raises:
            ValueError: The JPEG file cannot be decoded.
        """
        bgr = self._decoded(cv2.IMREAD_COLOR) if self.bgr is None else self.bgr
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def gray(self) -> NDArray[np.uint8]:
        """Return grey levels at a quarter of the size, uint8 [height / 4, width / 4].

        Raises:
            ValueError: The JPEG file cannot be decoded.
        """
        if self.bgr is None:
            return self._decoded(cv2.IMREAD_REDUCED_GRAYSCALE_4)
        return cv2.cvtColor(np.ascontiguousarray(self.bgr[::4, ::4]), cv2.COLOR_BGR2GRAY)

    def to_jpeg(self, quality: int = 90) -> bytes:
        """Return a JPEG file: the camera's own where there is one, otherwise of this quality."""
        if self.jpeg is not None:
            return self.jpeg
        return cv2.imencode(".jpg", self.bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()

    def _decoded(self, flags: int) -> NDArray[np.uint8]:
        decoded = cv2.imdecode(np.frombuffer(self.jpeg or b"", np.uint8), flags)
        if decoded is None:
            raise ValueError("the camera's JPEG cannot be decoded")
        return decoded


class CameraSource(Protocol):
    """Gives pictures until it is closed. Not for several threads at once.

    Attributes:
        live: Whether it decides itself when pictures come; a file gives the next one at once.
        unusable: Pictures that were skipped because they were incomplete.
    """

    live: bool
    unusable: int

    def open(self) -> None:
        """Start, or start again; raises SourceError with one sentence."""

    def read(self) -> Picture:
        """Return the next picture, waiting for it; raises SourceError when there are no more."""

    def describe(self) -> Description:
        """Return what the open source gives."""

    def close(self) -> None:
        """Stop; safe to call twice."""


def make_source(name: str, settings: SourceSettings | None = None) -> CameraSource:
    """Return the source of a device, video file or folder of pictures; nothing is opened yet.

    Raises:
        UserError: The name is none of them. A device that is not plugged in is no such case.
    """
    from so101_driver.camera_files import FolderSource, VideoSource
    from so101_driver.camera_v4l2 import DeviceSource

    settings = settings or SourceSettings()
    if not name:
        raise UserError("the camera's device is empty: give e.g. /dev/video0, a video or a folder.")
    path = Path(name).expanduser()
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if name.startswith("/dev/"):
            # Not plugged in.
            return DeviceSource(name, settings)
        raise UserError(
            f"camera {name}: {error.strerror}; give a device such as /dev/video0, a video file or "
            "a folder of pictures."
        ) from error
    if stat.S_ISCHR(mode):
        return DeviceSource(str(path), settings)
    if stat.S_ISDIR(mode):
        return FolderSource(path, settings)
    return VideoSource(path, settings)


def wrong_size_sentence(name: str, wanted: str, got: str, offer: str) -> str:
    """Return the sentence for a source that does not give what was asked for."""
    return f"camera {name}: wanted {wanted}, got {got}; {offer}."
