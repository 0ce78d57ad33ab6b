"""``ros2 run so101_driver calibrate``: calibrates an arm, or checks and settles its calibration."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from so101_driver import arm_setup
from so101_driver.bus import BusError, PortLostError, ServoBus
from so101_driver.calibration import Calibration, JointCalibration, as_json
from so101_driver.calibration_compare import JointComparison, compare
from so101_driver.calibration_dialog import Answers, open_answers
from so101_driver.calibration_files import (
    ArmKind,
    backups,
    check_writable,
    find_calibrations,
    save,
)
from so101_driver.calibration_options import again, choose_path, parser
from so101_driver.calibration_report import (
    explain,
    explain_convention,
    file_table,
    result_table,
    servo_joints,
    unusual,
    urdf_table,
)
from so101_driver.calibration_servos import (
    FACTORY,
    ServoCalibration,
    read_servos,
    standing,
    write_servos,
)
from so101_driver.calibration_walk import Cancelled, Walk, release_arm
from so101_driver.errors import UserError
from so101_driver.interrupts import ending_signals, finish_first
from so101_driver.joints import data_path
from so101_driver.kinematics import Kinematics
from so101_driver.port_users import check_unused
from so101_driver.serial_ports import only_adapter

DONE, DIFFERS, FAILED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Job:
    """What every mode needs.

    Attributes:
        options: The command line.
        kind: Follower or leader.
        bus: The open bus, all six servos answering.
        console: Where to print.
        given: Answers instead of those that are typed, piped or scripted.
    """

    options: argparse.Namespace
    kind: ArmKind
    bus: ServoBus
    console: Console
    given: Answers | None

    def answers(self) -> Answers:
        """Open where the answers come from."""
        return self.given or open_answers(self.options.script)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and end it with its exit status."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None, answers: Answers | None = None) -> int:
    """Run the program; returns the exit status.

    Args:
        argv: The command line's words.
        answers: Answers instead of those that are typed, piped or scripted.
    """
    return run_options(parser().parse_args(argv), answers)


def run_options(options: argparse.Namespace, answers: Answers | None = None) -> int:
    """Run the program with parsed options; returns the exit status."""
    # Paths may hold what rich takes for markup.
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # A log or a pipe has no width: 80 columns would cut the tables.
        console = Console(highlight=False, markup=False, width=120)
    with ending_signals():
        return _reported(options, console, answers)


def _reported(options: argparse.Namespace, console: Console, answers: Answers | None) -> int:
    """Run the program and say how it ended when it did not run through."""
    try:
        return _run(options, console, answers)
    except Cancelled:
        return _ended(console, "Cancelled: file and servos are as they were.", DIFFERS)
    except KeyboardInterrupt:
        return _ended(console, "\nInterrupted: file and servos are as they were.", INTERRUPTED)
    except UserError as error:
        print(f"calibrate: {error}", file=sys.stderr, flush=True)
    except PortLostError as error:
        print(f"calibrate: {error}; nothing was written.", file=sys.stderr, flush=True)
    except BusError as error:
        # While servos are written a failure is dealt with, and said, there.
        print(
            f"calibrate: {error}: check its cable and the arm's power, and start again; nothing "
            "was written.",
            file=sys.stderr,
            flush=True,
        )
    return FAILED


def _run(options: argparse.Namespace, console: Console, given: Answers | None) -> int:
    kind = ArmKind(options.kind)
    if options.name is not None and options.file is not None:
        raise UserError("give either --name or --file, not both.")
    writes = not (options.check or options.to_servos)
    path = choose_path(options, kind, writes=writes)
    if writes:
        check_writable(path)
    # A bad file is found out before the arm is touched.
    file = None if writes else Calibration.load(path).joints
    port = options.port or only_adapter().path
    check_unused(port)
    with ServoBus(port) as bus:
        # Firmware makes no difference to an encoder.
        arm_setup.identify(bus, allow_mixed_firmware=True)
        job = Job(options, kind, bus, console, given)
        console.print(f"{kind.value.capitalize()} on {port}, file {path}")
        if options.from_servos:
            return _from_servos(job, path)
        if file is None:
            return _calibrate(job, path)
        return _to_servos(job, path, file) if options.to_servos else _check(job, path, file)


def _calibrate(job: Job, path: Path) -> int:
    options = job.options
    answers = job.answers()
    held = read_servos(job.bus)
    walk = Walk(
        job.bus,
        job.kind,
        held,
        answers,
        job.console,
        assume_yes=options.yes,
        accept_unusual=options.accept_unusual_travel,
    )
    joints = walk.run()
    job.console.print(result_table(joints))
    existing = "; the file there is kept as a copy" if path.exists() else ""
    if not _agreed(job, answers, f"Write this to the servos and to {path}{existing}?"):
        raise Cancelled
    _write_both(job, path, joints, held)
    job.console.print("Calibrated.", style="bold green", end=" ")
    job.console.print(f"Check any time: {again(options, '--check')}")
    return DONE


def _check(job: Job, path: Path, file: Mapping[str, JointCalibration]) -> int:
    held = read_servos(job.bus)
    joints = compare(file, held)
    _show(job, joints, path, held)
    strange = unusual(file, job.kind)
    for sentence in strange:
        job.console.print(sentence, style="yellow")
    accepted = not strange or job.options.accept_unusual_travel
    return DONE if accepted and all(joint.equal for joint in joints) else DIFFERS


def _to_servos(job: Job, path: Path, file: Mapping[str, JointCalibration]) -> int:
    held = read_servos(job.bus)
    joints = compare(file, held)
    if all(joint.equal for joint in joints):
        job.console.print("File and servos are equal: nothing to write.")
        return DONE
    _show(job, joints, path, held)
    answers = job.answers()
    if not _agreed(job, answers, f"Write the values of {path} to the servos?"):
        raise Cancelled
    if standing(job.bus):
        release_arm(job.bus, answers, job.console, job.options.yes)
    finish_first()
    written = write_servos(
        job.bus, {name: ServoCalibration.of(joint) for name, joint in file.items()}
    )
    job.console.print(f"Written and read back: {', '.join(written)}.")
    return DONE


def _from_servos(job: Job, path: Path) -> int:
    held = read_servos(job.bus)
    if all(values == FACTORY for values in held.values()):
        raise UserError(
            "the servos hold factory values, which are no calibration: calibrate the arm, or give "
            "its file with --to-servos."
        )
    joints = Calibration.from_mapping(
        {
            name: {
                "id": joint.servo_id,
                "drive_mode": joint.drive_mode,
                "homing_offset": joint.homing_offset,
                "range_min": joint.range_min,
                "range_max": joint.range_max,
            }
            for name, joint in servo_joints(held).items()
        },
        "in the servos",
    ).joints
    if _same(path, joints):
        job.console.print("File and servos are equal: nothing to write.")
        return DONE
    job.console.print(result_table(joints))
    with contextlib.suppress(UserError):
        job.console.print(file_table(compare(Calibration.load(path).joints, held)))
    if path.exists() and not _agreed(
        job, job.answers(), f"Write this to {path}; the file there is kept as a copy?"
    ):
        raise Cancelled
    finish_first()
    _save(job, path, joints)
    return DONE


def _write_both(
    job: Job,
    path: Path,
    joints: Mapping[str, JointCalibration],
    held: Mapping[str, ServoCalibration],
) -> None:
    # A few tenths of a second; until then, and only then, all is as it was.
    finish_first()
    written = write_servos(
        job.bus, {name: ServoCalibration.of(joint) for name, joint in joints.items()}
    )
    try:
        _save(job, path, joints)
    except UserError as error:
        state = "The servos hold their earlier values again."
        try:
            write_servos(job.bus, held)
        except (UserError, BusError) as failure:
            state = (
                f"The servos could not be put back ({failure}) and may hold the new values: make "
                "room, then run --from-servos."
            )
        raise UserError(f"{error} {state}") from error
    job.console.print(
        f"Servos written and read back: {', '.join(written)}."
        if written
        else "The servos held these values already."
    )


def _save(job: Job, path: Path, joints: Mapping[str, JointCalibration]) -> None:
    if _same(path, joints):
        job.console.print(f"{path} says this already.")
        return
    backup = save(path, as_json(joints), time.strftime("%Y-%m-%dT%H-%M-%S"))
    if backup is not None:
        job.console.print(f"Kept the earlier file as {backup}.")
    job.console.print(f"Wrote {path}.")
    older = [
        other
        for other in find_calibrations(job.kind)
        if other.name == path.name and other.resolve() != path.resolve()
    ]
    for other in older:
        job.console.print(
            f"{other} has the same name and is now out of date; an old LeRobot reads that one.",
            style="yellow",
        )


def _show(
    job: Job,
    joints: tuple[JointComparison, ...],
    path: Path,
    held: Mapping[str, ServoCalibration],
) -> None:
    """Print the comparison and what it means."""
    console = job.console
    console.print(file_table(joints))
    limits_rad = Kinematics.from_urdf(data_path("so101.urdf")).position_limits_rad
    console.print(urdf_table(joints, job.kind, limits_rad))
    if job.kind is ArmKind.FOLLOWER and "teleoperators" in path.parts:
        console.print(f"{path} lies in a leader's folder.", style="yellow")
    if job.kind is ArmKind.LEADER and "robots" in path.parts:
        console.print(f"{path} lies in a follower's folder.", style="yellow")
    equal = all(joint.equal for joint in joints)
    twins = [] if equal else _twins(path, held)
    for sentence in explain(joints, path, twins, again(job.options)):
        console.print(sentence, style="green" if equal else "yellow")
    console.print(explain_convention("File", {joint.name: joint.file for joint in joints}))
    if not equal and any(values != FACTORY for values in held.values()):
        console.print(explain_convention("Servos", servo_joints(held)))


def _twins(path: Path, held: Mapping[str, ServoCalibration]) -> list[Path]:
    """Return the files, copies of earlier ones included, whose numbers the servos hold."""
    known = [*find_calibrations(ArmKind.FOLLOWER), *find_calibrations(ArmKind.LEADER)]
    candidates = [other for other in known if other.resolve() != path.resolve()]
    candidates += [copy for file in {path, *known} for copy in backups(file)]
    twins = []
    for other in sorted(set(candidates)):
        # Another arm's damaged file is not what this is about.
        with contextlib.suppress(UserError):
            joints = Calibration.load(other).joints
            if all(held[name] == ServoCalibration.of(joint) for name, joint in joints.items()):
                twins.append(other)
    return twins


def _same(path: Path, joints: Mapping[str, JointCalibration]) -> bool:
    try:
        return dict(Calibration.load(path).joints) == dict(joints)
    except UserError:
        return False


def _agreed(job: Job, answers: Answers, question: str) -> bool:
    if job.options.yes:
        return True
    return answers.ask(f"{question} [y/N]").lower() in ("y", "yes")


def _ended(console: Console, text: str, status: int) -> int:
    console.print(text)
    return status


if __name__ == "__main__":
    main()
