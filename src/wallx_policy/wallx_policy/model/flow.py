"""Flow matching: integrates noise to actions, the prefix computed once or, as an oracle, always."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from so101_driver.errors import UserError
from torch import Tensor
from torch.nn.functional import linear, silu

from wallx_policy.model.config import ActionAttention, StepGrid
from wallx_policy.model.decoder import Cache, Rotary
from wallx_policy.model.network import EmbeddedPrompt, Network, PromptInputs
from wallx_policy.model.weights import HeadWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowInputs(PromptInputs):
    """One batch; every row ends with the same number of action tokens.

    Attributes:
        dof_mask: [batch, columns], 1 where a column of the action is in use.
    """

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
class FlowContext:
    """Everything about a batch that does not change from step to step; detached tensors.

    Attributes:
        cache: Keys and values of the prefix, with room for the actions; None for the oracle.
        prefix: Embeddings of the prefix [batch, tokens, H], for the oracle only.
        turn: Rotation of the action tokens, or of all tokens for the oracle.
        mask: As the decoder's `actions` or `everything` takes it.
        terms: What time and mask of columns add in the head, [steps, batch, 1, W].
        active: [batch, 1, columns], True where a column is in use.
        inactive_velocity: [batch, horizon, columns] for the other columns; None where the model's
            own velocity is taken.
        timings_s: Seconds by stage: vision, prefill.
        trace: Filled on the way, if given.
    """

    cache: Cache | None
    prefix: Tensor | None
    turn: Rotary
    mask: Tensor | None
    terms: Tensor
    active: Tensor
    inactive_velocity: Tensor | None
    timings_s: dict[str, float]
    trace: FlowTrace | None


class Integrator(Protocol):
    """Another way from noise to actions than all Euler steps with the flow's own velocity."""

    @property
    def key(self) -> Hashable:
        """Equal for integrators that differ in nothing but their tensors."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it takes besides; f32, on the host, of the same shapes for the same key."""

    def __call__(
        self, model: FlowModel, context: FlowContext, noise: Tensor, tensors: tuple[Tensor, ...]
    ) -> Tensor:
        """Return actions like ``noise``; its own ``tensors`` are given on the device."""


