"""Maps data set units to the model's and back; every formula in use is a line per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.lerobot_files import FeatureNorm, NormMode, Processors, with_mode
from wallx_policy.model.weights import Normalizers

_NO_STATISTICS = "none, values stay normalised"


class NormalizationMode(Enum):
    """Formula; the first is wall-x's, the others are LeRobot's."""

    MIN_DELTA = "min_delta"
    MEAN_STD = "mean_std"
    MIN_MAX = "min_max"
    QUANTILES = "quantiles"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Line:
    """``normalised = (value − shift) / scale + offset``, f32 as the references compute.

    The offset stands apart, or a column whose range is next to nothing would lose it in rounding.

    Attributes:
        shift: By column.
        scale: By column.
        offset: Of all columns.
    """

    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    offset: float

    @property
    def columns(self) -> int:
        """How many columns it has numbers for."""
        return len(self.shift)

    def there(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise [..., columns], of which there may be fewer than the line's."""
        width = slice(values.shape[-1])
        return (values - self.shift[width]) / self.scale[width] + np.float32(self.offset)

    def back(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return normalised [..., columns] in data set units."""
        width = slice(values.shape[-1])
        return (values - np.float32(self.offset)) * self.scale[width] + self.shift[width]


@dataclass(frozen=True, slots=True)
class Normalization:
    """Of one checkpoint.

    Attributes:
        state: Of the state; None leaves it as it is.
        action: Of the action, used backwards; None leaves it as it is.
        action_in: Of the action, on the way in; references do not invert it exactly.
        clamp: Whether normalised values are limited to [−1, 1].
        label: Says which formula, and where the numbers came from.
    """

    state: Line | None
    action: Line | None
    action_in: Line | None
    clamp: bool
    label: str

    def normalized_state(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a state in the model's units; NaN stays NaN.

        Raises:
            UserError: when it has more columns than the statistics.
        """
        value = state
        if self.state is not None:
            if len(state) > self.state.columns:
                raise UserError(
                    f"the state has {len(state)} columns, its statistics {self.state.columns}"
                )
            value = self.state.there(state)
        return np.clip(value, -1.0, 1.0) if self.clamp else value

    def actions(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [..., columns] in data set units."""
        return normalized if self.action is None else self.action.back(normalized)

    def normalized_actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [..., columns] in the model's units, as in training.

        Raises:
            UserError: when they have more columns than the statistics.
        """
        value = actions
        if self.action_in is not None:
            given, known = actions.shape[-1], self.action_in.columns
            if given > known:
                raise UserError(f"actions have {given} columns, their statistics {known}")
            value = self.action_in.there(actions)
        return np.clip(value, -1.0, 1.0) if self.clamp else value

    def zero_action(self, columns: int) -> NDArray[np.float32]:
        """Return what zero is when normalised, [columns]; 0 where there are no statistics."""
        known = columns if self.action_in is None else min(columns, self.action_in.columns)
        zero = np.zeros(columns, dtype=np.float32)
        zero[:known] = self.normalized_actions(zero[:known])
        return zero


def from_processors(processors: Processors, mode: NormalizationMode | None = None) -> Normalization:
    """Return what LeRobot's processor files describe, or another formula on their statistics.

    Raises:
        UserError: when the formula's statistics are missing.
    """
    state, action = processors.state, processors.action
    if mode is NormalizationMode.MIN_DELTA:
        raise UserError("normalization min_delta is wall-x's own: a LeRobot policy has min_max")
    if mode is not None:
        state, action = (with_mode(norm, NormMode(mode.name)) for norm in (state, action))
    modes = dict.fromkeys((state.mode.value, action.mode.value))
    return Normalization(
        state=_feature(state, inverse=False),
        action=_feature(action, inverse=True),
        action_in=_feature(action, inverse=False),
        clamp=processors.clamp,
        label=f"{' and '.join(modes)} of the processor files",
    )


def from_normalizers(
    normalizers: Normalizers, key: str | None, mode: NormalizationMode | None = None
) -> Normalization | None:
    """Return what wall-x's min and delta describe; None if there are none.

    Raises:
        UserError: when ``key`` is not among them, several are there and none is named, or another
            formula is asked for.
    """
    if mode is NormalizationMode.IDENTITY:
        return None
    if mode not in (None, NormalizationMode.MIN_DELTA):
        raise UserError(f"normalization {mode.value}: the checkpoint holds min and delta only")
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
        if tensors[feature, "min"].shape != tensors[feature, "delta"].shape:
            raise UserError(f"the statistics {key!r}: min and delta of {feature} differ in size")
        turned = tensors[feature, "delta"].flatten() < 0.0
        if bool(turned.any()):
            raise UserError(
                f"the statistics {key!r}: delta of {feature} is below 0 in column "
                f"{int(turned.nonzero()[0])}: no data is so"
            )
    state, action = (_numbers(tensors, feature) for feature in ("propri", "action"))
    return Normalization(
        state=_range(*state),
        # A column that never moved is given back as it was, whatever the model says.
        action=_between(*action),
        action_in=_range(*action),
        clamp=True,
        label=f"min and delta of {key}",
    )


def label(normalization: Normalization | None) -> str:
    """Return the words that say where a normalisation comes from."""
    return normalization.label if normalization is not None else _NO_STATISTICS


_Numbers = NDArray[np.float64]


def _numbers(tensors: Mapping[tuple[str, str], Tensor], feature: str) -> tuple[_Numbers, _Numbers]:
    low, span = (tensors[feature, kind].double().numpy().ravel() for kind in ("min", "delta"))
    return low, span


def _range(low: _Numbers, span: _Numbers) -> Line:
    return _between(low, np.where(span == 0.0, 1.0, span))


def _between(low: _Numbers, span: _Numbers) -> Line:
    return _line(low, span / 2.0, -1.0)


def _line(shift: _Numbers, scale: _Numbers, offset: float = 0.0) -> Line:
    return Line(shift.astype(np.float32), scale.astype(np.float32), offset)


def _feature(norm: FeatureNorm, *, inverse: bool) -> Line | None:
    if norm.mode is NormMode.IDENTITY:
        return None
    statistics = {name: np.ravel(v).astype(np.float64) for name, v in norm.statistics.items()}
    if norm.mode is NormMode.MEAN_STD:
        # LeRobot adds eps on the way in only.
        return _line(statistics["mean"], statistics["std"] + (0.0 if inverse else norm.eps))
    low, high = ("min", "max") if norm.mode is NormMode.MIN_MAX else ("q01", "q99")
    span = statistics[high] - statistics[low]
    return _between(statistics[low], np.where(span == 0.0, norm.eps, span))
