"""Maps data set units to the model's and back; every formula in use is a line per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.lerobot_files import FeatureNorm, NormMode, Processors


@dataclass(frozen=True, slots=True)
class Line:
    """``normalised = (value − shift) / scale``, per column, f32 as the references compute."""

    shift: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Normalization:
    """Of one checkpoint.

    Attributes:
        state: Of the state.
        action: Of the action, used backwards.
        clamp: Whether the normalised state is limited to [−1, 1].
        label: Says where the numbers came from.
    """

    state: Line
    action: Line
    clamp: bool
    label: str

    def normalized_state(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a state in the model's units; NaN stays NaN."""
        columns = len(self.state.shift)
        if len(state) > columns:
            raise UserError(f"the state has {len(state)} columns, its statistics {columns}")
        width = slice(len(state))
        value = (state - self.state.shift[width]) / self.state.scale[width]
        return np.clip(value, -1.0, 1.0) if self.clamp else value

    def actions(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [..., columns] in data set units."""
        width = slice(normalized.shape[-1])
        return normalized * self.action.scale[width] + self.action.shift[width]


def from_processors(processors: Processors) -> Normalization:
    """Return what LeRobot's processor files describe."""
    modes = sorted({processors.state.mode.value, processors.action.mode.value})
    return Normalization(
        state=_feature(processors.state, inverse=False),
        action=_feature(processors.action, inverse=True),
        clamp=False,
        label=f"{' and '.join(modes)} of the processor files",
    )


def from_normalizers(
    normalizers: Mapping[str, Mapping[tuple[str, str], Tensor]], key: str | None
) -> Normalization | None:
    """Return what an original checkpoint's normaliser tensors describe; None if it has none.

    Raises:
        UserError: when ``key`` is not among them, or several are there and none is named.
    """
    names = ", ".join(sorted(normalizers)) or "none"
    if key is None:
        if not normalizers:
            return None
        if len(normalizers) > 1:
            raise UserError(f"the checkpoint has several statistics, give norm_key: {names}")
        key = next(iter(normalizers))
    if key not in normalizers:
        raise UserError(f"norm_key {key!r} is not in the checkpoint, which has: {names}")
    tensors = normalizers[key]
    for feature in ("propri", "action"):
        for kind in ("min", "delta"):
            if (feature, kind) not in tensors:
                raise UserError(f"the statistics {key!r} lack {kind} of {feature}")
    return Normalization(
        state=_range(tensors["propri", "min"], tensors["propri", "delta"]),
        action=_range(tensors["action", "min"], tensors["action", "delta"]),
        clamp=True,
        label=f"min and delta of {key}",
    )


def _range(minimum: Tensor, delta: Tensor) -> Line:
    low, span = minimum.numpy().astype(np.float64), delta.numpy().astype(np.float64)
    return _between(low, np.where(span == 0.0, 1.0, span))


def _between(low: NDArray[np.float64], span: NDArray[np.float64]) -> Line:
    return _line(low + span / 2.0, span / 2.0)


def _line(shift: NDArray[np.float64], scale: NDArray[np.float64]) -> Line:
    return Line(shift.astype(np.float32), scale.astype(np.float32))


def _feature(norm: FeatureNorm, *, inverse: bool) -> Line:
    statistics = {name: np.ravel(v).astype(np.float64) for name, v in norm.statistics.items()}
    if norm.mode is NormMode.MEAN_STD:
        # LeRobot adds eps on the way in only.
        return _line(statistics["mean"], statistics["std"] + (0.0 if inverse else norm.eps))
    if norm.mode is NormMode.IDENTITY:
        raise UserError("a policy whose state or action is not normalised is not implemented")
    low, high = ("min", "max") if norm.mode is NormMode.MIN_MAX else ("q01", "q99")
    span = statistics[high] - statistics[low]
    return _between(statistics[low], np.where(span == 0.0, norm.eps, span))
