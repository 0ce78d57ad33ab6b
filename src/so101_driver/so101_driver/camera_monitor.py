"""What diagnostics say about a camera: rate, delay, and what its pictures look like."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from so101_driver.camera_health import Finding, FrozenWatch, Look, look

_WINDOW_S = 3.0
_SLOW_SHARE = 0.8
_SILENT_S = 1.0
_LOOK_PERIOD_NS = 500_000_000
"""A picture is looked at this often; looking costs a small decoding."""


class Level(IntEnum):
    """How bad it is, as diagnostic_msgs counts."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Report:
    """What to publish.

    Attributes:
        level: How bad it is.
        message: The worst thing, in words.
        values: Figures by name.
    """

    level: Level
    message: str
    values: dict[str, str]


class CameraMonitor:
    """Collects what happens to pictures and sums it up; several threads may call it.

    Args:
        rate_hz: Pictures per second that should come.
        frozen_after_s: How long pictures must be identical to be called frozen; 0 never.
    """

    def __init__(self, rate_hz: float, frozen_after_s: float = 5.0) -> None:
        self.counters: Counter[str] = Counter()
        self._rate_hz = rate_hz
        self._window_ns = int(max(_WINDOW_S, 6.0 / rate_hz) * 1e9)
        self._frozen_watch = FrozenWatch(frozen_after_s)
        self._published: deque[tuple[int, float]] = deque()
        self._next_look_ns: int | None = None
        self._look: Look | None = None
        self._frozen = False
        self._started_ns: int | None = None
        self._lock = threading.Lock()

    @property
    def finding(self) -> Finding:
        """What is wrong with the pictures at present."""
        if self._look is None:
            return Finding.GOOD
        # Black pictures are all the same, and that they are black is the better answer.
        if self._frozen and self._look.finding in (Finding.GOOD, Finding.DARK):
            return Finding.FROZEN
        return self._look.finding

    def started(self, now_ns: int) -> None:
        """The camera was opened, at first or again."""
        with self._lock:
            self._started_ns = now_ns
            self._published.clear()
            self._frozen_watch.forget()
            self._look, self._frozen, self._next_look_ns = None, False, None

    def published(self, now_ns: int, age_s: float) -> None:
        """A picture went out, so long after it had been taken."""
        with self._lock:
            self._published.append((now_ns, age_s))
            self._forget_old(now_ns)

    def due(self, now_ns: int) -> bool:
        """Whether a picture should be looked at now."""
        return self._next_look_ns is None or now_ns >= self._next_look_ns

    def looked(self, gray: NDArray[np.uint8], now_ns: int) -> Finding | None:
        """Look at a picture; returns the finding if it is another one than before."""
        with self._lock:
            before = self.finding
            self._next_look_ns = now_ns + _LOOK_PERIOD_NS
            self._look = look(gray)
            self._frozen = self._frozen_watch.update(gray, now_ns)
            after = self.finding
            if after is not Finding.GOOD:
                self.counters[f"{after.name.lower()} pictures seen"] += 1
            return after if after is not before else None

    def report(self, now_ns: int, problem: str = "") -> Report:
        """Sum up; ``problem`` is the sentence of a camera that is lost."""
        with self._lock:
            self._forget_old(now_ns)
            ages = sorted(age for _, age in self._published)
            rate_hz = self._measured_rate_hz(now_ns)
            values = {"rate_hz": f"{rate_hz:.1f}", "rate_wanted_hz": f"{self._rate_hz:g}"}
            if ages:
                values["latency_p50_ms"] = f"{1e3 * ages[len(ages) // 2]:.1f}"
                values["latency_max_ms"] = f"{1e3 * ages[-1]:.1f}"
            values |= {name: str(count) for name, count in self.counters.items()}
            if self._look is not None:
                values["brightness"] = f"{self._look.brightness:.0f}"
                values["contrast"] = f"{self._look.contrast:.1f}"
            level, message = self._judge(now_ns, rate_hz, problem)
        values["picture"] = self.finding.name.lower()
        return Report(level, message, values)

    def _judge(self, now_ns: int, rate_hz: float, problem: str) -> tuple[Level, str]:
        if problem:
            return Level.ERROR, problem
        since_ns = self._published[-1][0] if self._published else self._started_ns
        if since_ns is not None and (silent_s := (now_ns - since_ns) * 1e-9) > self._silent_s:
            return Level.ERROR, f"no picture for {silent_s:.1f} s"
        if self.finding is not Finding.GOOD:
            return Level.WARN, f"the picture is {self.finding.value}"
        if rate_hz < _SLOW_SHARE * self._rate_hz and self._has_full_window(now_ns):
            return Level.WARN, (
                f"{rate_hz:.1f} pictures per second instead of {self._rate_hz:g}: in little light "
                "many cameras slow down; otherwise too much is on one USB port"
            )
        return Level.OK, f"{rate_hz:.1f} pictures per second"

    @property
    def _silent_s(self) -> float:
        return max(_SILENT_S, 3.0 / self._rate_hz)

    def _has_full_window(self, now_ns: int) -> bool:
        return self._started_ns is not None and now_ns - self._started_ns >= self._window_ns

    def _measured_rate_hz(self, now_ns: int) -> float:
        if len(self._published) < 2 or self._started_ns is None:
            return 0.0
        span_ns = min(self._window_ns, max(1, now_ns - self._started_ns))
        return len(self._published) / (span_ns * 1e-9)

    def _forget_old(self, now_ns: int) -> None:
        while self._published and now_ns - self._published[0][0] > self._window_ns:
            self._published.popleft()
