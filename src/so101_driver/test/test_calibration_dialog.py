"""The program must be usable by hand, from a pipe and from a script, and be refused a busy port."""

from __future__ import annotations

import math
import os
import select
import subprocess
import sys
import time

import pytest
from so101_driver.bus import ServoBus
from so101_driver.calibrate import run
from so101_driver.calibration import Calibration
from so101_driver.calibration_dialog import LineAnswers, open_answers
from so101_driver.calibration_files import ArmKind, calibration_path
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS, data_path
from so101_driver.port_users import PortUser, port_users
from so101_driver.sim import IdealArm, VirtualBus
from so101_driver.sim.virtual_servo import IdealServo, TickScale

TRAVEL = (2500, 2360, 2200, 2208, 3000, 1485)
PROGRAM = (sys.executable, "-m", "so101_driver.calibrate")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    return tmp_path


def piped(text):
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    return LineAnswers(read, "the input")


def test_lines_are_answers_and_comments_are_not(capsys):
    answers = piped("\n# a comment\n yes  # agreed\nq")
    assert [answers.ask("?") for _ in range(3)] == ["", "yes", "q"]
    with pytest.raises(UserError, match="the input ended before"):
        answers.ask("?")
    assert "? yes\n" in capsys.readouterr().out


def test_waiting_delays_the_next_answer():
    answers = piped("wait 0.15\nlater\nwait 0.15\n\n")
    begin = time.monotonic()
    assert answers.poll() is None
    assert answers.ask("?") == "later"
    assert time.monotonic() - begin >= 0.15
    assert answers.poll() is None
    while answers.poll() is None:
        assert time.monotonic() - begin < 5
        time.sleep(0.01)
    assert time.monotonic() - begin >= 0.3


class Keyboard:
    """A terminal, typed at from its other end."""

    def __init__(self):
        self._keys, self.terminal = os.openpty()

    def type(self, text):
        os.write(self._keys, text.encode())
        # What is typed has to go through the terminal before anybody can read it.
        assert select.select([self.terminal], [], [], 5.0)[0]


def test_what_was_typed_before_a_question_does_not_answer_it(monkeypatch):
    keyboard = Keyboard()
    answers = LineAnswers(keyboard.terminal, "the terminal")
    keyboard.type("\n\ny\n")
    monkeypatch.setattr("builtins.print", lambda *_args, **_kwargs: keyboard.type("q\n"))
    assert answers.ask("Hold it?") == "q"
    keyboard.type("done\nstale\n")
    assert answers.poll() == "done"
    assert answers.ask("Write it?") == "q"


def test_line_that_comes_in_pieces_is_one_answer():
    read, write = os.pipe()
    answers = LineAnswers(read, "the input")
    os.write(write, b"ye")
    assert answers.poll() is None
    os.write(write, b"s\nno\n")
    assert (answers.poll(), answers.poll(), answers.poll()) == ("yes", "no", None)


@pytest.mark.parametrize("line", ["wait", "wait long", "wait -1", "wait nan", "wait 1 2"])
def test_bad_wait_is_named(line):
    with pytest.raises(UserError, match=r"is not `wait SECONDS`"):
        piped(f"{line}\n\n").ask("?")


def test_missing_script_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the script .*absent"):
        open_answers(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="ended before"):
        open_answers(str(tmp_path)).ask("?")


class WatchedServo(IdealServo):
    """Counts how often its position was read."""

    reads = 0

    def present_ticks(self):
        self.reads += 1
        return super().present_ticks()


class Arm:
    """Virtual servos that a hand moves on as soon as they have been looked at."""

    def __init__(self):
        arm = IdealArm()
        for servo_id, middle in zip(SERVO_IDS, (500, 3900, 2500, 1000, 3000, 40), strict=True):
            arm.servos[servo_id] = WatchedServo(servo_id, scale=TickScale(zero_tick=middle))
        self.servos = arm.servos
        self.bus = VirtualBus(arm)

    def sweep(self):
        """Move all joints from stop to stop and back to the middle."""
        for share in (0.0, 0.5, 1.0, 0.5, 0.0, -0.5, -1.0, -0.5, 0.0):
            for travel, servo in zip(TRAVEL, self.servos.values(), strict=True):
                servo.position_rad = share * travel / 2 * 2 * math.pi / 4096
            # The middle of three readings counts.
            enough = {servo: servo.reads + 4 for servo in self.servos.values()}
            deadline_s = time.monotonic() + 30.0
            while any(servo.reads < reads for servo, reads in enough.items()):
                assert time.monotonic() < deadline_s
                time.sleep(0.002)


@pytest.fixture
def arm():
    arm = Arm()
    with arm.bus:
        yield arm


