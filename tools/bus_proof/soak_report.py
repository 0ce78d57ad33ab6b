"""What a soak came to: leaks by its samples, recoveries by its times, and both as a table."""

from __future__ import annotations

import gc
from array import array
from dataclasses import dataclass, field

import numpy as np
import psutil
from rich.table import Table

GROWTH_MIB = 8.0
"""Beyond this resident memory counts as leaking."""
GROWTH_OF_OBJECTS = 500
STUCK_S = 20.0
"""An arm that does not follow for this long while nothing is wrong has not recovered."""
_COLUMNS = 5
"""Of a sample: time, memory, objects, files, threads."""


@dataclass(slots=True)
class Report:
    """What a run came to.

    Attributes:
        seconds: How long it ran.
        cycles: Of the driver's loop.
        missed_cycles: Skipped, because one before took too long.
        empty_cycles: Without any measurement.
        values: Single measurements, and how many of them were missing.
        faults: Injected, by kind.
        latched: Faults of the driver, by reason.
        recovered: How often the arm followed again after not following.
        longest_recovery_s: Longest time without any fault of the bus until it followed again.
        growth_mib: Of resident memory, last tenth against the first after warming up.
        growth_of_objects: Of objects known to the garbage collector, likewise.
        descriptors: Open files at the beginning and at the end.
        threads: The same.
        counters: Of the driver.
        problems: Empty is the aim.
    """

    seconds: float = 0.0
    cycles: int = 0
    missed_cycles: int = 0
    empty_cycles: int = 0
    values: int = 0
    missing_values: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    latched: dict[str, int] = field(default_factory=dict)
    recovered: int = 0
    longest_recovery_s: float = 0.0
    cpu_share: float = 0.0
    growth_mib: float = 0.0
    growth_of_objects: float = 0.0
    descriptors: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)
    counters: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Recovery:
    """How long the arm does not follow although nothing is wrong; faults only interrupt that time.

    Args:
        now_s: When it begins, with an arm that follows.

    Attributes:
        times: How often it followed again.
        longest_s: Longest time without a fault until it did.
    """

    def __init__(self, now_s: float) -> None:
        self.times = 0
        self.longest_s = 0.0
        self._following = True
        self._before_s = now_s
        self._well_s = 0.0

    def watch(self, now_s: float, quiet_s: float, following: bool) -> bool:
        """Say whether the arm is stuck, once per ``STUCK_S``; all is well from ``quiet_s`` on."""
        if not self._following:
            self._well_s += max(0.0, now_s - max(self._before_s, quiet_s))
        self._before_s = now_s
        if following and not self._following:
            self.times += 1
            self.longest_s = max(self.longest_s, self._well_s)
        self._following = following
        stuck = not following and self._well_s > STUCK_S
        if following or stuck:
            self._well_s = 0.0
        return stuck


class Samples:
    """Memory, objects, open files and threads of this process over time.

    One object however long a run is: it must not count as a leak itself.
    """

    def __init__(self) -> None:
        self._values = array("d")

    def take(self, seconds: float) -> None:
        """Measure now."""
        process = psutil.Process()
        self.add(
            seconds,
            process.memory_info().rss / 2**20,
            len(gc.get_objects()),
            process.num_fds(),
            process.num_threads(),
        )

    def add(self, seconds: float, mib: float, objects: int, files: int, threads: int) -> None:
        """Keep one sample."""
        self._values.extend((seconds, mib, objects, files, threads))

    def newest(self) -> str:
        """Return the last sample for people."""
        _, mib, objects, files, threads = self._values[-_COLUMNS:]
        return f"{mib:.1f} MiB, {objects:.0f} objects, {files:.0f} files, {threads:.0f} threads"

    def judge(self, report: Report, from_s: float) -> None:
        """Tell a report how much grew from ``from_s`` on, when all is warm, and what has leaked."""
        measured = np.reshape(self._values, (-1, _COLUMNS))
        warm = measured[measured[:, 0] >= from_s]
        warm = warm if len(warm) else measured
        tenth = max(1, len(warm) // 10)

        def growth(column: int) -> float:
            return float(np.median(warm[-tenth:, column]) - np.median(warm[:tenth, column]))

        report.growth_mib, report.growth_of_objects = growth(1), growth(2)
        # While the cable is out the port is closed: largest numbers are compared.
        for name, column in (("descriptors", 3), ("threads", 4)):
            ends = tuple(int(part[:, column].max()) for part in (warm[:tenth], warm[-tenth:]))
            setattr(report, name, ends)
            if ends[1] > warm[: len(warm) // 2 + 1, column].max():
                report.problems.append(f"{name} grew from {ends[0]} to {ends[1]}")
        if report.growth_mib > GROWTH_MIB:
            report.problems.append(f"memory grew by {report.growth_mib:.1f} MiB")
        if report.growth_of_objects > GROWTH_OF_OBJECTS:
            report.problems.append(f"{report.growth_of_objects:.0f} more objects")


def table_of(report: Report) -> Table:
    """Return the report as a table."""
    table = Table(title="Soak", title_justify="left", show_header=False)
    table.add_row("ran", f"{report.seconds / 60:.1f} min at 100 Hz, CPU {report.cpu_share:.1%}")
    faults = ", ".join(f"{n} {kind}" for kind, n in sorted(report.faults.items()))
    table.add_row("faults of the bus", f"{sum(report.faults.values())}: {faults}")
    table.add_row(
        "cycles",
        f"{report.cycles}, {report.missed_cycles} missed, {report.empty_cycles} without an answer",
    )
    table.add_row(
        "measurements",
        f"{report.values}, {report.missing_values / max(report.values, 1):.1%} missing",
    )
    latched = ", ".join(f"{n} {code}" for code, n in sorted(report.latched.items()))
    table.add_row("faults of the driver", latched or "none")
    table.add_row(
        "followed again",
        f"{report.recovered} times, each within {report.longest_recovery_s:.1f} s without a fault",
    )
    table.add_row(
        "growth", f"{report.growth_mib:+.1f} MiB, {report.growth_of_objects:+.0f} objects"
    )
    table.add_row("open files, threads", f"{report.descriptors}, {report.threads} (begin, end)")
    table.add_row("problems", "; ".join(report.problems) or "none")
    return table
