"""Follower or leader: said only as far as the servos tell, and with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from so101_driver.arm_identity import CalibrationFile, judge, read_files
from so101_driver.arm_inspection import ArmReport, ServoReport, firmware_versions, inspect
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_servos import ServoCalibration
from so101_driver.joints import SERVO_IDS, data_path

FILE = data_path("sim_calibration.json")
HELD = {name: ServoCalibration.of(joint) for name, joint in Calibration.load(FILE).joints.items()}


def arm(**changes: object) -> ArmReport:
    held = list(HELD.values())
    return ArmReport(
        tuple(
            replace(ServoReport(servo_id, calibration=held[index]), **changes)
            for index, servo_id in enumerate(SERVO_IDS)
        )
    )


@pytest.mark.parametrize("kind", list(ArmKind))
def test_the_calibration_file_that_fits_decides(kind: ArmKind) -> None:
    identity = judge(arm(voltage_v=12.0), [CalibrationFile(kind, FILE, HELD)])
    assert (identity.kind, identity.certain, identity.file) == (kind, True, FILE)


def test_a_file_that_fits_both_decides_nothing() -> None:
    files = [CalibrationFile(kind, FILE, HELD) for kind in ArmKind]
    assert judge(arm(), files).kind is None


def test_equal_factory_values_are_no_evidence() -> None:
    new = ArmReport(tuple(ServoReport(servo_id) for servo_id in SERVO_IDS))
    files = [CalibrationFile(ArmKind.LEADER, FILE, new.calibrations)]
    assert judge(new, files).kind is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"voltage_v": 12.1}, "12.1 V"),
        ({"max_voltage_v": 14.0}, "12 V servos"),
        ({"max_torque": 500, "overload_torque": 25}, "limited in force"),
    ],
)
def test_twelve_volt_or_a_limited_gripper_make_a_follower_likely(changes, reason: str) -> None:
    identity = judge(arm(**changes), [])
    assert (identity.kind, identity.certain) == (ArmKind.FOLLOWER, False)
    assert reason in identity.because


def test_what_cannot_be_known_is_said() -> None:
    assert judge(arm(), []).kind is None
    assert "gear ratios" in judge(arm(), []).because
    assert "no servo answers" in judge(ArmReport(), []).because


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    files = read_files([(ArmKind.FOLLOWER, broken), (ArmKind.FOLLOWER, FILE)])
    assert [file.path for file in files] == [FILE]


@pytest.mark.bus
def test_inspection_reads_what_the_servos_hold_and_writes_nothing(calibrated_servos) -> None:
    before = [servo.read(0, 87) for servo in calibrated_servos.servos.values()]
    with ServoBus(calibrated_servos.port) as bus:
        report = inspect(bus)
    assert report.complete
    assert report.calibrations == HELD
    assert list(firmware_versions(report.servos)) == ["3.10"]
    assert [servo.read(0, 87) for servo in calibrated_servos.servos.values()] == before


@pytest.mark.bus
def test_inspection_goes_on_without_a_silent_servo(calibrated_servos) -> None:
    calibrated_servos.mute(4)
    with ServoBus(calibrated_servos.port) as bus:
        report = inspect(bus)
    assert report.silent == (4,)
    assert not report.complete


def test_inspection_counts_what_was_garbled_or_asked_again(calibrated_servos) -> None:
    with ServoBus(calibrated_servos.port) as bus:
        assert inspect(bus).damaged_replies == 0
        bus.counters.update(bad_checksum=2, garbage_bytes=1, retry=4)
        report = inspect(bus)
    assert report.damaged_replies == 3
    assert report.repeated >= 4
