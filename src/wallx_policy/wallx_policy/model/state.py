"""The robot's state as the prompt takes it: numbers for one token, or bins written out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.config_types import StateEncoding
from wallx_policy.model.normalization import Normalization


@dataclass(frozen=True, slots=True)
class EncodedState:
    """What stands for one state.

    Attributes:
        text: For the prompt; None where a token carries the state.
        values: [1, columns], normalised, 0 where unknown; None where the state is text.
        known: [1, columns], 1 where known; None where the state is text.
    """

    text: str | None
    values: Tensor | None
    known: Tensor | None


def state_text(normalized: NDArray[np.float32], bins: int) -> str:
    """Return the numbers of the bins that [−1, 1] is cut into, joined by spaces."""
    edges = np.linspace(-1.0, 1.0, bins + 1)[:-1]
    return " ".join(str(number) for number in np.digitize(normalized, edges) - 1)


@dataclass(frozen=True, slots=True)
class StateEncoder:
    """Encodes states in data set units.

    Attributes:
        encoding: Token or text.
        bins: Of a state that is text.
        columns: State columns of the model.
        width: Numbers that a state must have when it is text; None for any.
        pad: Whether missing columns are filled with zeros before they are normalised.
        normalization: Of the checkpoint, if it has one.
    """

    encoding: StateEncoding
    bins: int | None
    columns: int
    width: int | None
    pad: bool
    normalization: Normalization | None

    def __call__(self, given: ArrayLike) -> EncodedState:
        """Encode one state.

        Raises:
            UserError: when it does not fit the checkpoint.
        """
        state = np.asarray(given, dtype=np.float32)
        if state.ndim != 1 or len(state) > self.columns:
            shape = list(state.shape)
            raise UserError(f"the state must be up to {self.columns} numbers, not {shape}")
        if np.isinf(state).any():
            raise UserError("the state is infinite")
        if self.encoding is StateEncoding.TEXT:
            return self._text(state)
        if self.normalization is not None:
            state = self.normalization.normalized_state(state)
        values, known = torch.zeros(1, self.columns), torch.zeros(1, self.columns)
        known[0, : len(state)] = torch.from_numpy(~np.isnan(state)).float()
        values[0, : len(state)] = torch.from_numpy(np.nan_to_num(state, nan=0.0))
        return EncodedState(None, values, known)

    def _text(self, state: NDArray[np.float32]) -> EncodedState:
        if self.width is not None and len(state) != self.width:
            raise UserError(f"the state must be {self.width} numbers, not {len(state)}")
        if np.isnan(state).any():
            column = int(np.flatnonzero(np.isnan(state))[0])
            raise UserError(
                f"column {column} of the state is unknown, which a state that is text cannot say"
            )
        if self.pad:
            state = np.pad(state, (0, self.columns - len(state)))
        if self.normalization is not None:
            state = self.normalization.normalized_state(state)
        assert self.bins is not None
        return EncodedState(state_text(np.clip(state, -1.0, 1.0), self.bins), None, None)
