"""Recorded work of fixed shapes gives what the plain way gives, and never waits for the device.

Everything but the CUDA graph itself runs here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import fields, replace
from inspect import ismethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from wallx_policy.model import ActionPrefix, Policy, PrefixMode, load_policy
from wallx_policy.model import fixed_flow as module
from wallx_policy.model.decoder import Decoder
from wallx_policy.model.fixed_flow import BUCKET, FixedFlow
from wallx_policy.model.flow import FlowInputs, FlowModel, FlowTrace
from wallx_policy.model.graphs import CudaGraphs, NoGraph, StageClock, Staging, Work
from wallx_policy.model.network import Network
from wallx_policy.model.vision import VisionTower
from wallx_policy.model.weights import ExpertWeights, HeadWeights

CLOSE = 1e-5
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")
"""Operations that a host waits for, so that no CUDA graph can hold them."""


class Watch(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: a wait for the device, or boolean indexing."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.overloadpacket.__name__
        if name in WAITING:
            raise AssertionError(f"{name} in recorded work")
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), name
        return op(*args, **(kwargs or {}))


class Watched:
    """Records like `NoGraph`, under watch; counts the recordings."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, work: Work) -> Work:
        self.recorded += 1

        def watched() -> None:
            with Watch():
                work()

        watched()
        return watched


def fixed(plain: FlowModel, recorder: Any = None) -> FixedFlow:
    return FixedFlow(
        plain.network,
        plain._head,
        action_attention=plain._attention,
        grid=plain.grid,
        inactive_target=plain._target,
        recorder=recorder or Watched(),
    )


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def noise(policy: Policy, seed: int) -> Tensor:
    return torch.from_numpy(policy.noise(seed))[None]


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return load_policy(random_checkpoint)


@pytest.fixture
def inputs(policy: Policy, observe: Callable[..., dict]) -> FlowInputs:
    return policy.inputs(observe())


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"action_attention": "causal"},
        {"action_dim": 4, "inactive_columns": "zero"},
        {"num_steps": 3, "end_time": 0.7},
    ],
)
def test_recorded_work_gives_what_the_plain_way_gives(
    random_checkpoint: Path, observe: Callable[..., dict], switches: dict
) -> None:
    policy = load_policy(random_checkpoint, **switches)
    model = fixed(policy.model)
    for seed in (0, 1):
        given, start = policy.inputs(observe(seed)), noise(policy, seed)
        result, plain = model.sample(given, start), policy.model.sample(given, start)
        assert difference(result.actions, plain.actions) < CLOSE
        oracle = policy.model.sample(given, start, reuse_prefix=False)
        assert difference(result.actions, oracle.actions) < CLOSE
    assert list(result.timings_s) == ["copy", "vision", "prefill", "flow"]
    assert result.actions.data_ptr() != model.sample(given, start).actions.data_ptr()


def test_the_newer_layouts_are_recorded_too(wall05: Path, lerobot05: Path) -> None:
    """State as text, experts of different widths, two attention kernels' worth of masks."""
    for folder, views in ((wall05, ("front", "wrist")), (lerobot05, None)):
        extra = {} if views is None else {"cameras": views, "state_bins": 512}
        key = {} if views is None else {"norm_key": "x2_normal"}
        policy = load_policy(folder, **extra, **key)
        random = np.random.default_rng(0)
        observation = {
            "images": {
                view: random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
                for view in policy.settings.cameras
            },
            "state": np.zeros(26),
            "instruction": "fold the towel",
        }
        given, start = policy.inputs(observation), noise(policy, 0)
        model = fixed(policy.model)
        plain = policy.model.sample(given, start).actions
        assert difference(model.sample(given, start).actions, plain) < CLOSE
        assert not model.shapes[0].has_state


def test_prompts_of_a_bucket_share_a_recording(
    policy: Policy, observe: Callable[..., dict]
) -> None:
    recorder = Watched()
    model = fixed(policy.model, recorder)
    lengths = set()
    for words in ("go", "go on", "go on a bit", "pick up the red cube", "go"):
        given = policy.inputs(observe(instruction=words))
        lengths.add(given.input_ids.shape[1])
        plain = policy.model.sample(given, noise(policy, 7)).actions
        assert difference(model.sample(given, noise(policy, 7)).actions, plain) < CLOSE
    assert len(lengths) > 2
    assert recorder.recorded == 3 * len(model.shapes)
    assert len(model.shapes) < len(lengths)
    assert all(shape.prefix % BUCKET == 0 for shape in model.shapes)


