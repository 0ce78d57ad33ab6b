"""A calibration that fails half way must leave file and servos as they were, or say what they are.

The same hand calibrates; it is interrupted, servos fall silent or keep what they hold, files cannot
be written.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest
from bus_proof.hand import Hand, calibrate, eeprom, mounted_arm
from so101_driver.calibration import Calibration
from so101_driver.calibration_files import calibration_path
from so101_driver.calibration_servos import FACTORY, ServoCalibration
from so101_driver.sim import VirtualBus

from so101_driver import calibration_walk
from so101_driver import registers as reg

pytestmark = pytest.mark.bus


@pytest.fixture
def bus():
    with VirtualBus(mounted_arm((100, 4000, 2500, 1000, 3000, 40)), wire_timing=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "calibration"))
    monkeypatch.setattr(calibration_walk, "_PERIOD_S", 0.0)
    return tmp_path


def tell(capsys):
    captured = capsys.readouterr()
    # The tables' wrapping is rich's business.
    return " ".join((captured.out + captured.err).split())


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_after_the_writing_does_not_call_it_undone(bus, number, capsys, monkeypatch):
    def late(*_args):
        signal.raise_signal(number)
        return "wallx calibrate --check"

    monkeypatch.setattr("so101_driver.calibrate.again", late)
    assert calibrate(bus, Hand(bus.servos)) == 0
    said = tell(capsys)
    assert "Calibrated." in said
    assert "as they were" not in said


@pytest.mark.parametrize("stage", range(3))
def test_servo_that_falls_silent_is_named_and_nothing_has_changed(bus, stage, capsys, monkeypatch):
    monkeypatch.setattr(calibration_walk, "_SILENT_S", 0.3)
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


def test_servos_that_cannot_be_put_back_are_not_called_unchanged(bus, monkeypatch, capsys):
    def full(*_args):
        bus.mute(3)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("so101_driver.calibration_files.os.replace", full)
    assert calibrate(bus, Hand(bus.servos)) == 2
    said = tell(capsys)
    assert "No space left" in said
    assert "could not be put back" in said
    assert "nothing was written" not in said


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
