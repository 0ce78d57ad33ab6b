"""The first hour's commands as a user runs them: processes, a virtual arm, piped answers."""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from so101_driver.calibration_files import ArmKind
from so101_driver.joints import SERVO_IDS
from so101_driver.motor_setup import ORDER
from so101_driver.serial_ports import SerialPort
from so101_driver.servo_search import BAUD_RATES, search
from so101_driver.sim import FactoryServos, FaultKind, IdealArm, VirtualBus
from wallx_bringup.cli import main
from wallx_bringup.doctor.arm_checks import check_arm
from wallx_bringup.doctor.program import read_arm
from wallx_bringup.doctor.report import Level
from wallx_bringup.find_port import find_unplugged, show_ports, with_named
from wallx_bringup.prompts import wait_for_enter

from so101_driver import registers as reg

pytestmark = pytest.mark.bus
TIMEOUT_S = 60.0


class Wallx:
    """One ``wallx`` process whose output is read up to a given end."""

    def __init__(self, *words: str, cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "wallx_bringup.cli", *words]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
        )
        self.text = ""

    def until(self, end: str) -> str:
        """Return what is printed up to and including ``end``."""
        start = len(self.text)
        deadline_s = time.monotonic() + TIMEOUT_S
        output = self.process.stdout.fileno()
        while end not in self.text[start:]:
            assert time.monotonic() < deadline_s, self.text
            if select.select([output], [], [], 1.0)[0]:
                data = os.read(output, 4096)
                assert data, f"ended before {end!r}: {self.text}"
                self.text += data.decode()
        return self.text[start:]

    def enter(self) -> None:
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Close the input; returns the exit status."""
        rest, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.text += rest.decode()
        return self.process.returncode

    def __enter__(self) -> Wallx:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def run(*words: str, cwd: Path | None = None) -> tuple[int, str]:
    with Wallx(*words, cwd=cwd) as command:
        return command.end(), command.text


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither calibrations nor running graphs of the user's are in the way."""
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "calibration"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[VirtualBus]:
    with VirtualBus(IdealArm(), link=tmp_path / "arm") as bus:
        yield bus


def test_setup_motors_walks_through_six_new_motors(tmp_path: Path, monkeypatch, capsys) -> None:
    factory, requests = FactoryServos(6), []

    def connect(request: str) -> None:
        requests.append(request)
        # The second motor is forgotten at first.
        number = len(requests) - (len(requests) > 1)
        factory.connect({number})

    monkeypatch.setattr("wallx_bringup.setup_motors.wait_for_enter", connect)
    # Motors at other baud rates are so101_driver's test; the eight take their time.
    quick = functools.partial(search, baud_rates=BAUD_RATES[:2])
    monkeypatch.setattr("so101_driver.motor_setup.search", quick)
    port = tmp_path / "arm"
    with VirtualBus(factory, link=port):
        assert main(["setup-motors", "--port", str(port)]) == 0
        ids = [servo.bus_id for servo in factory.servos.values()]
    assert ids == [6, 5, 4, 3, 2, 1]
    asked = (ORDER[0], ORDER[1], *ORDER[1:])
    assert all(
        f"only the {joint} motor" in text for joint, text in zip(asked, requests, strict=True)
    )
    text = capsys.readouterr().out
    assert "gripper: id 1 -> 6, stored and read back" in text
    assert "still the gripper motor" in text
    assert "shoulder_pan: has id 1 at 1,000,000 baud already" in text
    assert "All six motors have their ids" in text


def test_setup_motors_stops_in_order_when_its_input_ends(tmp_path: Path) -> None:
    port = tmp_path / "arm"
    with VirtualBus(FactoryServos(1), link=port), Wallx("setup-motors", "--port", str(port)) as it:
        it.until("Enter:")
        it.enter()
        it.until("wrist_roll motor, and press Enter:")
        assert it.end() == 1
    assert "Set up so far: gripper; run it again at any time." in it.text


def test_setup_motors_tells_what_is_done_when_it_is_interrupted(tmp_path: Path) -> None:
    port = tmp_path / "arm"
    with VirtualBus(FactoryServos(1), link=port), Wallx("setup-motors", "--port", str(port)) as it:
        it.until("Enter:")
        it.enter()
        it.until("wrist_roll motor, and press Enter:")
        it.process.send_signal(signal.SIGINT)
        assert it.end() == 130
    assert "stopped; set up so far: gripper." in it.text
    assert "Traceback" not in it.text


