"""This machine as the checks see it, so that they can be tried on another."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_COMMAND_S = 3.0
_RULE_FOLDERS = ("etc/udev/rules.d", "run/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d")
_CAP_SYS_NICE = 23


@dataclass(frozen=True, slots=True)
class Rights:
    """What the user may do with a file.

    Attributes:
        may_use: Read and write it.
        group: Group that it belongs to; empty if that has no name.
        in_group: Whether this process belongs to it.
        listed: Whether the user's account belongs to it, perhaps since the last login only.
    """

    may_use: bool
    group: str
    in_group: bool
    listed: bool


@dataclass(frozen=True)
class Host:
    """Files, commands and limits of a machine.

    Attributes:
        root: Where its file system begins.
        environ: Environment variables.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def dev(self) -> Path:
        """Device files."""
        return self.root / "dev"

    @property
    def sys(self) -> Path:
        """What the kernel says of devices."""
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        """What the kernel says of processes."""
        return self.root / "proc"

    def command(self, words: Sequence[str]) -> str | None:
        """Return what a command prints; None if it is not installed, fails, hangs or is no text."""
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            done = subprocess.run(
                list(words), capture_output=True, text=True, timeout=_COMMAND_S, check=True
            )
            return done.stdout
        return None

    def rights(self, path: str) -> Rights:
        """Return what the user may do with a device."""
        group, in_group, listed = "", False, False
        with contextlib.suppress(OSError, KeyError):
            gid = os.stat(path).st_gid
            in_group = gid in (*os.getgroups(), os.getegid())
            entry = grp.getgrgid(gid)
            group = entry.gr_name
            listed = in_group or pwd.getpwuid(os.getuid()).pw_name in entry.gr_mem
        return Rights(os.access(path, os.R_OK | os.W_OK), group, in_group, listed)

    def free_bytes(self, folder: Path) -> int:
        """Return how much may be written in a folder; OSError if there is none."""
        return shutil.disk_usage(folder).free

    def may_write(self, folder: Path) -> bool:
        """Whether files may be made there."""
        return os.access(folder, os.W_OK | os.X_OK)

    def realtime_limit(self) -> int:
        """Return the highest real-time priority that the user may ask for, 0 for none."""
        if self._has_capability(_CAP_SYS_NICE):
            return 99
        hard = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
        return 99 if hard == resource.RLIM_INFINITY else hard

    def processes(self, names: Sequence[str]) -> list[str]:
        """Return which of some programs run."""
        running = set()
        for path in self.proc.glob("[0-9]*/comm"):
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                running.add(path.read_text(errors="replace").strip())
        return [name for name in names if name in running]

    def udev_rules(self) -> list[tuple[Path, str]]:
        """Return the lines of all udev rules that are no comments, joined where they continue."""
        rules = []
        seen = set()
        for folder in _RULE_FOLDERS:
            for path in sorted((self.root / folder).glob("*.rules")):
                if path.name in seen:
                    continue
                seen.add(path.name)
                with contextlib.suppress(OSError):
                    text = path.read_text(errors="replace").replace("\\\n", " ")
                    rules += [
                        (path, line)
                        for line in text.splitlines()
                        if line.strip() and not line.lstrip().startswith("#")
                    ]
        return rules

    def _has_capability(self, number: int) -> bool:
        with contextlib.suppress(OSError, ValueError):
            for line in (self.proc / "self" / "status").read_text().splitlines():
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
        return False
