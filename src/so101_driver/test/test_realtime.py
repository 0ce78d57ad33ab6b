"""Real-time scheduling is asked for; where it is refused, one sentence says what to change.

What the kernel answers depends on the user: both answers are brought about in processes of their
own, the refusal by giving up the capability and the limit that allow it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys

import pytest

DROP_RIGHTS = """
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
for capability in (14, 23):  # IPC_LOCK, SYS_NICE
    libc.prctl(24, capability, 0, 0, 0)  # from the bounding set, so that exec drops it
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
import os, sys
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
PRIORITY = """
import os, threading
from so101_driver.realtime import raise_priority
answers = []
def loop():
    problem = raise_priority(20)
    answers.append((problem, os.sched_getscheduler(0), os.sched_getparam(0).sched_priority))
thread = threading.Thread(target=loop)
thread.start()
thread.join()
problem, policy, priority = answers[0]
print(problem)
print("FIFO" if policy == os.SCHED_FIFO else "other", priority)
print("FIFO" if os.sched_getscheduler(0) == os.SCHED_FIFO else "other")
"""
LOCK = """
import threading
from so101_driver.realtime import lock_memory
print(lock_memory())
block = bytearray(64 << 20)
threads = [threading.Thread(target=lambda: None) for _ in range(8)]
for thread in threads:
    thread.start()
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmLck:")))
"""


def output(script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def without_rights(script: str) -> list[str]:
    return output(DROP_RIGHTS, script)


def has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


def test_priority_is_raised_for_the_calling_thread_only():
    if not has_capability(23) and resource.getrlimit(resource.RLIMIT_RTPRIO)[0] < 20:
        pytest.skip("this user may not raise a priority")
    assert output(PRIORITY) == ["", "FIFO 20", "other"]


def test_a_refused_priority_names_the_limit():
    if os.geteuid() != 0 and has_capability(23):
        pytest.skip("the capability cannot be given up")
    problem, scheduling, _main = without_rights(PRIORITY)
    assert scheduling == "other 0"
    assert "rtprio 20" in problem
    assert "limits.conf" in problem


def test_memory_is_locked_also_what_is_allocated_later():
    if not has_capability(14):
        pytest.skip("this user may not lock memory")
    problem, locked_kib = output(LOCK)
    assert problem == ""
    assert int(locked_kib) > 64 << 10


def test_a_limited_lock_is_refused_because_later_allocations_would_fail():
    problem, locked_kib = without_rights(LOCK)
    assert "memlock unlimited" in problem
    assert "8192 KiB" in problem
    assert locked_kib == "0"


def test_a_refusal_of_mlockall_itself_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    from so101_driver import realtime

    class Libc:
        @staticmethod
        def mlockall(_flags: int) -> int:
            ctypes.set_errno(11)
            return -1

    monkeypatch.setattr(realtime, "_may_lock_everything", lambda: True)
    monkeypatch.setattr(realtime.ctypes, "CDLL", lambda *_args, **_options: Libc)
    assert "Resource temporarily unavailable" in realtime.lock_memory()