def test_what_fills_a_bucket_up_must_be_hidden(
    policy: Policy, inputs: FlowInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it seen, the actions would be others: the mask is needed."""
    count = inputs.input_ids.shape[1] - policy.settings.horizon
    assert count % BUCKET
    plain = policy.model.sample(inputs, noise(policy, 0)).actions
    hidden = FixedFlow._action_mask
    monkeypatch.setattr(
        FixedFlow, "_action_mask", lambda self, shape, n: hidden(self, shape, n * 0 + shape.prefix)
    )
    seen = fixed(policy.model).sample(inputs, noise(policy, 0)).actions
    assert difference(seen, plain) > 1e-3


def test_the_size_unused_for_longest_is_dropped(
    policy: Policy, observe: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHAPES", 2)
    recorder = Watched()
    model = fixed(policy.model, recorder)
    start = noise(policy, 0)
    of_length = {
        n: policy.inputs(observe(instruction=" ".join(["left"] * n))) for n in (1, 90, 180)
    }
    for n in (1, 90, 1, 180, 1):
        model.sample(of_length[n], start)
    assert recorder.recorded == 3 * 3
    assert len(model.shapes) == 2
    model.sample(of_length[90], start)
    assert recorder.recorded == 3 * 4


def test_images_of_another_size_have_work_of_their_own(
    policy: Policy, observe: Callable[..., dict]
) -> None:
    model = fixed(policy.model)
    random = np.random.default_rng(1)
    for shape in ((240, 320, 3), (320, 240, 3)):
        image = random.integers(0, 256, shape, dtype=np.uint8)
        given = policy.inputs(observe(images={"face_view": image, "wrist_view": image}))
        plain = policy.model.sample(given, noise(policy, 2)).actions
        assert difference(model.sample(given, noise(policy, 2)).actions, plain) < CLOSE
    assert len({shape.grids for shape in model.shapes}) == 2


@pytest.mark.parametrize("mode", list(PrefixMode))
def test_chunks_that_continue_another_are_recorded_too(
    policy: Policy, observe: Callable[..., dict], mode: PrefixMode
) -> None:
    recorder, recorded = Watched(), copy(policy)
    recorded._model = fixed(policy.model, recorder)
    before = policy.predict(observe(), policy.noise(0)).actions
    results = []
    for seed, committed, rows in ((1, 5, 12), (2, 3, 20), (1, 5, 12)):
        prefix = ActionPrefix(before[2 : 2 + rows] + 0.1 * seed, committed, mode)
        given, start = observe(seed), policy.noise(seed)
        plain = policy.predict(given, start, prefix)
        ours = recorded.predict(given, start, prefix)
        free = recorded.predict(given, start)
        assert np.abs(ours.actions - plain.actions).max() < 1e-3  # degrees
        assert np.abs(free.actions - plain.actions).max() > 0.1
        results.append(ours.actions)
    assert recorder.recorded == 4
    assert np.array_equal(results[0], results[2])


def test_the_oldest_ways_to_continue_are_dropped(
    policy: Policy, observe: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAYS", 2)
    recorder, recorded = Watched(), copy(policy)
    recorded._model = fixed(policy.model, recorder)
    rows = policy.predict(observe(), policy.noise(0)).actions[:6]
    for beta in (1.0, 2.0, 1.0, 3.0, 2.0, 1.0):
        prefix = ActionPrefix(rows, 3, PrefixMode.GUIDED, beta)
        recorded.predict(observe(), policy.noise(0), prefix)
    assert recorder.recorded == 3 + 4


def test_what_has_no_fixed_shape_goes_the_plain_way(policy: Policy, inputs: FlowInputs) -> None:
    recorder = Watched()
    model, start = fixed(policy.model, recorder), noise(policy, 3)
    twice = replace(
        inputs, **{f.name: getattr(inputs, f.name).repeat(2, 1) for f in fields(inputs)}
    )
    both = model.sample(twice, start.repeat(2, 1, 1)).actions
    padded = replace(
        inputs,
        input_ids=torch.nn.functional.pad(inputs.input_ids, (3, 0)),
        attention_mask=torch.nn.functional.pad(inputs.attention_mask, (3, 0)),
    )
    trace = FlowTrace()
    ways = (
        both[:1],
        both[1:],
        model.sample(padded, start).actions,
        model.sample(inputs, start, reuse_prefix=False).actions,
        model.sample(inputs, start, trace=trace).actions,
    )
    assert recorder.recorded == 0
    assert len(trace.velocities) == model.grid.steps
    recorded = model.sample(inputs, start).actions
    assert recorder.recorded == 3
    for actions in ways:
        assert difference(actions, recorded) < CLOSE


def test_the_watch_sees_what_a_graph_cannot_hold() -> None:
    for work in (
        lambda: torch.ones(1).item(),
        lambda: torch.ones(3)[torch.tensor([True, False, True])],
        lambda: torch.ones(3).nonzero(),
    ):
        with pytest.raises(AssertionError), Watch():
            work()


def test_every_kind_of_layer_compiles_as_one_graph(
    random_checkpoint: Path, observe: Callable[..., dict]
) -> None:
    """All layers and steps share one; the code generator itself is not needed.

    Lengths become variables with their second value, so that further ones compile nothing.
    """
    policy, plain = load_policy(random_checkpoint), load_policy(random_checkpoint)
    made, start = [], noise(policy, 0)
    with counted_graphs() as graphs:
        policy.model.network.compile(graphs.append)
        model = fixed(policy.model, NoGraph())
        for words in (1, 40, 80, 120, 160):
            given = policy.inputs(observe(instruction=" ".join(["left"] * words)))
            compiled = model.sample(given, start).actions
            assert difference(compiled, plain.model.sample(given, start).actions) < CLOSE
            made.append(len(graphs.made))
    assert len({shape.prefix for shape in model.shapes}) == 4
    # A block of the vision tower, a layer of the prefix, a layer of the actions.
    assert made == [3, 5, 5, 5, 5]


class Graphs:
    """A backend of torch.compile that runs what it gets, and keeps it."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def append(self, graph: Any, _examples: Any) -> Any:
        self.made.append(graph)
        return graph.forward


@contextmanager
def counted_graphs() -> Iterator[Graphs]:
    torch._dynamo.reset()
    yield Graphs()
    torch._dynamo.reset()


def test_one_copy_sends_everything_side_by_side() -> None:
    staging = Staging(torch.float32, {"a": (2, 3), "none": (1, 0), "b": (4,)}, torch.device("cpu"))
    staging.host["a"].fill_(1.0)
    staging.host["b"].fill_(2.0)
    assert float(staging.device["b"].sum()) == 0.0
    staging.send()
    assert staging.device["a"].tolist() == [[1.0] * 3] * 2
    assert staging.device["b"].tolist() == [2.0] * 4
    assert staging.device["none"].shape == (1, 0)
    staging.host["a"].fill_(5.0)
    assert float(staging.device["a"].max()) == 1.0


def test_stages_of_one_name_are_added() -> None:
    clock = StageClock(torch.device("cpu"))
    for name in ("copy", "flow", "copy"):
        clock.lap(name)
    taken = clock.timings_s()
    assert list(taken) == ["copy", "flow"]
    assert all(value >= 0.0 for value in taken.values())


def elsewhere(value: Any) -> Any:
    """Return the same thing with all tensors, and devices, on torch's device without memory."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, dict):
        return {key: elsewhere(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(elsewhere(part) for part in value)
    if isinstance(value, (ExpertWeights, HeadWeights)):
        return type(value)(**{f.name: elsewhere(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, (FixedFlow, Network, Decoder, VisionTower)):
        moved = copy(value)
        for name, part in vars(value).items():
            bound = ismethod(part)
            setattr(moved, name, part.__func__.__get__(moved) if bound else elsewhere(part))
        return moved
    return value


@pytest.mark.parametrize("attention", ["island", "causal"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_work_stays_on_the_device_and_in_its_types(
    random_checkpoint: Path, observe: Callable[..., dict], attention: str, dtype: str
) -> None:
    """A tensor left on the host, or a mask of another type, would fail on a GPU only."""
    policy = load_policy(random_checkpoint, dtype=dtype, action_attention=attention)
    inputs, model = policy.inputs(observe()), elsewhere(fixed(policy.model))
    recording = model._recording(inputs, inputs.input_ids.shape[1] - 25, 25)
    context = recording._context
    assert recording._actions.device.type == "meta"
    assert recording._actions.dtype == torch.float32
    assert context.mask.dtype == context.turn.cos.dtype == getattr(torch, dtype)
    assert context.cache.layer(2, room=25)[0].dtype == getattr(torch, dtype)
    model.network._embedding = policy.model.network._embedding  # on the host
    with pytest.raises(RuntimeError, match="device"):
        recording._prefill()


def test_a_graph_is_recorded_after_runs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parts of torch.cuda that need a GPU replaced: what is called, and in which order."""
    said: list[str] = []

    class Stream:
        def wait_stream(self, other: Stream) -> None:
            said.append("wait")

    class Graph:
        def replay(self) -> None:
            said.append("replay")

    @contextmanager
    def during(name: str) -> Iterator[None]:
        said.append(f"{name} begins")
        yield
        said.append(f"{name} ends")

    def captured(graph: Graph, **how: object) -> Any:
        signature.bind(graph, **how)  # torch's own takes these too
        assert how["pool"] == "pool"
        return during("capture")

    signature, current = inspect.signature(torch.cuda.graph), Stream()
    fakes = {
        "device": lambda device: nullcontext(),
        "Stream": Stream,
        "graph_pool_handle": lambda: "pool",
        "current_stream": lambda: current,
        "stream": lambda stream: during("warm-up"),
        "CUDAGraph": Graph,
        "graph": captured,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    play = CudaGraphs(torch.device("cuda:0")).record(lambda: said.append("work"))
    play()
    assert said == [
        *("wait", "warm-up begins", "work", "work", "warm-up ends", "wait"),
        *("capture begins", "work", "capture ends", "replay"),
    ]
