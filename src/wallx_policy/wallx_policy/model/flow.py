"""Flow matching: integrates noise to actions, the prefix computed once or, as an oracle, always."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from so101_driver.errors import UserError
from torch import Tensor
from torch.nn.functional import linear, silu

from wallx_policy.model.checkpoint import ModelWeights
from wallx_policy.model.config import ActionAttention, ModelConfig
from wallx_policy.model.decoder import Decoder, Rotary, rotary
from wallx_policy.model.positions import mrope_positions
from wallx_policy.model.prompt import SpecialIds
from wallx_policy.model.vision import VisionTower

HiddenStates = Callable[[Tensor], Tensor]
"""From embedded actions to the final hidden states that velocities are read from."""


@dataclass(frozen=True, slots=True)
class FlowInputs:
    """One batch; every row ends with the same number of action tokens.

    Attributes:
        input_ids: [batch, tokens], padded on the left.
        attention_mask: [batch, tokens], 0 for padding.
        pixel_values: [patches, ...], f32.
        grid_thw: [images, 3].
        state: [batch, columns], normalised, 0 where unknown.
        state_mask: [batch, columns], 1 where known.
        dof_mask: [batch, columns], 1 where a column of the action is in use.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor
    grid_thw: Tensor
    state: Tensor
    state_mask: Tensor
    dof_mask: Tensor