class FlowModel:
    """Turns token ids and patches into normalised actions.

    Attributes:
        network: The model's network.
        grid: Points in time that the flow is integrated over.
        times: The same, f32, on the host.
        steps: Time and length of every Euler step.
        device: Where the model runs.
        columns: Action columns, used or not.
    """

    def __init__(
        self,
        network: Network,
        head: HeadWeights,
        *,
        action_attention: ActionAttention,
        grid: StepGrid,
        inactive_target: Tensor | None = None,
    ) -> None:
        """Compute the constants of every Euler step.

        Args:
            network: The model's network.
            head: Its action head.
            action_attention: What action tokens see of each other.
            grid: Points in time.
            inactive_target: [columns], where columns that are not in use travel to in a straight
                line; None leaves them to the model.
        """
        self.network = network
        self.grid = grid
        self.device = network.device
        self.columns = head.back.shape[0]
        self.times = grid.times()
        self.steps = [(float(t), float(after - t)) for t, after in pairwise(self.times)]
        self._head = head
        self._attention = action_attention
        self._target = None if inactive_target is None else inactive_target.to(self.device)
        width = head.w3.shape[0]
        # The time embedding enters linearly and is the same for every action and inference.
        times = torch.stack([time_embedding(t, width) for t in self.times[:-1]])
        self._time_terms = linear(times.to(self.device), head.w2[:, width:])
        # Nothing lies between w1 and w2: their product, in f64, is one matrix.
        both = (head.w2[:, :width].double() @ head.w1.double()).float()
        self._from_action = both[:, : self.columns].contiguous()
        self._from_dof = both[:, self.columns :].contiguous()

    @torch.no_grad()
    def sample(
        self,
        inputs: FlowInputs,
        noise: Tensor,
        *,
        reuse_prefix: bool = True,
        trace: FlowTrace | None = None,
        integrator: Integrator | None = None,
    ) -> FlowResult:
        """Integrate noise [batch, horizon, columns] to normalised actions.

        Args:
            inputs: The batch.
            noise: f32; unused columns matter too, they reach the used ones through w1.
            reuse_prefix: Run the prefix once; otherwise the whole sequence at every step.
            trace: Filled on the way, if given; hidden states only without ``reuse_prefix``.
            integrator: Does the steps, if given.

        Raises:
            UserError: when the prompt does not end with one action token per row of noise.
        """
        context = self.prepare(inputs, noise, reuse_prefix=reuse_prefix, trace=trace)
        clock = Stopwatch(self.device)
        x = noise.to(self.device, torch.float32)
        if integrator is None:
            x = self._integrated(context, x)
        else:
            given = tuple(tensor.to(self.device) for tensor in integrator.tensors)
            x = integrator(self, context, x, given)
        clock.lap("flow")
        return FlowResult(x, {**context.timings_s, **clock.timings_s})

    @torch.no_grad()
    def prepare(
        self,
        inputs: FlowInputs,
        noise: Tensor,
        *,
        reuse_prefix: bool = True,
        trace: FlowTrace | None = None,
    ) -> FlowContext:
        """Run images and prefix; the arguments are those of `sample`."""
        horizon = noise.shape[1]
        count = self._prefix_length(inputs, horizon)
        clock = Stopwatch(self.device)
        images = None
        if inputs.pixel_values is not None and inputs.grid_thw is not None:
            images = self.network.see(inputs.pixel_values, inputs.grid_thw)
        clock.lap("vision")
        prompt = self.network.embed(inputs, images)
        if trace is not None:
            trace.image_embeds, trace.positions = images, prompt.positions
            trace.propri = prompt.propri
        prefix, allowed = prompt.embeddings[:, :count], self._allowed(prompt, count)
        turn = self.network.turn(prompt.positions)
        mask: Tensor | None = allowed
        cache = None
        if reuse_prefix:
            before = allowed[:, :, :count, :count] if prompt.padded else None
            part = turn.part(slice(count))
            decoder = self.network.decoder
            cache = Cache(decoder.prefill(prefix, part, before), room=horizon)
            everything = self._attention is ActionAttention.ISLAND and not prompt.padded
            mask = None if everything else decoder.action_mask(allowed[:, :, count:])
            turn = turn.part(slice(count, None))
        active = inputs.dof_mask.to(self.device, torch.float32)[:, None]
        inactive = None
        if self._target is not None:
            inactive = self._target - noise.to(self.device, torch.float32)
        clock.lap("prefill")
        return FlowContext(
            cache=cache,
            prefix=None if reuse_prefix else prefix,
            turn=turn,
            mask=mask,
            terms=self._terms(active),
            active=active.bool(),
            inactive_velocity=inactive,
            timings_s=clock.timings_s,
            trace=trace,
        )

    def velocity(self, context: FlowContext, x: Tensor, step: int) -> Tensor:
        """Return the velocity of actions at ``times[step]``, a differentiable function of ``x``.

        Args:
            context: From `prepare`.
            x: [batch, horizon, columns], f32.
            step: Index of the Euler step.
        """
        decoder = self.network.decoder
        embedding = self._embed_actions(x, context.terms[step])
        if context.cache is not None:
            hidden = decoder.actions(embedding, context.turn, context.cache, context.mask)
        else:
            layers = None
            if context.trace is not None and not context.trace.hidden:
                layers = context.trace.hidden
            hidden = decoder.everything(
                context.prefix, embedding, context.turn, context.mask, layers
            )
        v = linear(hidden, self._head.back)
        if context.inactive_velocity is not None:
            v = torch.where(context.active, v, context.inactive_velocity)
        if context.trace is not None:
            context.trace.embeddings.append(embedding)
            context.trace.velocities.append(v)
        return v

    def _integrated(self, context: FlowContext, x: Tensor) -> Tensor:
        for step, (_, length) in enumerate(self.steps):
            x = x + length * self.velocity(context, x, step)
        return x

    def _prefix_length(self, inputs: FlowInputs, horizon: int) -> int:
        is_action = inputs.input_ids == self.network.special.action
        prefix = is_action.shape[1] - horizon
        if bool(is_action[:, :prefix].any()) or not bool(is_action[:, prefix:].all()):
            raise UserError(f"the prompt must end with {horizon} action tokens and have no others")
        return prefix

    def _allowed(self, prompt: EmbeddedPrompt, prefix: int) -> Tensor:
        """Return [batch, 1, tokens, tokens], True where a row may attend."""
        order = torch.arange(prompt.keys.shape[1], device=self.device)
        allowed = order[None, :] <= order[:, None]
        if self._attention is ActionAttention.ISLAND:
            is_action = order >= prefix
            allowed = allowed | (is_action[:, None] & is_action[None, :])
        # A row of padding sees itself, or its softmax would be NaN; nobody reads it.
        itself = torch.eye(len(order), dtype=torch.bool, device=self.device)
        return ((allowed & prompt.keys[:, None, :]) | itself)[:, None]

    def _terms(self, active: Tensor) -> Tensor:
        """Return the terms of a context for a mask of columns [batch, 1, columns], f32."""
        return self._time_terms[:, None, None] + linear(active, self._from_dof)

    def _embed_actions(self, x: Tensor, term: Tensor) -> Tensor:
        inner = silu(linear(x, self._from_action) + term)
        return linear(inner, self._head.w3).to(self.network.dtype)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Return sines, then cosines, of t in [0, 1] at ``width // 2`` frequencies each."""
    n = width // 2
    frequencies = torch.exp(-torch.arange(n, dtype=torch.float32) * (np.log(10000.0) / (n - 1)))
    angles = t.float() * frequencies
    return torch.cat((angles.sin(), angles.cos()))


class Stopwatch:
    """Seconds between laps; waits for the device, whose work is queued.

    Attributes:
        timings_s: By name of the lap.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin the first lap."""
        self._device = device
        self._last = self._now()
        self.timings_s: dict[str, float] = {}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()

    def lap(self, name: str) -> None:
        """End a lap, and begin the next."""
        now = self._now()
        self.timings_s[name] = now - self._last
        self._last = now
