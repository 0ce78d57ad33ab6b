"""The doctor's judgement of an arm: supply, heat, identity and calibration, each good and bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from so101_driver.arm_identity import CalibrationFile
from so101_driver.arm_inspection import ArmReport, ServoReport
from so101_driver.calibration import Calibration
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_servos import ServoCalibration
from so101_driver.joints import SERVO_IDS, data_path
from so101_driver.protocol import ServoError
from so101_driver.servo_search import Found
from wallx_bringup.doctor.arm_checks import Arm, check_arm
from wallx_bringup.doctor.report import Check, Level

FILE = data_path("sim_calibration.json")
HELD = {name: ServoCalibration.of(joint) for name, joint in Calibration.load(FILE).joints.items()}
FILES = (CalibrationFile(ArmKind.FOLLOWER, FILE, HELD),)


def servos(**changes: object) -> tuple[ServoReport, ...]:
    return tuple(
        replace(ServoReport(servo_id, calibration=held), **changes)
        for servo_id, held in zip(SERVO_IDS, HELD.values(), strict=True)
    )


def but(number: int, reports: tuple[ServoReport, ...], **changes: object) -> ArmReport:
    """Change one servo."""
    return ArmReport(tuple(replace(s, **changes) if s.servo_id == number else s for s in reports))


def check(
    report: ArmReport,
    name: str,
    files=FILES,
    given=None,
    kind: ArmKind = ArmKind.FOLLOWER,
    elsewhere: tuple[Found, ...] = (),
) -> Check:
    checks = check_arm(Arm(kind, "/dev/ttyACM0", report, elsewhere), files, given)
    return {c.name: c for c in checks}[f"{kind} {name}"]


def test_a_good_arm_passes_everything() -> None:
    checks = check_arm(Arm(ArmKind.FOLLOWER, "/dev/ttyACM0", ArmReport(servos())), FILES, None)
    assert {c.level for c in checks} == {Level.PASS}
    assert len(checks) == 6


@pytest.mark.parametrize(
    ("report", "elsewhere", "said"),
    [
        (ArmReport(), (), "no servo answers"),
        (ArmReport(servos()[:2]), (), "servo 3 (elbow_flex), servo 4 (wrist_flex)"),
        (
            ArmReport(servos()[:5]),
            (Found(6, 115_200),),
            "servo 6 (gripper) is missing; found instead: id 6 at 115,200 baud",
        ),
        (ArmReport(servos()[1:], damaged_replies=4), (), "two servos have the same id"),
        (but(2, servos(), model=1029), (), "servo 2 (shoulder_lift) is model 1029"),
    ],
)
def test_servos_that_do_not_answer_as_they_should_fail(report, elsewhere, said: str) -> None:
    found = check(report, "servos", elsewhere=elsewhere)
    assert found.level is Level.FAIL
    assert said in found.text
    assert found.fix


@pytest.mark.parametrize(
    ("damaged", "repeated", "level"),
    [(0, 2, Level.PASS), (0, 3, Level.WARN), (1, 1, Level.WARN)],
)
def test_a_loose_plug_is_suspected_when_replies_are_lost(damaged, repeated, level) -> None:
    found = check(ArmReport(servos(), damaged, repeated), "servos")
    assert found.level is level
    assert level is Level.PASS or "loose" in found.fix


def test_servos_that_answer_late_are_not_called_silent() -> None:
    arm = Arm(ArmKind.FOLLOWER, "/dev/ttyACM0", ArmReport(servos()[:4]), late=(5, 6))
    (found, *_) = check_arm(arm, FILES, None)
    assert found.level is Level.FAIL
    assert "too slow to answer" in found.text


def test_different_firmware_fails_and_is_listed() -> None:
    found = check(but(5, servos(), firmware="3.9"), "firmware")
    assert found.level is Level.FAIL
    assert "3.9 in servo 5 (wrist_roll)" in found.text


@pytest.mark.parametrize(
    ("report", "level", "said"),
    [
        (ArmReport(servos(voltage_v=12.2)), Level.FAIL, "may have 8.0 V at most"),
        (ArmReport(servos(voltage_v=3.2)), Level.FAIL, "needs 4.0 V at least"),
        (ArmReport(servos(voltage_v=12.2, max_voltage_v=14.0)), Level.PASS, "12.2 V fits"),
        (ArmReport(servos(voltage_v=5.1, max_voltage_v=14.0)), Level.WARN, "weak and slow"),
        (but(4, servos(), max_voltage_v=14.0), Level.WARN, "different parts"),
        (but(6, servos(voltage_v=5.2), voltage_v=4.4), Level.WARN, "4.4 V at servo 6 (gripper)"),
        (ArmReport(servos(voltage_v=7.4)), Level.PASS, "7.4 V fits"),
    ],
)
def test_the_supply_is_compared_with_what_the_servos_accept(report, level, said: str) -> None:
    found = check(report, "supply")
    assert found.level is level, found
    assert said in found.text


def test_a_12_v_supply_on_7_v_servos_must_be_switched_off() -> None:
    assert "switch the supply off now" in check(ArmReport(servos(voltage_v=12.0)), "supply").fix


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"temperature_c": 61.0}, Level.WARN, "servo 3 (elbow_flex) has 61 °C"),
        ({"temperature_c": 59.0}, Level.PASS, "59 °C"),
        ({"temperature_c": 46.0, "max_temperature_c": 50.0}, Level.WARN, "lets go at 50 °C"),
        ({"error": ServoError.OVERLOAD}, Level.FAIL, "pressed too long"),
        ({"error": ServoError.VOLTAGE | ServoError.TEMPERATURE}, Level.FAIL, "too hot"),
    ],
)
def test_heat_and_error_bits_are_told(changes, level, said: str) -> None:
    found = check(but(3, servos(), **changes), "condition")
    assert found.level is level
    assert said in found.text


def test_exchanged_ports_fail_when_a_file_tells() -> None:
    files = (CalibrationFile(ArmKind.LEADER, Path("/c/so_leader/mine.json"), HELD),)
    found = check(ArmReport(servos()), "identity", files)
    assert found.level is Level.FAIL
    assert "this is the leader" in found.text
    assert "/c/so_leader/mine.json" in found.text
    assert "exchange the ports" in found.fix


def test_a_leader_with_12_v_is_only_suspected() -> None:
    report = ArmReport(servos(voltage_v=12.0, max_voltage_v=14.0))
    found = check(report, "identity", (), kind=ArmKind.LEADER)
    assert found.level is Level.WARN
    assert "seems to be the follower" in found.text


def test_what_no_register_tells_is_not_claimed() -> None:
    found = check(ArmReport(servos()), "identity", ())
    assert found.level is Level.SKIP
    assert "cannot tell" in found.text


def test_an_arm_without_calibration_fails() -> None:
    new = ArmReport(tuple(ServoReport(servo_id) for servo_id in SERVO_IDS))
    found = check(new, "calibration", ())
    assert found.level is Level.FAIL
    assert "calibrate" in found.fix


def test_a_calibration_that_no_file_holds_is_warned_of() -> None:
    found = check(ArmReport(servos()), "calibration", ())
    assert found.level is Level.WARN
    assert "none of the 0 follower files" in found.text
    assert found.fix.endswith("--name my_follower --from-servos")


def changed_file(folder: Path, changes: dict[str, dict[str, int]]) -> Path:
    content = json.loads(FILE.read_text())
    for joint, values in changes.items():
        for key, value in values.items():
            content[joint][key] += value
    path = folder / "my arm.json"
    path.write_text(json.dumps(content))
    return path


def test_a_named_file_is_compared_with_the_servos(tmp_path: Path) -> None:
    report = ArmReport(servos())
    assert check(report, "calibration", given=FILE).level is Level.PASS
    other = changed_file(tmp_path, {"elbow_flex": {"range_min": 10}})
    found = check(report, "calibration", given=other)
    assert found.level is Level.FAIL
    assert "another calibration of this arm: elbow_flex" in found.text
    assert (
        f"wallx calibrate --kind follower --port /dev/ttyACM0 --file '{other}' --check" in found.fix
    )


def test_a_file_of_another_arm_is_recognised_by_its_stops(tmp_path: Path) -> None:
    shift = {"homing_offset": 300}
    joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "gripper")
    other = changed_file(tmp_path, dict.fromkeys(joints, shift))
    found = check(ArmReport(servos()), "calibration", given=other)
    assert found.level is Level.FAIL
    assert "another arm" in found.text


def test_a_damaged_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    found = check(ArmReport(servos()), "calibration", given=path)
    assert found.level is Level.FAIL
    assert f"the calibration {path} is not JSON" in found.text


def test_an_incomplete_arm_is_not_compared() -> None:
    assert check(ArmReport(servos()[:5]), "calibration").level is Level.SKIP


def test_exchanged_arms_are_not_compared_with_the_wrong_files() -> None:
    files = (CalibrationFile(ArmKind.LEADER, FILE, HELD),)
    assert check(ArmReport(servos()), "calibration", files).level is Level.SKIP
