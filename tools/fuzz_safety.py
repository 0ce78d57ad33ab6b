#!/usr/bin/env python3
"""`make fuzz-safety`: a million random steps against the safety layer, judged independently.

Every scenario follows from its seed alone. Exit status 1 when anything illegal was seen; the
command that replays a failing seed is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from proof.scenario import Outcome, run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

STEPS_PER_SCENARIO = 1000
SHOWN = 10
"""Failing seeds that are printed; all are in the JSON file."""


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps in all")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first scenario")
    parser.add_argument("--seed", type=int, help="replay the scenario of this seed only")
    parser.add_argument(
        "--brakes-every", type=int, default=10, help="check every n-th state's brake; 0: none"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.processes < 1 or arguments.brakes_every < 0:
        parser.error("--steps and --processes must be at least 1, --brakes-every at least 0")
    console = Console()
    if arguments.seed is not None:
        return replay(arguments.seed, arguments.brakes_every, console)
    begun_s = time.perf_counter()
    scenarios = math.ceil(arguments.steps / STEPS_PER_SCENARIO)
    seeds = range(arguments.first_seed, arguments.first_seed + scenarios)
    outcomes = fuzz(seeds, arguments.brakes_every, arguments.processes, console)
    seconds = time.perf_counter() - begun_s
    summary = summarise(outcomes, arguments.first_seed, arguments.brakes_every, seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "fuzz.json").write_text(json.dumps(summary, indent=2) + "\n")
    show(summary, console)
    console.print(f"written to {arguments.out / 'fuzz.json'}")
    return 1 if summary["violations"] else 0


def fuzz(seeds: range, brakes_every: int, processes: int, console: Console) -> list[Outcome]:
    """Run all scenarios with a progress bar."""
    job = partial(run, steps=STEPS_PER_SCENARIO, brakes_every=brakes_every)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("scenarios"),
        TimeRemainingColumn(),
    )
    outcomes = []
    with multiprocessing.Pool(processes) as pool, Progress(*columns, console=console) as progress:
        task = progress.add_task("fuzzing", total=len(seeds))
        for outcome in pool.imap_unordered(job, seeds, chunksize=2):
            outcomes.append(outcome)
            if outcome.violations:
                bad = sum(bool(o.violations) for o in outcomes)
                progress.update(task, description=f"fuzzing, [red]{bad} failing[/red]")
            progress.advance(task)
    return sorted(outcomes, key=lambda outcome: outcome.seed)


def summarise(outcomes: list[Outcome], first_seed: int, brakes_every: int, seconds: float) -> dict:
    """Everything that is printed, as plain data."""
    states, transitions, limits = Counter(), Counter(), Counter()
    for outcome in outcomes:
        states += outcome.states
        transitions += outcome.transitions
        limits += outcome.limits
    steps = sum(outcome.steps for outcome in outcomes)
    return {
        "steps": steps,
        "scenarios": len(outcomes),
        "brakes_every": brakes_every,
        "seeds": [first_seed, first_seed + len(outcomes) - 1],
        "armed_share": sum(outcome.armed for outcome in outcomes) / max(steps, 1),
        "brakes_checked": sum(outcome.brakes for outcome in outcomes),
        "seconds": seconds,
        "states": dict(states.most_common()),
        "transitions": dict(transitions.most_common()),
        "limits": dict(limits.most_common()),
        "violations": {str(o.seed): o.violations for o in outcomes if o.violations},
    }


def show(summary: dict, console: Console) -> None:
    """Print the tables."""
    table = Table(title="random input against the safety layer")
    table.add_column("measure")
    table.add_column("value", justify="right")
    first, last = summary["seeds"]
    for name, value in (
        ("steps", f"{summary['steps']:,}"),
        ("scenarios", f"{summary['scenarios']:,} (seeds {first} to {last})"),
        ("armed share of the steps", f"{summary['armed_share']:.0%}"),
        ("braking paths checked", f"{summary['brakes_checked']:,}"),
        ("failing scenarios", str(len(summary["violations"]))),
        ("time", f"{summary['seconds']:.0f} s"),
    ):
        table.add_row(name, value)
    console.print(table)
    for title in ("states", "transitions", "limits"):
        table = Table(title=f"{title} seen")
        table.add_column(title)
        table.add_column("count", justify="right")
        for name, count in summary[title].items():
            table.add_row(name, f"{count:,}")
        console.print(table)
    for seed, violations in list(summary["violations"].items())[:SHOWN]:
        console.print(f"[red]seed {seed}[/red]: {violations[0]}", highlight=False)
        again = f"--seed {seed} --brakes-every {summary['brakes_every']}"
        console.print(f"  replay: .venv/bin/python tools/fuzz_safety.py {again}", highlight=False)


def replay(seed: int, brakes_every: int, console: Console) -> int:
    """Run one scenario and print all that is wrong with it."""
    outcome = run(seed, STEPS_PER_SCENARIO, brakes_every)
    console.print(outcome)
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
