"""The servos: who answers, supply, heat, which arm it is, and whether its calibration fits."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from so101_driver.arm_identity import TWELVE_VOLT_PART_V, CalibrationFile, judge
from so101_driver.arm_inspection import ArmReport, ServoReport, firmware_versions
from so101_driver.calibration import Calibration
from so101_driver.calibration_compare import Verdict, compare, other_stops, verdict
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_servos import FACTORY
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import servo_name
from so101_driver.registers import MODEL_NUMBER
from so101_driver.servo_search import Found

from wallx_bringup.doctor.report import Check, failed, passed, skipped, warned

_HOT_BELOW_LIMIT_C = 10.0
_SPREAD_V = 0.6
"""Servos of one chain that see more than this apart have a bad cable between them."""
_WEAK_12_V = 9.0
_MANY_REPEATED = 3
"""Of the 18 questions that an arm is asked; a busy machine may miss one."""

_ERRORS = {
    ServoError.VOLTAGE: "its supply is outside its range",
    ServoError.ENCODER: "its position sensor fails",
    ServoError.TEMPERATURE: "it is too hot and has let go",
    ServoError.CURRENT: "its current is too high",
    ServoError.OVERLOAD: "it has pressed too long and reduced its force",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm to check.

    Attributes:
        kind: What it is meant to be.
        port: Where it answers.
        report: What its servos say.
        elsewhere: Servos that answer at other ids or baud rates.
        late: Ids that the report calls silent, but that do answer when more time is given.
    """

    kind: ArmKind
    port: str
    report: ArmReport
    elsewhere: tuple[Found, ...] = ()
    late: tuple[int, ...] = ()

    def check(self, what: str) -> str:
        """Return a name for a check of this arm."""
        return f"{self.kind} {what}"


def check_arm(arm: Arm, files: Sequence[CalibrationFile], given: Path | None) -> list[Check]:
    """Check everything that the servos tell.

    Args:
        arm: The arm.
        files: Every calibration file there is.
        given: The file that the user named.
    """
    checks = [_check_servos(arm)]
    if not arm.report.servos:
        return checks
    checks.append(_check_firmware(arm))
    checks.append(_check_supply(arm))
    checks.append(_check_condition(arm))
    checks.append(_check_role(arm, files))
    checks.append(_check_calibration(arm, files, given))
    return checks


def _check_servos(arm: Arm) -> Check:
    name, report = arm.check("servos"), arm.report
    strangers = [s for s in report.servos if s.model != MODEL_NUMBER]
    if strangers:
        held = ", ".join(f"{s.name} is model {s.model}" for s in strangers)
        return failed(
            name, f"{held}, not an STS3215 ({MODEL_NUMBER}).", "put an STS3215 in its place."
        )
    if not report.silent and (report.damaged_replies or report.repeated >= _MANY_REPEATED):
        return warned(
            name,
            f"all six answer, but {report.damaged_replies} replies came garbled and "
            f"{report.repeated} questions had to be asked again.",
            "a plug is loose or a cable is damaged: push them in, move each, and look again.",
        )
    if not report.silent:
        return passed(name, f"all six answer at 1,000,000 baud as model {MODEL_NUMBER}.")
    if arm.elsewhere:
        where = ", ".join(f"id {f.servo_id} at {f.baud_rate:,} baud" for f in arm.elsewhere)
        return failed(
            name,
            f"{_names(report.silent)} missing; found instead: {where}.",
            f"give each motor its id and baud rate: wallx setup-motors --port {arm.port}",
        )
    if set(arm.late) >= set(report.silent):
        return failed(
            name,
            f"{_names(report.silent)} too slow to answer in time, or answer only at times.",
            "use a USB bus adapter (a bridge through a microcontroller is too slow), check the "
            "cables, and see that no two servos have the same id.",
        )
    if report.damaged_replies:
        return failed(
            name,
            f"{_names(report.silent)} missing, and replies come garbled: two servos have the same "
            "id, or a cable is loose.",
            f"check the cables, then: wallx setup-motors --port {arm.port}",
        )
    if not report.servos:
        return failed(
            name,
            f"no servo answers on {arm.port}.",
            "switch the arm's power supply on (USB does not feed the motors), and check the cable "
            "from the board to the first servo.",
        )
    first = report.silent[0]
    return failed(
        name,
        f"{_names(report.silent)} silent, the others answer.",
        f"check the cable that leads to {servo_name(first)}; a servo that was overloaded may need "
        "the supply switched off and on; a new one needs `wallx setup-motors`.",
    )


