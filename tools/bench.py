#!/usr/bin/env python3
"""`make bench`: what the parts cost and how well the graph keeps time, as a table and as JSON.

Every claim is a ratio against a baseline of the same run: the model against itself without a kept
prefix, the command loop against a bare thread, the bus against the vendor's SDK. Absolute
milliseconds are printed beside them and depend on the machine. The Makefile sets BLAS threads to 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_bus import add_rows as add_bus_rows
from bench_bus import bench_bus
from bench_safety import bench_safety
from rich.console import Console
from rich.table import Table


def percentiles_ms(call: Callable[[], Any], repeats: int, warm_up: int = 5) -> dict[str, float]:
    """Return p50, p99 and max of the duration of a call, in milliseconds."""
    for _ in range(warm_up):
        call()
    durations_s = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        call()
        durations_s.append(time.perf_counter() - begun_s)
    p50, p99, most = np.percentile(durations_s, (50, 99, 100)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most)}


def bench_model() -> dict[str, Any]:
    """One inference of the demo's tiny checkpoint, and its decoder with and without the prefix."""
    import torch
    from wallx_policy.model import load_policy
    from wallx_policy.random_checkpoints import write_random_checkpoint

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder), seed=0)
        policy = load_policy(folder)
    generator = np.random.default_rng(0)
    observation = {
        "images": {
            view: generator.integers(0, 256, shape, dtype=np.uint8)
            for view, shape in (("face_view", (240, 320, 3)), ("wrist_view", (240, 240, 3)))
        },
        "state": np.zeros(6),
        "instruction": "put the red cube into the tray",
    }
    noise = torch.from_numpy(policy.noise(0))[None]
    inputs = policy.inputs(observation)
    whole = percentiles_ms(lambda: policy.predict(observation, noise[0]), 100)

    def decoder_ms(reuse_prefix: bool) -> float:
        def seconds() -> float:
            timings_s = policy.model.sample(inputs, noise, reuse_prefix=reuse_prefix).timings_s
            return timings_s["prefill"] + timings_s["flow"]

        return float(np.median([seconds() for _ in range(40)][5:]) * 1e3)

    kept, again = decoder_ms(True), decoder_ms(False)
    return {
        "checkpoint": "tiny, random weights",
        "predict": whole,
        "decoder_prefix_kept_ms": kept,
        "decoder_everything_again_ms": again,
        "ratio": kept / again,
    }


def bench_graph(out_dir: Path, console: Console) -> dict[str, Any]:
    """Play the demo and return every figure of its table."""
    from wallx_bringup.demo import run_demo

    status = run_demo(out_dir / "demo", os.environ)
    figures = json.loads((out_dir / "demo" / "figures.json").read_text())
    return {"status": status, **figures}


def table_of(results: dict[str, Any]) -> Table:
    """Return the ratios with the absolute numbers behind them."""
    table = Table(title="Benchmarks", title_justify="left")
    for heading in ("what", "measured", "baseline of the same run", "ratio"):
        table.add_column(heading)
    if model := results.get("model"):
        table.add_row(
            "decoder, prefix kept (tiny checkpoint)",
            f"{model['decoder_prefix_kept_ms']:.2f} ms",
            f"everything again at each step: {model['decoder_everything_again_ms']:.2f} ms",
            f"{model['ratio']:.2f}",
        )
        predict = model["predict"]
        table.add_row(
            "whole inference", f"p50 {predict['p50_ms']:.1f}, p99 {predict['p99_ms']:.1f} ms"
        )
    if safety := results.get("safety"):
        for label, key in (
            ("safety step, geometry on", "step"),
            ("pressing on the table", "step_pressing_on_the_table"),
        ):
            step = safety[key]
            bare = safety["step_without_geometry"]
            table.add_row(
                label,
                f"p50 {step['p50_ms']:.2f}, p99 {step['p99_ms']:.2f} ms (CPU p99 "
                f"{step['cpu_p99_ms']:.2f})",
                f"without geometry: p50 {bare['p50_ms']:.2f}, p99 {bare['p99_ms']:.2f} ms",
                f"{step['p50_ms'] / bare['p50_ms']:.2f}",
            )
        last = safety["last_minute"]
        table.add_row(
            f"minute {safety['minutes']} of simulated time",
            f"p50 {last['p50_ms']:.2f}, p99 {last['p99_ms']:.2f} ms, "
            f"{safety['growth_mib']:+.1f} MiB, {safety['growth_of_objects']:+.0f} objects",
            f"minute 1: p50 {safety['step']['p50_ms']:.2f} ms",
            f"{safety['growth_of_p50']:.2f}",
        )
    if bus := results.get("bus"):
        add_bus_rows(table, bus)
    return table


def main() -> int:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(description="Benchmarks of wallx-ros.")
    parts = ("model", "safety", "bus", "graph")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all")
    parser.add_argument(
        "--minutes", type=int, default=3, help="simulated time of the safety core (default 3)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(parts)}")
    if options.minutes < 1:
        parser.error("--minutes must be at least 1")
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": {"cpu": platform.processor(), "cores": os.cpu_count()}}
    measures = {
        "model": bench_model,
        "safety": lambda: bench_safety(options.minutes, console.print),
        "bus": lambda: bench_bus(say=console.print),
    }
    for name, measure in measures.items():
        if not options.parts or name in options.parts:
            console.print(f"measuring {name} …")
            results[name] = measure()
    if not options.parts or "graph" in options.parts:
        results["graph"] = bench_graph(options.out, console)
    console.print(table_of(results))
    path = options.out / "bench.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
