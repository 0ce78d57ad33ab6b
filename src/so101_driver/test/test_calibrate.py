"""A calibration decides where every later command goes: it must be right, or not be written.

A scripted hand moves the joints of virtual servos whose encoders were mounted anyhow.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
import threading

import numpy as np
import pytest
from so101_driver.bus import ServoBus
from so101_driver.calibrate import run
from so101_driver.calibration import Calibration, as_json
from so101_driver.calibration_files import calibration_path
from so101_driver.calibration_servos import FACTORY, ServoCalibration, read_servos
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim import IdealArm, VirtualBus
from so101_driver.sim.virtual_servo import IdealServo, TickScale

from so101_driver import calibration_walk
from so101_driver import registers as reg

pytestmark = pytest.mark.bus

TRAVEL = dict(zip(JOINT_NAMES, (2500, 2360, 2200, 2208, 4096, 1485), strict=True))
"""Between the stops, in ticks."""
RAD_PER_STEP = 2 * np.pi / 4096


class MountedServo(IdealServo):
    """Its position is an angle from the middle of the joint's travel; its encoder wraps."""

    def present_ticks(self):
        return super().present_ticks() % 4096


class Hand:
    """Answers the program's questions, and moves the arm before it does.

    Attributes:
        arm: Joint angles in ticks from the middle of the travel.
        answers: What it says to every question, in order; "" is Enter.
        sweeps: For each sweep, by joint, the ends as shares of half the travel.
        before: Called with the number of the question before it is answered.
        while_sweeping: Called with the number of the step.
    """

    def __init__(self, servos, answers=("", "y"), sweeps=None, pose=None):
        self.servos = servos
        self.answers = list(answers)
        self.sweeps = list(sweeps or [dict.fromkeys(JOINT_NAMES, (-1, 1))])
        self.pose = pose or dict.fromkeys(JOINT_NAMES, 0)
        self.questions = []
        self.before = lambda _question: None
        self.while_sweeping = lambda _step: None
        self._moves = None
        self._step = 0

    def put(self, name, ticks):
        self.servos[JOINT_NAMES.index(name) + 1].position_rad = ticks * RAD_PER_STEP

    def ask(self, question):
        self.questions.append(question)
        self.before(question)
        if "still" in question:
            for name, ticks in self.pose.items():
                self.put(name, ticks)
        if not self.answers:
            raise UserError("the script ended before the last question was answered.")
        return self.answers.pop(0)

    def poll(self):
        if self._moves is None:
            self._moves = self.path()
        self.while_sweeping(self._step)
        self._step += 1
        move = next(self._moves, None)
        if move is None:
            self._moves = None
            return ""
        self.put(*move)
        return None

    def path(self):
        for name, (low, high) in (self.sweeps.pop(0) if self.sweeps else {}).items():
            half = TRAVEL[name] // 2
            start = self.pose[name]
            places = [low * half, high * half] if name != "wrist_roll" else [-900, 900]
            for begin, end in ((start, places[0]), (places[0], places[1]), (places[1], start)):
                steps = max(2, round(abs(end - begin) / 700))
                for share in np.linspace(0, 1, steps + 1)[1:]:
                    yield name, round(begin + share * (end - begin))
                # A hand rests at the stops.
                yield name, end
                yield name, end

    def quiet(self):
        return contextlib.nullcontext()


@pytest.fixture
def make_arm():
    """Makes six servos whose middles lie at given encoder readings, with given offsets in them."""

    def make(middles, offsets=(0,) * 6, torque=False):
        arm = IdealArm()
        for servo_id, middle, offset in zip(SERVO_IDS, middles, offsets, strict=True):
            arm.servos[servo_id] = MountedServo(
                servo_id,
                scale=TickScale(zero_tick=middle),
                registers={reg.HOMING_OFFSET: offset},
            )
            if torque:
                arm.servos[servo_id].memory.put(reg.TORQUE_ENABLE, 1)
        return arm

    return make


@pytest.fixture
def bus(make_arm):
    with VirtualBus(make_arm((100, 4000, 2500, 1000, 3000, 40)), wire_timing=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "calibration"))
    monkeypatch.setattr(calibration_walk, "_PERIOD_S", 0.0)
    monkeypatch.setattr(calibration_walk, "_SILENT_S", 0.1)
    return tmp_path


def eeprom(bus):
    with ServoBus(bus.port) as opened:
        return read_servos(opened)


def tell(capsys):
    captured = capsys.readouterr()
    # The tables' wrapping is rich's business.
    return " ".join((captured.out + captured.err).split())


def calibrate(bus, hand, *words, name="arm"):
    return run(["--port", bus.port, "--name", name, *words], hand)


