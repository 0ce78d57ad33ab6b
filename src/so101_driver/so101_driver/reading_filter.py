"""Sorts out replies that cannot be true: damaged ones whose checksum is right by chance.

One in 256 does that. A joint turns no faster than its servo can, so a position too far from the
last one is not believed until the next reply confirms it (an arm that is pushed, or a new start).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from so101_driver import registers as reg
from so101_driver.joints import SERVO_IDS
from so101_driver.readings import Reading

FASTEST_RAD_S = 4.5
"""No STS3215 turns faster: 46 rpm without a load."""
PLAY_RAD = 0.05
"""Backlash, noise, and the wait between question and answer."""

_TICKS_PER_RAD = reg.TICKS_PER_TURN / (2.0 * math.pi)
_FASTEST_TICKS_S = FASTEST_RAD_S * _TICKS_PER_RAD
_PLAY_TICKS = PLAY_RAD * _TICKS_PER_RAD
_VELOCITY_HEADROOM = 2.0
"""Of the servo's own estimate of its speed, which overshoots."""


class ReadingFilter:
    """Remembers what each servo answered last; not thread-safe."""

    def __init__(self) -> None:
        self._believed: dict[int, tuple[int, int]] = {}
        self._doubted: dict[int, tuple[int, int]] = {}

    def start(self) -> None:
        """Believe the next replies, wherever they are."""
        self._believed.clear()
        self._doubted.clear()

    def plausible(self, readings: Mapping[int, Reading]) -> dict[int, Reading]:
        """Return the replies, which begin at present position, that can be true."""
        return {i: reading for i, reading in readings.items() if self._accept(i, reading)}

    def _accept(self, servo_id: int, reading: Reading) -> bool:
        address = reg.PRESENT_POSITION.address
        if servo_id not in SERVO_IDS:
            return False
        speed = abs(reading.value(reg.PRESENT_VELOCITY, address))
        if speed > _VELOCITY_HEADROOM * _FASTEST_TICKS_S:
            return False
        here = (reading.value(reg.PRESENT_POSITION, address), reading.stamp_ns)
        believed, doubted = self._believed.get(servo_id), self._doubted.pop(servo_id, None)
        if (
            believed is None
            or _reachable(believed, here)
            or (doubted is not None and _reachable(doubted, here))
        ):
            self._believed[servo_id] = here
            return True
        self._doubted[servo_id] = here
        return False


def _reachable(there: tuple[int, int], here: tuple[int, int]) -> bool:
    elapsed_s = max(0.0, (here[1] - there[1]) * 1e-9)
    return abs(here[0] - there[0]) <= _PLAY_TICKS + _FASTEST_TICKS_S * elapsed_s
