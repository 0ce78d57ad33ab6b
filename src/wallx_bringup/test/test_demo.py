"""The demo must know when an act is over, and compare with a thread that measures honestly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_bringup.acts import ACTS, SETTLED_S, START_TIMEOUT_S, ActWatch

EXPERT, MODEL = ACTS


def play(watch: ActWatch, *moments: tuple[float, str, bool]) -> list[str]:
    return [watch.verdict(now_s, state, "", in_tray) for now_s, state, in_tray in moments]


def test_the_task_is_done_when_the_cube_has_lain_in_the_tray_for_a_while() -> None:
    verdicts = play(
        ActWatch(EXPERT, 100.0),
        (101.0, "DISARMED", False),
        (104.0, "TRACKING", False),
        (110.0, "TRACKING", True),
        (111.0, "TRACKING", False),  # it bounced
        (112.0, "TRACKING", True),
        (112.0 + SETTLED_S - 0.1, "TRACKING", True),
        (112.0 + SETTLED_S, "HOLD", True),
    )
    assert verdicts[:-1] == [""] * 6
    assert verdicts[-1] == "The cube is in the tray after 11 s of motion."


def test_a_task_that_fails_ends_after_its_limit_and_says_so() -> None:
    watch = ActWatch(EXPERT, 0.0)
    last_s = 5.0 + EXPERT.limit_s
    verdicts = play(watch, (5.0, "TRACKING", False), (last_s, "TRACKING", False))
    assert verdicts == ["", "90 s of motion are recorded; the cube is not in the tray."]


def test_the_act_without_a_task_lasts_its_time_whatever_the_cube_does() -> None:
    watch = ActWatch(MODEL, 0.0)
    verdicts = play(watch, (5.0, "TRACKING", True), (12.0, "HOLD", True), (25.0, "HOLD", True))
    assert verdicts == ["", "", "20 s of motion are recorded."]


def test_a_latched_fault_ends_the_act_at_once() -> None:
    watch = ActWatch(EXPERT, 0.0)
    assert watch.verdict(5.0, "TRACKING", "", False) == ""
    verdict = watch.verdict(6.0, "FAULT", "joint states are stale", False)
    assert verdict == "Safety stopped the arm for good (FAULT): joint states are stale."


def test_an_arm_that_never_moves_is_an_error_with_safetys_reason() -> None:
    watch = ActWatch(EXPERT, 0.0)
    with pytest.raises(UserError, match="safety is FAULT: joint states are stale"):
        watch.verdict(START_TIMEOUT_S + 0.1, "FAULT", "joint states are stale", False)


def test_the_bare_thread_writes_its_periods_when_told_to_end(tmp_path: Path) -> None:
    path = tmp_path / "bare_thread.json"
    command = [
        sys.executable,
        "-c",
        "from wallx_bringup.baseline import main; print(flush=True); main()",
    ]
    with subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        time.sleep(0.5)
        popen.send_signal(signal.SIGINT)
        assert popen.wait(timeout=10) == 0
    periods_s = json.loads(path.read_text())["periods_s"]
    # Absolute deadlines: however late single wake-ups are, the count follows the clock.
    assert sum(periods_s) == pytest.approx(0.01 * len(periods_s), abs=0.1)
    assert len(periods_s) > 10
