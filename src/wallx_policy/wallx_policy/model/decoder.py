"""The decoder: Qwen2.5 layers whose feed-forward part depends on the token's type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from wallx_policy.model.checkpoint import ExpertWeights, ModelWeights
from wallx_policy.model.config import ModelConfig

PREFIX = 0
"""Type of every token but the action tokens."""
ACTION = 1

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin for a run of tokens, [batch, 1, tokens, head_dim] in the dtype of the stream."""

    cos: Tensor
    sin: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Rotate [batch, heads, tokens, head_dim]."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


def rotary(config: ModelConfig, positions: Tensor, dtype: torch.dtype, bf16: bool) -> Rotary:
    """Return the rotation for positions [3, batch, tokens].

    Args:
        config: Shape of the network.
        positions: In time, height and width.
        dtype: Of the residual stream.
        bf16: Round the frequencies to bfloat16, as LeRobot does when it casts the model.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / config.rope_theta ** (half / config.head_dim)
    if bf16:
        frequencies = frequencies.to(torch.bfloat16).float()
    angles = positions.float()[..., None] * frequencies
    # The first frequencies follow time, the next height, the last width.
    pieces = angles.split(list(config.mrope_section), dim=-1)
    own = torch.cat([piece[axis] for axis, piece in enumerate(pieces)], dim=-1)
    both = torch.cat((own, own), dim=-1)[:, None]
    return Rotary(both.cos().to(dtype), both.sin().to(dtype))


class Decoder:
    """Runs tokens through the layers; knows nothing of prompts, images or flow."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        """Take the weights as they are, in their dtypes."""
        self._config = config
        self._layers = weights.layers
        self._final_norm = weights.final_norm
        self._dtype = weights.embedding.dtype

    def prefix(self, x: Tensor, turn: Rotary, mask: Tensor | None) -> list[KeysValues]:
        """Run the prefix once and return every layer's keys and values.

        Args:
            x: [batch, tokens, H].
            turn: Rotation of these tokens.
            mask: [batch, 1, tokens, tokens], True where a row may attend; None for plain causal.
        """
        kept = []
        last = len(self._layers) - 1
        for n, experts in enumerate(self._layers):
            q, k, v = self._project(experts[PREFIX], x, turn)
            kept.append((k, v))
            if n < last:  # nobody reads what the last layer says about the prefix
                x = self._finish(experts[PREFIX], x, self._attend(q, k, v, mask, mask is None))
        return kept

    def actions(
        self, x: Tensor, turn: Rotary, prefix: Sequence[KeysValues], mask: Tensor | None
    ) -> Tensor:
        """Run action tokens after a prefix; return their final hidden states [batch, tokens, H].

        Args:
            x: [batch, tokens, H].
            turn: Rotation of these tokens.
            prefix: From `prefix`.
            mask: [batch, 1, tokens, prefix + tokens]; None when every row sees everything.
        """
        for experts, (past_k, past_v) in zip(self._layers, prefix, strict=True):
            q, k, v = self._project(experts[ACTION], x, turn)
            keys, values = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
            x = self._finish(experts[ACTION], x, self._attend(q, keys, values, mask, False))
        return self._norm(x, self._final_norm)

    def everything(
        self, x: Tensor, types: Tensor, turn: Rotary, mask: Tensor, trace: list[Tensor] | None
    ) -> Tensor:
        """Run a whole sequence with both types of tokens, as the references do.

        This is the oracle that the split into `prefix` and `actions` is tested against.

        Args:
            x: [batch, tokens, H].
            types: [batch, tokens], 0 or 1.
            turn: Rotation of all tokens.
            mask: [batch, 1, tokens, tokens].
            trace: Gets the hidden states after every layer, if given.
        """
        is_action = (types == ACTION)[..., None]
        for experts in self._layers:
            q, k, v = self._project(experts[PREFIX], x, turn)
            attended = self._attend(q, k, v, mask, False)
            results = [self._finish(expert, x, attended) for expert in experts]
            x = torch.where(is_action, results[ACTION], results[PREFIX])
            if trace is not None:
                trace.append(x)
        return self._norm(x, self._final_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm in f32, the result in the dtype of the weight."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._config.rms_eps)
        return weight * (wide * scale)

    def _project(
        self, weights: ExpertWeights, x: Tensor, turn: Rotary
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = self._config
        normed = self._norm(x, weights.input_norm).to(self._dtype)
        joined = linear(normed, weights.qkv, weights.qkv_bias)
        heads = joined.unflatten(-1, (c.heads + 2 * c.kv_heads, c.head_dim)).transpose(1, 2)
        q, k, v = heads.split((c.heads, c.kv_heads, c.kv_heads), dim=1)
        return turn.apply(q), turn.apply(k), v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        mixed = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)

    def _finish(self, weights: ExpertWeights, x: Tensor, attended: Tensor) -> Tensor:
        x = x + linear(attended, weights.out)
        normed = self._norm(x, weights.post_norm).to(self._dtype)
        gate, up = linear(normed, weights.gate_up).chunk(2, dim=-1)
        return x + linear(silu(gate) * up, weights.down)
