"""The decoder: Qwen2.5 layers whose weights depend, in part or wholly, on the token's type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention, silu

from wallx_policy.model.config import ModelConfig
from wallx_policy.model.weights import ExpertWeights, ModelWeights

PREFIX = 0
"""Type of every token but the action tokens."""
ACTION = 1

KeysValues = tuple[Tensor, Tensor]
"""Of one layer, each [batch, kv_heads, tokens, head_dim], already rotated."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin for a run of tokens, [batch, 1, tokens, head_dim] in the dtype of the stream."""

    cos: Tensor
    sin: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Rotate [batch, heads, tokens, head_dim]."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def part(self, tokens: slice) -> Rotary:
        """Return the rotation of some of the tokens."""
        return Rotary(self.cos[:, :, tokens], self.sin[:, :, tokens])


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


@dataclass(frozen=True, slots=True)
class Prefix:
    """What later tokens, and the output layer, need of tokens that were run once.

    Attributes:
        keys_values: By layer.
        hidden: [batch, rows, H], f32 final hidden states of the last tokens that were asked for;
            None when none were.
    """

    keys_values: tuple[KeysValues, ...]
    hidden: Tensor | None


class Cache:
    """Keys and values of a run of type-0 tokens that grows; its memory is taken once."""

    def __init__(self, prefix: Prefix, room: int) -> None:
        """Copy a prefix and leave room for that many further tokens."""
        self._layers = [
            (pad(k, (0, 0, 0, room)), pad(v, (0, 0, 0, room))) for k, v in prefix.keys_values
        ]
        self.length = prefix.keys_values[0][0].shape[2]
        self._capacity = self.length + room

    def add(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Write a layer's new keys and values behind the others; return all of that layer."""
        end = self.length + k.shape[2]
        if end > self._capacity:
            raise ValueError(f"the cache has room for {self._capacity} tokens, not {end}")
        keys, values = self._layers[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has added."""
        self.length += tokens


class Decoder:
    """Runs tokens through the layers; knows nothing of prompts, images or flow."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        """Take the weights as they are, in their dtypes."""
        self._config = config
        self._layers = weights.layers
        self._final_norms = weights.final_norms
        self._dtype = weights.embedding.dtype

    def prefill(
        self, x: Tensor, turn: Rotary, mask: Tensor | None = None, *, final_rows: int = 0
    ) -> Prefix:
        """Run type-0 tokens once and keep every layer's keys and values.

        Args:
            x: [batch, tokens, H].
            turn: Rotation of these tokens.
            mask: [batch, 1, tokens, tokens], True where a row may attend; None for plain causal.
            final_rows: How many of the last tokens' final hidden states to return.
        """
        kept = []
        last = len(self._layers) - 1
        for n, experts in enumerate(self._layers):
            expert = experts[PREFIX]
            q, k, v = self._project(expert, x, turn)
            kept.append((k, v))
            if n == last:  # only the rows that somebody reads
                if final_rows:
                    rows = slice(x.shape[1] - final_rows, x.shape[1])
                    seen = _causal(x) if mask is None else mask
                    mixed = self._attend(q[:, :, rows], k, v, seen[..., rows, :])
                    x = self._finish(expert, x[:, rows], mixed)
            else:
                x = self._finish(expert, x, self._attend(q, k, v, mask, causal=mask is None))
        hidden = self._norm(x, self._final_norms[PREFIX]) if final_rows else None
        return Prefix(tuple(kept), hidden)

    def extend(self, x: Tensor, turn: Rotary, cache: Cache, mask: Tensor | None = None) -> Tensor:
        """Run type-0 tokens after those of a cache, and add them to it.

        Args:
            x: [batch, tokens, H]; one token per row is a decoding step.
            turn: Rotation of these tokens.
            cache: Grows by these tokens.
            mask: [batch, 1, tokens, cache.length + tokens]; None when every row sees everything.

        Returns:
            Final hidden states [batch, tokens, H], f32.

        Raises:
            ValueError: when the cache is full.
        """
        for n, experts in enumerate(self._layers):
            q, k, v = self._project(experts[PREFIX], x, turn)
            keys, values = cache.add(n, k, v)
            x = self._finish(experts[PREFIX], x, self._attend(q, keys, values, mask))
        cache.advance(x.shape[1])
        return self._norm(x, self._final_norms[PREFIX])

    def actions(
        self, x: Tensor, turn: Rotary, prefix: Sequence[KeysValues], mask: Tensor | None
    ) -> Tensor:
        """Run action tokens after a prefix; a differentiable function of ``x``.

        Args:
            x: [batch, tokens, width of the action expert].
            turn: Rotation of these tokens.
            prefix: Keys and values of `prefill`.
            mask: [batch, 1, tokens, prefix + tokens]; None when every row sees everything.

        Returns:
            Final hidden states like ``x``, f32.
        """
        for experts, (past_k, past_v) in zip(self._layers, prefix, strict=True):
            q, k, v = self._project(experts[ACTION], x, turn)
            keys, values = torch.cat((past_k, k), dim=2), torch.cat((past_v, v), dim=2)
            x = self._finish(experts[ACTION], x, self._attend(q, keys, values, mask))
        return self._norm(x, self._final_norms[ACTION])

    def everything(
        self,
        prefix: Tensor,
        actions: Tensor,
        turn: Rotary,
        mask: Tensor,
        trace: list[Tensor] | None = None,
    ) -> Tensor:
        """Run a whole sequence with both types of tokens, as the references do.

        This is the oracle that the split into `prefill` and `actions` is tested against.

        Args:
            prefix: [batch, prefix, H].
            actions: [batch, tokens, width of the action expert].
            turn: Rotation of all tokens.
            mask: [batch, 1, prefix + tokens, prefix + tokens].
            trace: Gets the hidden states after every layer and the final ones, if given; H wide,
                zero where an action expert is narrower.

        Returns:
            Final hidden states of the action tokens, f32.
        """
        count = prefix.shape[1]
        parts = (slice(count), slice(count, None))
        streams = [prefix, actions]
        for experts in self._layers:
            projected = [
                self._project(expert, x, turn.part(part))
                for expert, x, part in zip(experts, streams, parts, strict=True)
            ]
            q, k, v = (torch.cat(halves, dim=2) for halves in zip(*projected, strict=True))
            mixed = self._attend(q, k, v, mask)
            streams = [
                self._finish(expert, x, mixed[:, part])
                for expert, x, part in zip(experts, streams, parts, strict=True)
            ]
            if trace is not None:
                trace.append(_side_by_side(streams))
        final = [self._norm(x, w) for x, w in zip(streams, self._final_norms, strict=True)]
        if trace is not None:
            trace.append(_side_by_side(final))
        return final[ACTION]

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

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        mixed = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)

    def _finish(self, weights: ExpertWeights, x: Tensor, attended: Tensor) -> Tensor:
        x = x + linear(attended, weights.out)
        normed = self._norm(x, weights.post_norm).to(self._dtype)
        gate, up = linear(normed, weights.gate_up).chunk(2, dim=-1)
        return x + linear(silu(gate) * up, weights.down)


def _causal(x: Tensor) -> Tensor:
    tokens = x.shape[1]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()


def _side_by_side(streams: Sequence[Tensor]) -> Tensor:
    width = streams[PREFIX].shape[-1]
    return torch.cat([pad(x, (0, width - x.shape[-1])) for x in streams], dim=1)