def _check_firmware(arm: Arm) -> Check:
    name = arm.check("firmware")
    versions = firmware_versions(arm.report.servos)
    if len(versions) == 1:
        return passed(name, f"the same in all servos that answer ({next(iter(versions))}).")
    held = "; ".join(
        f"{version} in {', '.join(s.name for s in servos)}" for version, servos in versions.items()
    )
    return failed(
        name,
        f"different versions: {held}.",
        "bring all to one version with Feetech's FD program; to try it meanwhile, set the driver's "
        "parameter allow_mixed_firmware.",
    )


def _check_supply(arm: Arm) -> Check:
    name, servos = arm.check("supply"), arm.report.servos
    over = [s for s in servos if s.voltage_v > s.max_voltage_v]
    if over:
        worst = over[0]
        part = "7.4 V servos" if worst.max_voltage_v < TWELVE_VOLT_PART_V else "these servos"
        return failed(
            name,
            f"{worst.voltage_v:.1f} V, but {_list(over)} may have {worst.max_voltage_v:.1f} V at "
            f"most (its register 14): this supply is too strong for {part}.",
            "switch the supply off now; 7.4 V servos need 5 V, 12 V servos 12 V.",
        )
    under = [s for s in servos if s.voltage_v < s.min_voltage_v]
    if under:
        return failed(
            name,
            f"{under[0].voltage_v:.1f} V, but {_list(under)} needs {under[0].min_voltage_v:.1f} V "
            "at least.",
            "use the supply for its part (5 V 4 A or 12 V 5 A) and check its plug.",
        )
    parts = {s.max_voltage_v > TWELVE_VOLT_PART_V for s in servos}
    if len(parts) > 1:
        weak = [s for s in servos if s.max_voltage_v <= TWELVE_VOLT_PART_V]
        return warned(
            name,
            f"{_list(weak)} accepts 8 V at most, others 12 V: different parts, or changed limits.",
            "never feed them 12 V together; read the labels of the servos.",
        )
    volts = [s.voltage_v for s in servos]
    if max(volts) - min(volts) > _SPREAD_V:
        low = min(servos, key=lambda s: s.voltage_v)
        return warned(
            name,
            f"{max(volts):.1f} V at one servo and {min(volts):.1f} V at {low.name}.",
            "the cable or plug before that servo has a bad contact: push it in or replace it.",
        )
    if parts == {True} and max(volts) < _WEAK_12_V:
        return warned(
            name,
            f"{max(volts):.1f} V at servos that accept 12 V: an arm of 12 V parts is weak and slow "
            "with it.",
            "read the servos' labels: 12 V parts (C018) need 12 V, 7.4 V parts 5 V.",
        )
    low_v, high_v = servos[0].min_voltage_v, servos[0].max_voltage_v
    return passed(
        name,
        f"{sum(volts) / len(volts):.1f} V fits what the servos accept ({low_v:.1f} to "
        f"{high_v:.1f} V, registers 15 and 14).",
    )


def _check_condition(arm: Arm) -> Check:
    name, servos = arm.check("condition"), arm.report.servos
    complaints = [f"{s.name}: {_complaint(s.error)}" for s in servos if s.error]
    if complaints:
        return failed(
            name,
            f"{'; '.join(complaints)}.",
            "support the arm, switch its supply off, let it cool, find what it pressed against, "
            "and switch it on again.",
        )
    hottest = max(servos, key=lambda s: s.temperature_c - s.max_temperature_c)
    if hottest.temperature_c > hottest.max_temperature_c - _HOT_BELOW_LIMIT_C:
        return warned(
            name,
            f"{hottest.name} has {hottest.temperature_c:.0f} °C and lets go at "
            f"{hottest.max_temperature_c:.0f} °C.",
            "let it rest in a pose that needs no force.",
        )
    warmest = max(s.temperature_c for s in servos)
    return passed(name, f"no error bits; the warmest servo has {warmest:.0f} °C.")


