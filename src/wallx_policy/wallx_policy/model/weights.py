"""The tensors of a loaded checkpoint, arranged as the network takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One decoder layer as tokens of one type see it.

    With shared attention both types hold the same tensors for all but the last two.

    Attributes:
        input_norm: [W], W being the width of the expert.
        qkv: [(heads + 2 kv_heads) · head_dim, W].
        qkv_bias: [(heads + 2 kv_heads) · head_dim].
        out: [W, heads · head_dim].
        post_norm: [W].
        gate_up: [2 F, W].
        down: [W, F].
    """

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """Action head, f32; W is the width of the action expert, H of the whole network.

    Attributes:
        w1: [W, 2 columns], of the noisy action and its mask.
        w2: [W, 2 W], of action embedding and time embedding.
        w3: [W, W].
        back: [columns, W].
        propri: [H, 2 columns], of the state and its mask; None where the state is text.
    """

    w1: Tensor
    w2: Tensor
    w3: Tensor
    back: Tensor
    propri: Tensor | None


Normalizers = dict[str, dict[tuple[str, str], Tensor]]
"""``(action|propri, min|delta)`` by name of the statistics, f64."""


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All tensors of a checkpoint.

    Attributes:
        embedding: [rows of the file, H]; the output layer too.
        layers: By layer, then by token type.
        final_norms: By token type, [W]; the same tensor twice where the types share it.
        head: Action head.
        vision: State of the vision tower, keys without ``visual.``.
        normalizers: Statistics that the file holds.
    """

    embedding: Tensor
    layers: tuple[tuple[ExpertWeights, ExpertWeights], ...]
    final_norms: tuple[Tensor, Tensor]
    head: HeadWeights
    vision: dict[str, Tensor]
    normalizers: Normalizers

    @property
    def columns(self) -> int:
        """Action columns, used or not."""
        return self.head.back.shape[0]

    @property
    def state_columns(self) -> int | None:
        """State columns that the state's token carries, used or not; None without one."""
        return None if self.head.propri is None else self.head.propri.shape[1] // 2
