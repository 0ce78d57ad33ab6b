"""The thread that writes text: questions as they come, the next step when it is due."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable

from wallx_policy.text_tasks import TextTasks

Question = Callable[[TextTasks, Callable[[], bool]], None]
"""Gets whom to ask, and whether it has to end."""

POLL_S = 0.05
"""How often it is looked whether a step is due."""


class TextWorker:
    """Runs questions one after the other on a thread of its own, and steps between them.

    An exception that gets this far ends the thread; ``crashed`` is called then.
    """

    def __init__(self, tasks: TextTasks, crashed: Callable[[], None]) -> None:
        self._tasks = tasks
        self._crashed = crashed
        self._questions: deque[Question] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="text", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, question: Question) -> None:
        """Queue a question."""
        with self._changed:
            self._questions.append(question)
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """Begin nothing more; returns whether the thread ended in time."""
        self._stop.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _guarded(self) -> None:
        try:
            while not self._stop.is_set():
                self._once()
        except Exception:
            traceback.print_exc()
            self._crashed()

    def _once(self) -> None:
        with self._changed:
            if not self._questions:
                self._changed.wait(POLL_S)
            question = self._questions.popleft() if self._questions else None
        if question is not None:
            question(self._tasks, self._stop.is_set)
        # After every question, so that many questions do not keep the step from being renewed.
        if not self._stop.is_set():
            self._tasks.write_subtask(self._stop.is_set)
