"""Reads overrides of a checkpoint's settings from one line of text."""

from __future__ import annotations

import inspect
import shlex
import types
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from so101_driver.errors import UserError

PARAMETER = "model_settings"


def parse_settings(text: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return keyword arguments of a function from ``name=value`` words.

    Args:
        text: Words separated by spaces, quoted where a value holds one; a list is separated by
            commas. A name without ``=`` does not pass.
        function: Its keyword-only parameters are the names; their annotations tell the types.

    Raises:
        UserError: for an unknown or repeated name, or a value of another type.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{PARAMETER} is {text!r}, which has an open quote: close it") from error
    hints = get_type_hints(function)
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise UserError(
                f"{PARAMETER} has {word!r}; it must be name=value with one of: {', '.join(known)}"
            )
        if name in given:
            raise UserError(f"{PARAMETER} has {name} twice: leave one of them out")
        given[name] = _value(name, value, hints[name])
    return given


def _value(name: str, text: str, hint: Any) -> Any:
    """Convert to the first type of an annotation such as ``int | None``."""
    kind = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    if get_origin(kind) is Sequence:
        return tuple(part.strip() for part in text.split(","))
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
        raise UserError(f"{PARAMETER}: {name} must be true or false, not {text!r}")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UserError(f"{PARAMETER}: {name} must be {what}, not {text!r}") from None
    return text
