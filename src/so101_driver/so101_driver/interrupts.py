"""Ctrl-C, and other requests to end a program that must not end half way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Let a request to end, or a closed terminal, end the program as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def finish_first() -> None:
    """Let nothing interrupt until ``ending_signals`` ends: what is begun now must be finished."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            signal.signal(number, lambda _number, _frame: None)
