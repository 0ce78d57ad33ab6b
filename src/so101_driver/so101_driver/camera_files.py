"""Video files and folders of pictures as cameras, for trying and testing without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from so101_driver.camera_devices import fourcc_letters
from so101_driver.camera_jpeg import complete_jpeg
from so101_driver.camera_source import (
    IMAGE_SUFFIXES,
    Description,
    Picture,
    SourceError,
    SourceKind,
    SourceSettings,
    wrong_size_sentence,
)

_FOLDER_RATE_HZ = 15.0
_VIDEO_RATE_HZ = 30.0
_FASTEST_HZ = 240.0
"""Some files claim thousands of pictures per second; their rate is not believed then."""


class _FileSource:
    """What both have in common: the size is checked once, and the beginning follows the end."""

    live = False
    _kind: SourceKind
    _default_rate_hz: float

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        self.unusable = 0
        self._path = path
        self._settings = settings
        self._description: Description | None = None

    def describe(self) -> Description:
        """Return what the file gives."""
        if self._description is None:
            raise SourceError(f"camera {self._path} is not open.")
        return self._description

    def _accept(self, width: int, height: int, rate_hz: float, fourcc: str) -> None:
        wanted = self._settings
        if wanted.width and (width, height) != (wanted.width, wanted.height):
            raise SourceError(
                wrong_size_sentence(
                    str(self._path),
                    f"{wanted.width}x{wanted.height}",
                    f"{width}x{height}",
                    "leave width and height at 0 to take it as it is",
                )
            )
        self._description = Description(
            self._kind,
            str(self._path),
            width,
            height,
            wanted.rate_hz or (rate_hz if 0 < rate_hz <= _FASTEST_HZ else self._default_rate_hz),
            fourcc,
        )


class VideoSource(_FileSource):
    """A video file, over and over."""

    _kind = SourceKind.VIDEO
    _default_rate_hz = _VIDEO_RATE_HZ

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        super().__init__(path, settings)
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Open the file at its beginning."""
        self.close()
        if not self._path.is_file():
            raise SourceError(f"camera {self._path} is gone: put the video file back.")
        capture = cv2.VideoCapture(str(self._path))
        ok, first = capture.read()
        if not ok:
            capture.release()
            raise SourceError(
                f"camera {self._path} is no video that OpenCV can read: use mp4, avi or mkv."
            )
        height, width = first.shape[:2]
        fourcc = fourcc_letters(int(capture.get(cv2.CAP_PROP_FOURCC)))
        try:
            self._accept(width, height, capture.get(cv2.CAP_PROP_FPS), fourcc)
        except SourceError:
            capture.release()
            raise
        # Opened again for the first picture: not every format can be wound back.
        capture.release()
        self._capture = cv2.VideoCapture(str(self._path))

    def read(self) -> Picture:
        """Return the next picture; after the last one comes the first."""
        if not self._path.exists():
            raise SourceError(f"camera {self._path} is gone: put the video file back.")
        if self._capture is None:
            raise SourceError(f"camera {self._path} is not open.")
        ok, bgr = self._capture.read()
        if not ok:
            self.open()
            ok, bgr = self._capture.read()
            if not ok:
                raise SourceError(f"camera {self._path} gives no pictures any more.")
        return Picture(bgr.shape[1], bgr.shape[0], bgr=bgr)

    def close(self) -> None:
        """Close the file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class FolderSource(_FileSource):
    """A folder of pictures, in the order of their names, over and over.

    Pictures that cannot be read, or whose size is not that of the first, are skipped and counted.
    """

    _kind = SourceKind.FOLDER
    _default_rate_hz = _FOLDER_RATE_HZ

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        super().__init__(path, settings)
        self._pictures: Iterator[Picture] | None = None

    def open(self) -> None:
        """Look for the first picture."""
        self._description = None
        first = next(self._round(), None)
        if first is None:
            raise SourceError(
                f"camera {self._path} holds no pictures: put {', '.join(IMAGE_SUFFIXES)} files "
                "there."
            )
        self._accept(first.width, first.height, 0.0, "JPEG" if first.jpeg else "files")
        self._pictures = self._round()

    def read(self) -> Picture:
        """Return the next picture; after the last one comes the first."""
        if self._pictures is None:
            raise SourceError(f"camera {self._path} is not open.")
        picture = next(self._pictures, None)
        if picture is None:
            self._pictures = self._round()
            picture = next(self._pictures, None)
        if picture is None:
            raise SourceError(f"camera {self._path} holds no pictures any more: put them back.")
        return picture

    def close(self) -> None:
        """Forget the position."""
        self._pictures = None

    def _round(self) -> Iterator[Picture]:
        try:
            paths = sorted(
                path for path in self._path.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
            )
        except OSError as error:
            raise SourceError(f"camera {self._path}: {error.strerror}.") from error
        for path in paths:
            picture = _load(path)
            size = self._description and (self._description.width, self._description.height)
            if picture is None or (size and size != (picture.width, picture.height)):
                self.unusable += 1
            else:
                yield picture


def _load(path: Path) -> Picture | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    jpeg = complete_jpeg(data)
    if jpeg is not None:
        return Picture(jpeg.width, jpeg.height, jpeg=jpeg.data)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    return None if bgr is None else Picture(bgr.shape[1], bgr.shape[0], bgr=bgr)
