"""A loop at a fixed rate in a thread of its own, as punctual as Python allows."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from so101_driver.period_statistics import PeriodStatistics
from so101_driver.realtime import raise_priority

_GC_INTERVAL_S = 1.0


class ControlLoop:
    """Calls ``tick(number, steady_ns)`` on a fixed grid of steady time.

    A tick that comes late keeps its number and its time. One whose whole period is over is not made
    up for: its number is skipped, so that the callee sees the gap. The garbage collector works once
    a second, after a tick, and only on what was made since the loop began: tens of microseconds.

    Args:
        period_s: Distance of the grid's points.
        tick: What is done; ``steady_ns`` is the grid's time, not the present one.
        failed: Told of an exception that ``tick`` raised, after which the loop has ended.
        realtime_priority: SCHED_FIFO priority of the thread, 0 for ordinary scheduling.

    Attributes:
        periods: Statistics of the times between ticks.
        priority_problem: Why the wished priority was refused, or "".
    """

    def __init__(
        self,
        period_s: float,
        tick: Callable[[int, int], None],
        failed: Callable[[Exception], None],
        realtime_priority: int = 0,
    ) -> None:
        self.periods = PeriodStatistics(period_s)
        self.priority_problem = ""
        self._period_ns = round(period_s * 1e9)
        self._gc_every = max(round(_GC_INTERVAL_S / period_s), 1)
        self._tick = tick
        self._failed = failed
        self._priority = realtime_priority
        self._begun = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control loop", daemon=True)

    def start(self) -> None:
        """Begin; returns when the thread has its priority or knows why not."""
        self._thread.start()
        self._begun.wait()

    def stop(self, timeout_s: float) -> None:
        """End after the present tick."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if self._priority > 0:
            self.priority_problem = raise_priority(self._priority)
        # Everything made so far stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._begun.set()
        try:
            self._loop()
        except Exception as error:
            self._failed(error)
            raise
        finally:
            gc.enable()
            gc.unfreeze()

    def _loop(self) -> None:
        period_ns = self._period_ns
        start_ns = last_ns = time.monotonic_ns()
        tick = 0
        while not self._stop.is_set():
            now_ns = time.monotonic_ns()
            due_ns = start_ns + tick * period_ns
            if due_ns > now_ns:
                time.sleep((due_ns - now_ns) * 1e-9)
                now_ns = time.monotonic_ns()
            tick = max(tick, (now_ns - start_ns) // period_ns)
            if tick:
                self.periods.add(now_ns - last_ns)
            last_ns = now_ns
            self._tick(tick, start_ns + tick * period_ns)
            if tick % self._gc_every == 0:
                gc.collect()
            tick += 1
