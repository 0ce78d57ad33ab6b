"""Keeps the whole test run to itself: one locked ROS domain, loopback only, field checks on.

Set before any test module is imported, so that contexts in this process and every process that a
test starts inherit it. Graphs that a test starts through the runner lock further domains.
"""

from __future__ import annotations

import os
import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Isolate this process; without the built workspace only pure tests run, which need nothing."""
    try:
        from wallx_bringup.domain import isolated_environment, lock_free_domain
    except ImportError:
        return
    domain = lock_free_domain()
    config.add_cleanup(domain.release)
    environment = isolated_environment(os.environ, domain.id)
    os.environ.clear()
    os.environ.update(environment)
    # A wrong scalar type in a message field aborts the process unless this is on.
    os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"


@pytest.fixture(autouse=True)
def _hears_ctrl_c() -> None:
    """Let programs under test be interrupted.

    A shell starts background jobs deaf to Ctrl-C, which every child inherits.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
