"""A flow model whose inference is three pieces of work of fixed shapes: vision, prefill, all steps.

Prompts are filled up on the right to a multiple of `BUCKET` tokens. The prefix is causal, so what
fills it up is seen by no token before it, and the action tokens are kept from it by their mask.
Each size of images and prompt has its own memory, and its own recordings of the work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from wallx_policy.model.config_types import ActionAttention, StepGrid
from wallx_policy.model.decoder import Rotary
from wallx_policy.model.flow import (
    FlowContext,
    FlowInputs,
    FlowModel,
    FlowResult,
    FlowTrace,
    Integrator,
)
from wallx_policy.model.graphs import Recorder, StageClock, Staging, Work
from wallx_policy.model.network import Network
from wallx_policy.model.weights import HeadWeights

BUCKET = 32
"""Prompts of a robot differ by their instruction only, so a few buckets serve them all; kernels
like lengths of this kind too."""
SHAPES = 4
"""Sizes whose recordings are kept; the one unused for longest goes first."""

WAYS = 4
"""Integrators of a size whose recordings are kept, the oldest goes first."""


@dataclass(frozen=True, slots=True)
class FixedShape:
    """What recorded work cannot change.

    Attributes:
        grids: Patches in time, height and width, by image.
        prefix: Tokens before the actions, filled up.
        horizon: Action tokens.
        has_state: Whether a token carries the state.
    """

    grids: tuple[tuple[int, ...], ...]
    prefix: int
    horizon: int
    has_state: bool


class FixedFlow(FlowModel):
    """Samples through recorded work; what has no fixed shape goes the plain way.

    That is a batch of several prompts or with padding, the oracle, a trace, and `prepare` and
    `velocity` on their own. An integrator's steps are recorded when it is first used.
    """

    def __init__(
        self,
        network: Network,
        head: HeadWeights,
        *,
        action_attention: ActionAttention,
        grid: StepGrid,
        inactive_target: Tensor | None = None,
        recorder: Recorder,
    ) -> None:
        """Take what `FlowModel` takes, and what records the work."""
        super().__init__(
            network,
            head,
            action_attention=action_attention,
            grid=grid,
            inactive_target=inactive_target,
        )
        self._recorder = recorder
        self._recordings: OrderedDict[FixedShape, _Recording] = OrderedDict()

    @property
    def shapes(self) -> tuple[FixedShape, ...]:
        """What is recorded, the one unused for longest first."""
        return tuple(self._recordings)

    def forget(self) -> None:
        """Drop all recordings, as when what they hold has been compiled since."""
        self._recordings.clear()

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
        """Integrate noise to normalised actions, which lie on the host; see `FlowModel.sample`."""
        plain = not reuse_prefix or trace is not None or len(inputs.input_ids) != 1
        if plain or not bool(inputs.attention_mask.all()):
            return super().sample(
                inputs, noise, reuse_prefix=reuse_prefix, trace=trace, integrator=integrator
            )
        count = self._prefix_length(inputs, noise.shape[1])
        recording = self._recording(inputs, count, noise.shape[1])
        clock = StageClock(self.device)
        recording.put(inputs, noise, count)
        if integrator is not None:
            recording.put_more(integrator)
        clock.lap("copy")
        recording.vision()
        clock.lap("vision")
        recording.prefill()
        clock.lap("prefill")
        if integrator is None:
            recording.steps()
        else:
            recording.integrate(integrator, self._recorder)
        clock.lap("flow")
        recording.fetch()
        clock.lap("copy")
        timings_s = clock.timings_s()
        return FlowResult(recording.result.clone(), timings_s)

    def _recording(self, inputs: FlowInputs, count: int, horizon: int) -> _Recording:
        grid = inputs.grid_thw
        grids = () if grid is None else tuple(tuple(g) for g in grid.tolist())
        merge = int(self.network.config.vision["spatial_merge_size"]) ** 2
        self.network.check_images(inputs.input_ids, sum(t * h * w // merge for t, h, w in grids))
        has_state = self.network.has_state(inputs)
        shape = FixedShape(grids, -(-count // BUCKET) * BUCKET, horizon, has_state)
        recording = self._recordings.pop(shape, None)
        if recording is None:
            while len(self._recordings) >= SHAPES:
                self._recordings.popitem(last=False)
            recording = _Recording(self, shape, inputs)
            recording.put(inputs, torch.zeros(1, horizon, self.columns), count)
            recording.record(self._recorder)
        self._recordings[shape] = recording
        return recording

    def _action_mask(self, shape: FixedShape, length: Tensor) -> Tensor:
        """Return the mask of the action tokens after ``length`` tokens and what fills them up."""
        order = torch.arange(shape.prefix + shape.horizon, device=self.device)
        allowed = (order < length) | (order >= shape.prefix)
        if self._attention is ActionAttention.CAUSAL:
            allowed = allowed & (order <= order[shape.prefix :, None])
        return self.network.decoder.action_mask(
            allowed.expand(1, 1, shape.horizon, len(order)).contiguous()
        )


class _Recording:
    """Memory and recorded work of one shape."""

    def __init__(self, flow: FixedFlow, shape: FixedShape, inputs: FlowInputs) -> None:
        """Take the memory."""
        self._flow, self._shape = flow, shape
        network, device = flow.network, flow.device
        c, tokens, columns = network.config, shape.prefix + shape.horizon, flow.columns
        pixels = inputs.pixel_values
        self._grid = inputs.grid_thw
        self._plan = None if self._grid is None else network.plan(self._grid)
        states = 0 if inputs.state is None else inputs.state.shape[-1]
        self._numbers = Staging(
            torch.float32,
            {
                "pixels": (0,) if pixels is None else tuple(pixels.shape),
                "noise": (1, shape.horizon, columns),
                "active": (1, 1, columns),
                "state": (1, states),
                "known": (1, states),
            },
            device,
        )
        self._whole = Staging(
            torch.int64,
            {"ids": (1, shape.prefix), "positions": (3, 1, tokens), "length": (1,)},
            device,
        )
        special = network.special
        used = (special.image_pad, special.propri, special.action)
        self._filler = next(number for number in range(len(used) + 1) if number not in used)
        merged = self._plan.tokens if self._plan is not None else 0
        self._images = torch.zeros(merged, c.hidden_size, dtype=network.dtype, device=device)
        group = c.heads // c.kv_heads
        rows = (1, 1, shape.horizon, c.head_dim)
        turn = Rotary(
            torch.zeros(rows, dtype=network.dtype, device=device),
            torch.zeros(rows, dtype=network.dtype, device=device),
        )
        self._context = FlowContext(
            cache=network.decoder.empty_cache(1, shape.prefix, shape.horizon),
            prefix=None,
            turn=turn,
            mask=torch.zeros(
                1, 1, group * shape.horizon, tokens, dtype=network.dtype, device=device
            ),
            terms=torch.zeros_like(flow._terms(self._numbers.device["active"])),
            active=torch.zeros(1, 1, columns, dtype=torch.bool, device=device),
            inactive_velocity=(
                None if flow._target is None else torch.zeros_like(self._numbers.device["noise"])
            ),
            timings_s={},
            trace=None,
        )
        self._actions = torch.zeros_like(self._numbers.device["noise"])
        self._more: dict[Hashable, Staging] = {}
        self._ways: dict[Hashable, Work] = {}
        self.result = torch.zeros(self._actions.shape, pin_memory=device.type == "cuda")

    def record(self, recorder: Recorder) -> None:
        """Record the three pieces of work."""
        self.vision = recorder.record(self._vision)
        self.prefill = recorder.record(self._prefill)
        self.steps = recorder.record(self._steps)

    def put(self, inputs: FlowInputs, noise: Tensor, count: int) -> None:
        """Write an observation with ``count`` tokens before the actions, and send it."""
        numbers, whole, prefix = self._numbers.host, self._whole.host, self._shape.prefix
        if inputs.pixel_values is not None:
            numbers["pixels"].copy_(inputs.pixel_values)
        numbers["noise"].copy_(noise)
        numbers["active"].copy_(inputs.dof_mask[:, None])
        if inputs.state is not None and inputs.state_mask is not None:
            numbers["state"].copy_(inputs.state)
            numbers["known"].copy_(inputs.state_mask)
        positions = self._flow.network.positions(inputs)
        whole["ids"].fill_(self._filler)
        whole["ids"][:, :count] = inputs.input_ids[:, :count]
        whole["positions"].zero_()
        whole["positions"][..., :count] = positions[..., :count]
        whole["positions"][..., prefix:] = positions[..., count:]
        whole["length"].fill_(count)
        self._numbers.send()
        self._whole.send()

    def put_more(self, integrator: Integrator) -> None:
        """Write what an integrator takes besides, and send it."""
        staging = self._more.get(integrator.key)
        if staging is None:
            shapes = {str(n): tuple(t.shape) for n, t in enumerate(integrator.tensors)}
            staging = Staging(torch.float32, shapes, self._flow.device)
            self._more[integrator.key] = staging
        for place, tensor in zip(staging.host.values(), integrator.tensors, strict=True):
            place.copy_(tensor)
        staging.send()

    def integrate(self, integrator: Integrator, recorder: Recorder) -> None:
        """Do the steps an integrator's way, which is recorded the first time."""
        way = self._ways.get(integrator.key)
        if way is not None:
            way()
            return
        given = tuple(self._more[integrator.key].device.values())
        noise = self._numbers.device["noise"]

        def work() -> None:
            self._actions.copy_(integrator(self._flow, self._context, noise, given))

        way = recorder.record(work)
        while len(self._ways) >= WAYS:
            dropped = next(iter(self._ways))
            del self._ways[dropped], self._more[dropped]
        self._ways[integrator.key] = way
        way()

    def fetch(self) -> None:
        """Queue the copy of the actions to the host."""
        self.result.copy_(self._actions, non_blocking=True)

    def _vision(self) -> None:
        if self._plan is not None:
            seen = self._flow.network.see_planned(self._numbers.device["pixels"], self._plan)
            self._images.copy_(seen)

    def _prefill(self) -> None:
        flow, network, context = self._flow, self._flow.network, self._context
        numbers, whole, prefix = self._numbers.device, self._whole.device, self._shape.prefix
        propri = None
        if self._shape.has_state:
            propri = network.embed_state(numbers["state"], numbers["known"])
        images = None if self._plan is None else self._images
        x = network.placed(whole["ids"], images, propri)
        turn = network.turn(whole["positions"])
        before, after = turn.part(slice(prefix)), turn.part(slice(prefix, None))
        context.cache.hold(network.decoder.prefill(x, before))
        context.turn.cos.copy_(after.cos)
        context.turn.sin.copy_(after.sin)
        context.mask.copy_(flow._action_mask(self._shape, whole["length"]))
        context.terms.copy_(flow._terms(numbers["active"]))
        context.active.copy_(numbers["active"].bool())
        if context.inactive_velocity is not None:
            context.inactive_velocity.copy_(flow._target - numbers["noise"])

    def _steps(self) -> None:
        self._actions.copy_(self._flow._integrated(self._context, self._numbers.device["noise"]))
