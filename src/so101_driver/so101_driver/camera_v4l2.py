"""A real camera: V4L2 through OpenCV, with what it gives checked against what was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import cv2

from so101_driver import camera_devices
from so101_driver.camera_devices import CameraDevice, Mode, describe_modes, fourcc_letters
from so101_driver.camera_jpeg import complete_jpeg
from so101_driver.camera_source import (
    Description,
    Picture,
    SourceError,
    SourceKind,
    SourceSettings,
    wrong_size_sentence,
)

_WIDTH, _HEIGHT, _RATE_HZ = 640, 480, 30.0
_UNUSABLE_IN_A_ROW = 30
"""A camera that sends so many incomplete pictures is opened anew."""
_EXPOSURE_UNIT_S = 1e-4
_EXPOSURE_MANUAL, _EXPOSURE_AUTOMATIC = 1, 3
_RATE_TOLERANCE = 0.05

Opener = Callable[[str, int], Any]
Probe = Callable[[str], CameraDevice | None]


class DeviceSource:
    """One V4L2 device.

    With MJPG the camera's own JPEG files are passed on without being decoded.

    Args:
        path: Device file, best a link of /dev/v4l/by-id or by-path.
        settings: What is asked for.
        opener: Opens a device; ``cv2.VideoCapture`` or its stand-in in tests.
        probe: Asks a device what it offers.
    """

    live = True

    def __init__(
        self,
        path: str,
        settings: SourceSettings,
        opener: Opener = cv2.VideoCapture,
        probe: Probe = camera_devices.probe,
    ) -> None:
        self.unusable = 0
        self._path = path
        self._settings = settings
        self._opener = opener
        self._probe = probe
        self._capture: Any = None
        self._description: Description | None = None

    def open(self) -> None:
        """Ask for format, size and rate, read them back, and look at a first picture."""
        self.close()
        modes = self._known_modes()
        capture = self._opener(self._path, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"camera {self._path} cannot be opened: another program may be using it."
            )
        self._capture = capture
        try:
            self._set_up(capture, modes)
            first = self.read()
            self._check_size(first.width, first.height, modes)
        except BaseException:
            self.close()
            raise

    def read(self) -> Picture:
        """Wait for the next complete picture."""
        if self._capture is None:
            raise SourceError(f"camera {self._path} is not open.")
        for _ in range(_UNUSABLE_IN_A_ROW):
            ok, frame = self._capture.read()
            if not ok or frame is None or frame.size == 0:
                raise SourceError(
                    f"camera {self._path} sends nothing: it was unplugged, or its USB port is "
                    "overloaded."
                )
            stamp_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
            device_ns = int(stamp_ms * 1e6) if stamp_ms > 0 else None
            if frame.ndim == 3 and frame.shape[2] == 3:
                return Picture(frame.shape[1], frame.shape[0], bgr=frame, device_ns=device_ns)
            jpeg = complete_jpeg(frame.tobytes())
            if jpeg is not None:
                return Picture(jpeg.width, jpeg.height, jpeg=jpeg.data, device_ns=device_ns)
            self.unusable += 1
        raise SourceError(
            f"camera {self._path} sends incomplete pictures only: use a shorter cable, or another "
            "USB port."
        )

    def describe(self) -> Description:
        """Return what the device was set to."""
        if self._description is None:
            raise SourceError(f"camera {self._path} is not open.")
        return self._description

    def close(self) -> None:
        """Let go of the device, so that it gets its old name when it is plugged in again."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    @property
    def _size(self) -> tuple[int, int]:
        return self._settings.width or _WIDTH, self._settings.height or _HEIGHT

    def _known_modes(self) -> tuple[Mode, ...]:
        if not os.path.exists(self._path):
            raise SourceError(f"camera {self._path} is not there: {self._others()}.")
        device = self._probe(self._path)
        if device is None:
            raise SourceError(f"{self._path} gives no pictures: {self._others()}.")
        if device.problem:
            raise SourceError(f"camera {device.problem}.")
        return device.modes

    def _others(self) -> str:
        known = [f"{d.path} ({d.name})" for d in camera_devices.list_cameras() if not d.problem]
        if known:
            return f"these cameras are: {', '.join(known)}"
        return "no camera is plugged in that you may use"

    def _set_up(self, capture: Any, modes: tuple[Mode, ...]) -> None:
        wanted = self._settings
        (width, height), rate_hz = self._size, wanted.rate_hz or _RATE_HZ
        # The format first: sizes and rates depend on it.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, rate_hz)
        fourcc = fourcc_letters(int(capture.get(cv2.CAP_PROP_FOURCC)))
        got = (
            round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        if fourcc != wanted.fourcc:
            raise SourceError(self._refusal(*got, modes, fourcc))
        self._check_size(*got, modes)
        if fourcc == "MJPG":
            # The compressed picture as it is, instead of decoding it here and compressing it anew.
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        notes = self._set_controls(capture)
        got_hz = float(capture.get(cv2.CAP_PROP_FPS))
        if got_hz > 0 and abs(got_hz - rate_hz) > _RATE_TOLERANCE * rate_hz:
            notes.append(f"asked for {rate_hz:g} pictures per second, the camera gives {got_hz:g}")
        self._description = Description(
            SourceKind.DEVICE,
            self._path,
            width,
            height,
            got_hz if got_hz > 0 else rate_hz,
            fourcc,
            tuple(notes),
        )

    def _set_controls(self, capture: Any) -> list[str]:
        """Set focus, exposure and white balance; returns what the camera refuses of it."""
        s = self._settings
        wanted: list[tuple[str, int, float]] = [
            ("autofocus", cv2.CAP_PROP_AUTOFOCUS, float(s.autofocus))
        ]
        if s.focus >= 0:
            wanted.append(("focus", cv2.CAP_PROP_FOCUS, float(s.focus)))
        if s.exposure_s > 0:
            wanted += [
                ("exposure_s", cv2.CAP_PROP_AUTO_EXPOSURE, _EXPOSURE_MANUAL),
                ("exposure_s", cv2.CAP_PROP_EXPOSURE, max(1, s.exposure_s / _EXPOSURE_UNIT_S)),
            ]
        else:
            wanted.append(("exposure_s", cv2.CAP_PROP_AUTO_EXPOSURE, _EXPOSURE_AUTOMATIC))
        wanted.append(("white_balance_k", cv2.CAP_PROP_AUTO_WB, float(s.white_balance_k == 0)))
        if s.white_balance_k:
            wanted.append(("white_balance_k", cv2.CAP_PROP_WB_TEMPERATURE, s.white_balance_k))
        refused = [name for name, key, value in wanted if not capture.set(key, value)]
        # That a fixed-focus camera cannot switch its autofocus off is nothing to tell.
        asked = {
            "autofocus": s.autofocus,
            "focus": True,
            "exposure_s": s.exposure_s > 0,
            "white_balance_k": s.white_balance_k > 0,
        }
        names = dict.fromkeys(name for name in refused if asked[name])
        return [f"the camera does not take {name}" for name in names]

    def _check_size(self, width: int, height: int, modes: tuple[Mode, ...]) -> None:
        if (width, height) != self._size:
            raise SourceError(self._refusal(width, height, modes))

    def _refusal(
        self, width: int, height: int, modes: tuple[Mode, ...], fourcc: str | None = None
    ) -> str:
        size = "{}x{}".format(*self._size)
        offer = describe_modes(modes)
        return wrong_size_sentence(
            self._path,
            f"{self._settings.fourcc} {size}",
            f"{fourcc or self._settings.fourcc} {width}x{height}",
            f"it offers {offer}" if offer else "it does not say what it offers",
        )
