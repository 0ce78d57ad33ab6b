"""A pseudo-terminal that can be unplugged and comes back under the same link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import tty
from pathlib import Path

from so101_driver.errors import UserError
from so101_driver.registers import BAUD_RATES

PSEUDO_TERMINALS = "/dev/pts/"
_TCGETS2 = 0x802C542A
_TERMIOS2 = struct.Struct("IIIIB19xII")
"""``struct termios2`` of Linux, whose last fields are the speeds in plain numbers."""


class Terminal:
    """One serial port as a client sees it.

    Args:
        link: Where to make a link to the terminal, whose own path changes when it is replugged.

    Attributes:
        descriptor: The servos' end; -1 while unplugged.
        port: Path of the client's end; empty while unplugged.
        link: As given.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.link = link
        self.descriptor = -1
        self.port = ""
        self._slave = -1
        self.plug()

    def plug(self) -> None:
        """Make the terminal and its link.

        Raises:
            UserError: The link cannot be made.
        """
        if self.descriptor >= 0:
            return
        self.descriptor, self._slave = os.openpty()
        # Our own open slave keeps the terminal alive, and raw, while no driver has it open.
        tty.setraw(self._slave)
        settings = termios.tcgetattr(self._slave)
        settings[4] = settings[5] = termios.B1000000
        termios.tcsetattr(self._slave, termios.TCSANOW, settings)
        os.set_blocking(self.descriptor, False)
        self.port = os.ttyname(self._slave)
        if self.link is not None:
            try:
                make_link(self.link, self.port)
            except UserError:
                self.unplug()
                raise

    def unplug(self) -> None:
        """Remove link and terminal: who has it open meets a hang-up, as with a pulled USB cable."""
        self._remove_link()
        self.release()
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.port = -1, ""

    def release(self) -> None:
        """Close our own end of the client's side, so that the last client's leaving shows."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def baud(self) -> int:
        """Speed that the client has set, in bits per second."""
        try:
            raw = fcntl.ioctl(self.descriptor, _TCGETS2, bytes(_TERMIOS2.size))
        except OSError:
            return BAUD_RATES[0]
        return _TERMIOS2.unpack(raw)[-1]

    def _remove_link(self) -> None:
        if self.link is None:
            return
        with contextlib.suppress(OSError):
            if os.readlink(self.link) == self.port:
                self.link.unlink()


def make_link(link: Path, port: str) -> None:
    """Make the link that the driver opens, and the folder for it.

    Raises:
        UserError: It cannot be made; something else with its name is left alone.
    """
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if link.is_symlink() and not link.exists():
                # Of a bus that was killed: nothing is behind it any more.
                link.unlink()
        link.symlink_to(port)
    except FileExistsError as error:
        raise UserError(
            f"cannot make the link {link}: it exists already, perhaps another virtual arm runs; "
            "remove it, or give another path."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot make the link {link} ({error.strerror}): give a path in a folder that you "
            "may write to."
        ) from error
