#!/usr/bin/env python3
"""`make fuzz-bus`: a million broken byte sequences into the codec, judged by a second parser.

Every sequence follows from its seed. Exit status 1 when the codec raised, hung, or gave anything
but the packets that are in the bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from bus_proof.codec_check import Findings, check
from rich.console import Console
from rich.progress import track
from rich.table import Table

BATCH = 5_000
SHOWN = 10
"""Failing seeds that are printed; all are in the JSON file."""


def fuzz(first_seed: int, sequences: int, processes: int, console: Console) -> Findings:
    """Check that many sequences on several processes."""
    end = first_seed + sequences
    batches = [range(at, min(at + BATCH, end)) for at in range(first_seed, end, BATCH)]
    total = Findings()
    with multiprocessing.Pool(processes) as pool:
        for findings in track(
            pool.imap_unordered(check, batches),
            "sequences of bytes",
            total=len(batches),
            console=console,
            transient=True,
        ):
            total.add(findings)
    return total


def table_of(findings: Findings, seconds: float) -> Table:
    """Return what was found as a table."""
    table = Table(title="Broken bytes into the codec", title_justify="left", show_header=False)
    count = findings.sequences.total()
    table.add_row("sequences", f"{count:,} in {seconds:.0f} s")
    for kind, number in sorted(findings.sequences.items()):
        table.add_row(f"  {kind}", f"{number:,}")
    table.add_row("bytes", f"{findings.bytes_fed:,}")
    table.add_row("packets found", f"{findings.packets:,}, the same as by the second parser")
    table.add_row("crashes, hangs, differences", f"{len(findings.failures)}")
    table.add_row("slowest sequence", f"{findings.slowest_s * 1e3:.1f} ms, both parsers")
    table.add_row("right checksum by chance", f"{findings.by_chance:,}")
    table.add_row("  of a shape that was asked for", f"{findings.by_chance_asked_for:,}")
    return table


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1_000_000, help="how many (1,000,000)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first sequence")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    options = parser.parse_args()
    if options.sequences < 1 or options.processes < 1:
        parser.error("--sequences and --processes must be at least 1")
    console = Console()
    begun_s = time.perf_counter()
    findings = fuzz(options.first_seed, options.sequences, options.processes, console)
    seconds = time.perf_counter() - begun_s
    console.print(table_of(findings, seconds))
    for failure in findings.failures[:SHOWN]:
        console.print(f"[red]{failure}[/red]", highlight=False)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fuzz_bus.json"
    result = {
        "sequences": dict(findings.sequences),
        "bytes": findings.bytes_fed,
        "packets": findings.packets,
        "failures": findings.failures,
        "right_checksum_by_chance": findings.by_chance,
        "right_checksum_by_chance_asked_for": findings.by_chance_asked_for,
        "slowest_s": findings.slowest_s,
        "seconds": seconds,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"wrote {path}")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
