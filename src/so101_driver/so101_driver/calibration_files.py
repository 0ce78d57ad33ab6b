"""Where calibration files lie, and how one is written without losing the one before.

LeRobot keeps them as ``<folder of the arm's class>/<id>.json``; the folders were renamed over its
releases, so all of them are searched, and new files go where the present release looks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from so101_driver.errors import UserError


class ArmKind(StrEnum):
    """What an arm is for: a follower is driven, a leader is moved by hand."""

    FOLLOWER = "follower"
    LEADER = "leader"


_FOLDERS = {
    ArmKind.FOLLOWER: (
        "robots/so_follower",
        "robots/so101_follower",
        "robots/so100_follower",
    ),
    ArmKind.LEADER: (
        "teleoperators/so_leader",
        "teleoperators/so101_leader",
        "teleoperators/so100_leader",
    ),
}
"""By LeRobot's class names, the present one first."""


def calibration_root(environment: Mapping[str, str] | None = None) -> Path:
    """Return LeRobot's folder of calibrations, from the variables that LeRobot obeys."""
    env = os.environ if environment is None else environment
    if path := env.get("HF_LEROBOT_CALIBRATION"):
        return Path(path).expanduser()
    if path := env.get("HF_LEROBOT_HOME"):
        return Path(path).expanduser() / "calibration"
    if path := env.get("HF_HOME"):
        return Path(path).expanduser() / "lerobot/calibration"
    cache = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface/lerobot/calibration"


def calibration_folders(
    kind: ArmKind | str, environment: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Return every folder where LeRobot kept or keeps calibrations of a kind, the present first."""
    root = calibration_root(environment)
    return tuple(root / folder for folder in _FOLDERS[ArmKind(kind)])


def find_calibrations(
    kind: ArmKind | str, environment: Mapping[str, str] | None = None
) -> list[Path]:
    """Return the calibration files of all arms of a kind, the present folder first, by name.

    The files are not opened: one of them may be damaged, or of an arm that is not an SO-101.
    """
    found: list[Path] = []
    for folder in calibration_folders(kind, environment):
        # A folder that is missing or forbidden holds nothing for us.
        with contextlib.suppress(OSError):
            found += sorted(path for path in folder.glob("*.json") if path.is_file())
    return found


def calibration_path(
    kind: ArmKind | str, name: str, environment: Mapping[str, str] | None = None
) -> Path:
    """Return where the present LeRobot looks for the calibration of the arm with this id.

    Raises:
        UserError: The name cannot be a file's.
    """
    if not name or name != name.strip() or name.startswith(".") or set(name) & set('/\\\0\n"'):
        raise UserError(
            f"the arm's name {name!r} cannot be the name of a file: use letters, digits, '-' and "
            "'_', for example --name kitchen_arm."
        )
    return calibration_folders(kind, environment)[0] / f"{name}.json"


def backups(path: Path) -> list[Path]:
    """Return the earlier versions of a calibration file, the newest first."""
    with contextlib.suppress(OSError):
        return sorted(path.parent.glob(f"{_escaped(path.name)}.*.bak"), reverse=True)
    return []


def check_writable(path: Path) -> None:
    """Check that ``save`` would be allowed to write, without creating anything.

    Raises:
        UserError: Names what is in the way.
    """
    path = path.expanduser()
    # os.path says no of what lies in a folder that may not be looked into; Path raises.
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: give the path of a file, ending in .json.")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise UserError(
            f"the calibration {path} is write-protected: run `chmod u+w {path}`, or give another "
            "--name or --file."
        )
    folder = path.parent
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is a file where a folder is needed for {path}: move it away.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"no permission to write in {folder}: run `sudo chown -R $USER {folder}`, or give "
            "another --file."
        )


def save(path: Path, text: str, stamp: str) -> Path | None:
    """Write a calibration file in one step, after keeping a copy of what was there.

    Args:
        path: File to write; missing folders are made.
        text: Its content.
        stamp: Part of the copy's name, e.g. the date.

    Returns:
        The copy, or None if there was no file.

    Raises:
        UserError: It cannot be written; the old file is as it was.
    """
    check_writable(path)
    # A link stays a link: its target is what gets replaced.
    path = path.expanduser().resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _back_up(path, stamp) if path.exists() else None
        _replace(path, text)
    except OSError as error:
        raise UserError(
            f"cannot write the calibration {path} ({error.strerror or error}): make room or give "
            "another --file; what was there is unchanged."
        ) from error
    return backup


def _back_up(path: Path, stamp: str) -> Path:
    target = path.with_name(f"{path.name}.{stamp}.bak")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.{stamp}-{count}.bak")
    shutil.copy2(path, target)
    return target


def _replace(path: Path, text: str) -> None:
    if path.exists():
        mode = path.stat().st_mode & 0o777
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _escaped(name: str) -> str:
    """Return a file name as a glob pattern that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
