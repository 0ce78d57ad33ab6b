"""Lets threads share a device in the order in which they ask for it."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter
from types import TracebackType


class FairLock:
    """A lock that the longest waiting thread gets next.

    With `threading.Lock`, a thread that writes text token by token would take the lock again before
    a waiting inference wakes up. Entering gives the seconds that it waited. Not reentrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    def __enter__(self) -> float:
        ticket, start = object(), perf_counter()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket)
            except BaseException:  # an interrupted wait must not hold up the others
                self._queue.remove(ticket)
                self._changed.notify_all()
                raise
        return perf_counter() - start

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()
