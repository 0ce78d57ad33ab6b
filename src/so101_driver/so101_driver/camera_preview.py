"""Takes a few pictures of a camera, video or folder and says whether they show anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from so101_driver.camera_health import Finding, FrozenWatch, look
from so101_driver.camera_source import (
    CameraSource,
    Description,
    Picture,
    SourceError,
    SourceSettings,
    make_source,
)

_SETTLING_PICTURES = 10
"""Automatic exposure takes some pictures after a camera starts."""
_COMPARED_PICTURES = 15
_TILE_WIDTH, _TILE_HEIGHT, _CAPTION_HEIGHT = 480, 360, 56
_BACKGROUND = 32


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """What a camera shows.

    Attributes:
        name: As the user gave it.
        description: Size, rate and format; None if it could not be opened.
        bgr: The last picture; None if there is none.
        finding: What is wrong with the pictures.
        rate_hz: Pictures per second as measured; None of files, which give them at once.
        problem: One sentence why there is no picture; empty if there is one.
    """

    name: str
    description: Description | None = None
    bgr: NDArray[np.uint8] | None = None
    finding: Finding = Finding.GOOD
    rate_hz: float | None = None
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether the camera gives pictures that show something."""
        return not self.problem and self.finding is Finding.GOOD


def preview(
    name: str,
    settings: SourceSettings | None = None,
    make: Callable[[str, SourceSettings | None], CameraSource] = make_source,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> Preview:
    """Open a source, look at some pictures and close it; problems are in the result.

    Raises:
        UserError: There is no such source.
    """
    source = make(name, settings)
    try:
        source.open()
        description = source.describe()
        pictures, start_ns = [], 0
        settling = _SETTLING_PICTURES if source.live else 0
        for index in range(settling + _COMPARED_PICTURES):
            if index == settling:
                start_ns = clock_ns()
            picture = source.read()
            if index >= settling:
                pictures.append(picture)
        elapsed_s = (clock_ns() - start_ns) * 1e-9
        rate_hz = None
        if source.live and elapsed_s > 0:
            # The first of them had its own waiting time as well.
            rate_hz = len(pictures) / elapsed_s
        return _judged(name, description, pictures, rate_hz)
    except (SourceError, ValueError) as error:
        return Preview(name, problem=str(error))
    finally:
        source.close()


def _judged(
    name: str, description: Description, pictures: list[Picture], rate_hz: float | None
) -> Preview:
    finding = look(pictures[-1].gray()).finding
    # Time is counted in pictures: a file has no other.
    watch = FrozenWatch(after_s=(len(pictures) - 2) * 1e-9)
    frozen = [watch.update(picture.gray(), index) for index, picture in enumerate(pictures)]
    if frozen[-1] and finding is Finding.GOOD:
        finding = Finding.FROZEN
    bgr = np.ascontiguousarray(pictures[-1].rgb()[..., ::-1])
    return Preview(name, description, bgr, finding, rate_hz)


def contact_sheet(previews: list[tuple[Preview, str]]) -> NDArray[np.uint8]:
    """Return all pictures with their captions side by side, uint8 [height, width, 3], blue first.

    Args:
        previews: Pictures with the first line of their captions.
    """
    columns = min(3, max(1, len(previews)))
    rows = -(-len(previews) // columns)
    tile_height = _TILE_HEIGHT + _CAPTION_HEIGHT
    sheet = np.full((rows * tile_height, columns * _TILE_WIDTH, 3), _BACKGROUND, np.uint8)
    for index, (shown, title) in enumerate(previews):
        row, column = divmod(index, columns)
        y, x = row * tile_height, column * _TILE_WIDTH
        if shown.bgr is not None:
            picture = _fitted(shown.bgr)
            height, width = picture.shape[:2]
            top, left = y + (_TILE_HEIGHT - height) // 2, x + (_TILE_WIDTH - width) // 2
            sheet[top : top + height, left : left + width] = picture
        if shown.problem:
            state = "no picture"
        elif shown.good:
            state = "good"
        else:
            state = shown.finding.value.partition(":")[0].upper()
        colour = (120, 220, 120) if shown.good else (80, 120, 255)
        _write(sheet, title, x, y + _TILE_HEIGHT + 22, (235, 235, 235))
        _write(sheet, state, x, y + _TILE_HEIGHT + 46, colour)
    return sheet


def _fitted(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = bgr.shape[:2]
    scale = min(_TILE_WIDTH / width, _TILE_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)


def _write(
    sheet: NDArray[np.uint8], text: str, x: int, y: int, colour: tuple[int, int, int]
) -> None:
    # OpenCV's fonts know ASCII only.
    text = text.encode("ascii", "replace").decode()[:52]
    cv2.putText(sheet, text, (x + 10, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
