"""A calibration decides where every later command goes: it must be right.

A scripted hand moves the joints of virtual servos whose encoders were mounted anyhow.
"""

from __future__ import annotations

import json
import random
import stat

import numpy as np
import pytest
from bus_proof.hand import TRAVEL, Hand, calibrate, eeprom, mounted_arm
from so101_driver.calibrate import run
from so101_driver.calibration import Calibration, as_json
from so101_driver.calibration_files import calibration_path
from so101_driver.joints import JOINT_NAMES, data_path
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


@pytest.mark.parametrize("seed", range(4))
def test_unknown_arm_comes_out_right_to_the_tick(seed, capsys):
    rng = random.Random(seed)
    middles = [rng.randrange(4095) for _ in range(6)]
    offsets = [rng.randrange(-2047, 2048) for _ in range(6)]
    with VirtualBus(mounted_arm(middles, offsets, torque=True), wire_timing=False) as bus:
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


def test_offset_that_a_servo_cannot_hold_is_avoided(capsys):
    with VirtualBus(mounted_arm((4095, 0, 100, 200, 300, 400)), wire_timing=False) as bus:
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


def test_arm_that_stands_is_released_after_a_warning(capsys):
    arm = mounted_arm((1000,) * 6, torque=True)
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