@pytest.mark.bus
@pytest.mark.parametrize("way", ["script", "pipe"])
def test_program_runs_from_a_script_and_from_a_pipe(arm, home, way):
    words = [*PROGRAM, "--port", arm.bus.port, "--name", "arm"]
    script = home / "answers"
    if way == "script":
        # A script that is written while it is read: the sweep takes as long as it takes.
        os.mkfifo(script)
        words += ["--script", str(script)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with script.open("w") if way == "script" else process.stdin as answers:
        said = ""
        print("# the pose\n", file=answers, flush=True)
        for line in process.stdout:
            said += line
            if line.startswith("Press Enter"):
                arm.sweep()
                print("\ny", file=answers, flush=True)
    assert process.wait(20) == 0, said
    joints = Calibration.load(calibration_path("follower", "arm")).joints
    for travel, joint in zip(TRAVEL, joints.values(), strict=True):
        if joint.servo_id != 5:
            assert abs(joint.travel_ticks - travel) <= 3, said
    assert "Servos written and read back" in said


@pytest.mark.bus
def test_interrupted_program_says_so_and_writes_nothing(arm):
    process = subprocess.Popen(
        [*PROGRAM, "--port", arm.bus.port, "--name", "arm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Upper arm"):
            break
    process.send_signal(2)
    said = process.stdout.read()
    process.stdin.close()
    assert process.wait(10) == 130
    assert "file and servos are as they were" in said
    assert "Traceback" not in said
    assert not calibration_path("follower", "arm").parent.exists()


@pytest.mark.bus
def test_port_in_use_is_refused_by_name(arm, tmp_path, capsys):
    script = tmp_path / "driver_node"
    script.write_text("import sys\nport = open(sys.argv[1])\nprint('open', flush=True)\ninput()\n")
    words = [sys.executable, str(script), arm.bus.port]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        users = port_users(arm.bus.port)
        assert users == [PortUser(other.pid, "driver_node")]
        assert run(["--port", arm.bus.port, "--name", "arm"]) == 2
        said = capsys.readouterr().err
        assert f"in use by driver_node (process {other.pid})" in said
        other.communicate(b"\n")
    assert port_users(arm.bus.port) == []


@pytest.mark.bus
def test_locked_port_is_refused_too(arm, capsys):
    with ServoBus(arm.bus.port):
        assert run(["--port", arm.bus.port, "--name", "arm"]) == 2
    assert "in use by another program" in capsys.readouterr().err


@pytest.mark.bus
def test_simulator_is_no_user_of_its_own_port(tmp_path):
    program = (
        "from so101_driver.sim import VirtualBus\n"
        "with VirtualBus() as bus:\n    print(bus.port, flush=True)\n    input()\n"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as simulator:
        port = simulator.stdout.readline().decode().strip()
        link = tmp_path / "arm"
        link.symlink_to(port)
        assert port_users(port) == []
        assert port_users(str(link)) == []
        with ServoBus(port):
            # Our own use does not count either.
            assert port_users(port) == []
        simulator.communicate(b"\n")


def test_unreadable_processes_are_skipped(tmp_path):
    (tmp_path / "12").mkdir()
    (tmp_path / "net").mkdir()
    assert port_users("/dev/ttyACM0", tmp_path) == []
    assert port_users("/dev/ttyACM0", tmp_path / "absent") == []


def test_names_are_the_scripts(tmp_path):
    for pid, command in (
        (7, "/usr/bin/python3\0-m\0screen\0"),
        (8, "/opt/arduino\0--fast\0"),
        (9, ""),
        (10, "/usr/bin/shotwell\0/photos\0"),
    ):
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fd/3").symlink_to("/dev/ttyACM0")
        (folder / "cmdline").write_text(command)
    named = [str(user) for user in port_users("/dev/ttyACM0", tmp_path)]
    assert named == [
        "screen (process 7)",
        "arduino (process 8)",
        "an unnamed program (process 9)",
        "shotwell (process 10)",
    ]


@pytest.mark.bus
def test_unplugged_while_sweeping_is_said(arm, home):
    script = home / "answers.txt"
    script.write_text("\nwait 60\n\n")
    process = subprocess.Popen(
        [*PROGRAM, "--port", arm.bus.port, "--name", "arm", "--script", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Press Enter"):
            break
    arm.bus.close()
    said = process.stdout.read()
    assert process.wait(20) == 2
    assert "calibrate: " in said
    assert "Traceback" not in said
    assert not calibration_path("follower", "arm").exists()


def test_shipped_calibration_has_usual_travel():
    from so101_driver.calibration_report import unusual

    joints = Calibration.load(data_path("sim_calibration.json")).joints
    assert unusual(joints, ArmKind.FOLLOWER) == []
