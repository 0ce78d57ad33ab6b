"""Keeps a simulated arm in step with the steady clock, in a thread."""

from __future__ import annotations

import threading
import time
from typing import Protocol, Self

_MAX_BEHIND_S = 0.1
"""A longer delay is given up: catching up would look like motion in fast forward."""


class Stepped(Protocol):
    """An arm whose time passes in steps.

    Attributes:
        timestep_s: Length of a step.
        now_s: Its time.
        lock: Held during a step.
    """

    timestep_s: float
    now_s: float
    lock: threading.Lock

    def step(self) -> None:
        """Advance by one step."""


class RealTimeRunner:
    """Steps an arm at absolute deadlines.

    Attributes:
        slipped_s: Simulated time given up so far because the machine was too slow.
    """

    def __init__(self, arm: Stepped) -> None:
        self.slipped_s = 0.0
        self._arm = arm
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._last_step_s = time.monotonic()
        self._mark_s = (time.monotonic(), arm.now_s)

    def start(self) -> None:
        """Begin to let time pass."""
        self._mark_s = (time.monotonic(), self._arm.now_s)
        self._thread.start()

    def stop(self) -> None:
        """Stop time."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def state_age_s(self) -> float:
        """How long ago the arm's present state was due."""
        return max(0.0, time.monotonic() - self._last_step_s)

    def real_time_factor(self) -> float:
        """Simulated over real time since the last call."""
        now = (time.monotonic(), self._arm.now_s)
        before, self._mark_s = self._mark_s, now
        return (now[1] - before[1]) / max(now[0] - before[0], 1e-6)

    def _run(self) -> None:
        period_s = self._arm.timestep_s
        deadline_s = time.monotonic()
        while not self._stop.is_set():
            deadline_s += period_s
            wait_s = deadline_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            elif wait_s < -_MAX_BEHIND_S:
                self.slipped_s -= wait_s
                deadline_s -= wait_s
            with self._arm.lock:
                self._arm.step()
                self._last_step_s = deadline_s
