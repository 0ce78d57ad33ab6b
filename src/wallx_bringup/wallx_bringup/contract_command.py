"""``wallx contract``: what a checkpoint was trained to see and to say, and why we think so."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError

_HELP = "say what a checkpoint expects: views, joints, units, rate; write it as contract.yaml"
_MORE = (
    "Prints the contract of a checkpoint, what was concluded and from which file. Without "
    "contract.yaml it is built from the checkpoint's own files, the info.json of its training data "
    "and its statistics. What they leave open is refused, and the options below decide it."
)
_WIDTH = 100


def add_command(commands: Any) -> None:
    """Add the command to the ``wallx`` parser's subparsers."""
    contract = commands.add_parser("contract", help=_HELP, description=_MORE)
    contract.add_argument("checkpoint", type=Path, metavar="FOLDER")
    contract.add_argument("--save", action="store_true", help="write contract.yaml into the folder")
    contract.add_argument("--force", action="store_true", help="overwrite it if it exists")
    contract.add_argument(
        "--unit", choices=("deg", "range_100", "rad"), help="of the arm joints in the data set"
    )
    contract.add_argument(
        "--gripper", choices=("percent", "rad"), help="unit of the gripper in the data set"
    )
    contract.add_argument(
        "--zeros",
        choices=("mid_range", "stretched"),
        help="how LeRobot's calibration had the zeros of the arm when the data were recorded",
    )
    contract.add_argument(
        "--norm-key", metavar="NAME", help="which statistics, where the checkpoint holds several"
    )
    contract.set_defaults(run=_contract)


def _contract(options: argparse.Namespace) -> int:
    from wallx_policy.contract import FILE_NAME, Choices, Unit, Zeros, read_contract

    path = options.checkpoint / FILE_NAME
    if options.save and path.exists() and not options.force:
        raise UserError(f"{path} exists: edit it, or build it anew with --force")
    given = (options.unit, options.gripper, options.norm_key, options.zeros)
    choices = None
    if options.save or given != (None,) * len(given):
        choices = Choices(
            options.unit and Unit(options.unit),
            options.gripper and Unit(options.gripper),
            options.norm_key,
            options.zeros and Zeros(options.zeros),
        )
    contract, notes = read_contract(options.checkpoint, choices)
    kind = "joint" if contract.action_space.value == "joint" else "end-effector"
    own = path.exists() and choices is None
    print(
        f"{options.checkpoint}: {contract.embodiment}, {kind} actions by "
        f"{contract.prediction_mode.value}, {len(contract.cameras)} view(s), "
        f"{contract.horizon} actions of {1000 * contract.period_s:.4g} ms; "
        f"{'from contract.yaml' if own else 'built from its files'}, hash {contract.hash}"
    )
    for note in notes:
        print(textwrap.fill(f"- {note}", _WIDTH, initial_indent="  ", subsequent_indent="    "))
    if options.save:
        print(f"wrote {contract.save(options.checkpoint, notes)}")
    elif not own:
        print("nothing was written; --save writes it as contract.yaml, to be read or corrected.")
    return 0
