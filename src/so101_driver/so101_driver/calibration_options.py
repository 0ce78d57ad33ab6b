"""The calibration program's command line: which arm, which port and which file are meant."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from so101_driver.calibration_files import (
    ArmKind,
    calibration_folders,
    calibration_path,
    find_calibrations,
)
from so101_driver.errors import UserError

_DESCRIPTION = """\
Calibrate an SO-101 by hand, or compare its calibration file with its servos and the URDF.

Without --check, --to-servos or --from-servos it walks you through calibrating: you hold the arm
in the middle of its travel, then move each joint from stop to stop. Nothing is written until you
agree at the end; then the file and the servos' EEPROM get the same numbers. End it before that
with Ctrl-C or q: file and servos are as they were, and the arm is limp.
"""

_EPILOG = """\
Files are LeRobot's: $HF_LEROBOT_CALIBRATION (~/.cache/huggingface/lerobot/calibration) holds
robots/so_follower/NAME.json and teleoperators/so_leader/NAME.json; older folder names are searched
too. An existing file is kept as NAME.json.DATE.bak. Answers may be piped in or come from --script:
one a line, an empty line is Enter, `wait 2.5` waits, # begins a comment.

Exit status: 0 done, or nothing differs; 1 something differs, or you cancelled; 2 an error; 130
Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the program on its own."""
    result = argparse.ArgumentParser(prog="calibrate")
    add_options(result)
    return result


def add_options(result: argparse.ArgumentParser) -> None:
    """Give a parser, of the program or of a subcommand, the options and their explanation."""
    result.description, result.epilog = _DESCRIPTION, _EPILOG
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    result.add_argument("--port", help="serial port; default: the only bus adapter there is")
    result.add_argument(
        "--kind",
        choices=[kind.value for kind in ArmKind],
        default=ArmKind.FOLLOWER.value,
        help="what the arm is for; default: follower",
    )
    result.add_argument(
        "--name",
        help="the arm's name (LeRobot's id), which names its file; default: the only one there is",
    )
    result.add_argument("--file", type=Path, help="the calibration file itself, instead of --name")
    modes = result.add_mutually_exclusive_group()
    modes.add_argument(
        "--check", action="store_true", help="compare file, servos and URDF; writes nothing"
    )
    modes.add_argument(
        "--to-servos", action="store_true", help="write the file's values to the servos"
    )
    modes.add_argument(
        "--from-servos", action="store_true", help="write the servos' values to the file"
    )
    result.add_argument(
        "--yes",
        action="store_true",
        help="agree to what is asked before writing and before the torque goes off: the arm drops",
    )
    result.add_argument(
        "--accept-unusual-travel",
        action="store_true",
        help="accept ranges that no other arm has, for modified arms",
    )
    result.add_argument("--script", metavar="FILE", help="take the answers from a file")


def choose_path(options: argparse.Namespace, kind: ArmKind, *, writes: bool) -> Path:
    """Return which file is meant.

    Raises:
        UserError: It is not clear.
    """
    if options.file is not None:
        return Path(options.file).expanduser()
    if options.name is not None:
        path = calibration_path(kind, options.name)
        if writes or os.path.exists(path):
            return path
        for folder in calibration_folders(kind):
            if os.path.exists(folder / path.name):
                return folder / path.name
    found = find_calibrations(kind)
    if found and options.name is not None:
        raise UserError(
            f"no {kind} named {options.name!r} has a calibration; those that have: {_names(found)}."
        )
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"there are calibrations of several {kind}s: give --name, one of {_names(found)}."
        )
    if writes:
        raise UserError(
            f"no {kind} has a calibration yet: give it a --name, for example --name my_{kind}; "
            "LeRobot calls it the id."
        )
    raise UserError(
        f"there is no calibration of a {kind} in {calibration_folders(kind)[0]}: give --file, "
        f"calibrate, or write one from the servos (wallx calibrate --kind {kind} "
        f"--name my_{kind} --from-servos)."
    )


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(sorted({path.stem for path in paths}))


def again(options: argparse.Namespace, *more: str) -> str:
    """Return the present command without its mode."""
    words = []
    if options.kind != ArmKind.FOLLOWER:
        words += ["--kind", options.kind]
    for option in ("port", "name", "file"):
        if (value := getattr(options, option)) is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(["wallx", "calibrate", *words, *more])
