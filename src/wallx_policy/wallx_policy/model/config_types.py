"""What a checkpoint's configuration can say, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wallx_policy.contract_types import PredictionMode


class Layout(Enum):
    """Who wrote the checkpoint."""

    ORIGINAL = "original"
    """wall-oss-flow and wall-oss-fast."""
    LEROBOT = "lerobot"
    """LeRobot's ``wall_x``, fine-tuned from the former."""
    WALL05 = "wall05"
    """wall-oss-0.5."""
    LEROBOT05 = "lerobot05"
    """LeRobot's ``wall_oss_05``."""

    @property
    def of_lerobot(self) -> bool:
        """Whether statistics and features stand in LeRobot's files."""
        return self in (Layout.LEROBOT, Layout.LEROBOT05)


class Mixture(Enum):
    """What of a decoder layer depends on the token's type."""

    MLP = "mlp"
    """The feed-forward part."""
    TRANSFORMER = "transformer"
    """Everything."""


class ActionAttention(Enum):
    """What an action token sees of the other action tokens."""

    ISLAND = "island"
    """All of them."""
    CAUSAL = "causal"
    """The earlier ones."""


class StateEncoding(Enum):
    """How the robot's state enters the prompt."""

    TOKEN = "token"
    """One token whose embedding is a projection of the state."""
    TEXT = "text"
    """Numbers of bins, written out."""


class InactiveColumns(Enum):
    """How action columns that the robot does not use move during the flow."""

    MODEL = "model"
    """As the model says."""
    ZERO = "zero"
    """In a straight line to what zero is when normalised."""


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """One expert: the width of the tokens that it takes, and of its feed-forward part."""

    width: int
    inner: int


@dataclass(frozen=True, slots=True)
class StepGrid:
    """Points in time that the flow is integrated over, evenly from 0 (noise) to ``end``."""

    steps: int
    end: float = 1.0

    def times(self) -> Tensor:
        """Return the ``steps + 1`` points, f32."""
        return torch.linspace(0.0, 1.0, self.steps + 1) * self.end


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the network.

    Attributes:
        hidden_size: Width of the residual stream, and of the first expert.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        experts: By token type.
        mixture: What the experts do not share.
        rms_eps: Of every norm of the decoder.
        rope_theta: Base of the rotary frequencies.
        mrope_section: Frequencies that belong to time, height and width.
        vision: ``vision_config`` as the file has it.
        dof: Action columns by group, in order; empty where only the tensors tell.
        agent_pos: State columns by group, in order; empty where only the tensors tell.
        state_token: Whether the weights embed the state as a token; None where only the tensors
            tell.
        token_ids: Ids of special tokens that the configuration names.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: tuple[ExpertShape, ExpertShape]
    mixture: Mixture
    rms_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    vision: Mapping[str, Any]
    dof: Mapping[str, int]
    agent_pos: Mapping[str, int]
    state_token: bool | None
    token_ids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Everything that a checkpoint's own configuration decides, or its layout by default.

    Attributes:
        layout: Who wrote it.
        model: Shape of the network.
        base: Folder of tokenizer and image processor.
        prediction: How it makes actions; None where it does not say.
        grid: Euler steps.
        action_attention: What action tokens see of each other.
        resize: ``pil``, ``torchvision`` or ``mixed``.
        state_encoding: How the state enters; None where only the tensors tell.
        state_bins: Bins of a state that is text; None where it does not say.
        inactive: How unused action columns move.
        cameras: Views in prompt order; None where it does not say.
        views: View by name of an image, where the two differ.
        resolution: Long side by view; −1 leaves a view as it is.
        long_side: Of the other views.
        horizon: Actions in a chunk.
        action_dim: Leading action columns that are given out; None means all.
        all_columns_active: Whether the model is told that every column is in use.
        state_dim: State columns of the robot; None where it does not say.
        columns: Action columns of the model; None where only the tensors tell.
        state_columns: State columns of the model; None for as many as of the action.
        action_tokenizer: Folder of the tokenizer of FAST; None where it does not say.
    """

    layout: Layout
    model: ModelConfig
    base: Path
    prediction: PredictionMode | None
    grid: StepGrid
    action_attention: ActionAttention
    resize: str
    state_encoding: StateEncoding | None
    state_bins: int | None
    inactive: InactiveColumns
    cameras: tuple[str, ...] | None
    views: Mapping[str, str]
    resolution: Mapping[str, int]
    long_side: int
    horizon: int
    action_dim: int | None
    all_columns_active: bool
    state_dim: int | None
    columns: int | None
    state_columns: int | None
    action_tokenizer: Path | None = None
