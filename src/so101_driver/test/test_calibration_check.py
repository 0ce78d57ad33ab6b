"""Peers' arms move by another arm's numbers: what differs, and why, must be said joint by joint."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from so101_driver.bus import ServoBus
from so101_driver.calibrate import run
from so101_driver.calibration import Calibration, as_json
from so101_driver.calibration_compare import (
    Convention,
    Verdict,
    compare,
    convention,
    other_stops,
    verdict,
)
from so101_driver.calibration_files import calibration_path, save
from so101_driver.calibration_servos import FACTORY, ServoCalibration, read_servos
from so101_driver.joints import JOINT_NAMES, SERVO_ID_OF, data_path
from so101_driver.serial_ports import SerialPort

from so101_driver import registers as reg

SIM = Calibration.load(data_path("sim_calibration.json")).joints


def held(joints=SIM):
    return {name: ServoCalibration.of(joint) for name, joint in joints.items()}


def recalibrated(shift=120):
    """The same arm, held in another middle pose: the offset moves, and the range against it."""
    return {
        name: joint
        if name == "wrist_roll"
        else replace(
            joint,
            homing_offset=joint.homing_offset + shift,
            range_min=joint.range_min - shift + 3,
            range_max=joint.range_max - shift - 2,
        )
        for name, joint in SIM.items()
    }


def other_arm():
    shifts = dict(zip(JOINT_NAMES, (-900, 700, -400, 1100, 300, -800), strict=True))
    return {
        name: replace(
            joint, homing_offset=(joint.homing_offset + shifts[name] + 2047) % 4095 - 2047
        )
        for name, joint in SIM.items()
    }


class Answer:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.questions = []

    def ask(self, question):
        self.questions.append(question)
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))


def store(joints, name="arm", kind="follower"):
    path = calibration_path(kind, name)
    save(path, as_json(joints), "then")
    return path


def tell(capsys):
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_verdicts():
    def of(file, servos):
        return verdict(compare(file, servos))

    assert of(SIM, held()) is Verdict.EQUAL
    assert of(SIM, dict.fromkeys(JOINT_NAMES, FACTORY)) is Verdict.UNCALIBRATED
    assert of(recalibrated(), held()) is Verdict.OTHER_CALIBRATION
    assert of(other_arm(), held()) is Verdict.OTHER_ARM
    replaced = {**SIM, "elbow_flex": other_arm()["elbow_flex"]}
    assert of(replaced, held()) is Verdict.SOME_JOINTS
    assert other_stops(compare(replaced, held())) == ["elbow_flex"]
    fresh = {**held(), "wrist_roll": FACTORY}
    assert of(SIM, fresh) is Verdict.SOME_JOINTS, "its zero is anywhere in the turn"
    assert other_stops(compare(SIM, fresh)) == ["wrist_roll"]
    turned = {**SIM, "wrist_roll": replace(SIM["wrist_roll"], homing_offset=700)}
    assert of(turned, held()) is Verdict.OTHER_CALIBRATION


def test_zero_shift_is_what_the_arm_shows():
    joints = compare(recalibrated(), held())
    assert [joint.zero_shift_ticks for joint in joints] == [0.5, 0.5, 0.5, 0.5, 0.0, 0.5]
    moved = {**SIM, "elbow_flex": replace(SIM["elbow_flex"], range_max=3066 - 200)}
    assert compare(moved, held())[2].zero_shift_ticks == -100
    # Across the wrap the short way counts.
    far = replace(SIM["elbow_flex"], homing_offset=-2000)
    near = replace(SIM["elbow_flex"], homing_offset=2047)
    shift = compare({**SIM, "elbow_flex": far}, held({**SIM, "elbow_flex": near}))[2]
    assert shift.zero_shift_ticks == 49


def test_conventions_are_told_by_where_the_held_pose_lies_in_the_range():
    assert convention(SIM) is Convention.NEW
    per_rad = 4096 / (2 * np.pi)
    old = {
        **SIM,
        "shoulder_lift": replace(SIM["shoulder_lift"], range_min=0, range_max=2047 + 115),
        "elbow_flex": replace(
            SIM["elbow_flex"],
            range_min=round(2047 - 0.175 * per_rad),
            range_max=round(2047 + 3.1 * per_rad),
        ),
    }
    assert convention(old) is Convention.OLD
    assert convention({**SIM, "elbow_flex": old["elbow_flex"]}) is Convention.UNCLEAR
    assert convention(dict.fromkeys(JOINT_NAMES, FACTORY)) is Convention.UNCLEAR


@pytest.mark.bus
def test_equal_is_status_0(calibrated_servos, capsys):
    store(SIM)
    assert run(["--port", calibrated_servos.port, "--check"]) == 0
    said = tell(capsys)
    assert "File and servos are equal." in said
    assert "new convention" in said
    for name in JOINT_NAMES:
        assert name in said


@pytest.mark.bus
def test_each_difference_is_printed_in_ticks_and_degrees(calibrated_servos, capsys):
    store({**SIM, "elbow_flex": replace(SIM["elbow_flex"], homing_offset=1234, range_max=3056)})
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    said = tell(capsys)
    assert "homing offset │ 1234 │ 1214 │ +20 │ +1.8°" in said
    assert "range max │ 3056 │ 3066 │ -10 │ -0.9°" in said
    assert "zero, on the arm │ │ │ +15 │ +1.3°" in said
    assert "same stops" in said


@pytest.mark.bus
@pytest.mark.parametrize(
    ("file", "words"),
    [
        (recalibrated(), "it is this arm, calibrated twice"),
        (other_arm(), "the file is of another arm"),
        ({**SIM, "gripper": other_arm()["gripper"]}, "The stops of gripper are elsewhere"),
    ],
)
def test_reasons_are_said(calibrated_servos, capsys, file, words):
    store(file)
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    assert words in tell(capsys)


@pytest.mark.bus
@pytest.mark.parametrize("joint", ["wrist_roll", "gripper"])
def test_replaced_servo_is_named_and_not_given_the_old_numbers(calibrated_servos, capsys, joint):
    store(SIM)
    memory = calibrated_servos.servos[SERVO_ID_OF[joint]].memory
    for register, value in zip(
        (reg.HOMING_OFFSET, reg.MIN_POSITION, reg.MAX_POSITION), (0, 0, 4095), strict=True
    ):
        memory.put(register, value)
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    said = tell(capsys)
    assert f"Factory values in {joint} only: that servo was replaced or reset." in said
    assert "--to-servos" not in said
    assert "stops" not in said


@pytest.mark.bus
def test_unusual_range_differs_from_the_urdf_until_accepted(calibrated_servos, capsys):
    short = {**SIM, "elbow_flex": replace(SIM["elbow_flex"], range_max=2500)}
    calibrated_servos.servos[3].memory.put(reg.MAX_POSITION, 2500)
    store(short)
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    assert "elbow_flex has a range of 144°" in tell(capsys)
    words = ["--check", "--accept-unusual-travel"]
    assert run(["--port", calibrated_servos.port, *words]) == 0


@pytest.mark.bus
def test_the_file_that_fits_is_named(calibrated_servos, capsys):
    store(other_arm())
    twin = store(SIM, "second")
    assert run(["--port", calibrated_servos.port, "--name", "arm", "--check"]) == 1
    said = capsys.readouterr().out.replace("\n", "")
    assert str(twin) in said
    assert "give that --name" in said


@pytest.mark.bus
def test_leaders_file_for_a_follower_is_recognised(calibrated_servos, capsys):
    store(other_arm())
    store(SIM, "lead", "leader")
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    said = tell(capsys)
    assert "are the two arms swapped?" in said
    assert "?." not in said
    leader = calibration_path("leader", "lead")
    run(["--port", calibrated_servos.port, "--file", str(leader), "--check"])
    assert "lies in a leader's folder" in tell(capsys)


@pytest.mark.bus
def test_stale_servos_are_recognised_by_an_earlier_version_of_the_file(calibrated_servos, capsys):
    path = store(SIM)
    save(path, as_json(recalibrated()), time.strftime("%Y"))
    assert run(["--port", calibrated_servos.port, "--check"]) == 1
    assert "an earlier version of the file" in tell(capsys)


@pytest.mark.bus
def test_settled_with_the_files_values(calibrated_servos, capsys):
    path = store(recalibrated())
    bus = calibrated_servos
    answer = Answer("no")
    assert run(["--port", bus.port, "--to-servos"], answer) == 1
    with ServoBus(bus.port) as opened:
        assert read_servos(opened) == held()
    assert run(["--port", bus.port, "--to-servos"], Answer("yes")) == 0
    for servo in bus.servos.values():
        servo.power_cycle()
    with ServoBus(bus.port) as opened:
        assert read_servos(opened) == held(recalibrated())
    assert run(["--port", bus.port, "--check"]) == 0
    assert Calibration.load(path).joints == recalibrated()
    assert "wrist_roll" not in tell(capsys).split("Written and read back:")[1].split(".")[0]


@pytest.mark.bus
def test_standing_arm_is_held_before_its_zero_moves(calibrated_servos, capsys):
    store(recalibrated())
    for servo in calibrated_servos.servos.values():
        servo.write(40, b"\x01", 0.0)
    before = {i: servo.position_rad for i, servo in calibrated_servos.servos.items()}
    answer = Answer("y", "")
    assert run(["--port", calibrated_servos.port, "--to-servos"], answer) == 0
    assert "Hold it" in answer.questions[1]
    assert {i: servo.position_rad for i, servo in calibrated_servos.servos.items()} == before
    assert not any(s.memory.value(reg.TORQUE_ENABLE) for s in calibrated_servos.servos.values())


@pytest.mark.bus
def test_settled_with_the_servos_values(calibrated_servos, capsys):
    path = store(recalibrated())
    assert run(["--port", calibrated_servos.port, "--from-servos"], Answer("no")) == 1
    assert Calibration.load(path).joints == recalibrated()
    assert run(["--port", calibrated_servos.port, "--from-servos", "--yes"]) == 0
    assert Calibration.load(path).joints == SIM
    (copy,) = path.parent.glob("*.bak")
    assert Calibration.load(copy).joints == recalibrated()


@pytest.mark.bus
def test_file_is_made_of_servos_that_another_computer_calibrated(calibrated_servos, capsys):
    assert run(["--port", calibrated_servos.port, "--from-servos"]) == 2
    assert "give it a --name" in tell(capsys)
    assert run(["--port", calibrated_servos.port, "--name", "mine", "--from-servos"]) == 0
    assert Calibration.load(calibration_path("follower", "mine")).joints == SIM


@pytest.mark.bus
def test_file_in_an_older_folder_is_found_and_named_when_replaced(
    calibrated_servos, capsys, tmp_path
):
    older = tmp_path / "robots/so101_follower/arm.json"
    older.parent.mkdir(parents=True)
    older.write_text(as_json(recalibrated()))
    assert run(["--port", calibrated_servos.port, "--name", "arm", "--check"]) == 1
    capsys.readouterr()
    words = ["--name", "arm", "--from-servos", "--yes"]
    assert run(["--port", calibrated_servos.port, *words]) == 0
    assert "is now out of date" in tell(capsys)
    assert Calibration.load(older).joints == recalibrated()
    assert Calibration.load(calibration_path("follower", "arm")).joints == SIM


@pytest.mark.bus
def test_values_that_are_no_calibration_are_not_saved(calibrated_servos, capsys):
    for servo in calibrated_servos.servos.values():
        servo.memory.put(reg.HOMING_OFFSET, 0)
        servo.memory.put(reg.MIN_POSITION, 0)
        servo.memory.put(reg.MAX_POSITION, 4095)
    words = ["--port", calibrated_servos.port, "--name", "arm", "--from-servos"]
    assert run(words) == 2
    assert "factory values" in tell(capsys)
    calibrated_servos.servos[2].memory.put(reg.MIN_POSITION, 4000)
    assert run(words) == 2
    assert "shoulder_lift was swept over 95 ticks only" in tell(capsys)


def test_file_of_the_old_format_is_explained(tmp_path, capsys):
    path = tmp_path / "main_follower.json"
    old = {
        "homing_offset": [2048] * 6,
        "drive_mode": [0, 1, 0, 0, 1, 0],
        "start_pos": [2000] * 6,
        "end_pos": [3000] * 6,
        "calib_mode": ["DEGREE"] * 5 + ["LINEAR"],
        "motor_names": list(JOINT_NAMES),
    }
    path.write_text(json.dumps(old))
    assert run(["--port", "/dev/null", "--file", str(path), "--check"]) == 2
    assert "LeRobot before May 2025" in tell(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check"], "there is no calibration of a follower"),
        (["--name", "absent", "--check"], "there is no calibration of a follower"),
        (["--file", "absent.json", "--to-servos"], "cannot read the calibration absent.json"),
        (["--name", "a/b"], "cannot be the name of a file"),
        (["--name", ""], "cannot be the name of a file"),
        (["--name", ".."], "cannot be the name of a file"),
        (["--name", "a", "--file", "b"], "not both"),
        (["--file", "/"], "is a folder"),
        (["--name", "a", "--port", "/dev/absent"], "/dev/absent does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(words, said, capsys):
    if "--port" not in words:
        words = ["--port", "/dev/absent", *words]
    assert run(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_without_a_port_only_a_known_adapter_is_spoken_to(monkeypatch, capsys):
    arduino = SerialPort("/dev/ttyACM0", "2341:0043", "Arduino Uno")
    monkeypatch.setattr("so101_driver.serial_ports.list_ports", lambda *_folders: (arduino,))
    store(SIM)
    assert run(["--check"]) == 2
    assert "no bus adapter is plugged in" in capsys.readouterr().err


def test_one_of_several_files_must_be_named(capsys):
    store(SIM, "one")
    store(SIM, "two")
    assert run(["--port", "/dev/absent", "--check"]) == 2
    assert "give --name, one of one, two" in capsys.readouterr().err


def test_a_name_without_a_file_is_answered_with_those_that_have_one(capsys):
    store(SIM, "one")
    store(SIM, "two")
    assert run(["--port", "/dev/absent", "--name", "three", "--check"]) == 2
    assert "no follower named 'three' has a calibration; those that have: one, two." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [["--check", "--to-servos"], ["--kind", "robot"], ["--nothing"]])
def test_bad_options_end_with_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(words)
    assert ended.value.code == 2
    assert "usage: calibrate" in capsys.readouterr().err
