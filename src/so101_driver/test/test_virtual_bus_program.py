"""The virtual arm as a program: users start it beside LeRobot, tests beside a driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import serial
from so101_driver.calibration import Calibration
from so101_driver.joints import data_path
from so101_driver.protocol import StatusParser
from so101_driver.sim.program import make_parser

from so101_driver import protocol
from so101_driver import registers as reg

pytestmark = [pytest.mark.bus, pytest.mark.timeout(60)]

COMMAND = [sys.executable, "-m", "so101_driver.sim.program"]


class Program:
    """One run of it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self.line().removeprefix("port: ")

    def line(self) -> str:
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def positions(self, path: str | None = None) -> dict[int, int]:
        """Of the servos that answer; the first one tells its model when all have."""
        last = protocol.status(1, 0, reg.MODEL.encode(reg.MODEL_NUMBER))
        with serial.Serial(path or self.port, 1_000_000, timeout=5.0) as port:
            port.write(protocol.sync_read(range(1, 7), 56, 2) + protocol.read(1, 3, 2))
            data = port.read_until(last)
        assert data.endswith(last)
        replies = StatusParser().feed(data.removesuffix(last))
        return {r.servo_id: reg.PRESENT_POSITION.decode(r.parameters) for r in replies}

    def end(self, number: int = signal.SIGINT) -> str:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, output
        return output


@pytest.fixture
def started() -> Iterator[list[Program]]:
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.process.kill()
        program.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follower_answers_under_its_link_and_leaves_none_behind(
    started: list[Program], tmp_path: Path, number: int
) -> None:
    pytest.importorskip("mujoco")
    link = tmp_path / "run" / "arm"
    program = Program("--link", str(link))
    started.append(program)
    assert program.line() == f"link: {link}"
    assert sorted(program.positions(str(link))) == [1, 2, 3, 4, 5, 6]
    assert "0 goal writes; faults: none" in program.end(number)
    assert not os.path.lexists(link)


def test_hand_moves_the_leader(started: list[Program], tmp_path: Path) -> None:
    motion = tmp_path / "motion.csv"
    motion.write_text(
        "t_s,shoulder_pan,shoulder_lift,elbow_flex,wrist_flex,wrist_roll,gripper\n"
        "0,0,-0.5,0.5,0.5,0,0.3\n0.2,0,-0.5,0.5,0.5,0,0.3\n0.5,0.5,-0.5,0.5,0.5,0,0.3\n"
    )
    program = Program("--leader", "--motion", str(motion))
    started.append(program)
    joints = Calibration.load(data_path("sim_calibration.json"))
    begin, end = (
        joints.rad_to_ticks(np.array([pan, -0.5, 0.5, 0.5, 0.0, 0.3])) for pan in (0.0, 0.5)
    )
    seen = [program.positions()]
    deadline_s = time.monotonic() + 20.0
    while list(seen[-1].values()) != pytest.approx(end, abs=1.5):
        assert time.monotonic() < deadline_s, seen[-1]
        seen.append(program.positions())
    for positions in seen:
        assert list(positions.values())[1:] == pytest.approx(begin[1:], abs=1.5)
    program.end()


def test_console_lets_things_go_wrong_and_says_what_it_does_not_know(
    started: list[Program],
) -> None:
    program = Program("--leader", "--console")
    started.append(program)
    program.say("fault: mute, servo: 4\nstatus\nrubbish\nfault: mute, servo: 8\n")
    assert program.line() == "fault mute"
    assert program.line().endswith("faults: mute")
    assert "'rubbish' is no fault" in program.line()
    assert "no servo 8" in program.line()
    assert sorted(program.positions()) == [1, 2, 3, 5, 6]
    program.say("clear\n")
    assert program.line() == "no faults"
    assert sorted(program.positions()) == [1, 2, 3, 4, 5, 6]
    # The end of the input is not the end of the arm.
    program.process.stdin.close()
    program.process.stdin = None
    time.sleep(0.3)  # it looks every 0.1 s
    assert sorted(program.positions()) == [1, 2, 3, 4, 5, 6]
    assert "mute 1" in program.end()


def test_factory_servos_are_connected_one_at_a_time(started: list[Program]) -> None:
    program = Program("--factory", "2")
    started.append(program)
    assert program.line() == "connected: servo 1 (id 1)"
    program.say("\n")
    assert program.line() == "connected: servo 2 (id 1)"
    assert list(program.positions()) == [1]
    program.say("connect 3\nconnect 1 2")
    assert "from 1 to 2" in program.line()
    # The last line of an input needs no newline.
    program.process.stdin.close()
    program.process.stdin = None
    assert program.line() == "connected: servo 1 (id 1), 2 (id 1)"
    program.end()


def test_faults_of_a_file_come_on_time(started: list[Program], tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {at_s: 0.5, for_s: 60, fault: mute, servo: 2}\n")
    program = Program("--leader", "--faults", str(faults), "--seed", "3")
    started.append(program)
    deadline_s = time.monotonic() + 5.0
    while 2 in program.positions():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    program.end()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--motion", "sine"), ("--motion", "--leader")),
        (("--leader", "--motion", "/absent.csv"), ("/absent.csv", "sine")),
        (("--faults", "/absent.yaml"), ("/absent.yaml",)),
        (("--calibration", "/absent.json"), ("/absent.json",)),
        (("--factory", "--calibration", "x.json"), ("--calibration", "leave it out")),
        (("--factory", "99"), ("--factory", "1 to 20")),
        (("--leader", "--servos", "7.4V"), ("--servos", "follower")),
        (("--seed", "-1"), ("--seed", "from 0 on")),
        (("--leader", "--link", "/proc/no/arm"), ("/proc/no/arm", "may write")),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    for word in ("virtual_bus:", *words):
        assert word in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1"),
        ("t_s,pan\n", "line 1"),
        ("{header}\n", "no pose"),
        ("{header}\n0,1,2,3\n", "line 2"),
        ("{header}\n0,1,2,3,4,5,x\n", "line 2"),
        ("{header}\n0,1,2,3,4,5,nan\n", "line 2"),
        ("{header}\n1,1,2,3,4,5,6\n1,1,2,3,4,5,6\n", "line 3"),
    ],
)
def test_wrong_motions_are_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    from so101_driver.errors import UserError
    from so101_driver.sim.hands import RecordedHand

    header = "t_s,shoulder_pan,shoulder_lift,elbow_flex,wrist_flex,wrist_roll,gripper"
    path = tmp_path / "motion.csv"
    path.write_text(text.replace("{header}", header))
    with pytest.raises(UserError, match=words):
        RecordedHand.from_file(path)


def test_help_names_every_option() -> None:
    text = make_parser().format_help()
    for option in ("--link", "--calibration", "--faults", "--seed", "--leader", "--motion"):
        assert option in text
    for option in ("--factory", "--servos", "--no-wire-timing", "--console", "connect"):
        assert option in text
