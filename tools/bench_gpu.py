#!/usr/bin/env python3
"""`make bench-gpu`: one inference of the full-size flow model on a CUDA GPU, stage by stage.

bf16, two views of 252×252 pixels as the model sees them, 32 actions, 10 steps. The weights are
random and made on the GPU; ``--checkpoint`` takes real ones. In the same run: CUDA graphs, the same
with compiled layers, the same work launched one by one, and the way of the references, which runs
the whole sequence at every step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_inference import STEPS, observation, quantiles_ms
from rich.console import Console
from rich.table import Table
from so101_driver.errors import UserError
from torch import Tensor
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.fixed_flow import FixedFlow
from wallx_policy.model.flow import FlowModel
from wallx_policy.random_checkpoints import Recipe, write_checkpoint
from wallx_policy.random_checkpoints.networks import SIZES

VIEW = 480
"""Side of the square camera image; it becomes 252×252 pixels."""
HORIZON = 32
_NO_GPU = (
    "bench-gpu needs a CUDA GPU and torch sees none here: run it on a machine with one, after "
    "`make setup TORCH=cuda`"
)
_COPIES = ("memcpy", "memset")


def settled(policy: Policy) -> None:
    """Wait for the device."""
    if policy.model.device.type == "cuda":
        torch.cuda.synchronize(policy.model.device)


def kernels(policy: Policy, call: Callable[[], Any]) -> dict[str, Any] | None:
    """Count the GPU kernels of a call, copies apart; None without a GPU."""
    if policy.model.device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        settled(policy)
    names: Counter[str] = Counter()
    busy_us: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type != DeviceType.CUDA or event.name.lower().startswith(_COPIES):
            continue
        names[event.name] += 1
        busy_us[event.name] += event.time_range.elapsed_us()
    top = [
        {"kernel": name, "count": names[name], "ms": busy / 1e3}
        for name, busy in busy_us.most_common(15)
    ]
    return {"count": names.total(), "busy_ms": busy_us.total() / 1e3, "top": top}


def measure(policy: Policy, given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Return how long `Policy.predict` takes as a whole and by stage, and its kernels."""
    noise = policy.noise(0)
    begun_s = time.perf_counter()
    policy.predict(given, noise)
    first_s = time.perf_counter() - begun_s
    for _ in range(5):
        policy.predict(given, noise)
    seconds, stages = [], []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        prediction = policy.predict(given, noise)
        seconds.append(time.perf_counter() - begun_s)
        stages.append(prediction.timings_s)
    return {
        "first_ms": first_s * 1e3,
        "whole": quantiles_ms(seconds),
        "stages_ms": {k: float(np.median([s[k] for s in stages]) * 1e3) for k in stages[0]},
        "kernels": kernels(policy, lambda: policy.predict(given, noise)),
    }


def plain(policy: Policy, given: dict[str, Any], repeats: int, reuse: bool) -> dict[str, Any]:
    """Return the same of the network alone, its work launched one by one."""
    inputs, noise = policy.inputs(given), torch.from_numpy(policy.noise(0))[None]

    def sample() -> dict[str, float]:
        result = FlowModel.sample(policy.model, inputs, noise, reuse_prefix=reuse)
        return result.timings_s

    sample()
    stages = [sample() for _ in range(repeats)]
    return {
        "whole": quantiles_ms([sum(s.values()) for s in stages]),
        "stages_ms": {k: float(np.median([s[k] for s in stages]) * 1e3) for k in stages[0]},
        "kernels": kernels(policy, sample),
    }


