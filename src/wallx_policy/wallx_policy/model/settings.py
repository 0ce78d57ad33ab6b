"""What was taken for every switch of a checkpoint, and how a choice becomes a setting."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from so101_driver.errors import UserError

from wallx_policy.contract_types import PredictionMode
from wallx_policy.model.config_types import (
    ActionAttention,
    InactiveColumns,
    Layout,
    StateEncoding,
)
from wallx_policy.model.images import Resize

T = TypeVar("T", bound=Enum)


class Rotary(Enum):
    """Precision of the rotary frequencies."""

    EXACT = "exact"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class FastSettings:
    """Of a policy that predicts FAST tokens.

    Attributes:
        action_tokenizer: Folder of the action tokenizer.
        max_new_tokens: Of an answer, its end included.
        retries: Further attempts, drawn, when an answer is no chunk.
    """

    action_tokenizer: str
    max_new_tokens: int
    retries: int


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What was taken for every switch of a checkpoint.

    Attributes:
        layout: Who wrote the checkpoint.
        prediction: How it makes actions.
        fast: What else that takes; None for flow.
        cameras: Views in prompt order.
        horizon: Actions in a chunk.
        action_dim: Leading action columns that are given out.
        end_effectors: Whose absolute poses come with them.
        active_columns: Leading action columns that the model is told are in use.
        steps: Euler steps.
        end_time: Flow time where the last one ends.
        action_attention: What action tokens see of each other.
        inactive: How unused action columns move.
        resize: Kernel of the image resampling.
        rotary: Precision of the frequencies.
        state_encoding: How the state enters the prompt.
        state_bins: Bins of a state that is text; None otherwise.
        statistics: Formula of the normalisation, and where its numbers come from.
        device: Where the model runs.
        dtype: Of its matrices.
        cuda_graphs: Whether flow runs as CUDA graphs.
        compile_layers: Whether its layers are compiled.
    """

    layout: Layout
    prediction: PredictionMode
    fast: FastSettings | None
    cameras: tuple[str, ...]
    horizon: int
    action_dim: int
    end_effectors: tuple[str, ...]
    active_columns: int
    steps: int
    end_time: float
    action_attention: ActionAttention
    inactive: InactiveColumns
    resize: Resize
    rotary: Rotary
    state_encoding: StateEncoding
    state_bins: int | None
    statistics: str
    device: str
    dtype: str
    cuda_graphs: bool
    compile_layers: bool

    def line(self) -> str:
        """Return one line for the log."""
        bins = "" if self.state_bins is None else f" in {self.state_bins} bins"
        poses = f" with poses of {', '.join(self.end_effectors)}" if self.end_effectors else ""
        fast = ""
        if self.fast is not None:
            fast = (
                f" of up to {self.fast.max_new_tokens} tokens by {self.fast.action_tokenizer}, "
                f"{self.fast.retries} retries"
            )
        return (
            f"{self.layout.value} layout, {self.prediction.value} prediction{fast}, "
            f"views {', '.join(self.cameras)}, {self.horizon} actions of {self.action_dim}{poses}, "
            f"{self.active_columns} active columns, inactive ones as {self.inactive.value}, "
            f"{self.steps} Euler steps to {self.end_time:g}, "
            f"{self.action_attention.value} attention, {self.resize.value} resize, "
            f"{self.rotary.value} rotary, state as {self.state_encoding.value}{bins}, "
            f"normalization: {self.statistics}, {self.dtype} on {self.device}"
            f"{' with CUDA graphs' if self.cuda_graphs else ''}"
            f"{', compiled layers' if self.compile_layers else ''}"
        )


def choice(kind: type[T], name: str, given: str | None, default: T) -> T:
    """Return the member of an enum that an argument names, or the default.

    Raises:
        UserError: naming the argument and the choices.
    """
    if given is None:
        return default
    try:
        return kind(given)
    except ValueError:
        choices = ", ".join(str(member.value) for member in kind)
        raise UserError(f"{name} must be one of {choices}, not {given!r}") from None


def optional_choice(kind: type[T], name: str, given: str | None) -> T | None:
    """Return the member of an enum that an argument names, or None if it names none."""
    return None if given is None else choice(kind, name, given, next(iter(kind)))


def as_graphs(device: str, prediction: PredictionMode, given: bool | None) -> bool:
    """Return whether flow runs as CUDA graphs: on a GPU, unless the argument says otherwise.

    Raises:
        UserError: when they are asked for where there are none.
    """
    possible = device.startswith("cuda") and prediction is PredictionMode.FLOW
    if given and not possible:
        raise UserError(
            f"cuda_graphs is for flow on a GPU, not for {prediction.value} on {device}: leave it "
            "out"
        )
    return possible if given is None else given


def compiled(prediction: PredictionMode, given: bool) -> bool:
    """Return whether layers are compiled, which is for flow alone; UserError otherwise."""
    if given and prediction is not PredictionMode.FLOW:
        raise UserError(f"compile_layers is for flow, not for {prediction.value}: leave it out")
    return given


def positive(name: str, value: int) -> int:
    """Return a number that is at least 1; UserError otherwise."""
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
    return value


def first(*values: int | None) -> int:
    """Return the first value that somebody gave."""
    return next(value for value in values if value is not None)
