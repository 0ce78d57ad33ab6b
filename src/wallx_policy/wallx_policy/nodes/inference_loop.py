"""The thread that infers: newest observation wins, chunks are published when they are due."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from wallx_policy.runtime import InferredChunk, NoChunk

POLL_NS = 4_000_000
"""How often a missing observation is asked for again."""


class InferenceLoop:
    """Calls ``infer`` once a period on a thread of its own and ``publish`` when a chunk is due.

    While ``infer`` says NOT_READY it is asked again shortly after. Periods that go by while it is
    busy are not made up for: ``dropped`` is told how many. An exception in a callback ends the
    thread; ``crashed`` is called then.
    """

    def __init__(
        self,
        period_s: float,
        infer: Callable[[], InferredChunk | NoChunk],
        publish: Callable[[InferredChunk], None],
        dropped: Callable[[int], None],
        crashed: Callable[[], None],
    ) -> None:
        self._period_ns = round(period_s * 1e9)
        self._infer = infer
        self._publish = publish
        self._dropped = dropped
        self._crashed = crashed
        self._pending: deque[InferredChunk] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="inference", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Publish nothing more; returns whether the thread ended in time."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception:
            traceback.print_exc()
            self._crashed()

    def _run(self) -> None:
        slot_ns = time.monotonic_ns()
        while not self._stop.is_set():
            now_ns = time.monotonic_ns()
            while self._pending and self._pending[0].due_ns <= now_ns:
                self._publish(self._pending.popleft())
            wake_ns = slot_ns
            if now_ns >= slot_ns:
                outcome = self._infer()
                if self._stop.is_set():
                    return
                if outcome is not NoChunk.NOT_READY:
                    if isinstance(outcome, InferredChunk):
                        self._pending.append(outcome)
                    slot_ns = self._next_slot(slot_ns, now_ns)
                    continue
                wake_ns = now_ns + POLL_NS
            if self._pending:
                wake_ns = min(wake_ns, self._pending[0].due_ns)
            self._stop.wait(max(0, wake_ns - time.monotonic_ns()) * 1e-9)

    def _next_slot(self, slot_ns: int, begin_ns: int) -> int:
        """Return the first slot of the grid after now; those missed by inferring are dropped."""
        after_begin_ns = slot_ns + ((begin_ns - slot_ns) // self._period_ns + 1) * self._period_ns
        late_ns = time.monotonic_ns() - after_begin_ns
        missed = late_ns // self._period_ns + 1 if late_ns >= 0 else 0
        if missed:
            self._dropped(missed)
        return after_begin_ns + missed * self._period_ns