@dataclass(slots=True)
class FlowTrace:
    """What happens on the way, for comparison with references."""

    image_embeds: Tensor | None = None
    positions: Tensor | None = None
    propri: Tensor | None = None
    embeddings: list[Tensor] = field(default_factory=list)
    velocities: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FlowResult:
    """Normalised actions [batch, horizon, columns], f32, and seconds by stage."""

    actions: Tensor
    timings_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Everything about a batch that does not change from step to step."""

    embeddings: Tensor  # [batch, prefix, H]
    positions: Tensor  # [3, batch, tokens]
    allowed: Tensor  # [batch, tokens, tokens], True where a row may attend
    horizon: int
    padded: bool


class FlowModel:
    """A loaded checkpoint that turns token ids and patches into normalised actions."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        special: SpecialIds,
        *,
        action_attention: ActionAttention,
        steps: int,
        bf16_rotary: bool,
    ) -> None:
        """Build the tower and the constants of every Euler step."""
        self._config = config
        self._weights = weights
        self._special = special
        self._attention = action_attention
        self._bf16_rotary = bf16_rotary
        self._decoder = Decoder(config, weights)
        self._vision = VisionTower(config.vision, weights.vision, bf16_rotary)
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self.columns = weights.columns
        self._times = torch.linspace(0.0, 1.0, steps + 1)
        # The time embedding enters linearly and is the same for every action and inference.
        hidden = config.hidden_size
        times = torch.stack([time_embedding(t, hidden) for t in self._times[:-1]])
        self._time_terms = linear(times.to(self.device), weights.head.w2[:, hidden:])

    @torch.inference_mode()
    def sample(
        self,
        inputs: FlowInputs,
        noise: Tensor,
        *,
        reuse_prefix: bool = True,
        trace: FlowTrace | None = None,
    ) -> FlowResult:
        """Integrate noise [batch, horizon, columns] to normalised actions.

        Args:
            inputs: The batch.
            noise: f32; unused columns matter too, they reach the used ones through w1.
            reuse_prefix: Run the prefix once; otherwise the whole sequence at every step.
            trace: Filled on the way, if given; hidden states only without ``reuse_prefix``.
        """
        clock = _Stopwatch(self.device)
        images = self._vision(inputs.pixel_values, inputs.grid_thw)
        clock.lap("vision")
        sequence = self._sequence(inputs, images, noise.shape[1], trace)
        x = noise.to(self.device, torch.float32)
        dof_term = self._dof_term(inputs.dof_mask)
        hidden = self._cached(sequence) if reuse_prefix else self._oracle(sequence, trace)
        clock.lap("prefill")
        for step in range(len(self._times) - 1):
            embedding = self._embed_actions(x, dof_term, step)
            v = linear(hidden(embedding), self._weights.head.back)
            x = x + float(self._times[step + 1] - self._times[step]) * v
            if trace is not None:
                trace.embeddings.append(embedding)
                trace.velocities.append(v)
        clock.lap("flow")
        return FlowResult(x, clock.timings_s)

    def _sequence(
        self, inputs: FlowInputs, images: Tensor, horizon: int, trace: FlowTrace | None
    ) -> _Sequence:
        ids = inputs.input_ids
        is_action = ids == self._special.action
        prefix = ids.shape[1] - horizon
        if bool(is_action[:, :prefix].any()) or not bool(is_action[:, prefix:].all()):
            raise UserError(f"the prompt must end with {horizon} action tokens and have no others")
        merge = int(self._config.vision["spatial_merge_size"])
        positions = torch.from_numpy(
            mrope_positions(
                ids.numpy(),
                inputs.attention_mask.numpy(),
                inputs.grid_thw[:, 1:].numpy() // merge,
                self._special.image_pad,
            )
        )
        keys = inputs.attention_mask.bool()
        count = torch.arange(ids.shape[1])
        allowed = (count[None, :] <= count[:, None]).expand(len(ids), -1, -1)
        if self._attention is ActionAttention.ISLAND:
            allowed = allowed | (is_action[:, :, None] & is_action[:, None, :])
        # A row of padding sees itself, or its softmax would be NaN; nobody reads it.
        allowed = (allowed & keys[:, None, :]) | torch.eye(len(count), dtype=torch.bool)

        ids = ids.to(self.device)
        embeddings = self._weights.embedding[ids[:, :prefix]]
        embeddings[ids[:, :prefix] == self._special.image_pad] = images.to(self.dtype)
        propri = self._embed_state(inputs.state, inputs.state_mask)
        embeddings[ids[:, :prefix] == self._special.propri] = propri
        if trace is not None:
            trace.image_embeds, trace.positions, trace.propri = images, positions, propri
        return _Sequence(
            embeddings,
            positions.to(self.device),
            allowed.to(self.device),
            horizon,
            not bool(keys.all()),
        )

    def _cached(self, sequence: _Sequence) -> HiddenStates:
        prefix = sequence.embeddings.shape[1]
        allowed = sequence.allowed[:, None]
        before = self._turn(sequence.positions[..., :prefix])
        after = self._turn(sequence.positions[..., prefix:])
        kept = self._decoder.prefix(
            sequence.embeddings,
            before,
            allowed[:, :, :prefix, :prefix] if sequence.padded else None,
        )
        everything = self._attention is ActionAttention.ISLAND and not sequence.padded
        mask = None if everything else allowed[:, :, prefix:]
        return lambda x: self._decoder.actions(x, after, kept, mask)

    def _oracle(self, sequence: _Sequence, trace: FlowTrace | None) -> HiddenStates:
        prefix = sequence.embeddings.shape[1]
        turn = self._turn(sequence.positions)
        types = torch.zeros(sequence.positions.shape[1:], dtype=torch.long, device=self.device)
        types[:, prefix:] = 1

        def hidden(actions: Tensor) -> Tensor:
            whole = torch.cat((sequence.embeddings, actions), dim=1)
            layers = None
            if trace is not None and not trace.hidden:
                layers = trace.hidden
            mask = sequence.allowed[:, None]
            final = self._decoder.everything(whole, types, turn, mask, layers)
            if layers is not None:
                layers.append(final)
            return final[:, prefix:]

        return hidden

    def _turn(self, positions: Tensor) -> Rotary:
        return rotary(self._config, positions, self.dtype, self._bf16_rotary)

    def _embed_state(self, state: Tensor, mask: Tensor) -> Tensor:
        # The references round the state to the stream's dtype before the f32 projection.
        both = torch.cat((state, mask), dim=-1).to(self.device, self.dtype).float()
        return linear(both, self._weights.head.propri).to(self.dtype)

    def _dof_term(self, mask: Tensor) -> Tensor:
        """Return what the mask adds to every action's first layer, [batch, 1, H]."""
        weight = self._weights.head.w1[:, self.columns :]
        return linear(mask.to(self.device, torch.float32), weight)[:, None]

    def _embed_actions(self, x: Tensor, dof_term: Tensor, step: int) -> Tensor:
        head = self._weights.head
        first = linear(x, head.w1[:, : self.columns]) + dof_term
        second = linear(first, head.w2[:, : first.shape[-1]]) + self._time_terms[step]
        return linear(silu(second), head.w3).to(self.dtype)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Return sines, then cosines, of t in [0, 1] at ``width // 2`` frequencies each."""
    n = width // 2
    frequencies = torch.exp(-torch.arange(n, dtype=torch.float32) * (np.log(10000.0) / (n - 1)))
    angles = t.float() * frequencies
    return torch.cat((angles.sin(), angles.cos()))


class _Stopwatch:
    """Seconds between laps; waits for the device, whose work is queued."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = self._now()
        self.timings_s: dict[str, float] = {}

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.timings_s[name] = now - self._last
        self._last = now
