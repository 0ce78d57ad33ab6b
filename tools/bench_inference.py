"""Inference on this machine's CPU: what the kept prefix brings, and what images cost.

The baseline is our own mode that runs the whole sequence at every Euler step: the same weights,
kernels, threads and images, prepared once, in turns with the other within one run. Random weights:
what a matrix holds does not matter to how long it takes. Used by bench.py; ``python
tools/bench_inference.py`` runs it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.flow import FlowInputs
from wallx_policy.model.images import ImagePreprocessor, ImageSettings, Resize
from wallx_policy.random_checkpoints import Recipe, write_checkpoint

TURNS = {"tiny": 40, "mid": 7}
"""Inferences of each kind, by size of the model."""
STEPS = 10
MOST_RATIO = {"mid": 0.25}
MOST_VIEW_MS = {"pil": 3.5, "torchvision": 2.0}
"""What is wanted, printed beside what is measured."""
_VIEW_REPEATS = 200
_IMAGES = ImageSettings(
    min_pixels=4 * 28 * 28,
    max_pixels=16384 * 28 * 28,
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def picture(seed: int, height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    """Return noise: resampling takes as long for any image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def observation(policy: Policy, height: int = 480, width: int = 640) -> dict[str, Any]:
    """Return an observation of a random checkpoint of the robot ``base``."""
    return {
        "images": {v: picture(n, height, width) for n, v in enumerate(policy.settings.cameras)},
        "state": np.zeros(policy.settings.action_dim),
        "instruction": "put the red cube into the tray",
    }


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Return p50, p99 and max in milliseconds."""
    p50, p99, most = np.percentile(seconds, (50, 99, 100)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most)}


def timed(
    call: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return how many seconds each call took, after a few that do not count."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(repeats):
        begun_s = clock()
        call()
        taken.append(clock() - begun_s)
    return taken


def _attention_flops(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_args: Any, **_kwargs: Any
) -> int:
    batch, heads, rows, width = q
    return 2 * batch * heads * rows * k[-2] * (width + v[-1])


# torch's counter does not know the CPU's own kernel.
_COUNTS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def decoder_flops(policy: Policy, inputs: FlowInputs, noise: Tensor, reuse_prefix: bool) -> int:
    """Count the operations of matrix products and attention, two per product, images apart."""
    with FlopCounterMode(display=False, custom_mapping=_COUNTS) as whole:
        policy.model.sample(inputs, noise, reuse_prefix=reuse_prefix)
    with FlopCounterMode(display=False, custom_mapping=_COUNTS) as images, torch.no_grad():
        policy.model.network.see(inputs.pixel_values, inputs.grid_thw)
    return whole.get_total_flops() - images.get_total_flops()


def bench_decoder(policy: Policy, turns: int, most_ratio: float | None = None) -> dict[str, Any]:
    """Run both modes in turns on the same inputs."""
    inputs = policy.inputs(observation(policy))
    noise = torch.from_numpy(policy.noise(0))[None]
    seconds: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    actions = {}
    for turn in range(turns + 1):
        for reuse in (True, False):
            result = policy.model.sample(inputs, noise, reuse_prefix=reuse)
            actions[reuse] = result.actions
            if turn:  # the first is the warm-up
                seconds[reuse].append(result.timings_s)

    def decoder_s(reuse: bool) -> list[float]:
        return [t["prefill"] + t["flow"] for t in seconds[reuse]]

    def stage_ms(name: str) -> float:
        return float(np.median([t[name] for t in seconds[True]]) * 1e3)

    found: dict[str, Any] = {
        "tokens": list(inputs.input_ids.shape)[1],
        "action_tokens": policy.settings.horizon,
        "vision_ms": stage_ms("vision"),
        "prefill_ms": stage_ms("prefill"),
        "steps_ms": stage_ms("flow"),
        "difference": float((actions[True] - actions[False]).abs().max()),
    }
    for name, reuse in (("kept", True), ("again", False)):
        ms = float(np.median(decoder_s(reuse)) * 1e3)
        flops = decoder_flops(policy, inputs, noise, reuse)
        found[name] = {"ms": ms, "gflop": flops / 1e9, "gflop_per_s": flops / 1e6 / ms}
    pairs = [a / b for a, b in zip(decoder_s(True), decoder_s(False), strict=True)]
    found["ratio"] = float(np.median(pairs))
    found["ratio_range"] = [min(pairs), max(pairs)]
    found["most_ratio"] = most_ratio
    whole = observation(policy)
    found["predict"] = quantiles_ms(timed(lambda: policy.predict(whole, noise[0]), turns))
    return found


def bench_images(repeats: int = _VIEW_REPEATS) -> dict[str, Any]:
    """Prepare one view of 640×480, and two at once, by every kernel."""
    one, two = {"a": picture(0)}, {"a": picture(0), "b": picture(1)}
    found = {}
    for resize in (Resize.PIL, Resize.TORCHVISION, Resize.MIXED):
        prepare = ImagePreprocessor(_IMAGES, resize, {}, 256)
        found[resize.value] = {
            "view": quantiles_ms(timed(lambda prepare=prepare: prepare(one), repeats)),
            # Of the thread alone: what the view costs when others use the machine too.
            "view_cpu": quantiles_ms(
                timed(lambda prepare=prepare: prepare(one), repeats, time.thread_time)
            ),
            "two_views": quantiles_ms(timed(lambda prepare=prepare: prepare(two), repeats)),
            "most_ms": MOST_VIEW_MS.get(resize.value),
        }
    return found


def bench_inference(turns: dict[str, int] | None = None) -> dict[str, Any]:
    """Return everything; one thread for every matrix and every view."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"load_average": os.getloadavg()[0], "images": bench_images()}
    for size, count in (turns or TURNS).items():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(folder, Recipe(size=size, robot="base"), drawn=True)
            policy = load_policy(folder, num_steps=STEPS)
        found[size] = bench_decoder(policy, count, MOST_RATIO.get(size))
    return found


