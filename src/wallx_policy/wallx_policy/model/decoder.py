"""The decoder: Qwen2.5 layers whose weights depend, in part or wholly, on the token's type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, rms_norm, scaled_dot_product_attention, silu

from wallx_policy.model.config import ModelConfig
from wallx_policy.model.weights import ExpertWeights, ModelWeights

PREFIX = 0
"""Type of every token but the action tokens."""
ACTION = 1

KeysValues = tuple[Tensor, Tensor]
"""Of one layer, each [batch, kv_heads, tokens, head_dim], already rotated."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin for a run of tokens, [batch, 1, tokens, head_dim] in the dtype of the stream.

    The first half of sin is negative: halves are then exchanged without a change of sign.
    """

    cos: Tensor
    sin: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Rotate [batch, heads, tokens, head_dim]."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((second, first), dim=-1) * self.sin

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
    cos, sin = own.cos()[:, None].to(dtype), own.sin()[:, None].to(dtype)
    return Rotary(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


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
        self._check(k.shape[2])
        keys, values = self._layers[layer]
        return _written(keys, self.length, k), _written(values, self.length, v)

    def layer(self, number: int, room: int) -> KeysValues:
        """Return the memory of a layer, the tokens held and all room.

        Raises:
            ValueError: when there is less room.
        """
        self._check(room)
        return self._layers[number]

    def hold(self, prefix: Prefix) -> None:
        """Replace the first tokens by those of a prefix, in the same memory."""
        for held, given in zip(self._layers, prefix.keys_values, strict=True):
            for old, new in zip(held, given, strict=True):
                old[:, :, : new.shape[2]] = new

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has added."""
        self.length += tokens

    def _check(self, tokens: int) -> None:
        end = self.length + tokens
        if end > self._capacity:
            raise ValueError(f"the cache has room for {self._capacity} tokens, not {end}")


class Decoder:
    """Runs tokens through the layers; knows nothing of prompts, images or flow."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        """Take the weights as they are, in their dtypes."""
        self._config = config
        self._layers = weights.layers
        self._final_norms = weights.final_norms
        self._dtype = weights.embedding.dtype
        self._run_prefix_layer = self._prefix_layer
        self._run_action_layer = self._action_layer

    def empty_cache(self, batch: int, tokens: int, room: int) -> Cache:
        """Return a cache that holds ``tokens`` zeros, to be replaced by `Cache.hold`."""
        c = self._config
        device = self._final_norms[PREFIX].device
        shape = (batch, c.kv_heads, tokens, c.head_dim)
        nothing = torch.zeros(shape, dtype=self._dtype, device=device)
        return Cache(Prefix(((nothing, nothing),) * len(self._layers), None), room)

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
        for experts in self._layers[:-1]:
            x, k, v = self._run_prefix_layer(experts[PREFIX], x, turn, mask)
            kept.append((k, v))
        expert = self._layers[-1][PREFIX]
        q, k, v = self._project(expert, x, turn)
        kept.append((k, v))
        if final_rows:  # only the rows that somebody reads
            rows = slice(x.shape[1] - final_rows, x.shape[1])
            seen = _causal(x) if mask is None else mask
            mixed = self._attend(q[:, :, rows], k, v, seen[..., rows, :])
            x = self._finish(expert, x[:, rows], mixed)
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

    def actions(self, x: Tensor, turn: Rotary, prefix: Cache, mask: Tensor | None) -> Tensor:
        """Run action tokens after a prefix; a differentiable function of ``x``.

        Args:
            x: [batch, tokens, width of the action expert].
            turn: Rotation of these tokens.
            prefix: With room for these tokens, which they leave as it was unless gradients are
                off: then their keys and values are written there, and the next call's over them.
            mask: From `action_mask`; None when every row sees everything.

        Returns:
            Final hidden states like ``x``, f32.

        Raises:
            ValueError: when there is no room.
        """
        for n, experts in enumerate(self._layers):
            held = prefix.layer(n, room=x.shape[1])
            x = self._run_action_layer(experts[ACTION], x, turn, held, prefix.length, mask)
        return self._norm(x, self._final_norms[ACTION])

    def compile(self, backend: str = "inductor") -> None:
        """Let torch compile a layer as the prefix runs it, and as action tokens do.

        A second length makes the lengths variables, so that further ones need no compilation.
        """
        self._run_prefix_layer = torch.compile(self._prefix_layer, backend=backend, fullgraph=True)
        self._run_action_layer = torch.compile(self._action_layer, backend=backend, fullgraph=True)

    def _prefix_layer(
        self, weights: ExpertWeights, x: Tensor, turn: Rotary, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._project(weights, x, turn)
        mixed = self._attend(q, k, v, mask, causal=mask is None)
        return self._finish(weights, x, mixed), k, v

    def _action_layer(
        self,
        weights: ExpertWeights,
        x: Tensor,
        turn: Rotary,
        held: KeysValues,
        length: int,
        mask: Tensor | None,
    ) -> Tensor:
        q, k, v = self._project(weights, x, turn)
        put = _joined if torch.is_grad_enabled() else _written
        keys, values = put(held[0], length, k), put(held[1], length, v)
        # The heads of a group as rows of one head: keys and values are read once, and every
        # attention kernel can do it, with a mask too.
        rows = q.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        mixed = scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
        mixed = mixed.unflatten(2, (-1, x.shape[1])).permute(0, 3, 1, 2, 4).flatten(2)
        return self._finish(weights, x, mixed)

    def action_mask(self, allowed: Tensor) -> Tensor:
        """Return the mask that `actions` takes, made once for many steps.

        Args:
            allowed: [batch, 1, tokens, prefix + tokens], True where a row may attend.

        Returns:
            [batch, 1, heads of a group · tokens, prefix + tokens], 0 or -inf.
        """
        c = self._config
        mask = torch.zeros(allowed.shape, dtype=self._dtype, device=allowed.device)
        mask = mask.masked_fill_(~allowed, -torch.inf)
        return mask.repeat(1, 1, c.heads // c.kv_heads, 1)

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
        return rms_norm(x.float(), weight.shape, weight, self._config.rms_eps)

    def _project(
        self, weights: ExpertWeights, x: Tensor, turn: Rotary
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = self._config
        normed = self._norm(x, weights.input_norm).to(self._dtype)
        joined = linear(normed, weights.qkv, weights.qkv_bias)
        heads = joined.unflatten(-1, (c.heads + 2 * c.kv_heads, c.head_dim)).transpose(1, 2)
        to_turn, v = heads.split((c.heads + c.kv_heads, c.kv_heads), dim=1)
        q, k = turn.apply(to_turn).split((c.heads, c.kv_heads), dim=1)
        return q, k, v

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


def _written(held: Tensor, length: int, new: Tensor) -> Tensor:
    """Write tokens behind the first ``length`` ones held; return all of them."""
    end = length + new.shape[2]
    held[:, :, length:end] = new
    return held[:, :, :end]


def _joined(held: Tensor, length: int, new: Tensor) -> Tensor:
    """Return the first ``length`` tokens held and new ones, as a tensor of its own."""
    return torch.cat((held[:, :, :length], new), dim=2)


def _causal(x: Tensor) -> Tensor:
    tokens = x.shape[1]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()


def _side_by_side(streams: Sequence[Tensor]) -> Tensor:
    width = streams[PREFIX].shape[-1]
    return torch.cat([pad(x, (0, width - x.shape[-1])) for x in streams], dim=1)