def test_setup_motors_can_be_told_one_motor(tmp_path: Path) -> None:
    factory, port = FactoryServos(1), tmp_path / "arm"
    with (
        VirtualBus(factory, link=port),
        Wallx("setup-motors", "--port", str(port), "--motor", "elbow_flex") as command,
    ):
        command.until("Enter:")
        command.enter()
        assert command.end() == 0
        assert factory.servos[1].bus_id == 3


def test_setup_motors_warns_at_once_of_a_supply_that_is_too_strong(tmp_path: Path) -> None:
    factory, port = FactoryServos(1), tmp_path / "arm"
    factory.servos[1].memory.put(reg.MAX_VOLTAGE, 80)
    with (
        VirtualBus(factory, link=port),
        Wallx("setup-motors", "--port", str(port), "--motor", "gripper") as command,
    ):
        command.until("Enter:")
        command.enter()
        assert command.end() == 0
    assert "supply 12.2 V, accepts 4.0 to 8.0 V" in command.text
    assert "Switch it off now" in command.text


def test_setup_motors_refuses_a_wired_arm_before_it_asks(arm: VirtualBus) -> None:
    status, text = run("setup-motors", "--port", str(arm.link))
    assert status == 1
    assert text.startswith("wallx: a whole arm answers on")
    assert "press Enter" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--motor", "elbow"), "there is no motor 'elbow': name one of gripper,"),
        (("--port", "/dev/no_such"), "the port /dev/no_such does not exist"),
    ],
)
def test_setup_motors_refuses_bad_words(words, sentence: str, capsys) -> None:
    assert main(["setup-motors", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wallx: {sentence}")
    assert error.count("\n") == 1


def test_an_enter_typed_before_the_request_is_not_its_answer(monkeypatch) -> None:
    keys, terminal = os.openpty()

    def type_line(*_args: object, **_options: object) -> None:
        os.write(keys, b"\n")
        assert select.select([terminal], [], [], 5.0)[0]

    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("builtins.print", type_line)
        type_line()
        wait_for_enter("press Enter:")
        assert select.select([terminal], [], [], 0.0)[0] == [], "the earlier one was taken"
    os.close(keys)


def test_find_port_says_what_answers(arm: VirtualBus) -> None:
    status, text = run("find-port", str(arm.link))
    assert status == 0
    assert "SO-101, supply 12.2 V, firmware 3.10; probably the follower" in text
    with arm.fault(FaultKind.MUTE, servo=2):
        text = run("find-port", str(arm.link))[1]
    assert "only 1, 3, 4, 5, 6" in text
    assert f"`wallx doctor --port {arm.link}`" in text


def test_a_servo_of_another_model_is_named(arm: VirtualBus) -> None:
    with arm.fault(FaultKind.WRONG_MODEL, servo=2, model=1029):
        text = run("find-port", str(arm.link))[1]
    assert "no SO-101: servo 2 (shoulder_lift) is model 1029" in text


def test_a_slow_bridge_is_no_arm_at_other_baud_rates(arm: VirtualBus) -> None:
    with arm.fault(FaultKind.DELAY, delay_s=0.03):
        (check, *_) = check_arm(read_arm(ArmKind.FOLLOWER, str(arm.link)), (), None)
    assert check.level is Level.FAIL
    assert "too slow to answer" in check.text


def test_find_port_finds_the_unplugged_cable(arm: VirtualBus) -> None:
    with Wallx("find-port", "--unplug", str(arm.link)) as command:
        command.until("Enter:")
        with arm.fault(FaultKind.UNPLUG):
            command.enter()
            assert command.end() == 0
    assert f"The port is {arm.link}" in command.text


def test_find_port_says_when_nothing_was_unplugged(monkeypatch, capsys) -> None:
    ports = (SerialPort("/dev/ttyACM0"), SerialPort("/dev/ttyACM1"))
    monkeypatch.setattr("wallx_bringup.find_port.wait_for_enter", lambda _text: None)
    with pytest.raises(Exception, match="no port has gone"):
        find_unplugged(lambda: ports, wait_s=0.0)
    states = iter((ports, ()))
    with pytest.raises(Exception, match="several ports have gone"):
        find_unplugged(lambda: next(states))
    named = SerialPort("/dev/ttyACM0", links=("/dev/serial/by-id/usb-1",))
    states = iter(((named, ports[1]), (ports[1],)))
    assert find_unplugged(lambda: next(states)) == 0
    assert "lasting name: /dev/serial/by-id/usb-1" in capsys.readouterr().out


def test_ports_are_listed_once_each(arm: VirtualBus, capsys) -> None:
    assert with_named((), (str(arm.link), arm.port, "/dev/no_such")) == (SerialPort(str(arm.link)),)
    assert show_ports(()) == 1
    assert "plug in the arm's USB cable" in capsys.readouterr().out


def test_doctor_finds_the_arm_good_and_then_broken(arm: VirtualBus, tmp_path: Path) -> None:
    words = ("doctor", "--json", "--port", str(arm.link))
    before = {n: servo.read(0, 57) for n, servo in arm.servos.items()}
    _, text = run(*words, cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(text)["checks"]}
    assert checks["follower servos"]["level"] == "pass"
    assert checks["follower supply"]["level"] == "pass"
    assert checks["follower calibration"]["level"] == "fail", "it never was"
    with arm.fault(FaultKind.MUTE, servo=SERVO_IDS[-1]):
        status, text = run(*words, cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(text)["checks"]}
    assert status == 1
    assert checks["follower servos"]["level"] == "fail"
    assert "servo 6 (gripper) is silent" in checks["follower servos"]["text"]
    assert {n: servo.read(0, 57) for n, servo in arm.servos.items()} == before, "it wrote"


def test_doctor_leaves_a_port_alone_that_another_program_uses(
    arm: VirtualBus, tmp_path: Path
) -> None:
    holder = (
        "import sys, time; f = open(sys.argv[1], 'rb+', buffering=0); print(flush=True); "
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", holder, str(arm.link)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"\n"
        status, text = run("doctor", "--port", str(arm.link), cwd=tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert status == 1
    assert f"process {other.pid}" in text
    assert "follower servos: not asked" in text


def test_find_cameras_looks_at_videos_and_saves_what_it_sees(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    for name, low, high in (("desk", 60, 200), ("black", 0, 5)):
        writer = cv2.VideoWriter(
            str(tmp_path / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48)
        )
        for _ in range(4):
            writer.write(random.integers(low, high, (48, 64, 3), dtype=np.uint8))
        writer.release()
    out = tmp_path / "out"
    status, text = run("find-cameras", "desk.avi", "black.avi", "--out", str(out), cwd=tmp_path)
    assert status == 1, "one of them is black"
    assert "the picture is good" in text
    assert "the picture is black" in text
    assert "wallx up face_camera:=desk.avi" in text
    assert cv2.imread(str(out / "0_desk.jpg")).shape == (48, 64, 3)
    assert cv2.imread(str(out / "cameras.png")).shape == (416, 960, 3)
    assert run("find-cameras", "desk.avi", "--out", str(out), cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--size", "640"), "--size must be like 640x480, not '640'"),
        (("--rate", "-1"), "--rate must be from 0"),
        (("/no/such.mp4",), "camera /no/such.mp4: No such file or directory"),
        (("x", "--out", "/dev/null/x"), "cannot make the folder /dev/null/x"),
    ],
)
def test_find_cameras_refuses_bad_words(words, sentence: str, tmp_path: Path, capsys) -> None:
    words = words if "--out" in words else (*words, "--out", str(tmp_path))
    assert main(["find-cameras", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wallx: {sentence}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["doctor", "find-port", "setup-motors", "find-cameras"])
def test_every_command_explains_itself(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) > 400


def test_an_unknown_device_is_not_spoken_to_unless_named(arm: VirtualBus, capsys) -> None:
    printer = SerialPort(str(arm.link), usb_id="2341:0043", product="Arduino Uno")
    assert show_ports((printer,)) == 1
    assert "not asked: no known bus adapter" in capsys.readouterr().out
    assert show_ports((printer,), (str(arm.link),)) == 0
    assert "SO-101" in capsys.readouterr().out
