"""Statistics of a checkpoint of wall-x, by name, as contracts need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from so101_driver.errors import UserError

from wallx_policy.contract_types import Statistics
from wallx_policy.lerobot_files import read_json
from wallx_policy.norm_stats import FILE_NAME as NORM_STATS
from wallx_policy.norm_stats import read_norm_stats

_PREFIX = "action_preprocessor.normalizer_"
_WEIGHTS = "model.safetensors"
_CONVERTED = "normalizers.safetensors"
_PICKLES = ("normalizer_action.pth", "normalizer_propri.pth")

_Arrays = dict[str, dict[tuple[str, str], NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Named:
    """Statistics of one data set.

    Attributes:
        state: Of all columns of the state, padding included.
        action: Likewise of the action.
        source: Name of the file.
    """

    state: Statistics
    action: Statistics
    source: str


def read_statistics(
    folder: Path, dof: Mapping[str, int], agent_pos: Mapping[str, int]
) -> dict[str, Named]:
    """Return what the weights, ``normalizer_*.pth`` and ``norm_stats.json`` hold.

    Minimum and spread of wall-x may be true extremes or 1 % and 99 % quantiles; both are values
    that the data reached.

    Raises:
        UserError: naming the file that cannot be read, or the statistic that is missing.
    """
    found: dict[str, Named] = {}
    for source, arrays in _minimum_and_spread(folder):
        for name, tensors in arrays.items():
            state, action = (_extent(source, name, tensors, f) for f in ("propri", "action"))
            found[name] = Named(state, action, source)
    for name, stats in read_norm_stats(folder, dof, agent_pos).items():
        if name in found:
            raise UserError(
                f"{folder / NORM_STATS} and {found[name].source} both hold statistics {name!r}: "
                "remove those that are not this checkpoint's"
            )
        state, action = (_from_norm_stats(stats.features[f]) for f in ("propri", "action"))
        found[name] = Named(state, action, NORM_STATS)
    return found


def leading(statistics: Statistics, columns: int, where: str) -> Statistics:
    """Return the statistics of the first columns.

    Raises:
        UserError: when there are fewer.
    """

    def cut(name: str) -> tuple[float, ...] | None:
        values = getattr(statistics, name)
        if values is None:
            return None
        if len(values) < columns:
            raise UserError(f"{where}: {name} has {len(values)} columns, {columns} are in use")
        return tuple(values[:columns])

    names = ("mean", "std", "min", "max", "q01", "q99")
    return Statistics(**{name: cut(name) for name in names})


def _minimum_and_spread(folder: Path) -> Iterable[tuple[str, _Arrays]]:
    weights = _weight_files(folder)
    for path in weights:
        arrays = _read(path, _PREFIX)
        if arrays:
            yield path.name, arrays
    if any((folder / name).is_file() for name in _PICKLES):
        # Reading a pickle safely needs torch, and leaves a file behind that does not.
        from wallx_policy.model.normalizer_files import read_normalizers

        yield (
            " and ".join(_PICKLES),
            {
                name: {key: value.numpy().ravel() for key, value in tensors.items()}
                for name, tensors in read_normalizers(folder).items()
            },
        )
    elif (folder / _CONVERTED).is_file():
        yield _CONVERTED, _read(folder / _CONVERTED, "")


def _weight_files(folder: Path) -> list[Path]:
    index = folder / f"{_WEIGHTS}.index.json"
    if not index.is_file():
        path = folder / _WEIGHTS
        return [path] if path.is_file() else []
    named: Any = read_json(index).get("weight_map")
    if not isinstance(named, Mapping):
        raise UserError(f"{index} lacks weight_map")
    files = {str(file) for key, file in named.items() if str(key).startswith(_PREFIX)}
    return [folder / file for file in sorted(files)]


def _read(path: Path, prefix: str) -> _Arrays:
    found: _Arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118
                if not key.startswith(prefix):
                    continue
                feature, kind, name = key.removeprefix(prefix).split(".", 2)
                values = np.asarray(file.get_tensor(key), dtype=np.float64).ravel()
                found.setdefault(name, {})[feature, kind] = values
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its statistics cannot be read: {error}") from error
    return found


def _extent(
    source: str, name: str, tensors: Mapping[tuple[str, str], NDArray[np.float64]], feature: str
) -> Statistics:
    for kind in ("min", "delta"):
        if (feature, kind) not in tensors:
            raise UserError(f"{source}: the statistics {name!r} lack {kind} of {feature}")
    low, spread = tensors[feature, "min"], tensors[feature, "delta"]
    if low.shape != spread.shape:
        raise UserError(f"{source}: min and delta of {feature}, {name!r}, differ in size")
    return Statistics(min=tuple(low.tolist()), max=tuple((low + spread).tolist()))


def _from_norm_stats(feature: Mapping[str, NDArray[np.float64]]) -> Statistics:
    names = ("mean", "std", "min", "max", "q01", "q99")
    return Statistics(**{n: tuple(feature[n].tolist()) for n in names if n in feature})
