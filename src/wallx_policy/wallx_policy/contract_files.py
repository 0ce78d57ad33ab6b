"""Contracts as plain mappings: what stands in ``contract.yaml`` and what is hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any

from so101_driver.errors import UserError

from wallx_policy.contract_types import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    PredictionMode,
    Statistics,
    Unit,
    Weights,
)

_ENUMS: Mapping[str, type[Enum]] = {
    "action_space": ActionSpace,
    "action_kind": ActionKind,
    "prediction_mode": PredictionMode,
    "weights": Weights,
}
_STATISTICS = ("state_statistics", "action_statistics")


def to_mapping(contract: Any) -> dict[str, Any]:
    """Return the contract as YAML and JSON can hold it."""
    return {entry.name: _plain(getattr(contract, entry.name)) for entry in fields(contract)}


def from_mapping(content: Any, kind: type) -> dict[str, Any]:
    """Return the arguments of ``kind``, the contract's class.

    Every key must be known and every needed one present.

    Raises:
        UserError: naming the key.
    """
    values = _checked(content, kind, "the file")
    for key, choices in _ENUMS.items():
        if key in values:
            values[key] = _enum(values[key], choices, key)
    values["cameras"] = tuple(
        _camera(entry, f"cameras[{i}]") for i, entry in enumerate(_list(values, "cameras"))
    )
    for key in ("state", "action"):
        values[key] = tuple(
            _channel(entry, f"{key}[{i}]") for i, entry in enumerate(_list(values, key))
        )
    for key in _STATISTICS:
        if key in values:
            values[key] = _statistics(values[key], key)
    values["embodiment"] = _text(values["embodiment"], "embodiment")
    values["period_s"] = _number(values["period_s"], "period_s")
    values["horizon"] = _whole(values["horizon"], "horizon")
    if "image_age_s" in values:
        values["image_age_s"] = _number(values["image_age_s"], "image_age_s")
    for key in ("instruction_template", "norm_key", "action_tokenizer"):
        if key in values:
            values[key] = _text(values[key], key)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Statistics):
        pairs = ((entry.name, getattr(value, entry.name)) for entry in fields(value))
        return {name: list(numbers) for name, numbers in pairs if numbers is not None}
    if isinstance(value, Camera | Channel):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value


def _checked(content: Any, kind: type, where: str) -> dict[str, Any]:
    """Return a copy of a mapping that has the fields of a data class and no others."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must be a mapping, not {content!r}")
    known = {entry.name for entry in fields(kind)}
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise UserError(f"unknown key {', '.join(unknown)} in {where}; known are {sorted(known)}")
    needed = [entry.name for entry in fields(kind) if not _has_default(entry)]
    missing = [name for name in needed if name not in content]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    return dict(content)


def _has_default(entry: Any) -> bool:
    return entry.default is not MISSING or entry.default_factory is not MISSING


def _camera(content: Any, where: str) -> Camera:
    values = _checked(content, Camera, where)
    values["view"] = _text(values["view"], f"{where}.view")
    for key in ("width", "height"):
        values[key] = _whole(values[key], f"{where}.{key}")
    values["topic"] = _text(values.get("topic", ""), f"{where}.topic")
    return Camera(**values)


def _channel(content: Any, where: str) -> Channel:
    values = _checked(content, Channel, where)
    values["name"] = _text(values["name"], f"{where}.name")
    values["unit"] = _enum(values["unit"], Unit, f"{where}.unit")
    values["sign"] = _whole(values.get("sign", 1), f"{where}.sign")
    values["offset"] = _number(values.get("offset", 0.0), f"{where}.offset")
    return Channel(**values)


def _statistics(content: Any, where: str) -> Statistics:
    values = _checked(content, Statistics, where)
    return Statistics(
        **{
            key: tuple(_number(number, f"{where}.{key}") for number in _list(values, key))
            for key in values
        }
    )


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(values[key], list):
        raise UserError(f"{key} must be a list, not {values[key]!r}")
    return values[key]


def _enum(value: Any, kind: type[Enum], where: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(member.value for member in kind)
        raise UserError(f"{where} must be one of {choices}, not {value!r}") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} must be a text, not {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} must be a number, not {value!r}")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where} must be a whole number, not {value!r}")
    return value
