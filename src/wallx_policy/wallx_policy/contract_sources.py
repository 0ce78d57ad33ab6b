"""Builds a contract from a checkpoint's own files where those say enough."""

from __future__ import annotations

from pathlib import Path

from so101_driver.errors import UserError

from wallx_policy.contract_lerobot import from_lerobot
from wallx_policy.contract_types import Built
from wallx_policy.contract_units import Choices
from wallx_policy.contract_wallx import from_wallx
from wallx_policy.lerobot_files import read_json

_LEROBOT = ("wall_x", "wall_oss_05")


def from_checkpoint(folder: Path, choices: Choices) -> Built:
    """Build the contract of a checkpoint folder without ``contract.yaml``.

    Raises:
        UserError: saying what is missing; nothing is guessed.
    """
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("type")
    if kind in _LEROBOT:
        return from_lerobot(folder, config, choices)
    if kind is not None:
        raise UserError(f"{path}: policy type {kind!r} is none of {', '.join(_LEROBOT)}")
    return from_wallx(folder, config, choices)
