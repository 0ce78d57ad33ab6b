"""Latency by stage and chunk rate over the last moments, and what to expect of the next chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

WINDOW = 200
RATE_WINDOW_S = 2.0
STAGES = ("wait", "preprocess", "infer", "publish", "total")
"""wait: observation stamp to inference; publish: end of inference to publishing; total: all."""


class LatencyStatistics:
    """Keeps the last measurements of each stage; times are arguments."""

    def __init__(self) -> None:
        self._stages: dict[str, deque[float]] = {stage: deque(maxlen=WINDOW) for stage in STAGES}
        self._published_s: deque[float] = deque()

    def add(self, now_s: float, seconds: Mapping[str, float]) -> None:
        """Note one published chunk with the seconds it spent in each stage."""
        for stage, value in seconds.items():
            self._stages[stage].append(value)
        self._published_s.append(now_s)
        self._forget(now_s)

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """Return (p50, p99) in seconds of every stage that was measured."""
        return {
            stage: (float(np.percentile(values, 50)), float(np.percentile(values, 99)))
            for stage, values in self._stages.items()
            if values
        }

    def rate_hz(self, now_s: float) -> float:
        """Return chunks per second over the last 2 s."""
        self._forget(now_s)
        return len(self._published_s) / RATE_WINDOW_S

    def _forget(self, now_s: float) -> None:
        while self._published_s and self._published_s[0] <= now_s - RATE_WINDOW_S:
            self._published_s.popleft()


class SteadyLatency:
    """How long the next chunk will take, from its observation's stamp on.

    The first chunks of an activation take longer than any later one (compilation, caches, clocks
    of the GPU). Counted in, they would make the arm repeat its old plan for far too long.
    """

    def __init__(
        self, *, warm_up: int = 3, least: int = 3, window: int = 100, quantile: float = 0.95
    ) -> None:
        """Set up.

        Args:
            warm_up: Chunks at the beginning that do not count.
            least: Chunks that must have counted before anything is said.
            window: Chunks that count.
            quantile: Share of them that were as fast, or faster.
        """
        self._warm_up = warm_up
        self._least = least
        self._quantile = quantile
        self._seen = 0
        self._kept: deque[float] = deque(maxlen=window)

    def add(self, total_s: float) -> None:
        """Note what one chunk took."""
        self._seen += 1
        if self._seen > self._warm_up:
            self._kept.append(total_s)

    @property
    def expected_s(self) -> float | None:
        """What the next one will hardly exceed; None while that cannot be said."""
        if len(self._kept) < self._least:
            return None
        return float(np.quantile(self._kept, self._quantile))
