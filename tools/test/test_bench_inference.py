"""The benchmarks of inference run, count right, and say plainly that there is no GPU."""

from __future__ import annotations

from copy import copy

import bench_gpu
import bench_inference
import numpy as np
import pytest
import torch
from rich.table import Table
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.config_types import StepGrid
from wallx_policy.model.fixed_flow import FixedFlow
from wallx_policy.model.flow import FlowModel
from wallx_policy.model.graphs import NoGraph
from wallx_policy.random_checkpoints import Recipe, write_checkpoint


@pytest.fixture
def policy(tmp_path):
    torch.set_num_threads(1)
    return load_policy(write_checkpoint(tmp_path / "made", Recipe(robot="base"), drawn=True))


def test_both_modes_are_measured_on_the_same_work(policy: Policy) -> None:
    found = bench_inference.bench_decoder(policy, turns=3)
    assert found["difference"] < 1e-5
    assert found["ratio_range"][0] <= found["ratio"] <= found["ratio_range"][1]
    kept, again = found["kept"], found["again"]
    assert kept["gflop_per_s"] == pytest.approx(kept["gflop"] / kept["ms"] * 1e3)
    # Nine steps over all tokens against one over the prefix and nine over the actions.
    assert 4.0 < again["gflop"] / kept["gflop"] < 9.0
    images = bench_inference.bench_images(repeats=3)
    assert set(images) == {"pil", "torchvision", "mixed"}
    table = Table("what", "measured", "baseline", "ratio")
    bench_inference.add_rows(table, {"tiny": found, "images": images})
    assert table.row_count == 2 + 3


def test_the_operations_of_a_layer_are_counted_by_hand(policy: Policy) -> None:
    """Of one step of the actions: linear layers and attention, two operations per product."""
    inputs = policy.inputs(bench_inference.observation(policy))
    noise = torch.from_numpy(policy.noise(0))[None]
    one, two = (
        bench_inference.decoder_flops(with_model(policy, FlowModel, n), inputs, noise, True)
        for n in (1, 2)
    )
    rows, tokens = policy.settings.horizon, inputs.input_ids.shape[1]
    config = policy.model.network.config
    hidden, inner = config.hidden_size, config.experts[1].inner
    heads = config.heads * config.head_dim
    products = hidden * (heads + 2 * config.kv_heads * config.head_dim) + heads * hidden
    products = rows * (products + 3 * hidden * inner) + 2 * heads * rows * tokens
    columns = policy.model.columns
    head = rows * (columns * hidden + hidden * hidden + hidden * columns)
    assert two - one == 2 * (config.layers * products + head)


def with_model(policy: Policy, kind: type[FlowModel], steps: int, **more: object) -> Policy:
    """Return the same policy with another kind of flow model, or number of steps."""
    own = policy.model
    other = copy(policy)
    other._model = kind(
        own.network, own._head, action_attention=own._attention, grid=StepGrid(steps), **more
    )
    return other


def test_without_a_gpu_one_sentence_says_so(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_gpu.py"])
    assert bench_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "needs a CUDA GPU" in said


def test_the_gpu_benchmark_runs_but_for_the_gpu(policy: Policy) -> None:
    """The same measurements with work that is done again instead of played."""
    fixed = with_model(policy, FixedFlow, 3, recorder=NoGraph())
    found = bench_gpu.bench(fixed, repeats=3, with_compiler=False)
    assert found["difference"] < 1e-5
    assert set(found["graphs"]["stages_ms"]) >= {"preprocess", "copy", "vision", "prefill", "flow"}
    assert found["graphs"]["kernels"] is None
    assert bench_gpu.table_of(found).row_count == 3
    numbers = {"load_s": 1.0, "model_gb": 8.0, "peak_gb": 9.0, "reserved_gb": 9.0}
    assert "loaded in 1.0 s" in bench_gpu.line_of({"gpu": "none", **numbers, **found})
    found["graphs_compiled"] = {"failed": "no compiler"}
    assert bench_gpu.table_of(found).row_count == 4
    whole = bench_inference.quantiles_ms(list(np.linspace(0.001, 0.002, 101)))
    assert whole["p50_ms"] == pytest.approx(1.5)
    assert whole["max_ms"] == pytest.approx(2.0)
