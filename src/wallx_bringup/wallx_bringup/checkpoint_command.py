"""``wallx make-checkpoint``: random checkpoints to try the model path, to test and to measure."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from so101_driver.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wallx_policy.random_checkpoints import Plan, Recipe

_HELP = "write a checkpoint with random weights, of any layout and size"
_MORE = (
    "Writes a checkpoint whose weights are random, to try the model path, to test and to measure; "
    "without options the tiny one of the demo. Tensors go to the disk one by one, or, with "
    "--drawn, not at all: they are then drawn on the device that loads the checkpoint."
)
# Told here too, so that --help does not have to wait for torch; a test compares.
LAYOUTS = ("flow", "fast", "lerobot", "wall05", "lerobot05")
SIZES = ("tiny", "mid", "large", "full")
ROBOTS = ("so101", "base")
DTYPES = ("float32", "bfloat16")
_LEAST_SHOWN_BYTES = 1 << 28


def add_command(commands: Any) -> None:
    """Add the command to the ``wallx`` parser's subparsers."""
    make = commands.add_parser("make-checkpoint", help=_HELP, description=_MORE)
    make.add_argument("folder", type=Path, help="a new or empty folder")
    make.add_argument(
        "--layout",
        default="flow",
        choices=LAYOUTS,
        help="wall-oss-flow, wall-oss-fast, LeRobot's wall_x, wall-oss-0.5, or LeRobot's "
        "wall_oss_05; default: flow",
    )
    make.add_argument(
        "--size",
        default="tiny",
        choices=SIZES,
        help="half a million weights, 59 million, half a billion, or the released 4.2 billion; "
        "default: tiny",
    )
    make.add_argument(
        "--robot",
        default="so101",
        choices=ROBOTS,
        help="so101 writes a contract in joint space, which the graph can run; base has the "
        "end-effector columns of the released models; default: so101",
    )
    make.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the matrices; default: float32 for flow and fast, bfloat16 for the others",
    )
    make.add_argument("--seed", type=int, default=0, help="of the random weights; default: 0")
    make.add_argument(
        "--fused", action="store_true", help="join q, k, v and gate, up, as newer saves of wall-x"
    )
    make.add_argument(
        "--pth", action="store_true", help="statistics in .pth files (wall05), not in the weights"
    )
    make.add_argument(
        "--shard-gb", type=float, metavar="GB", help="several files of this size, and an index"
    )
    make.add_argument(
        "--drawn",
        action="store_true",
        help="write no weights: draw them at every load, on the device that runs them",
    )
    make.add_argument("--dry-run", action="store_true", help="say what would be written, and end")
    make.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write what the options say; returns the exit status."""
    try:
        from wallx_policy.random_checkpoints import Recipe, plan, write_checkpoint
    except ModuleNotFoundError as error:
        raise UserError(
            f"make-checkpoint needs the Python module {error.name!r}: run `make setup`, or "
            "`make ros-env` on a ROS installation."
        ) from error
    shard_bytes = None
    if options.shard_gb is not None:
        if not options.shard_gb > 0.0:
            raise UserError("--shard-gb must be above 0.")
        if options.drawn:
            raise UserError("--drawn writes no weights: leave --shard-gb out.")
        shard_bytes = int(options.shard_gb * 1e9)
    recipe = Recipe(
        layout=options.layout,
        size=options.size,
        robot=options.robot,
        seed=options.seed,
        dtype=options.dtype,
        fused=options.fused,
        pickled=options.pth,
    )
    planned = plan(recipe)
    if options.dry_run:
        print(f"would write {options.folder}: {_described(planned, options.drawn)}")
        if not options.drawn:
            planned.check_room(options.folder)
        return 0
    with _progress(0 if options.drawn else planned.size) as tell:
        write_checkpoint(
            options.folder, recipe, drawn=options.drawn, shard_bytes=shard_bytes, progress=tell
        )
    print(f"wrote {options.folder}: {_described(planned, options.drawn)}")
    print(_next(recipe, options.folder))
    return 0


def _described(planned: Plan, drawn: bool) -> str:
    recipe = planned.recipe
    where = "drawn at every load" if drawn else f"{planned.size / 1e6:,.0f} MB"
    return (
        f"layout {recipe.layout}, size {recipe.size}; its {planned.numbers:,} weights are RANDOM "
        f"({where}), it can do nothing clever"
    )


def _next(recipe: Recipe, folder: Path) -> str:
    if recipe.robot == "so101":
        return f"try it: wallx up backend:=wall_oss checkpoint:={folder}"
    return (
        "it speaks end-effector poses, which the graph refuses on this arm; load it in Python: "
        f'wallx_policy.model.load_policy("{folder}")'
    )


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar while the block writes so many bytes; small checkpoints need none."""
    if size < _LEAST_SHOWN_BYTES:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=size)
        yield lambda done, _total: bar.update(task, completed=done)