def add_rows(table: Table, found: dict[str, Any]) -> None:
    """Add what was measured to the table of all benchmarks."""
    for size in TURNS:
        if size not in found:
            continue
        part = found[size]
        kept, again, (low, high) = part["kept"], part["again"], part["ratio_range"]
        table.add_row(
            f"decoder, prefix kept ({size}, {part['tokens']} tokens, {STEPS} steps)",
            f"{kept['ms']:.1f} ms ({kept['gflop_per_s']:.0f} GFLOP/s)",
            f"everything again at each step: {again['ms']:.1f} ms "
            f"({again['gflop_per_s']:.0f} GFLOP/s)",
            f"{part['ratio']:.2f} ({low:.2f} to {high:.2f})"
            + ("" if part["most_ratio"] is None else f"; wanted: {part['most_ratio']:.2f}"),
        )
        table.add_row(
            f"whole inference ({size})",
            f"p50 {part['predict']['p50_ms']:.1f}, p99 {part['predict']['p99_ms']:.1f} ms; vision "
            f"{part['vision_ms']:.1f}, prefill {part['prefill_ms']:.1f}, steps "
            f"{part['steps_ms']:.1f} ms",
        )
    for kernel, part in found["images"].items():
        table.add_row(
            f"images, {kernel}",
            f"640×480 view p50 {part['view']['p50_ms']:.2f} ms (CPU "
            f"{part['view_cpu']['p50_ms']:.2f}); two on two threads "
            f"{part['two_views']['p50_ms']:.2f} ms",
            "" if part["most_ms"] is None else f"wanted: {part['most_ms']:.1f} ms",
        )


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Inference on the CPU.")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    found = bench_inference()
    table = Table(title="Inference on one thread", title_justify="left")
    for heading in ("what", "measured", "baseline of the same run", "ratio"):
        table.add_column(heading)
    add_rows(table, found)
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "inference.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