def _check_role(arm: Arm, files: Sequence[CalibrationFile]) -> Check:
    name = arm.check("identity")
    identity = judge(arm.report, files)
    if identity.kind is None:
        return skipped(
            name,
            f"cannot tell whether this is the {arm.kind}: {identity.because}.",
            "calibrate it; then its calibration file tells. Until then: the leader's joints turn "
            "easily by hand without power, the follower's do not.",
        )
    if identity.kind is arm.kind:
        surely = "" if identity.certain else "probably "
        return passed(name, f"{surely}the {arm.kind}: {identity.because}.")
    fix = f"exchange the ports (or the cables): {arm.port} is the {identity.kind}'s."
    if identity.certain:
        return failed(name, f"this is the {identity.kind}: {identity.because}.", fix)
    return warned(name, f"this seems to be the {identity.kind}: {identity.because}.", fix)


def _check_calibration(arm: Arm, files: Sequence[CalibrationFile], given: Path | None) -> Check:
    name, held = arm.check("calibration"), arm.report.calibrations
    if arm.report.silent:
        return skipped(name, "not compared: not every servo answers.")
    identity = judge(arm.report, files)
    if identity.certain and identity.kind is not arm.kind:
        return skipped(name, f"not compared: this is the {identity.kind}.")
    if given is not None:
        return _compare_with(arm, given)
    same = [file.path for file in files if file.servos == held and file.kind is arm.kind]
    if same:
        return passed(name, f"the servos hold what {same[0]} says.")
    calibrate = _calibrate(arm, "--name", f"my_{arm.kind}")
    if all(servo == FACTORY for servo in held.values()):
        return failed(name, "this arm was never calibrated.", f"calibrate it: {calibrate}")
    count = sum(file.kind is arm.kind for file in files)
    return warned(
        name,
        f"calibrated, but none of the {count} {arm.kind} files on this machine holds its numbers.",
        "copy the file from the machine where it was calibrated, or write one of what the servos "
        f"hold: {calibrate} --from-servos",
    )


def _compare_with(arm: Arm, path: Path) -> Check:
    name = arm.check("calibration")
    try:
        joints = compare(Calibration.load(path).joints, arm.report.calibrations)
    except UserError as error:
        return failed(
            name, str(error), "give this arm's file, or none: then the one that fits is looked for."
        )
    differing = [joint.name for joint in joints if not joint.equal]
    check = _calibrate(arm, "--file", path, "--check")
    match verdict(joints):
        case Verdict.EQUAL:
            return passed(name, f"the servos hold what {path} says.")
        case Verdict.UNCALIBRATED:
            return failed(
                name,
                f"the servos hold no calibration, {path} does.",
                "if the file is this arm's, write it to them: "
                f"{_calibrate(arm, '--file', path, '--to-servos')}",
            )
        case Verdict.OTHER_ARM:
            return failed(
                name,
                f"{path} is of another arm: its stops are elsewhere.",
                f"give this arm's file, or see the numbers: {check}",
            )
        case Verdict.SOME_JOINTS:
            return failed(
                name,
                f"{path} does not fit: the stops of {', '.join(other_stops(joints))} are "
                "elsewhere (a servo was replaced or its horn moved).",
                f"calibrate the arm again; the numbers: {check}",
            )
        case _:
            return failed(
                name,
                f"{path} is another calibration of this arm: {', '.join(differing)} differ.",
                f"give the newest file, or see the numbers and settle it: {check}",
            )


def _calibrate(arm: Arm, *more: object) -> str:
    """Return a command to copy."""
    words = ("wallx", "calibrate", "--kind", arm.kind, "--port", arm.port, *more)
    return shlex.join(map(str, words))


def _complaint(error: ServoError) -> str:
    known = [text for bit, text in _ERRORS.items() if bit in error]
    return " and ".join(known) or f"error byte 0x{int(error):02X}"


def _list(servos: Sequence[ServoReport]) -> str:
    if len(servos) == len(SERVO_IDS):
        return "every servo"
    return ", ".join(servo.name for servo in servos)


def _names(servo_ids: Sequence[int]) -> str:
    if len(servo_ids) == len(JOINT_NAMES):
        return "all six servos are"
    return f"{', '.join(map(servo_name, servo_ids))} {'is' if len(servo_ids) == 1 else 'are'}"
