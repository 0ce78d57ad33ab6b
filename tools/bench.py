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
from pathlib import Path
from typing import Any

from bench_bus import add_rows as add_bus_rows
from bench_bus import bench_bus
from bench_inference import add_rows as add_inference_rows
from bench_inference import bench_inference
from bench_safety import bench_safety
from rich.console import Console
from rich.table import Table


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
    if inference := results.get("inference"):
        add_inference_rows(table, inference)
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
    parts = ("inference", "safety", "bus", "graph")
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
        "inference": bench_inference,
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
