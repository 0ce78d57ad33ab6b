"""``wallx setup-motors``: walks through the six motors of a new arm."""

from __future__ import annotations

import argparse

from so101_driver.bus import BAUD_RATE
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_ID_OF, SERVO_IDS
from so101_driver.motor_setup import (
    ORDER,
    MotorResult,
    WrongMotorsError,
    find_single,
    set_up,
)
from so101_driver.port_users import check_unused
from so101_driver.serial_ports import only_adapter
from so101_driver.servo_search import answering

from wallx_bringup.prompts import wait_for_enter


def run(options: argparse.Namespace) -> int:
    """Set up all motors or one; returns the exit status."""
    if options.motor is not None and options.motor not in SERVO_ID_OF:
        raise UserError(f"there is no motor '{options.motor}': name one of {', '.join(ORDER)}.")
    port = options.port or only_adapter().path
    check_unused(port)
    _refuse_wired(port)
    joints = ORDER if options.motor is None else (options.motor,)
    done: list[MotorResult] = []
    try:
        for joint in joints:
            done.append(_one(port, joint, done, force=options.motor is not None))
    except KeyboardInterrupt:
        names = ", ".join(result.joint for result in done) or "none"
        print(f"\nstopped; set up so far: {names}. Run it again at any time.", flush=True)
        return 130
    except UserError as error:
        if done:
            names = ", ".join(result.joint for result in done)
            raise UserError(f"{error} Set up so far: {names}; run it again at any time.") from error
        raise
    _summary(done, options.motor is None)
    return 0


def _refuse_wired(port: str) -> None:
    """Refuse an arm whose motors all have their ids: it needs nothing from us."""
    if len(answering(port, SERVO_IDS)) == len(SERVO_IDS):
        raise UserError(
            f"a whole arm answers on {port}, its six motors have their ids already: check it with "
            f"`wallx doctor --port {port}`; to set up a single motor, connect it alone."
        )


def _one(port: str, joint: str, done: list[MotorResult], force: bool) -> MotorResult:
    """Ask until the right motor is connected, and set it up."""
    already = {SERVO_ID_OF[result.joint]: result.joint for result in done}
    if done:
        text = f"Unplug the {done[-1].joint} motor, connect only the {joint} motor,"
    else:
        text = f"Connect only the {joint} motor to the board, with the power supply on,"
    while True:
        wait_for_enter(f"{text} and press Enter:")
        try:
            found = find_single(port, lambda sentence: print(f"  {sentence}", flush=True))
            result = set_up(port, joint, found, already, force)
        except WrongMotorsError as error:
            print(f"  {error}", flush=True)
            text = f"Try again: connect only the {joint} motor"
            continue
        print(f"  {_describe(result)}", flush=True)
        if result.report.voltage_v > result.report.max_voltage_v:
            print(
                "  Warning: this supply is too strong for this motor. Switch it off now; 7.4 V "
                "motors need 5 V.",
                flush=True,
            )
        return result


def _describe(result: MotorResult) -> str:
    report, found = result.report, result.found
    facts = (
        f"firmware {report.firmware}, supply {report.voltage_v:.1f} V, "
        f"accepts {report.min_voltage_v:.1f} to {report.max_voltage_v:.1f} V"
    )
    if not result.changed:
        return f"{result.joint}: has id {report.servo_id} at {BAUD_RATE:,} baud already ({facts})"
    changes = []
    if found.servo_id != report.servo_id:
        changes.append(f"id {found.servo_id} -> {report.servo_id}")
    if found.baud_rate != BAUD_RATE:
        changes.append(f"{found.baud_rate:,} -> {BAUD_RATE:,} baud")
    return f"{result.joint}: {', '.join(changes)}, stored and read back ({facts})"


def _summary(done: list[MotorResult], whole_arm: bool) -> None:
    versions = {result.report.firmware for result in done}
    if len(versions) > 1:
        held = ", ".join(f"{result.joint} {result.report.firmware}" for result in done)
        print(
            f"Note: the motors have different firmware ({held}); bring all to one version with "
            "Feetech's FD program before you use the arm."
        )
    if whole_arm:
        print("All six motors have their ids. Build the arm, plug the motors into a chain, then:")
        print("  wallx doctor")