def compiled(policy: Policy, given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Return `measure` with compiled layers, or the reason why there are none."""
    policy.model.network.compile()
    if isinstance(policy.model, FixedFlow):
        policy.model.forget()
    try:
        return measure(policy, given, repeats)
    except Exception as error:  # the compiler's own, of many kinds
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def largest_difference(policy: Policy, given: dict[str, Any]) -> float:
    """Return by how much a normalised action differs from the references' way."""
    inputs, noise = policy.inputs(given), torch.from_numpy(policy.noise(0))[None]

    def actions(model: Callable[..., Any], **how: bool) -> Tensor:
        return model(inputs, noise, **how).actions.float().cpu()

    again = actions(policy.model.sample, reuse_prefix=False)
    return float((actions(policy.model.sample) - again).abs().max())


def bench(policy: Policy, repeats: int, with_compiler: bool) -> dict[str, Any]:
    """Measure every way with one policy."""
    given = observation(policy, VIEW, VIEW)
    found = {
        "settings": policy.description,
        "tokens": int(policy.inputs(given).input_ids.shape[1]),
        "graphs": measure(policy, given, repeats),
        "one_by_one": plain(policy, given, max(3, repeats // 10), True),
        "again": plain(policy, given, max(3, repeats // 20), False),
        "difference": largest_difference(policy, given),
    }
    if with_compiler:
        found["graphs_compiled"] = compiled(policy, given, repeats)
    return found


def loaded(options: argparse.Namespace) -> tuple[Policy, dict[str, float]]:
    """Load the policy; return it with seconds, and bytes on the GPU."""
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as made:
        folder = options.checkpoint
        if folder is None:
            folder = write_checkpoint(made, Recipe(size=options.size, robot="base"), drawn=True)
        begun_s = time.perf_counter()
        policy = load_policy(folder, "cuda", "bfloat16", num_steps=STEPS, horizon=HORIZON)
        torch.cuda.synchronize()
        load_s = time.perf_counter() - begun_s
    peak, stays = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    return policy, {"load_s": load_s, "load_peak_gb": peak / 1e9, "model_gb": stays / 1e9}


def table_of(found: dict[str, Any]) -> Table:
    """Return all ways side by side."""
    table = Table(title=f"One inference, {found['tokens']} tokens", title_justify="left")
    for heading in ("way", "p50, p99", "stages (ms)", "kernels", "ratio to the references' way"):
        table.add_column(heading)
    again_ms = found["again"]["whole"]["p50_ms"]
    for name, title in (
        ("graphs", "CUDA graphs"),
        ("graphs_compiled", "CUDA graphs, compiled layers"),
        ("one_by_one", "launched one by one, network only"),
        ("again", "references' way, network only"),
    ):
        way = found.get(name)
        if way is None:
            continue
        if "failed" in way:
            table.add_row(title, way["failed"])
            continue
        counted = way["kernels"]
        table.add_row(
            title,
            f"{way['whole']['p50_ms']:.2f}, {way['whole']['p99_ms']:.2f} ms",
            ", ".join(f"{stage} {ms:.2f}" for stage, ms in way["stages_ms"].items()),
            "–" if counted is None else f"{counted['count']} ({counted['busy_ms']:.1f} ms busy)",
            f"{way['whole']['p50_ms'] / again_ms:.2f}",
        )
    return table


def line_of(found: dict[str, Any]) -> str:
    """Return what stands in no row."""
    return (
        f"{found['gpu']}: loaded in {found['load_s']:.1f} s; {found['model_gb']:.2f} GB of "
        f"weights, {found['peak_gb']:.2f} GB at most, {found['reserved_gb']:.2f} GB reserved; "
        f"actions differ from the references' way by {found['difference']:.4f} at most; first "
        f"inference {found['graphs']['first_ms']:.0f} ms"
    )


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Inference on a CUDA GPU.")
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="of random weights")
    parser.add_argument("--checkpoint", type=Path, help="a folder with real weights instead")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if not torch.cuda.is_available():
        print(_NO_GPU, file=sys.stderr)
        return 2
    try:
        policy, memory = loaded(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    found = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "weights": "random" if options.checkpoint is None else str(options.checkpoint),
        **memory,
        **bench(policy, options.repeats, not options.no_compile),
    }
    found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    found["reserved_gb"] = torch.cuda.memory_reserved() / 1e9
    console = Console()
    console.print(table_of(found))
    console.print(line_of(found))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
