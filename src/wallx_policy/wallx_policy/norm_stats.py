"""Reads ``norm_stats.json``, in which fine-tunes of wall-x ship their statistics; needs no torch.

Per column of state and action it holds min, max, q01, q99 and their spans (older files), or mean,
std, q01, q99 (newer ones); several data sets may stand in one file, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError

from wallx_policy.dof_groups import PADDING_GROUP
from wallx_policy.lerobot_files import read_json

FILE_NAME = "norm_stats.json"
DEFAULT_NAME = "norm_stats"
"""Of statistics that the file gives no name."""

_FEATURES: Mapping[str, tuple[str, ...]] = {
    "propri": ("state", "observation.state", "propri", "agent_pos"),
    "action": ("action", "actions"),
}
_KNOWN = frozenset({"min", "max", "delta", "q01", "q99", "delta_q99_q01", "mean", "std"})
_NEEDED = ("q01", "q99")


@dataclass(frozen=True, slots=True)
class NormStats:
    """Statistics of one data set.

    Attributes:
        features: [columns] by name of the statistic, by ``propri`` and ``action``.
    """

    features: Mapping[str, Mapping[str, NDArray[np.float64]]]


def read_norm_stats(
    folder: Path, dof: Mapping[str, int], agent_pos: Mapping[str, int]
) -> dict[str, NormStats]:
    """Return the statistics by name of the data set; none if there is no file.

    Args:
        folder: The checkpoint.
        dof: Width by group of the action, in order, for files that hold statistics by group.
        agent_pos: Likewise of the state.

    Raises:
        UserError: naming the file, and the feature or statistic that is missing or wrong.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    content: Any = read_json(path)
    if isinstance(content.get("norm_stats"), Mapping):
        content = content["norm_stats"]
    if any(_is_feature(key) for key in content):
        content = {DEFAULT_NAME: content}
    groups = {"propri": agent_pos, "action": dof}
    found = {}
    for name, features in content.items():
        if not isinstance(features, Mapping):
            raise UserError(f"{path}: {name} must hold the statistics of state and action")
        found[str(name)] = NormStats(
            {kind: _feature(path, str(name), features, kind, groups[kind]) for kind in _FEATURES}
        )
    if not found:
        raise UserError(f"{path} holds no statistics")
    return found


def _is_feature(key: str) -> bool:
    return any(key in names for names in _FEATURES.values())


def _feature(
    path: Path, name: str, features: Mapping[str, Any], kind: str, groups: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    there = [key for key in _FEATURES[kind] if key in features]
    if len(there) != 1:
        wanted = " or ".join(_FEATURES[kind])
        what = "several of" if there else "no"
        raise UserError(f"{path}: {name} holds {what} {wanted}")
    where = f"{path}: {there[0]} of {name}"
    content = features[there[0]]
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must hold statistics by name")
    if content and not content.keys() & _KNOWN:
        return _joined(where, content, groups)
    return _statistics(where, content)


def _joined(
    where: str, content: Mapping[str, Any], groups: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Return the statistics of groups of columns, one group after the other."""
    parts = []
    for group, width in groups.items():
        if group == PADDING_GROUP:
            continue
        if not isinstance(content.get(group), Mapping):
            raise UserError(f"{where} lacks the statistics of {group}")
        part = _statistics(f"{where}: {group}", content[group])
        if len(part["q01"]) != width:
            raise UserError(f"{where}: {group} has {len(part['q01'])} columns, not {width}")
        parts.append(part)
    if not parts:
        raise UserError(f"{where} is by group, and nothing names the groups: add dof_config")
    common = set.intersection(*(set(part) for part in parts))
    return {key: np.concatenate([part[key] for part in parts]) for key in sorted(common)}


def _statistics(where: str, content: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    missing = [key for key in _NEEDED if key not in content]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    found = {}
    for key in sorted(content.keys() & _KNOWN):
        try:
            values = np.asarray(content[key], dtype=np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{where}: {key} must be a list of numbers") from None
        if values.ndim > 1 or not values.size or not np.isfinite(values).all():
            raise UserError(f"{where}: {key} must be a list of finite numbers")
        found[key] = np.atleast_1d(values)
    sizes = {key: len(values) for key, values in found.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"{where}: its statistics differ in length: {sizes}")
    for low, high in (("q01", "q99"), ("min", "max")):
        if low in found and high in found and (found[high] < found[low]).any():
            raise UserError(f"{where}: {high} is below {low}")
    return found
