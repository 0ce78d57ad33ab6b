#!/usr/bin/env python3
"""`make bench-chunking`: what it brings to tell a chunk what the arm will have done by then.

Records the expert in the simulator, trains a tiny flow on that (no WALL-OSS; chunking_training.py
says what it is), and hands over between its chunks on held-out episodes. All but the milliseconds
is the same on every run of one machine. docs/chunking.md has the tables and pictures; `--docs`
writes them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chunking_episodes import Episode, episodes
from chunking_methods import (
    Conditioned,
    Ensemble,
    Handoffs,
    Latest,
    Memory,
    Method,
    WeightedAverage,
    hand_over,
)
from rich.console import Console
from wallx_policy.model import PrefixMode
from wallx_policy.model.chunking import BETA

TRAINED_ON = tuple(range(100, 148))
HELD_OUT = tuple(range(148, 156))
HELD_OUT_PACES = (0.75, 1.25)
DELAYS_S = (0.0, 0.1, 0.2, 0.3)
BETAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
SWEEP_DELAY_S, SWEEP_EPISODES = 0.2, 8
UNGUIDED = ("no conditioning", "weighted average 0.3/0.7")

METHODS: dict[str, Callable[[], Method]] = {
    "no conditioning": Latest,
    "weighted average 0.3/0.7": WeightedAverage,
    "temporal ensemble": Ensemble,
    "frozen": lambda: Conditioned(PrefixMode.FROZEN),
    "guided": lambda: Conditioned(PrefixMode.GUIDED),
}


def figures(found: Iterable[Handoffs]) -> dict[str, float]:
    """Return what is compared, over all hand-offs; the joint that is furthest off counts."""
    all_of = list(found)
    jumps, changes = (
        np.concatenate([np.array(getattr(one, name)) for one in all_of]).max(axis=1)
        for name in ("jump_rad", "velocity_rad_s")
    )
    return {
        "jump_rad": _rms(jumps),
        "jump_p95_rad": float(np.percentile(jumps, 95)),
        "velocity_rad_s": _rms(changes),
        "velocity_p95_rad_s": float(np.percentile(changes, 95)),
        "error_rad": _rms(np.concatenate([one.error_rad for one in all_of])),
        "handoffs": len(jumps),
        "without_prefix": sum(one.without_prefix for one in all_of),
        "infer_p50_ms": float(1e3 * np.median(np.concatenate([one.infer_s for one in all_of]))),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True, slots=True)
class Job:
    """One cell of a table, or one column of methods that share the chunks made without a prefix.

    Attributes:
        model: Folder of the trained model.
        shown: Episodes.
        delay_s: From an observation to its chunk.
        guidance: β, and whether to guide beyond committed rows; None compares the methods.
    """

    model: Path
    shown: list[Episode]
    delay_s: float
    guidance: tuple[float, bool] | None = None

    def __call__(self) -> dict[str, dict[str, float]]:
        """Figures by method; of the guidance alone where that varies."""
        import torch
        from chunking_training import load_trained

        torch.set_num_threads(1)
        policy = load_trained(self.model)
        memories: list[Memory] = [{} for _ in self.shown]

        def figures_of(make: Callable[[], Method]) -> dict[str, float]:
            return figures(
                hand_over(policy, episode, make(), self.delay_s, memory)
                for episode, memory in zip(self.shown, memories, strict=True)
            )

        if self.guidance is not None:
            beta, guide = self.guidance
            return {
                "guided": figures_of(lambda: Conditioned(PrefixMode.GUIDED, beta, guide)),
            }
        return {name: figures_of(make) for name, make in METHODS.items()}


def measure(
    model: Path, shown: list[Episode], processes: int, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the figures of every method by delay, and of every variant of the guidance."""
    variants = {f"β = {beta:g}": (beta, True) for beta in BETAS}
    variants[f"β = {BETA:g}, committed rows only"] = (BETA, False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        by_delay = {
            f"{1e3 * delay_s:.0f}": pool.submit(Job(model, shown, delay_s)) for delay_s in DELAYS_S
        }
        by_variant = {
            name: pool.submit(Job(model, shown[:SWEEP_EPISODES], SWEEP_DELAY_S, guidance))
            for name, guidance in variants.items()
        }
        plain = pool.submit(Job(model, shown[:SWEEP_EPISODES], SWEEP_DELAY_S))
        methods: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
        for delay, job in by_delay.items():
            for name, row in job.result().items():
                methods[name][delay] = row
            say(f"{delay} ms done")
        sweep = {name: plain.result()[name] for name in UNGUIDED}
        return methods, sweep | {name: job.result()["guided"] for name, job in by_variant.items()}


def main() -> None:
    """Record, train, compare, write."""
    parser = argparse.ArgumentParser(description="Chunks that continue the one under way.")
    parser.add_argument("--out", type=Path, default=Path("out/bench/chunking"))
    parser.add_argument("--retrain", action="store_true", help="even if a model lies in --out")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default 2)")
    parser.add_argument("--docs", action="store_true", help="renew docs/chunking.md")
    options = parser.parse_args()

    import torch
    from chunking_plots import write_docs, write_plots
    from chunking_training import all_samples, load_trained, train

    torch.set_num_threads(1)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    cache, model = options.out / "episodes", options.out / "model"
    console.print("recording the expert …")
    held_out = episodes(HELD_OUT, cache, console.print)
    if options.retrain or not (model / "model.safetensors").exists():
        trained_on = episodes(TRAINED_ON, cache, console.print)
        losses = train(model, all_samples(trained_on), console.print)
        training = {"steps": len(losses), "loss": float(np.mean(losses[-200:]))}
        (options.out / "training.json").write_text(json.dumps(training) + "\n")
    shown = [
        episode.faster(HELD_OUT_PACES[i % len(HELD_OUT_PACES)])
        for i, episode in enumerate(held_out)
    ]
    methods, sweep = measure(model, shown, options.processes, console.print)
    report: dict[str, Any] = {
        "training": json.loads((options.out / "training.json").read_text()),
        "episodes": len(shown),
        "seconds": sum(episode.duration_s for episode in shown),
        "methods": methods,
        "sweep": sweep,
    }
    path = options.out / "chunking.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    write_plots(report, load_trained(model), shown[0], options.out)
    for line in tables_of(report):
        console.print(line, markup=False, soft_wrap=True)
    if options.docs:
        write_docs(report, options.out, Path("docs"))
    console.print(f"wrote {path}")


def tables_of(report: dict[str, Any]) -> list[str]:
    """The tables as Markdown."""
    from chunking_plots import main_table, sweep_table

    return [main_table(report), sweep_table(report)]


if __name__ == "__main__":
    main()
