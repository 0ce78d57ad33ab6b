"""Times of the last seconds and their quantiles."""

from __future__ import annotations

import numpy as np

_WINDOW_S = 10.0


class PeriodStatistics:
    """The last ten seconds' times between ticks; one thread adds, any may look."""

    def __init__(self, period_s: float) -> None:
        self._periods_ns = np.zeros(max(round(_WINDOW_S / period_s), 1), dtype=np.int64)
        self._added = 0

    def add(self, period_ns: int) -> None:
        """Remember one period."""
        self._periods_ns[self._added % len(self._periods_ns)] = period_ns
        self._added += 1

    def quantiles_s(self, *shares: float) -> tuple[float, ...]:
        """The periods below which these shares lie; NaN before the second tick."""
        known = self._periods_ns[: self._added]
        if not len(known):
            return (float("nan"),) * len(shares)
        indices = [round(share * (len(known) - 1)) for share in shares]
        ordered = np.partition(known, indices)
        return tuple(float(ordered[index]) * 1e-9 for index in indices)
