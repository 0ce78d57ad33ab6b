"""Processes must start together and, above all, end together.

A servo bus left open by a forgotten process blocks the next start, and a node killed too early
cannot park the arm. Every test uses real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from wallx_bringup.processes import OnDeath, Process
from wallx_bringup.runner import Runner

WAIT_S = 10.0
READY = "import signal, sys, time; print('ready', flush=True); "
SLEEP = READY + "time.sleep(60)"
# As our nodes do: the runner starts them with the signal blocked, so that none is lost before.
POLITE = (
    "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); "
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM]); " + SLEEP
)
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + SLEEP


def python(name: str, code: str, **fields) -> Process:
    return Process(name, (sys.executable, "-S", "-E", "-c", code), **fields)


class Supervised:
    """A runner, driven by the test, with what it said."""

    def __init__(self, log_dir: Path, *processes: Process, **settings) -> None:
        self.lines: list[tuple[str, str]] = []
        self.runner = Runner(
            processes, log_dir, os.environ, lambda *line: self.lines.append(line), **settings
        )
        self.runner.start()

    def poll_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, f"waited for {what}; output: {self.lines}"
            self.runner.poll()
            time.sleep(0.01)

    def wait_ready(self, count: int) -> None:
        ready = lambda: sum(line == "ready" for _, line in self.lines) == count  # noqa: E731
        self.poll_until(ready, f"{count} ready processes")

    def wait_end(self) -> None:
        self.poll_until(lambda: not self.runner.poll(), "the end of every process")


@pytest.fixture
def supervise(tmp_path: Path):
    started: list[Supervised] = []

    def start(*processes: Process, **settings) -> Supervised:
        supervised = Supervised(tmp_path / "log", *processes, **settings)
        started.append(supervised)
        return supervised

    yield start
    for supervised in started:
        for pid in supervised.runner.pids.values():
            os.kill(pid, signal.SIGKILL)
        supervised.runner.end()


def exists(pid: int) -> bool:
    return psutil.pid_exists(pid)


def test_output_goes_to_the_console_and_to_one_log_per_process(supervise, tmp_path) -> None:
    s = supervise(python("a", "print('one'); print('two', end='')"), python("b", "print('three')"))
    s.wait_end()
    assert [line for name, line in s.lines if name == "a"] == ["one", "two"]
    assert ("b", "three") in s.lines
    assert (tmp_path / "log" / "a.log").read_text() == "one\ntwo"
    assert s.runner.exit_code == 0


def test_stop_sends_one_interrupt_to_each_and_leaves_nothing(supervise) -> None:
    count = (
        "import signal, sys, time\n"
        "def on(*_):\n"
        "    print('interrupt', flush=True); time.sleep(0.3); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, on)\n" + SLEEP
    )
    s = supervise(python("a", count), python("b", count))
    s.wait_ready(2)
    pids = list(s.runner.pids.values())
    s.runner.request_stop()
    s.wait_end()
    assert [line for _, line in s.lines].count("interrupt") == 2
    assert s.runner.exit_code == 0
    assert not any(map(exists, pids)), "not even a zombie may be left"


def test_who_ignores_the_interrupt_is_terminated_then_killed(supervise) -> None:
    ignores_all = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STUBBORN
    s = supervise(
        python("deaf", STUBBORN),
        python("dead", ignores_all),
        python("polite", POLITE, defers_signals=True),
        stop_grace_s=0.3,
        kill_grace_s=0.3,
    )
    s.wait_ready(3)
    s.runner.request_stop()
    s.wait_end()
    assert s.runner.failures == [
        "deaf, dead did not end within 0 s; sending SIGTERM.",
        "dead did not end within 1 s; sending SIGKILL.",
    ]
    assert s.runner.exit_code == 1


def test_a_killed_policy_leaves_the_others_running(supervise) -> None:
    s = supervise(
        python("policy", SLEEP),
        python("driver", POLITE, defers_signals=True, on_death=OnDeath.STOP),
    )
    s.wait_ready(2)
    os.kill(s.runner.pids["policy"], signal.SIGKILL)
    s.poll_until(lambda: bool(s.runner.failures), "the failure")
    assert not s.runner.stopping
    assert s.runner.pids.keys() == {"driver"}
    assert s.runner.failures == ["policy was killed by SIGKILL."]


def test_a_killed_driver_ends_everything(supervise) -> None:
    s = supervise(
        python("policy", POLITE, defers_signals=True),
        python("driver", SLEEP, on_death=OnDeath.STOP),
    )
    s.wait_ready(2)
    os.kill(s.runner.pids["driver"], signal.SIGKILL)
    s.wait_end()
    assert s.runner.failures == ["driver was killed by SIGKILL."]


def test_a_node_that_refuses_to_start_ends_everything_and_its_sentence_is_kept(supervise) -> None:
    s = supervise(
        python("policy", "import sys; sys.exit('no checkpoint: give one.')"),
        python("safety", POLITE, defers_signals=True),
    )
    s.wait_end()
    assert "policy ended (1): no checkpoint: give one." in s.runner.failures
    assert s.runner.exit_code == 1


def test_a_program_that_ends_well_by_itself_is_no_failure(supervise) -> None:
    s = supervise(python("rviz", "pass"), python("safety", POLITE, defers_signals=True))
    s.poll_until(lambda: s.runner.pids.keys() == {"safety"}, "the end of rviz")
    assert s.runner.exit_code == 0
    assert not s.runner.stopping


def test_descendants_of_a_crashed_process_do_not_outlive_it(supervise) -> None:
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}])\n"
        "print(child.pid, flush=True)\n" + SLEEP
    )
    s = supervise(python("sim", parent))
    s.poll_until(lambda: sum(n == "sim" for n, _ in s.lines) >= 2, "both processes")
    grandchild = next(int(line) for _, line in s.lines if line.isdigit())
    os.kill(s.runner.pids["sim"], signal.SIGKILL)
    s.wait_end()
    # Where process 1 reaps nobody's children a killed orphan stays as a zombie.
    assert not exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_program_that_does_not_exist_ends_those_before_it(supervise) -> None:
    s = supervise(
        python("safety", POLITE, defers_signals=True), Process("policy", ("/no/such/program",))
    )
    s.wait_end()
    assert any("policy cannot be started" in failure for failure in s.runner.failures)


RUN_AS_COMMAND = """
import os, sys
from pathlib import Path
from wallx_bringup.processes import Process
from wallx_bringup.runner import Runner
code = sys.argv[2]
runner = Runner(
    [Process(n, (sys.executable, "-S", "-E", "-c", code)) for n in "ab"],
    Path(sys.argv[1]), os.environ, lambda n, t: print(n, t, flush=True),
)
def on_poll():
    if len(runner.pids) == 2 and not on_poll.told:
        on_poll.told = True
        print("pids", *runner.pids.values(), flush=True)
