"""Answers to a program's questions: typed at a terminal, piped, or read from a script."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
from collections.abc import Iterator
from typing import Protocol

from so101_driver.errors import UserError

_STDIN = 0


class Answers(Protocol):
    """Where answers come from."""

    def ask(self, question: str) -> str:
        """Put a question and return the answer, stripped; UserError when there is none to come."""

    def poll(self) -> str | None:
        """Return a line if one has been given meanwhile, without waiting."""

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """Do not show what is typed for a while, because it would spoil a table."""


class LineAnswers:
    """Answers by lines from an open file: a terminal, a pipe or a script.

    In a pipe or script an empty line is Enter, ``wait 2.5`` waits before the next answer and what
    follows a ``#`` is a comment. At a terminal what was typed before a question does not answer it:
    a doubled Enter must not let go of an arm that nobody holds yet.

    Args:
        descriptor: Where the lines come from; stays open.
        source: What to call it in messages.
    """

    def __init__(self, descriptor: int, source: str) -> None:
        self._descriptor = descriptor
        self._source = source
        self._typed = os.isatty(descriptor)
        self._buffer = b""
        self._ended = False
        self._not_before_s = 0.0

    def ask(self, question: str) -> str:
        """Put a question and return the answer."""
        if self._typed:
            discard_typed(self._descriptor)
            self._buffer = b""
        print(f"{question} ", end="", flush=True)
        while True:
            try:
                answer = self._line(None)
            except UserError:
                print(flush=True)
                raise
            if answer is not None:
                if not self._typed:
                    # So that a log reads like the dialogue.
                    print(answer, flush=True)
                return answer

    def poll(self) -> str | None:
        """Return a line if one has been given meanwhile."""
        return self._line(0.0)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Do not show what is typed."""
        if not self._typed:
            yield
            return
        before = termios.tcgetattr(self._descriptor)
        changed = list(before)
        changed[3] &= ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSANOW, changed)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, before)

    def _line(self, timeout_s: float | None) -> str | None:
        while True:
            pause_s = self._not_before_s - time.monotonic()
            if pause_s > 0.0:
                if timeout_s is not None:
                    return None
                time.sleep(pause_s)
            line = self._next(timeout_s)
            if line is None or self._typed:
                return line
            text = line.partition("#")[0].strip()
            words = text.split()
            if words and words[0] == "wait":
                self._not_before_s = time.monotonic() + self._seconds(text, words)
            elif text or not line:
                return text

    def _seconds(self, text: str, words: list[str]) -> float:
        try:
            seconds = float(words[1]) if len(words) == 2 else -1.0
        except ValueError:
            seconds = -1.0
        if not 0.0 <= seconds <= 3600.0:
            raise UserError(f"'{text}' in {self._source} is not `wait SECONDS`, as in `wait 2.5`.")
        return seconds

    def _next(self, timeout_s: float | None) -> str | None:
        """Return the next line as it stands, stripped; None if none came in time."""
        while b"\n" not in self._buffer:
            if self._ended:
                if self._buffer:
                    break
                raise UserError(
                    f"{self._source} ended before the last question was answered: file and servos "
                    "are as they were."
                )
            try:
                ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
                if not ready:
                    return None
                data = os.read(self._descriptor, 4096)
            except OSError:
                # Closed, or its terminal is gone.
                data = b""
            self._ended = not data
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").strip()


def discard_typed(descriptor: int) -> None:
    """Forget what was typed at a terminal and not read yet; other files stay as they are."""
    with contextlib.suppress(termios.error):
        termios.tcflush(descriptor, termios.TCIFLUSH)


def open_answers(script: str | None) -> LineAnswers:
    """Return the answers of a script file, or those that are typed or piped in."""
    if script is None or script == "-":
        return LineAnswers(_STDIN, "the terminal" if os.isatty(_STDIN) else "the input")
    try:
        return LineAnswers(os.open(script, os.O_RDONLY), f"the script {script}")
    except OSError as error:
        raise UserError(
            f"cannot read the script {script} ({error.strerror}): give a text file with one answer "
            "a line."
        ) from error
