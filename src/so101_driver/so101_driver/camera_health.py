"""Whether a picture shows anything: black, blank, dark, overexposed or frozen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

_BLACK = 16.0
"""A picture whose 99th percentile of grey levels is below this is black."""
_DARK = 40.0
"""A picture whose 90th percentile is below this is too dark."""
_BRIGHT, _BRIGHT_SHARE = 250.0, 0.5
"""A picture with a larger share of pixels at this level or above is overexposed."""
_CONTRAST = 2.0
"""A picture with a smaller standard deviation is blank."""
_SAME = 0.02
"""Pictures with a smaller mean difference are the same one; a live sensor's noise is more."""


class Finding(Enum):
    """What is wrong with a picture; the value is what a user reads."""

    GOOD = "good"
    BLACK = "black: lens cap, no light, or the camera sends empty pictures"
    BLANK = "blank, one colour all over: covered lens, or the camera sends empty pictures"
    DARK = "too dark: add light, or set exposure_s to 0 (automatic)"
    OVEREXPOSED = "overexposed: less light, or a shorter exposure_s"
    FROZEN = "frozen: the camera repeats the same picture; unplug it and plug it in again"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a picture found.

    Attributes:
        finding: The worst thing found.
        brightness: Mean grey level.
        contrast: Standard deviation of the grey levels.
    """

    finding: Finding
    brightness: float
    contrast: float


def look(gray: NDArray[np.uint8]) -> Look:
    """Judge one picture by itself.

    Args:
        gray: Grey levels, [height, width]; a picture at reduced size does.
    """
    brightness, contrast = float(gray.mean()), float(gray.std())
    ninety, ninety_nine = np.percentile(gray, (90, 99))
    if ninety_nine < _BLACK:
        finding = Finding.BLACK
    elif float((gray >= _BRIGHT).mean()) > _BRIGHT_SHARE:
        finding = Finding.OVEREXPOSED
    elif contrast < _CONTRAST:
        finding = Finding.BLANK
    elif ninety < _DARK:
        finding = Finding.DARK
    else:
        finding = Finding.GOOD
    return Look(finding, brightness, contrast)


class FrozenWatch:
    """Notices pictures that stay (nearly) identical for too long.

    A picture is compared with the one since which nothing has changed, not with the one before:
    slow changes add up. After a restart of the camera call ``forget``.

    Args:
        after_s: How long pictures must be the same; 0 never reports.
    """

    def __init__(self, after_s: float) -> None:
        self._after_ns = int(after_s * 1e9)
        self._reference: NDArray[np.int16] | None = None
        self._since_ns = 0

    def update(self, gray: NDArray[np.uint8], now_ns: int) -> bool:
        """Take the newest picture; whether the camera is frozen."""
        picture = gray.astype(np.int16)
        reference = self._reference
        changed = (
            reference is None
            or reference.shape != picture.shape
            or float(np.abs(picture - reference).mean()) >= _SAME
        )
        if changed:
            self._reference, self._since_ns = picture, now_ns
            return False
        return self._after_ns > 0 and now_ns - self._since_ns >= self._after_ns

    def forget(self) -> None:
        """Start anew."""
        self._reference = None
