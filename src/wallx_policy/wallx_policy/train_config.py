"""``config.yml`` of wall-x: what training decided and ``config.json`` does not hold.

A file that still has the name of wall-x's example, ``config_qact.yml``, is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from so101_driver.errors import UserError

from wallx_policy.checkpoint_kinds import CAMERAS, TRAINING
from wallx_policy.json_shapes import check

FILE_NAME = "config.yml"
_NAMES = (FILE_NAME, "config_qact.yml")
_SECTIONS = ("task", None, "data", "model")
"""Where a key may stand, the first wins; None is the top."""
_INTO_NETWORK = (
    "dof_config",
    "agent_pos_config",
    "use_state_string_representation",
    "noise_scheduler",
    "state_bins",
    "resolution",
    "action_horizon",
    "action_horizon_flow",
)

_SYSTEM_PROMPT = "use_embodied_system_prompt_ratio"


def merged(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's configuration with what training decided, as wall-x itself merges them.

    Raises:
        UserError: for a file that cannot be read, or an option that is not implemented.
    """
    path = path_of(folder)
    training = _read(path)
    said = {key: _value(training, key) for key in (*_INTO_NETWORK, _SYSTEM_PROMPT)}
    check(path, said, TRAINING)
    if float(said.pop(_SYSTEM_PROMPT) or 0.0) > 0.0:
        raise UserError(f"{path}: {_SYSTEM_PROMPT} > 0 is not implemented")
    return {**config, **{key: value for key, value in said.items() if value is not None}}


def cameras(folder: Path) -> dict[str, str]:
    """Return the view by name of the data set's image, in prompt order; empty if not said."""
    mappings = value(folder, "key_mappings") or {}
    check(path_of(folder), mappings, CAMERAS, "key_mappings")
    return {str(name): str(view) for name, view in (mappings.get("camera") or {}).items()}


def value(folder: Path, key: str) -> Any:
    """Return what the file says to a key, wherever it stands; None if nothing."""
    return _value(_read(path_of(folder)), key)


def path_of(folder: Path) -> Path:
    """Return the file, which need not exist.

    Raises:
        UserError: when it lies there under both of its names.
    """
    there = [folder / name for name in _NAMES if (folder / name).is_file()]
    if len(there) > 1:
        raise UserError(f"{there[0]} and {there[1].name} both lie there: remove the one not used")
    return there[0] if there else folder / FILE_NAME


def predicts_fast(folder: Path) -> bool:
    """Whether the training made actions of FAST tokens; wall-oss-0.5's tokens are others."""
    return value(folder, "use_fast_tokenizer") is True


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as plain YAML: {text}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping")
    return content


def _value(training: Mapping[str, Any], key: str) -> Any:
    for section in _SECTIONS:
        values = training if section is None else training.get(section)
        if isinstance(values, Mapping) and values.get(key) is not None:
            return values[key]
    return None
