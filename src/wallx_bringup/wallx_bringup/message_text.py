"""ROS messages as text for a terminal, and from ``field:=value`` words."""

from __future__ import annotations

import array
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from so101_driver.errors import UserError

_SHOWN_ITEMS = 64
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "octet")


def message_text(message: Any) -> str:
    """Return a message as YAML; long arrays are shortened."""
    return yaml.safe_dump(
        _plain(message), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return {name: _plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, bytes):
        value = list(value)
    if isinstance(value, (list, tuple, array.array)) or hasattr(value, "tolist"):
        items = [_plain(item) for item in value[:_SHOWN_ITEMS]]
        hidden = len(value) - len(items)
        return [*items, f"... {hidden} more"] if hidden else items
    return value


def fill_message(message: Any, given: Mapping[str, str], constants: Iterable[type]) -> None:
    """Set a message's fields from text.

    A number may be written as the name of its constant: ``mode:=full`` finds ``MODE_FULL``.

    Args:
        message: A ROS message, or the request of a service.
        given: Field names and texts.
        constants: Further message classes to look for constants in.

    Raises:
        UserError: A field does not exist or a text does not fit it.
    """
    types = message.get_fields_and_field_types()
    for name, text in given.items():
        if name not in types:
            raise UserError(
                f"there is no field '{name}'; the fields are: {', '.join(types) or 'none'}."
            )
        try:
            value = _typed(types[name], name, text, (type(message), *constants))
        except ValueError as error:
            raise UserError(
                f"field '{name}' must be of type {types[name]}, not '{text}'."
            ) from error
        setattr(message, name, value)


def _typed(kind: str, name: str, text: str, constants: Iterable[type]) -> Any:
    if kind.startswith("string"):
        return text
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind in ("float", "double"):
        return float(text)
    if kind in _INTEGERS:
        for owner in constants:
            for constant in (text.upper(), f"{name}_{text}".upper()):
                number = getattr(owner, constant, None)
                if isinstance(number, int):
                    return number
        return int(text, 0)
    raise UserError(f"field '{name}' of type {kind} cannot be given on the command line.")
