#!/usr/bin/env python3
"""`make fault-matrix`: what the driver makes of every fault of the bus, at rest and moving.

The real driver loop and bus run against the simulated arm in lockstep, in simulated time; goals on
the wire, true joints and published values are judged independently. Exit status 1 when anything is
not as it should be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from bus_proof.fault_cases import CASES, Case
from bus_proof.fault_run import Result, run_case
from rich.console import Console
from rich.progress import track
from rich.table import Table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fault-matrix.md"
_INTRODUCTION = """\
# What the driver makes of faults on the bus

Written by `make fault-matrix`. Each row is run twice by the same test body: {runs} runs with
{steps} simulated cycles, real driver loop and bus, simulated arm and wire. `make test` runs them
too.

- **tolerated**: commands are followed, nothing to report but counters;
- **degraded**: commands are followed; measurements of a joint are missing (NaN) now and then, or
  the status warns;
- **held**: the arm holds while the fault lasts, then takes commands again by itself;
- **latched**: FAULT, the arm holds until somebody asks for torque.

Judged in each run: goals on the wire within position and speed limits and none in FAULT; true
joints within their limits and, at rest, still, the tip at most 5 mm lower (servos without torque
apart); every published position was shown by its encoder
after the stamp; no age too young; torque never returns by itself to a servo that lost its supply;
in the end commands are followed again with nothing missing (after a latched fault: asked for
torque, at most let go before). "Missing" is the share of single measurements while the fault lasts.

| fault | at rest | moving | reason in the status | missing |
|---|---|---|---|---|
"""


def run_all(cases: list[Case], processes: int, console: Console) -> list[Result]:
    """Run every case at rest and moving."""
    jobs = [(case, moving) for case in cases for moving in (False, True)]
    with multiprocessing.Pool(processes) as pool:
        runs = track(
            pool.imap(_run, jobs),
            "faults",
            total=len(jobs),
            console=console,
            transient=True,
        )
        return list(runs)


def _run(job: tuple[Case, bool]) -> Result:
    return run_case(*job)


def pairs(results: list[Result]) -> list[tuple[Result, Result]]:
    """Return (at rest, moving) of every case."""
    return list(zip(results[::2], results[1::2], strict=True))


def table_of(results: list[Result]) -> Table:
    """Return the matrix for a terminal."""
    table = Table(title="Faults of the bus", title_justify="left")
    for heading in ("fault", "at rest", "moving", "reason in the status", "missing"):
        table.add_column(heading)
    for rest, moving in pairs(results):
        table.add_row(
            rest.case.name,
            *(_coloured(result) for result in (rest, moving)),
            ", ".join(_codes(moving)),
            f"{moving.missing_share:.0%}",
        )
    return table


def page_of(results: list[Result]) -> str:
    """Return the matrix as a page."""
    rows = [
        f"| {rest.case.name} | {_plain(rest)} | {_plain(moving)} | "
        f"{', '.join(f'`{code}`' for code in _codes(moving))} | {moving.missing_share:.0%} |"
        for rest, moving in pairs(results)
    ]
    cycles = sum(result.cycles for result in results)
    head = _INTRODUCTION.format(runs=len(results), steps=f"{cycles:,}")
    return head + "\n".join(rows) + "\n"


def _codes(result: Result) -> list[str]:
    return [code for code in result.codes if code]


def _plain(result: Result) -> str:
    if result.ok:
        return result.outcome.value
    return f"**{result.outcome.value}, expected {result.expected.value}** " + "; ".join(
        result.problems
    )


def _coloured(result: Result) -> str:
    return f"[green]{result.outcome.value}[/green]" if result.ok else f"[red]{_plain(result)}[/red]"


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help="only faults whose name contains this; writes no page")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("out/proof"))
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    cases = [case for case in CASES if not options.case or options.case in case.name]
    if not cases:
        parser.error(f"no fault's name contains '{options.case}'")
    console = Console()
    begun_s = time.perf_counter()
    results = run_all(cases, options.processes, console)
    seconds = time.perf_counter() - begun_s
    console.print(table_of(results))
    wrong = [result for result in results if not result.ok]
    still = [result for result in results if not result.moving and not result.case.falls]
    if still:
        worst = max(result.drop_mm for result in still)
        console.print(f"a resting arm with torque dropped by {worst:.2f} mm at most")
    console.print(
        f"{len(results)} runs, {len(wrong)} not as they should be, "
        f"{sum(result.cycles for result in results):,} cycles in {seconds:.0f} s"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    report = [
        {
            "fault": result.case.name,
            "moving": result.moving,
            "outcome": result.outcome.value,
            "expected": result.expected.value,
            "reasons": _codes(result),
            "missing_share": result.missing_share,
            "drop_mm": result.drop_mm,
            "problems": result.problems,
        }
        for result in results
    ]
    (options.out / "fault_matrix.json").write_text(json.dumps(report, indent=2) + "\n")
    if not options.case:
        options.page.write_text(page_of(results))
        console.print(f"wrote {options.page}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
