"""Says which key of a read file has a value of the wrong kind, before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError

Kind = Callable[[Any], tuple[str, str] | None]
"""Takes a value; returns the key below it that is at fault (empty for itself) and what is wrong."""


def check(path: Path, content: Any, kind: Kind, where: str = "") -> None:
    """Refuse a value of the wrong kind.

    Args:
        path: The file that errors name.
        content: What was read.
        kind: What it must be.
        where: Key that it was read from, empty for the whole file.

    Raises:
        UserError: naming the file and the key.
    """
    fault = kind(content)
    if fault is not None:
        key = _joined(where, fault[0])
        raise UserError(f"{path}: {key} {fault[1]}" if key else f"{path} {fault[1]}")


def whole(least: int = 1, most: int = 1 << 31) -> Kind:
    """A whole number within bounds."""

    def fault(value: Any) -> tuple[str, str] | None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            known = {0: "a whole number, 0 or more", 1: "a positive whole number"}
            said = known.get(least, f"a whole number, {least} or more")
            return "", f"must be {said}, not {_short(value)}"
        return None

    return fault


def number(least: float = -math.inf) -> Kind:
    """A finite number above ``least``."""

    def fault(value: Any) -> tuple[str, str] | None:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not value > least:
            above = "" if least == -math.inf else f" above {least:g}"
            return "", f"must be a number{above}, not {_short(value)}"
        return None

    return fault


def text(value: Any) -> tuple[str, str] | None:
    """A text."""
    return None if isinstance(value, str) else ("", f"must be a text, not {_short(value)}")


def flag(value: Any) -> tuple[str, str] | None:
    """True or false, for which 1 and 0 are taken too."""
    good = isinstance(value, int) and value in (0, 1)
    return None if good else ("", f"must be true or false, not {_short(value)}")


def each(kind: Kind, *, length: int | None = None) -> Kind:
    """A list of one kind, of a certain length if that is given."""

    def fault(value: Any) -> tuple[str, str] | None:
        if not isinstance(value, list) or length not in (None, len(value)):
            said = "a list" if length is None else f"a list of {length}"
            return "", f"must be {said}, not {_short(value)}"
        return _first((f"[{i}]", entry) for i, entry in enumerate(value))

    def _first(entries: Iterable[tuple[str, Any]]) -> tuple[str, str] | None:
        for key, entry in entries:
            found = kind(entry)
            if found is not None:
                return _joined(key, found[0]), found[1]
        return None

    return fault


def table(kind: Kind) -> Kind:
    """A mapping whose values are of one kind."""

    def fault(value: Any) -> tuple[str, str] | None:
        if not isinstance(value, Mapping):
            return "", f"must be a mapping, not {_short(value)}"
        for key, entry in value.items():
            found = kind(entry)
            if found is not None:
                return _joined(str(key), found[0]), found[1]
        return None

    return fault


def record(kinds: Mapping[str, Kind], needed: Iterable[str] = ()) -> Kind:
    """A mapping with a kind for each key; keys that are not named are let through.

    A key that is null counts as absent.
    """
    required = tuple(needed)

    def fault(value: Any) -> tuple[str, str] | None:
        if not isinstance(value, Mapping):
            return "", f"must be a mapping, not {_short(value)}"
        for key in required:
            if value.get(key) is None:
                return key, "is missing"
        for key, kind in kinds.items():
            found = None if value.get(key) is None else kind(value[key])
            if found is not None:
                return _joined(key, found[0]), found[1]
        return None

    return fault


def _joined(key: str, below: str) -> str:
    return key + below if not key or below.startswith("[") or not below else f"{key}.{below}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