on_poll.told = False
sys.exit(runner.run(on_poll))
"""


@pytest.fixture
def command(tmp_path: Path):
    """Run a Runner in a process of its own, as the wallx command does."""
    running: list[subprocess.Popen[str]] = []

    def start(code: str) -> tuple[subprocess.Popen[str], list[int]]:
        popen = subprocess.Popen(
            [sys.executable, "-c", RUN_AS_COMMAND, str(tmp_path / "log"), code],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(popen)
        pids: list[int] = []
        ready = 0
        assert popen.stdout is not None
        while ready < 2 or not pids:
            line = popen.stdout.readline()
            assert line, "the runner ended early"
            ready += line.endswith("ready\n")
            if line.startswith("pids"):
                pids = [int(word) for word in line.split()[1:]]
        return popen, pids

    yield start
    for popen in running:
        popen.kill()
        popen.wait()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_ends_every_process(command, signum) -> None:
    popen, pids = command(POLITE)
    os.killpg(popen.pid, signum)  # as a terminal does: the whole foreground group
    popen.communicate(timeout=WAIT_S)
    assert popen.returncode == 0
    assert not any(map(exists, pids))


def test_processes_end_when_the_runner_is_killed(command) -> None:
    popen, pids = command(POLITE)
    popen.kill()
    popen.wait()
    deadline_s = time.monotonic() + WAIT_S
    while any(exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        assert time.monotonic() < deadline_s, "processes outlive a killed runner"
        time.sleep(0.02)
