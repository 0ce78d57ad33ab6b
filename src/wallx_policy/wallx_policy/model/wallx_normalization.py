"""Chooses among all statistics that a checkpoint of wall-x brings along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from so101_driver.errors import UserError

from wallx_policy.model.normalization import Normalization, NormalizationMode, from_normalizers
from wallx_policy.model.normalizer_files import merged, read_normalizers
from wallx_policy.model.weights import Normalizers
from wallx_policy.norm_stats import FILE_NAME, NormStats, read_norm_stats

_ENDS = {
    None: ("q01", "q99"),
    NormalizationMode.MIN_DELTA: ("q01", "q99"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.MIN_MAX: ("min", "max"),
}
"""What a formula takes from norm_stats.json; wall-x itself takes the quantiles."""


def read_normalization(
    folder: Path,
    weights: Normalizers,
    dof: Mapping[str, int],
    agent_pos: Mapping[str, int],
    key: str | None,
    mode: NormalizationMode | None,
) -> Normalization | None:
    """Return the normalisation by the statistics that are meant; None if there are none.

    Args:
        folder: The checkpoint, where ``normalizer_*.pth`` and ``norm_stats.json`` may lie.
        weights: Statistics among its tensors.
        dof: Columns of the action by group.
        agent_pos: Columns of the state by group.
        key: Name of the statistics; None for the only ones.
        mode: Formula; None for wall-x's own.

    Raises:
        UserError: when several are there and none is named, or what the formula needs is missing.
    """
    stored = merged(weights, read_normalizers(folder), folder)
    stats = read_norm_stats(folder, dof, agent_pos)
    twice = stored.keys() & stats.keys()
    if twice:
        raise UserError(
            f"{folder / FILE_NAME} holds statistics {min(twice)!r}, and so do the weights or "
            "normalizer_*.pth: remove those that are not this checkpoint's"
        )
    names = ", ".join(sorted({*stored, *stats}))
    if key is None and stats and len(stored) + len(stats) > 1:
        raise UserError(f"the checkpoint has several statistics, give norm_key: {names}")
    if key is not None and key not in stored and key not in stats:
        raise UserError(f"norm_key {key!r} is not in the checkpoint, which has: {names or 'none'}")
    if not stats or key in stored:
        try:
            return from_normalizers(stored, key, mode)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
    name = next(iter(stats)) if key is None else key
    return _of(folder / FILE_NAME, name, stats[name], mode)


def _of(
    path: Path, name: str, stats: NormStats, mode: NormalizationMode | None
) -> Normalization | None:
    if mode is NormalizationMode.IDENTITY:
        return None
    if mode not in _ENDS:
        raise UserError(f"normalization {mode.value}: {path} is wall-x's: quantiles or min_max")
    low, high = _ENDS[mode]
    tensors = {}
    for feature, numbers in stats.features.items():
        missing = [end for end in (low, high) if end not in numbers]
        if missing:
            raise UserError(f"{path}: {feature} of {name} lacks {', '.join(missing)}")
        tensors[feature, "min"] = torch.from_numpy(numbers[low])
        tensors[feature, "delta"] = torch.from_numpy(numbers[high] - numbers[low])
    found = from_normalizers({name: tensors}, name)
    assert found is not None
    return replace(found, label=f"{low} and {high} of {name} in {path.name}, clamped")
