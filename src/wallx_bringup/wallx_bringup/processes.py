"""What the runner supervises: processes as plain data, and how they are started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

STOP_GRACE_S = 20.0
"""How long a process may take to end in order (parking the arm) after SIGINT."""

KILL_GRACE_S = 5.0
"""How long it may take after SIGTERM, which follows; then SIGKILL."""

REFUSED_STATUS = 1
"""Exit status of a node that told in one sentence why it cannot start."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class OnDeath(Enum):
    """What the death of one process means for the others."""

    STOP = "stop"
    """Nothing works without it: every process is told to end."""
    HOLD = "hold"
    """The rest goes on; without it the safety node brakes and holds."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process to supervise.

    Attributes:
        name: Shown in logs; unique within a graph.
        argv: Program and arguments.
        environment: Variables added to the runner's own.
        on_death: What its death means.
        defers_signals: Start it with SIGINT and SIGTERM blocked. Our nodes unblock them once they
            can react; before, Python would end in the middle of an import, with a traceback.
    """

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    on_death: OnDeath = OnDeath.HOLD
    defers_signals: bool = False


def stops_graph(on_death: OnDeath, status: int) -> bool:
    """Whether an unasked end with this exit status (negative: by signal) ends all processes.

    A node that refuses to start ends the graph whichever it is: its sentence is then the last
    thing the user reads.
    """
    return on_death is OnDeath.STOP or status == REFUSED_STATUS


def spawn(
    process: Process,
    log_path: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output going to ``log_path``.

    In its own session the terminal's Ctrl-C does not reach it beside the runner's signal. Output
    goes to a file rather than a pipe: a node must not fail at ``print`` while it parks the arm only
    because the runner has died. If the runner dies, the kernel sends SIGINT, as Ctrl-C would. That
    is tied to the calling thread, which therefore must live as long as the process.
    """
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
        if process.defers_signals:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

    with log_path.open("ab") as log:
        return subprocess.Popen(
            process.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, **dict(process.environment)},
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            preexec_fn=in_child,
        )


def has_exited(popen: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended, without reaping it: its id stays taken until ``popen.wait()``."""
    if popen.returncode is not None:
        return True
    result = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return result is not None


def group_has_others(leader: int) -> bool:
    """Whether a process group has living members beside its leader."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == leader:
            continue
        try:
            stat = Path(entry.path, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        # After the name in parentheses: state, parent, process group.
        state, _, group = stat.rpartition(")")[2].split()[:3]
        if int(group) == leader and state not in "ZX":
            return True
    return False
