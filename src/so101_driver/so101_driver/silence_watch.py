"""Tells a reply that is lost now and then from a servo, or a bus, that has fallen silent."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from so101_driver import driver_reasons as reasons
from so101_driver.driver_reasons import Reason
from so101_driver.joints import SERVO_IDS
from so101_driver.readings import Reading

LONGEST_READ_NS = 50_000_000
"""What one unanswered cycle can tell: two reads that waited as long as they may. A longer gap is
time in which this process did not run and nobody was asked."""


class SilenceWatch:
    """Counts the cycles in which a servo did not answer, and the time in which none did.

    Args:
        max_bad_cycles: Consecutive missing replies of one servo, while others answer, that are
            tolerated.
        bus_silence_s: How long all servos may be silent at once, while they are asked.
    """

    def __init__(self, max_bad_cycles: int, bus_silence_s: float) -> None:
        self._max_bad_cycles = max_bad_cycles
        self._bus_silence_ns = round(bus_silence_s * 1e9)
        self._bad_cycles = [0] * len(SERVO_IDS)
        self._reading_ns: list[int | None] = [None] * len(SERVO_IDS)
        self._silent_ns = 0
        self._updated_ns = 0

    def start(self, now_ns: int) -> None:
        """Take the servos as answering now."""
        self._bad_cycles = [0] * len(SERVO_IDS)
        self._silent_ns = 0
        self._updated_ns = now_ns

    def update(
        self, readings: Mapping[int, Reading], now_ns: int, disbelieved: Collection[int] = ()
    ) -> Reason | None:
        """Take one cycle's replies; returns who has fallen silent, or None.

        Servos in ``disbelieved`` answered what cannot be true: no answer, but another sentence.
        """
        for index, servo_id in enumerate(SERVO_IDS):
            reading = readings.get(servo_id)
            if reading is None:
                # With everybody silent it is the bus, which is judged by time below.
                self._bad_cycles[index] += bool(readings)
            else:
                self._bad_cycles[index] = 0
                self._reading_ns[index] = reading.stamp_ns
        bad = [
            servo_id
            for servo_id, count in zip(SERVO_IDS, self._bad_cycles, strict=True)
            if count > self._max_bad_cycles
        ]
        since_ns, self._updated_ns = self._updated_ns, now_ns
        if readings:
            self._silent_ns = 0
        else:
            self._silent_ns += min(now_ns - since_ns, LONGEST_READ_NS)
        if bad:
            return reasons.servo_silent(bad, implausible=set(bad) <= set(disbelieved))
        return reasons.BUS_SILENT if self._silent_ns > self._bus_silence_ns else None

    def ages_s(self, now_ns: int) -> NDArray[np.float64]:
        """Age of each servo's newest reply; infinite before the first."""
        return np.array([math.inf if t is None else (now_ns - t) * 1e-9 for t in self._reading_ns])
