"""Whether a picture shows anything: black, blank, dark, overexposed or frozen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Finding(Enum):
    """What is wrong with a picture; the value is what a user reads."""

    GOOD = "good"
    BLACK = "black: lens cap, no light, or the camera sends empty pictures"
    BLANK = "blank, one colour all over: covered lens, or the camera sends empty pictures"
    DARK = "too dark: add light, or set exposure_s to 0 (automatic)"
    OVEREXPOSED = "overexposed: less light, or a shorter exposure_s"
    FROZEN = "frozen: the camera repeats the same picture; unplug it and plug it in again"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits in grey levels 0..255.

    Attributes:
        black: A picture whose 99th percentile is below this is black.
        dark: A picture whose 90th percentile is below this is too dark.
        bright: Pixels at or above this are overexposed.
        bright_share: A picture with a larger share of such pixels is overexposed.
        contrast: A picture with a smaller standard deviation is blank.
        same: Pictures with a smaller mean difference are the same one; a live sensor's noise is
            more.
    """

    black: float = 16.0
    dark: float = 40.0
    bright: float = 250.0
    bright_share: float = 0.5
    contrast: float = 2.0
    same: float = 0.02


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


def look(gray: NDArray[np.uint8], thresholds: Thresholds | None = None) -> Look:
    """Judge one picture by itself.

    Args:
        gray: Grey levels, [height, width]; a picture at reduced size does.
        thresholds: Limits; the defaults if None.
    """
    limits = thresholds or Thresholds()
    brightness, contrast = float(gray.mean()), float(gray.std())
    ninety, ninety_nine = np.percentile(gray, (90, 99))
    if ninety_nine < limits.black:
        finding = Finding.BLACK
    elif float((gray >= limits.bright).mean()) > limits.bright_share:
        finding = Finding.OVEREXPOSED
    elif contrast < limits.contrast:
        finding = Finding.BLANK
    elif ninety < limits.dark:
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
        thresholds: ``same`` says what counts as the same.
    """

    def __init__(self, after_s: float, thresholds: Thresholds | None = None) -> None:
        self._after_ns = int(after_s * 1e9)
        self._same = (thresholds or Thresholds()).same
        self._reference: NDArray[np.int16] | None = None
        self._since_ns = 0

    def update(self, gray: NDArray[np.uint8], now_ns: int) -> bool:
        """Take the newest picture; whether the camera is frozen."""
        picture = gray.astype(np.int16)
        reference = self._reference
        changed = (
            reference is None
            or reference.shape != picture.shape
            or float(np.abs(picture - reference).mean()) >= self._same
        )
        if changed:
            self._reference, self._since_ns = picture, now_ns
            return False
        return self._after_ns > 0 and now_ns - self._since_ns >= self._after_ns

    def forget(self) -> None:
        """Start anew."""
        self._reference = None
