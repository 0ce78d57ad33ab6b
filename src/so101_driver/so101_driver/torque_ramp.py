"""Torque limits that rise or fall evenly over a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TorqueRamp:
    """From one set of torque limits (0..1000 per servo) to another.

    Attributes:
        start: Limits at ``begin_ns``.
        target: Limits at the end.
        begin_ns: Steady time.
        duration_s: How long it takes.
    """

    start: tuple[int, ...]
    target: tuple[int, ...]
    begin_ns: int
    duration_s: float

    def limits(self, now_ns: int) -> tuple[int, ...]:
        """Return the limits at a time."""
        share = self._share(now_ns)
        return tuple(
            round(a + (b - a) * share) for a, b in zip(self.start, self.target, strict=True)
        )

    def finished(self, now_ns: int) -> bool:
        """Return whether the target is reached."""
        return self._share(now_ns) >= 1.0

    def _share(self, now_ns: int) -> float:
        if self.duration_s <= 0.0:
            return 1.0
        return min(1.0, max(0.0, (now_ns - self.begin_ns) * 1e-9 / self.duration_s))
