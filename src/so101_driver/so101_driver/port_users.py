"""Which programs have a serial port open, as far as /proc tells.

A port opened twice answers both programs with halves of packets. Not every program locks it, so
asking the kernel who has it is the only way to know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from so101_driver.errors import UserError

_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*|bash|sh|uv|env")


@dataclass(frozen=True, slots=True)
class PortUser:
    """A program that has a port open.

    Attributes:
        pid: Its process id.
        command: What it is called, e.g. ``driver_node``.
    """

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid})"


def port_users(port: str, proc: Path = Path("/proc")) -> list[PortUser]:
    """Return the other programs that have a port open, by process id.

    Processes of other users are seen by root only. The simulator behind a pseudo-terminal has its
    far end open and is no user of it.
    """
    target = os.path.realpath(port)
    index = _terminal_index(target)
    users = []
    for process in _processes(proc):
        files = dict(_open_files(process))
        if target not in files.values():
            continue
        if index is not None and any(
            name.endswith("ptmx") and _tty_index(process, number) == index
            for number, name in files.items()
        ):
            continue
        users.append(PortUser(int(process.name), _command(process)))
    return users


def check_unused(port: str) -> None:
    """Check that no other program has a port open; UserError names those that have."""
    if users := port_users(port):
        raise UserError(
            f"the port {port} is in use by {', '.join(map(str, users))}: end it first, two "
            "programs on one port read halves of each other's answers."
        )


def _processes(proc: Path) -> list[Path]:
    try:
        numbers = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:
        return []
    return [proc / str(number) for number in numbers if number != os.getpid()]


def _open_files(process: Path) -> Iterator[tuple[str, str]]:
    try:
        for number in os.listdir(process / "fd"):
            # A file may be closed, or the process end, while it is looked at.
            try:
                yield number, os.readlink(process / "fd" / number)
            except OSError:
                continue
    except OSError:
        return


def _terminal_index(device: str) -> int | None:
    """Return N of /dev/pts/N."""
    folder, _, number = device.rpartition("/")
    return int(number) if folder == "/dev/pts" and number.isdigit() else None


def _tty_index(process: Path, number: str) -> int | None:
    """Return which pseudo-terminal an open multiplexer is the far end of."""
    try:
        for line in (process / "fdinfo" / number).read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "tty-index":
                return int(value)
    except (OSError, ValueError):
        pass
    return None


def _command(process: Path) -> str:
    """Return a name that a user knows: the script, not the interpreter that runs it."""
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    words = [word for word in words if word]
    if words and _INTERPRETER.fullmatch(Path(words[0]).name):
        script = next((word for word in words[1:] if not word.startswith("-")), None)
        if script:
            return Path(script).name
    if words:
        return Path(words[0]).name
    return "an unnamed program"
