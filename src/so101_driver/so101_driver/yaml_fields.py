"""Reads YAML files field by field; whatever is wrong is one sentence that names file and key."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from so101_driver.errors import UserError


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML libraries take the last, and the first is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"{key.value} stands twice, in line {lines[key.value]} and in line {line}"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, what: str, example: str) -> Any:
    """Return a file's content, unchecked.

    Args:
        path: Of the file.
        what: It is, for messages, e.g. ``limits file``.
        example: Name of a file of this kind.

    Raises:
        UserError: It cannot be read or is not YAML.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"cannot read the {what} {path} ({reason}): give the path of a file like {example}."
        ) from error
    try:
        return yaml.load(text, _Loader)
    # A date that does not exist is a ValueError, brackets within brackets a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        summary = " ".join(str(error).split())
        raise UserError(f"the {what} {path} is not YAML: {summary}.") from error


def mapping(value: Any, keys: tuple[str, ...], where: str, source: str) -> Mapping[str, Any]:
    """Return a mapping that has exactly these keys; ``where`` is empty for the whole file.

    Raises:
        UserError: It is none, or keys are missing or unknown.
    """
    place = f"{where} in {source}" if where else f"the file {source}"
    if not isinstance(value, dict):
        raise UserError(f"{place} must have the keys {', '.join(keys)}.")
    missing = [key for key in keys if key not in value]
    unknown = [str(key) for key in value if key not in keys]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}.")
    if unknown:
        raise UserError(f"{place} has unknown keys: {', '.join(unknown)}.")
    return value


def number(value: Any, where: str, source: str, minimum: float = -math.inf) -> float:
    """Return a finite number of at least ``minimum``.

    Raises:
        UserError: It is something else; true and false are no numbers.
    """
    least = max(minimum, -sys.float_info.max)
    # Written so that NaN fails too, and a whole number that no float holds.
    if type(value) not in (int, float) or not least <= value <= sys.float_info.max:
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise UserError(f"{where} in {source} must be a finite number{bound}, not {value!r}.")
    return float(value)
