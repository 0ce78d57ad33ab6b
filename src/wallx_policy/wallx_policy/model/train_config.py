"""``config.yml`` of wall-x: what training decided and ``config.json`` does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from so101_driver.errors import UserError

FILE_NAME = "config.yml"
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


def merged(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's configuration with what training decided, as wall-x itself merges them.

    Raises:
        UserError: for a file that cannot be read, or an option that is not implemented.
    """
    path = folder / FILE_NAME
    training = _read(path)
    if float(_value(training, "use_embodied_system_prompt_ratio") or 0.0) > 0.0:
        raise UserError(f"{path}: use_embodied_system_prompt_ratio > 0 is not implemented")
    said = {key: _value(training, key) for key in _INTO_NETWORK}
    return {**config, **{key: value for key, value in said.items() if value is not None}}


def cameras(folder: Path) -> dict[str, str]:
    """Return the view by name of the data set's image, in prompt order; empty if not said."""
    mappings = _value(_read(folder / FILE_NAME), "key_mappings") or {}
    return {str(name): str(view) for name, view in (mappings.get("camera") or {}).items()}


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
