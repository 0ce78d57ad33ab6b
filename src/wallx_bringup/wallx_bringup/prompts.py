"""Questions on the terminal that a program at the other end of a pipe can answer as well."""

from __future__ import annotations

import sys

from so101_driver.calibration_dialog import discard_typed
from so101_driver.errors import UserError


def wait_for_enter(text: str) -> None:
    """Print a request and wait for Enter; at a terminal, one that is typed after the request.

    Raises:
        UserError: The input has ended.
    """
    if sys.stdin.isatty():
        discard_typed(sys.stdin.fileno())
    print(text, end=" ", flush=True)
    line = sys.stdin.readline()
    if not sys.stdin.isatty():
        # Nobody's Enter ended the line on the screen.
        print(flush=True)
    if not line:
        raise UserError("the input ended before everything was answered: nothing more was done.")
