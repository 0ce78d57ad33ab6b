#!/usr/bin/env python3
"""`make mutate-safety`: does a test fail for every small change of the safety core?

Mutants are generated (tools/proof/mutants.py), run in memory, and reported with their fate. An
interrupted run goes on where it stopped; survivors are tried again when tests have changed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from proof import mutation_run
from proof.mutants import OPERATORS, mutants_of
from proof.mutation_run import (
    SAFETY,
    Fate,
    Reach,
    measure_reach,
    preload,
    source_digest,
    tests_digest,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

QUICK = (
    ("limiter.py", "limit", "velocity_rad_s → "),
    ("brake.py", "constant", "1 → 2"),
    ("machine.py", "comparison", "(state, code) != (self.state, self.code)"),
    ("limiter.py", "boolean", "& → | in inside & slow & stops & "),
    ("limiter.py", "swap", "minimum → maximum in np.minimum(np.maximum(proposal"),
    ("brake.py", "sign", "+ → - in position_rad + self._period_s"),
    ("motion.py", "return", "return self._limiter.at_rest"),
    ("machine.py", "count", "without self.counts[limit] += 1"),
    ("machine.py", "call", "without self._motion.halt()"),
    ("limiter.py", "assignment", "without self.acceleration_rad_s2 = "),
)
"""One mutant of each operator by how its change begins, for the suite."""

QUICK_TESTS = [
    "src/so101_driver/test/test_safety_motion.py",
    *(
        f"src/so101_driver/test/test_safety_invariants.py::test_{name}"
        for name in (
            "a_stop_does_not_go_on_with_a_motion_that_was_given_up",
            "random_input_never_makes_a_command_or_a_brake_illegal[2]",
            "random_input_never_makes_a_command_or_a_brake_illegal[7]",
        )
    ),
]
QUICK_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """One mutant to judge."""

    file: str
    number: int
    operator: str
    line: int
    last_line: int
    change: str

    @property
    def name(self) -> str:
        """Key in the results."""
        return f"{self.file}:{self.number}"


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="only so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--files", nargs="*", help="only these, e.g. limiter.py")
    parser.add_argument("--operators", nargs="*", choices=OPERATORS)
    parser.add_argument(
        "--budget", type=float, default=20.0, help="seconds of traced tests per mutant, at most"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument(
        "--quick", action="store_true", help="only one mutant of each operator; 1 if one survives"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("out/mutation"))
    arguments = parser.parse_args()
    if problem := _problem(arguments):
        parser.error(problem)
    console = Console()
    preload()
    if arguments.quick:
        return quick(arguments.processes, console)
    with console.status("measuring which tests reach which lines"):
        reach = measure_reach(arguments.out / "reach.json")
    for test in reach.failed:
        console.print(f"left out, because it does not pass without a mutant: {test}")
    jobs = all_jobs(arguments.files, arguments.operators)
    if arguments.sample is not None and arguments.sample < len(jobs):
        jobs = random.Random(arguments.seed).sample(jobs, arguments.sample)
    results = arguments.out / "results.json"
    known = {} if arguments.fresh else read_results(results)
    fates = judge_all(jobs, reach, arguments.budget, known, results, arguments.processes, console)
    show(jobs, fates, console)
    console.print(f"written to {results}")
    return 0


def _problem(arguments: argparse.Namespace) -> str:
    """What cannot be meant; empty if nothing."""
    if arguments.processes < 1 or (arguments.sample is not None and arguments.sample < 1):
        return "--processes and --sample must be at least 1"
    if arguments.budget <= 0:
        return "--budget must be positive"
    known = {path.name for path in SAFETY.glob("*.py")}
    if unknown := sorted(set(arguments.files or ()) - known):
        return f"--files: the safety core has no {', '.join(unknown)}"
    return ""


def quick(processes: int, console: Console) -> int:
    """Judge one mutant of each operator by the fuzz tests of the suite."""
    if not mutation_run.exist(QUICK_TESTS):
        console.print(f"not all of these tests exist: {', '.join(QUICK_TESTS)}", markup=False)
        return 1
    jobs = all_jobs(None, None)
    chosen = []
    for file, kind, begin in QUICK:
        fits = [j for j in jobs if (j.file, j.operator) == (file, kind)]
        fits = [j for j in fits if j.change.startswith(begin)]
        if not fits:
            console.print(f"no mutant of {file} fits '{begin}' [{kind}]", markup=False)
            return 1
        chosen.append(fits[0])
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        fates = dict(pool.imap_unordered(_judge_quickly, chosen))
    show(chosen, fates, console)
    return int(any(fate in (Fate.SURVIVED, Fate.UNREACHED) for fate in fates.values()))


def _judge_quickly(job: Job) -> tuple[str, Fate]:
    file = SAFETY / job.file
    source = file.read_text(encoding="utf-8")
    return job.name, mutation_run.fate_of(file, source, job.number, QUICK_TESTS, QUICK_LIMIT_S)


def all_jobs(files: list[str] | None, operators: list[str] | None) -> list[Job]:
    """Every mutant of the chosen files and operators."""
    jobs = []
    for path in sorted(SAFETY.glob("*.py")):
        if files and path.name not in files:
            continue
        source = path.read_text(encoding="utf-8")
        for mutant in mutants_of(source):
            if not operators or mutant.operator in operators:
                jobs.append(
                    Job(
                        path.name,
                        mutant.number,
                        mutant.operator,
                        mutant.line,
                        mutant.last_line,
                        mutant.change,
                    )
                )
    return jobs


def read_results(path: Path) -> dict[str, Fate]:
    """Fates that still hold: of unchanged files; of survivors, under unchanged tests."""
    if not path.exists():
        return {}
    tests = tests_digest()
    known = {}
    for name, entry in json.loads(path.read_text())["mutants"].items():
        file = SAFETY / entry["file"]
        if not file.exists() or entry["source"] != source_digest(file):
            continue
        fate = Fate(entry["fate"])
        if entry.get("tests") == tests or fate in (Fate.KILLED, Fate.TIMEOUT):
            known[name] = fate
    return known


def write_results(path: Path, jobs: list[Job], fates: dict[str, Fate]) -> None:
    """Add the fates of these mutants, with what they were found by, to all that is known."""
    sources = {job.file: source_digest(SAFETY / job.file) for job in jobs}
    tests = tests_digest()
    mutants = json.loads(path.read_text())["mutants"] if path.exists() else {}
    for job in jobs:
        if job.name in fates:
            fate = fates[job.name].value
            found_by = {"source": sources[job.file], "tests": tests, "fate": fate}
            mutants[job.name] = {**asdict(job), **found_by}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mutants": mutants}, indent=1) + "\n")


def _judge(job: Job) -> tuple[str, Fate]:
    file = SAFETY / job.file
    fate = mutation_run.judge(file, job.number, job.line, job.last_line, *_settings)
    return job.name, fate


_settings: tuple[Reach, float]
"""For the workers: set before they are forked."""


def judge_all(
    jobs: list[Job],
    reach: Reach,
    budget_s: float,
    known: dict[str, Fate],
    results: Path,
    processes: int,
    console: Console,
) -> dict[str, Fate]:
    """Judge what is not known yet, with a progress bar."""
    global _settings
    _settings = reach, budget_s
    fates = {job.name: known[job.name] for job in jobs if job.name in known}
    waiting = [job for job in jobs if job.name not in fates]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Forked after the measurement, so that every worker has it and the imports.
    with (
        multiprocessing.get_context("fork").Pool(processes) as pool,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("mutants", total=len(jobs), completed=len(fates))
        for count, (name, fate) in enumerate(pool.imap_unordered(_judge, waiting), 1):
            fates[name] = fate
            alive = sum(f in (Fate.SURVIVED, Fate.UNREACHED) for f in fates.values())
            progress.update(task, advance=1, description=f"mutants, {alive} alive")
            if count % 20 == 0 or count == len(waiting):
                write_results(results, jobs, fates)
    return fates


def show(jobs: list[Job], fates: dict[str, Fate], console: Console) -> None:
    """Print killed and total per operator and per file, then every survivor."""
    for title, key in (("operator", "operator"), ("file", "file")):
        table = Table(title=f"mutants by {title}")
        table.add_column(title)
        for column in ("killed", "total", "share"):
            table.add_column(column, justify="right")
        total, killed = Counter(), Counter()
        for job in jobs:
            group = getattr(job, key)
            total[group] += 1
            killed[group] += fates[job.name] in (Fate.KILLED, Fate.TIMEOUT)
        for group in sorted(total):
            share = f"{killed[group] / total[group]:.0%}"
            table.add_row(group, str(killed[group]), str(total[group]), share)
        everything, dead = sum(total.values()), sum(killed.values())
        table.add_section()
        table.add_row("all", str(dead), str(everything), f"{dead / max(everything, 1):.1%}")
        console.print(table)
    for job in sorted(jobs, key=lambda job: (job.file, job.line)):
        fate = fates[job.name]
        if fate in (Fate.SURVIVED, Fate.UNREACHED):
            place = f"{job.file}:{job.line}"
            console.print(
                f"{fate.value}: {place} [{job.operator}] {job.change} (number {job.number})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


if __name__ == "__main__":
    sys.exit(main())
