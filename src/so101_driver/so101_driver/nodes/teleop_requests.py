"""Requests to lead, and to let go, on their way to the leader's loop, and its answers back."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

from so101_driver.teleop_types import Answer


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """To lead, or to let go; whoever asked waits for the answer."""

    engage: bool
    answer: Future[Answer]


class TeleopRequests:
    """A letter box between those who ask and the loop, closed while there is no loop.

    What nobody waits for any more never acts: a request that is not answered in time is followed by
    letting go, and what is left when the loop ends is answered and forgotten.

    Args:
        timeout_s: How long an answer is waited for.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._open = False
        self._posted: list[Request] = []
        self._waiting: list[Request] = []

    def open(self) -> None:
        """Take requests from now on; somebody calls ``take`` regularly."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Refuse what is left, and whatever comes until the next ``open``."""
        with self._lock:
            self._open = False
            left, self._posted, self._waiting = [*self._posted, *self._waiting], [], []
        for request in left:
            request.answer.set_result(Answer(False, "the teleop node is not active any more"))

    def ask(self, engage: bool) -> Answer:
        """Leave a request and wait for its answer; not for the loop's own thread."""
        request = Request(engage, Future())
        if not self._post(request):
            return Answer(False, "the teleop node is not active: activate it first")
        try:
            return request.answer.result(self._timeout_s)
        except TimeoutError:
            self._post(Request(False, Future()))
            return Answer(False, "the leader's loop does not answer: see the node's log")

    def take(self) -> list[Request]:
        """Everything asked since the last call; those who let go are to be answered at once."""
        if not self._posted:
            return []
        with self._lock:
            posted, self._posted = self._posted, []
            self._waiting += [request for request in posted if request.engage]
        return posted

    def answer(self, answer: Answer) -> None:
        """Answer everybody who asked to lead."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.answer.set_result(answer)

    def _post(self, request: Request) -> bool:
        with self._lock:
            if self._open:
                self._posted.append(request)
            return self._open
