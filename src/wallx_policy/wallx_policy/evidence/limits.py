"""The limits that commands are measured against, from the file that was in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LimitValues:
    """Largest allowed magnitudes, per joint [6]: rad/s, rad/s², rad/s³."""

    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    jerk: NDArray[np.float64]


def load_limits(path: Path, profile: str) -> LimitValues:
    """Read a profile of a limits file.

    Raises:
        UserError: The file or the profile cannot be used.
    """
    from so101_driver.safety.limits import load_limits as load

    limits = load(path, profile)
    return LimitValues(limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
