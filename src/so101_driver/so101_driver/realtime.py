"""Asks the kernel for what keeps a control loop punctual, and says what to do when it refuses."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


def raise_priority(priority: int) -> str:
    """Schedule the calling thread with SCHED_FIFO; returns why it is not, or "".

    Args:
        priority: 1 (lowest) to 99.
    """
    try:
        # Process 0 is the calling thread, not the whole process.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return (
            f"the loop runs without real-time priority {priority} ({error.strerror}): give the "
            f"user 'rtprio {priority}' in /etc/security/limits.conf and log in again, or start "
            f"the container with --cap-add SYS_NICE --ulimit rtprio={priority}"
        )
    return ""


def lock_memory() -> str:
    """Keep every page that this process uses in memory; returns why it is not, or "".

    Refused while the kernel limits locked memory: the lock also covers what is allocated later, and
    beyond the limit every allocation would fail.
    """
    if not _may_lock_everything():
        limit_kib = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] // 1024
        return (
            f"memory is not locked (this process may lock {limit_kib} KiB only): give the user "
            "'memlock unlimited' in /etc/security/limits.conf and log in again, or start the "
            "container with --ulimit memlock=-1"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    # On fault: the stacks of all threads are reserved at full size and hardly used.
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory is not locked: mlockall says {os.strerror(ctypes.get_errno())}"
    return ""


def _may_lock_everything() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1:
            return True
    _soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY:
        return False
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return True