@pytest.mark.parametrize("seed", range(4))
def test_unknown_arm_comes_out_right_to_the_tick(make_arm, seed, capsys):
    rng = random.Random(seed)
    middles = [rng.randrange(4095) for _ in range(6)]
    offsets = [rng.randrange(-2047, 2048) for _ in range(6)]
    with VirtualBus(make_arm(middles, offsets, torque=True), wire_timing=False) as bus:
        hand = Hand(bus.servos, answers=["", "", "y"])
        # Nobody finds the middle exactly.
        hand.pose = {name: rng.randrange(-150, 150) for name in JOINT_NAMES}
        assert calibrate(bus, hand) == 0, tell(capsys)
        calibration = Calibration.load(calibration_path("follower", "arm"))
        for servo in bus.servos.values():
            servo.power_cycle()
        for _ in range(40):
            wanted = [rng.randrange(-TRAVEL[n] // 2, TRAVEL[n] // 2) for n in JOINT_NAMES]
            wanted[4] = rng.randrange(-1500, 1500)
            for name, ticks in zip(JOINT_NAMES, wanted, strict=True):
                hand.put(name, ticks)
            present = [servo.present_ticks() for servo in bus.servos.values()]
            true = np.array(wanted) * 360 / 4095
            # The roll's zero is where it was held, all others' is the middle of their travel.
            true[4] -= hand.pose["wrist_roll"] * 360 / 4095
            got = [
                joint.ticks_to_degrees(tick)
                for joint, tick in zip(calibration.joints.values(), present, strict=True)
            ]
            assert np.abs(np.array(got) - true).max() <= 1.51 * 360 / 4095
        assert [joint.drive_mode for joint in calibration.joints.values()] == [0] * 6
        assert calibration.joints["wrist_roll"].travel_ticks == 4095
        held = eeprom(bus)
        for name, joint in calibration.joints.items():
            assert held[name].homing_offset == joint.homing_offset
            assert (held[name].range_min, held[name].range_max) == (
                joint.range_min,
                joint.range_max,
            )
            assert bus.servos[joint.servo_id].memory.value(reg.LOCK) == 1
        said = tell(capsys)
        assert "drops when its torque goes off" in said
        assert "Calibrated." in said


def test_file_is_lerobots(bus):
    assert calibrate(bus, Hand(bus.servos)) == 0
    path = calibration_path("follower", "arm")
    assert path.parts[-3:] == ("robots", "so_follower", "arm.json")
    content = json.loads(path.read_text())
    assert list(content) == list(JOINT_NAMES)
    assert set(content["gripper"]) == {
        "id",
        "drive_mode",
        "homing_offset",
        "range_min",
        "range_max",
    }
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    assert calibrate(bus, Hand(bus.servos), "--kind", "leader", name="lead") == 0
    assert calibration_path("leader", "lead").parts[-3:-1] == ("teleoperators", "so_leader")


def test_nothing_is_asked_twice_of_an_eeprom(bus, capsys):
    assert calibrate(bus, Hand(bus.servos)) == 0
    before = eeprom(bus)
    text = calibration_path("follower", "arm").read_text()
    assert run(["--port", bus.port, "--check"]) == 0
    written = []
    for servo in bus.servos.values():
        keep = servo.write
        servo.write = lambda address, data, now_s, keep=keep: (
            written.append(address),
            keep(address, data, now_s),
        )[1]
    assert run(["--port", bus.port, "--to-servos"]) == 0
    assert run(["--port", bus.port, "--from-servos"]) == 0
    assert "nothing to write" in tell(capsys)
    assert written == []
    assert eeprom(bus) == before
    assert calibration_path("follower", "arm").read_text() == text
    assert not list(calibration_path("follower", "arm").parent.glob("*.bak"))


def test_earlier_file_is_kept(bus, capsys):
    path = calibration_path("follower", "arm")
    path.parent.mkdir(parents=True)
    earlier = data_path("sim_calibration.json").read_text()
    path.write_text(earlier)
    assert calibrate(bus, Hand(bus.servos)) == 0
    (copy,) = path.parent.glob("arm.json.*.bak")
    assert copy.read_text() == earlier
    assert path.read_text() != earlier
    assert str(copy.name) in capsys.readouterr().out.replace("\n", "")


def stages(hand, action):
    """Run an action at every stage of the dialogue, one after the other."""
    yield (
        "middle pose",
        lambda: setattr(hand, "before", lambda question: action() if "still" in question else None),
    )
    yield (
        "sweep",
        lambda: setattr(hand, "while_sweeping", lambda step: action() if step == 20 else None),
    )
    yield (
        "agreement",
        lambda: setattr(hand, "before", lambda question: action() if "Write" in question else None),
    )


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_at_any_stage_nothing_has_changed(bus, stage, number, capsys):
    hand = Hand(bus.servos)
    list(stages(hand, lambda: signal.raise_signal(number)))[stage][1]()
    before = {i: bytes(servo.memory.read(5, 35)) for i, servo in bus.servos.items()}
    assert calibrate(bus, hand) == 130
    assert "file and servos are as they were" in tell(capsys)
    assert {i: bytes(servo.memory.read(5, 35)) for i, servo in bus.servos.items()} == before
    assert not calibration_path("follower", "arm").parent.exists()
    assert not any(servo.memory.value(reg.TORQUE_ENABLE) for servo in bus.servos.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_writing_is_finished_when_interrupted(bus, number):
    hand = Hand(bus.servos)
    thread = threading.main_thread().ident
    servo = bus.servos[3]
    keep = servo.write

    def write(address, *rest):
        if address == reg.HOMING_OFFSET.address:
            signal.pthread_kill(thread, number)
        return keep(address, *rest)

    servo.write = write
    assert calibrate(bus, hand) == 0
    joints = Calibration.load(calibration_path("follower", "arm")).joints
    held = eeprom(bus)
    assert all(held[name] == ServoCalibration.of(joint) for name, joint in joints.items())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("stage", range(3))
def test_servo_that_falls_silent_is_named_and_nothing_has_changed(bus, stage, capsys):
    hand = Hand(bus.servos)
    list(stages(hand, lambda: bus.mute(3)))[stage][1]()
    assert calibrate(bus, hand) == 2
    assert "servo 3" in tell(capsys)
    bus.mute(3, False)
    assert set(eeprom(bus).values()) == {FACTORY}
    assert not calibration_path("follower", "arm").exists()


def test_servo_that_fails_while_writing_takes_the_others_back(bus, capsys):
    hand = Hand(bus.servos)
    hand.before = lambda question: setattr(bus.servos[4].memory, "write", lambda *_args: ())
    assert calibrate(bus, hand) == 2
    assert "every servo holds its earlier values" in tell(capsys)
    assert set(eeprom(bus).values()) == {FACTORY}
    for servo in bus.servos.values():
        servo.power_cycle()
    assert set(eeprom(bus).values()) == {FACTORY}
    assert not calibration_path("follower", "arm").exists()


def test_eeprom_that_stays_locked_is_named(bus, capsys):
    memory = bus.servos[2].memory
    keep = memory.write
    memory.write = lambda address, *rest: (
        () if address == reg.LOCK.address else keep(address, *rest)
    )
    assert calibrate(bus, Hand(bus.servos)) == 2
    said = tell(capsys)
    assert "servo 2 keeps 1 in lock" in said or ("servo 2" in said and "lock" in said)
    assert set(eeprom(bus).values()) == {FACTORY}


def test_servo_that_ignores_its_new_offset_is_found_out(bus, capsys):
    servo = bus.servos[5]
    servo.present_ticks = lambda: 2500
    assert calibrate(bus, Hand(bus.servos)) == 2
    assert "servo 5 (wrist_roll) reads" in tell(capsys)
    assert set(eeprom(bus).values()) == {FACTORY}


def test_file_that_cannot_be_written_leaves_the_servos(bus, monkeypatch, capsys):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("so101_driver.calibration_files.os.replace", full)
    assert calibrate(bus, Hand(bus.servos)) == 2
    said = tell(capsys)
    assert "No space left" in said
    assert "earlier values" in said
    assert set(eeprom(bus).values()) == {FACTORY}
    assert list(calibration_path("follower", "arm").parent.iterdir()) == []


def test_place_that_cannot_hold_a_file_is_found_before_the_arm_is_touched(bus, home, capsys):
    (home / "calibration").write_text("in the way")
    hand = Hand(bus.servos)
    assert calibrate(bus, hand) == 2
    assert "is a file where a folder is needed" in tell(capsys)
    assert hand.questions == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_write_protected_file_is_refused(bus, capsys):
    path = calibration_path("follower", "arm")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    path.chmod(0o400)
    assert calibrate(bus, Hand(bus.servos)) == 2
    assert "write-protected" in tell(capsys)


def test_forgotten_joint_must_be_swept(bus, capsys):
    some = {name: (-1, 1) for name in JOINT_NAMES if name not in ("gripper", "shoulder_pan")}
    hand = Hand(bus.servos, sweeps=[some, {"shoulder_pan": (-1, 1)}, {"gripper": (-1, 1)}])
    assert calibrate(bus, hand) == 0
    said = tell(capsys)
    assert "Not swept from stop to stop: shoulder_pan, gripper" in said
    assert "Not swept from stop to stop: gripper" in said


def test_pose_far_from_the_middle_is_taken_again(bus, capsys):
    hand = Hand(bus.servos, answers=["", "", "y"])
    hand.sweeps *= 2
    hand.pose["elbow_flex"] = 1050
    poses = []

    def before(question):
        if "still" in question:
            poses.append(question)
            if len(poses) == 2:
                hand.pose["elbow_flex"] = 10

    hand.before = before
    assert calibrate(bus, hand) == 0
    assert "elbow_flex passed the end of its encoder" in tell(capsys)
    assert len(poses) == 2
    joint = Calibration.load(calibration_path("follower", "arm")).joints["elbow_flex"]
    assert 2199 <= joint.travel_ticks <= 2202


def test_short_sweep_is_used_only_on_request(bus, capsys):
    short = dict.fromkeys(JOINT_NAMES, (-1, 1)) | {"elbow_flex": (-0.5, 1)}
    hand = Hand(bus.servos, answers=["", "", "y"], sweeps=[short, {"elbow_flex": (-1, 1)}])
    assert calibrate(bus, hand) == 0
    assert "did it reach both stops?" in tell(capsys)
    joint = Calibration.load(calibration_path("follower", "arm")).joints["elbow_flex"]
    assert 2199 <= joint.travel_ticks <= 2202
    assert calibrate(bus, Hand(bus.servos, ["", "keep", "y"], [short]), name="kept") == 0
    assert calibrate(bus, Hand(bus.servos, [""], [short]), "--yes", name="no") == 2
    assert not calibration_path("follower", "no").exists()
    words = ("--yes", "--accept-unusual-travel")
    assert calibrate(bus, Hand(bus.servos, [""], [short]), *words, name="yes") == 0


def test_shaking_hand_must_hold_still(bus, capsys):
    hand = Hand(bus.servos, answers=["", "", "y"])
    shaking = []

    class Shaking(type(bus.servos[2])):
        def present_ticks(self):
            shaking.append(1)
            return super().present_ticks() + (40 if len(shaking) % 2 and len(shaking) < 14 else 0)

    bus.servos[2].__class__ = Shaking
    assert calibrate(bus, hand) == 0
    assert "shoulder_lift moved while the pose was read" in tell(capsys)


def test_offset_that_a_servo_cannot_hold_is_avoided(make_arm, capsys):
    with VirtualBus(make_arm((4095, 0, 100, 200, 300, 400)), wire_timing=False) as bus:
        for servo in bus.servos.values():
            servo._dither = random.Random()
            servo._dither.uniform = lambda _low, _high: 0.0
        hand = Hand(bus.servos, answers=["", "", "y"])
        polls = []

        def before(question):
            if "still" in question:
                polls.append(1)
                if len(polls) == 2:
                    hand.pose["shoulder_pan"] = -3

        hand.before = before
        assert calibrate(bus, hand) == 0
        assert "shoulder_pan would be 2048" in tell(capsys)
        assert eeprom(bus)["shoulder_pan"].homing_offset == 2045
        assert eeprom(bus)["shoulder_lift"].homing_offset == -2047


@pytest.mark.parametrize("answer", ["", "n", "no", "maybe", "q"])
def test_disagreeing_writes_nothing(bus, answer, capsys):
    assert calibrate(bus, Hand(bus.servos, answers=["", answer])) == 1
    assert "Cancelled" in tell(capsys)
    assert set(eeprom(bus).values()) == {FACTORY}
    assert not calibration_path("follower", "arm").exists()


def test_answers_that_end_early_write_nothing(bus, capsys):
    assert calibrate(bus, Hand(bus.servos, answers=[""])) == 2
    assert "ended before the last question" in tell(capsys)
    assert set(eeprom(bus).values()) == {FACTORY}


def test_arm_that_stands_is_released_after_a_warning(make_arm, capsys):
    arm = make_arm((1000,) * 6, torque=True)
    with VirtualBus(arm, wire_timing=False) as bus:
        hand = Hand(bus.servos, answers=["q"])
        assert calibrate(bus, hand) == 1
        assert "Hold it with one hand" in hand.questions[0]
        assert all(servo.memory.value(reg.TORQUE_ENABLE) for servo in bus.servos.values())


def test_file_is_exactly_what_its_reader_expects(home):
    joints = Calibration.load(data_path("sim_calibration.json")).joints
    path = home / "copy.json"
    path.write_text(as_json(joints))
    assert Calibration.load(path).joints == joints
    assert json.loads(path.read_text()) == json.loads(data_path("sim_calibration.json").read_text())
