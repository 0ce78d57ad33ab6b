"""Runs processes together and ends them together, where `launch` does not exist."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from wallx_bringup.processes import (
    KILL_GRACE_S,
    STOP_GRACE_S,
    Process,
    group_has_others,
    has_exited,
    spawn,
    stops_graph,
)

_ORPHAN_GRACE_S = 2.0
_POLL_S = 0.05


@dataclass(slots=True)
class _Running:
    process: Process
    popen: subprocess.Popen[bytes]
    log_path: Path
    read_bytes: int = 0
    partial_line: bytes = b""
    last_line: str = ""
    ended_s: float | None = None
    swept: bool = False

    @property
    def reaped(self) -> bool:
        return self.popen.returncode is not None


class Runner:
    """Supervises processes. Everything happens in `poll`, in the caller's thread.

    Attributes:
        failures: One sentence for every process that failed, in the order of events.
        stopping: Whether the processes have been told to end.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        log_dir: Path,
        environment: Mapping[str, str],
        console: Callable[[str, str], None],
        pass_fds: Sequence[int] = (),
        stop_grace_s: float = STOP_GRACE_S,
        kill_grace_s: float = KILL_GRACE_S,
    ) -> None:
        """Prepare; nothing starts yet.

        Args:
            processes: In the order in which they start; ending is signalled to all at once.
            log_dir: Receives ``<name>.log`` of each process.
            environment: Of every process, before its own additions.
            console: Called with a process's name ("wallx" for the runner) and one line it wrote.
            pass_fds: File descriptors that every process inherits.
            stop_grace_s: From SIGINT to SIGTERM.
            kill_grace_s: From SIGTERM to SIGKILL.
        """
        self._processes = tuple(processes)
        self._log_dir = log_dir
        self._environment = dict(environment)
        self._console = console
        self._pass_fds = tuple(pass_fds)
        self._escalation = [
            (0.0, signal.SIGINT),
            (stop_grace_s, signal.SIGTERM),
            (stop_grace_s + kill_grace_s, signal.SIGKILL),
        ]
        self._running: list[_Running] = []
        self._stop_time_s = 0.0
        self.failures: list[str] = []
        self.stopping = False

    @property
    def exit_code(self) -> int:
        """0 if every process did what it was told, 1 otherwise."""
        return 1 if self.failures else 0

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the processes that have not ended."""
        return {e.process.name: e.popen.pid for e in self._running if e.ended_s is None}

    def start(self) -> None:
        """Start every process; if one cannot be started, those before it are ended again."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for process in self._processes:
            log_path = self._log_dir / f"{process.name}.log"
            log_path.unlink(missing_ok=True)
            try:
                popen = spawn(process, log_path, self._environment, self._pass_fds)
            except OSError as error:
                self._fail(f"{process.name} cannot be started: {error}.")
                self.request_stop()
                return
            self._running.append(_Running(process, popen, log_path))

    def request_stop(self) -> None:
        """Send SIGINT to every process; the first call starts the escalation."""
        if not self.stopping:
            self.stopping = True
            self._stop_time_s = time.monotonic()
            self._escalation.pop(0)
        self._signal_all(signal.SIGINT)

    def poll(self) -> bool:
        """Pass on output, notice ends, escalate; whether any process is left."""
        for entry in self._running:
            if entry.reaped:
                continue
            self._pass_on_output(entry)
            if entry.ended_s is None and has_exited(entry.popen):
                self._on_end(entry)
            if entry.ended_s is not None:
                self._sweep_and_reap(entry)
        if self.stopping and self._escalation and self.pids:
            due_s, signum = self._escalation[0]
            if time.monotonic() - self._stop_time_s >= due_s:
                self._escalation.pop(0)
                names = ", ".join(self.pids)
                self._fail(f"{names} did not end within {due_s:.0f} s; sending {signum.name}.")
                self._signal_all(signum)
        return not all(entry.reaped for entry in self._running)

    def run(self, on_poll: Callable[[], None] | None = None) -> int:
        """Start and supervise until everything has ended; SIGINT, SIGTERM and SIGHUP end it.

        Args:
            on_poll: Called about 20 times a second, from this thread.

        Returns:
            The exit status for this command.
        """
        signals: list[int] = []

        def on_signal(signum: int, _frame: FrameType | None) -> None:
            signals.append(signum)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            self.start()
            while self.poll():
                if signals:
                    signals.clear()
                    self._say("ending: the arm is parked first, which takes some seconds.")
                    self.request_stop()
                if on_poll is not None:
                    on_poll()
                time.sleep(_POLL_S)
        finally:
            self.end()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.exit_code

    def end(self) -> None:
        """End whatever still runs, in order, and wait for it."""
        if self.poll() and not self.stopping:
            self.request_stop()
        while self.poll():
            time.sleep(_POLL_S)

    def _on_end(self, entry: _Running) -> None:
        entry.ended_s = time.monotonic()
        self._pass_on_output(entry, last=True)
        info = os.waitid(os.P_PID, entry.popen.pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        by_signal = info.si_code != os.CLD_EXITED
        status = -info.si_status if by_signal else info.si_status
        name = entry.process.name
        how = f"was killed by {signal.Signals(-status).name}" if by_signal else f"ended ({status})"
        said = f": {entry.last_line}" if entry.last_line and status > 0 else "."
        # A signal that ends a process while stopping came from us and has been reported.
        crashed = status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
        if status > 0 or crashed or (by_signal and not self.stopping):
            self._fail(f"{name} {how}{said}")
        if self.stopping:
            return
        if stops_graph(entry.process.on_death, status):
            self._say(f"{name} is gone: everything ends.")
            self.request_stop()
        else:
            self._say(f"{name} is gone: the others go on.")

    def _sweep_and_reap(self, entry: _Running) -> None:
        """Reap an ended process once its descendants are gone; those that stay are killed."""
        assert entry.ended_s is not None
        if group_has_others(entry.popen.pid):
            if not entry.swept and time.monotonic() - entry.ended_s > _ORPHAN_GRACE_S:
                entry.swept = True
                self._say(f"killing processes that {entry.process.name} left behind.")
                os.killpg(entry.popen.pid, signal.SIGKILL)
            return
        entry.popen.wait()

    def _signal_all(self, signum: signal.Signals) -> None:
        for entry in self._running:
            # Not reaped yet, so the id cannot have been given to another process.
            if entry.ended_s is None:
                os.kill(entry.popen.pid, signum)

    def _pass_on_output(self, entry: _Running, last: bool = False) -> None:
        with entry.log_path.open("rb") as log:
            log.seek(entry.read_bytes)
            new = log.read()
        if not new and not (last and entry.partial_line):
            return
        entry.read_bytes += len(new)
        *lines, entry.partial_line = (entry.partial_line + new).split(b"\n")
        if last and entry.partial_line:
            lines.append(entry.partial_line)
            entry.partial_line = b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            entry.last_line = text or entry.last_line
            self._console(entry.process.name, text)

    def _fail(self, sentence: str) -> None:
        self.failures.append(sentence)
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self._console("wallx", sentence)
