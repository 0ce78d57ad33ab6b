#!/usr/bin/env python3
"""`make soak`: the driver at 100 Hz for half an hour, with random faults of the bus all the time.

The driver's own loop runs here, on a pseudo-terminal and in real time; the virtual bus with the
simulated arm is another process. Memory, file descriptors and threads are counted; after a latched
fault torque is asked for, as a user does. Exit status 1 when anything leaked, the driver gave up,
or an arm that should follow does not any more.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from bus_proof.bus_process import BusProcess
from rich.console import Console
from rich.table import Table
from so101_driver.arm_driver import ArmDriver
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import Command, DriverConfig, DriverState, JointSample
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety.limits import Limits

PERIOD_S = 0.01
WARM_UP_S = 8.0
"""Caches and pools fill in the first seconds."""
SAMPLE_EVERY_S = 2.0
"""Counting objects stops the loop for some milliseconds."""
GROWTH_MIB = 8.0
"""Beyond this resident memory counts as leaking."""
GROWTH_OF_OBJECTS = 500
STUCK_S = 20.0
"""An arm that does not follow for this long, with nothing wrong any more, has not recovered."""
_COLUMNS = 5
"""Of a sample: time, memory, objects, files, threads."""
_REQUEST_S = 5.0
_RELEASE_S = 0.3
_SWING_RAD = 0.15
_AFTER_FAULT_S = 0.5


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
        longest_recovery_s: From the end of a bus fault until commands were followed.
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


def random_fault(rng: random.Random) -> dict[str, Any]:
    """Draw one fault, as a script writes it."""
    servo = rng.randint(1, 6)
    share = round(rng.uniform(0.02, 0.4), 2)
    kinds: list[tuple[float, dict[str, Any]]] = [
        (4, {"fault": "drop", "probability": share}),
        (4, {"fault": "corrupt", "probability": share}),
        (2, {"fault": "checksum", "probability": share, "servo": servo}),
        (3, {"fault": "truncate", "probability": share}),
        (3, {"fault": "noise", "probability": share}),
        (2, {"fault": "duplicate", "probability": share}),
        (4, {"fault": "delay", "probability": share, "delay_s": round(rng.uniform(0, 0.03), 3)}),
        (3, {"fault": "deaf", "probability": share, "servo": servo}),
        (6, {"fault": "mute", "servo": servo}),
        (2, {"fault": "stuck", "servo": servo}),
        (1, {"fault": "overload", "servo": servo}),
        (1, {"fault": "temperature", "servo": servo, "celsius": rng.choice((62.0, 67.0, 80.0))}),
        (1, {"fault": "voltage", "volts": rng.choice((3.5, 15.0))}),
        (1, {"fault": "id_clash", "servo": servo, "other": servo % 6 + 1}),
        (1, {"fault": "power_cycle", "servo": servo, "for_s": 0.1}),
        (0.5, {"fault": "brown_out", "for_s": 0.2}),
        (4, {"fault": "unplug"}),
    ]
    fault = dict(rng.choices([k for _, k in kinds], [weight for weight, _ in kinds])[0])
    fault.setdefault("for_s", round(rng.choice((0.02, 0.1, 0.3, 1.0, 2.0)), 2))
    return fault


class Soak:
    """One run.

    Args:
        seconds: How long.
        seed: Of the faults.
        say: Told about progress, about once a minute.
    """

    def __init__(self, seconds: float, seed: int, say: Callable[[str], None]) -> None:
        self.report = Report()
        self._seconds = seconds
        self._rng = random.Random(seed)
        self._say = say
        self._faults: Counter[str] = Counter()
        self._latched: Counter[str] = Counter()
        # One object however long it runs: it must not count as a leak itself.
        self._measured = array("d")
        self._lost: list[str] = []
        self._base_rad = np.zeros(len(JOINT_NAMES))
        self._base_s = 0.0
        self._quiet_s = 0.0
        self._following = True
        self._asked_s = 0.0

    def run(self) -> Report:
        """Run it."""
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "arm"
            with BusProcess("plant", link) as virtual:
                self._drive(virtual, str(link))
        return self.report

    def _drive(self, virtual: BusProcess, port: str) -> None:
        calibration = Calibration.load(data_path("sim_calibration.json"))
        limits = Limits.from_file(data_path("so101_limits.yaml"), "demo")
        self._range_rad = np.stack([limits.lower_rad, limits.upper_rad], axis=-1)
        config = DriverConfig(
            position_limits_rad=self._range_rad, max_speed_rad_s=limits.velocity_rad_s
        )
        with ServoBus(port) as bus:
            core = DriverCore(config, calibration)
            arm = ArmDriver(bus, core, calibration, self._on_cycle, self._lost.append)
            arm.start()
            try:
                self._loop(virtual, arm)
                virtual.clear()
                self._settle(arm)
            finally:
                arm.stop()
            self._sum_up(arm)

    def _on_cycle(self, sample: JointSample | None) -> None:
        self.report.cycles += 1
        self.report.values += len(JOINT_NAMES)
        if sample is None:
            self.report.empty_cycles += 1
            self.report.missing_values += len(JOINT_NAMES)
        else:
            self.report.missing_values += int(np.isnan(sample.position_rad).sum())

    def _loop(self, virtual: BusProcess, arm: ArmDriver) -> None:
        begun_s = time.monotonic()
        begun_cpu_s = time.process_time()
        due_s = sample_s = said_s = self._quiet_s = begun_s
        fault_s = begun_s + 1.0
        self._begin_from_goal(arm)
        while (now_s := time.monotonic()) - begun_s < self._seconds:
            if now_s >= fault_s:
                fault = random_fault(self._rng)
                virtual.inject(**fault)
                self._faults[fault["fault"]] += 1
                self._quiet_s = max(self._quiet_s, now_s + fault["for_s"])
                # Often one at a time, at times several.
                fault_s = now_s + self._rng.choice((0.2, 1.5, 3.0, 5.0))
            if now_s >= sample_s:
                sample_s += SAMPLE_EVERY_S
                self._measure(now_s - begun_s)
            if now_s >= said_s + 60.0:
                said_s += 60.0
                self._say(f"{(now_s - begun_s) / 60:.0f} min: {self._in_short()}")
            self._step(arm, now_s)
            due_s = max(due_s + PERIOD_S, time.monotonic() - PERIOD_S)
            time.sleep(max(0.0, due_s - time.monotonic()))
        self.report.seconds = time.monotonic() - begun_s
        self.report.cpu_share = (time.process_time() - begun_cpu_s) / self.report.seconds

    def _step(self, arm: ArmDriver, now_s: float) -> None:
        """One command, and what a user does when the arm does not follow."""
        snapshot = arm.snapshot()
        if snapshot.state is DriverState.ACTIVE:
            if not self._following:
                self._following = True
                self.report.recovered += 1
                waited_s = now_s - self._quiet_s
                self.report.longest_recovery_s = max(self.report.longest_recovery_s, waited_s)
        else:
            if self._following and snapshot.state is DriverState.FAULT:
                self._latched[snapshot.reason.code.value] += 1
            self._following = False
            if now_s > self._quiet_s + STUCK_S:
                self.report.problems.append(
                    f"does not follow {STUCK_S:.0f} s after the last fault: "
                    f"{snapshot.reason.sentence}"
                )
                self._quiet_s = now_s
            if now_s > max(self._quiet_s + _AFTER_FAULT_S, self._asked_s + 1.0):
                self._asked_s = now_s
                if snapshot.state is DriverState.FAULT:
                    self._ask_for_torque(arm, snapshot.reason.code)
                self._begin_from_goal(arm)
        self._command(arm)

    def _ask_for_torque(self, arm: ArmDriver, code: ReasonCode) -> None:
        if code is ReasonCode.PORT_LOST:
            return
        if code in (ReasonCode.POWER_CYCLED, ReasonCode.AT_START):
            arm.release(_RELEASE_S, _REQUEST_S)
            time.sleep(_RELEASE_S + 0.3)
        arm.give_torque(_REQUEST_S)

    def _begin_from_goal(self, arm: ArmDriver) -> None:
        goal_rad = arm.snapshot().goal_rad
        if np.isfinite(goal_rad).all():
            self._base_rad, self._base_s = goal_rad, time.monotonic()

    def _command(self, arm: ArmDriver) -> None:
        swing = _SWING_RAD * np.sin(1.5 * (time.monotonic() - self._base_s))
        position = np.clip(self._base_rad + swing, *self._range_rad.T)
        stamp_ns = time.time_ns()
        try:
            arm.command(Command(JOINT_NAMES, stamp_ns, tuple(position.tolist())), stamp_ns, 1)
        except BusError:
            # As the node does: the loop meets the same error and reports it.
            return

    def _settle(self, arm: ArmDriver) -> None:
        """Without faults the arm must follow in the end."""
        begun_s = time.monotonic()
        self._quiet_s = begun_s
        while time.monotonic() - begun_s < STUCK_S:
            self._step(arm, time.monotonic())
            time.sleep(PERIOD_S)
            if self._following and time.monotonic() - begun_s > 2.0:
                return
        self.report.problems.append(f"does not follow in the end: {arm.snapshot().reason.sentence}")

    def _measure(self, seconds: float) -> None:
        process = psutil.Process()
        self._measured.extend(
            (
                seconds,
                process.memory_info().rss / 2**20,
                len(gc.get_objects()),
                process.num_fds(),
                process.num_threads(),
            )
        )

    def _in_short(self) -> str:
        _, rss, objects, descriptors, threads = self._measured[-_COLUMNS:]
        return (
            f"{self.report.cycles} cycles, {sum(self._faults.values())} faults, "
            f"{rss:.1f} MiB, {objects:.0f} objects, {descriptors:.0f} files, {threads:.0f} threads"
        )

    def _sum_up(self, arm: ArmDriver) -> None:
        report = self.report
        report.faults, report.latched = dict(self._faults), dict(self._latched)
        report.counters = dict(arm.counters())
        report.missed_cycles = arm.missed_cycles
        measured = np.reshape(self._measured, (-1, _COLUMNS))
        warm = measured[measured[:, 0] >= WARM_UP_S]
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
        report.problems += [f"the driver gave up: {sentence}" for sentence in self._lost]


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
        f"{report.recovered} times, at most {report.longest_recovery_s:.1f} s after all was well",
    )
    table.add_row(
        "growth", f"{report.growth_mib:+.1f} MiB, {report.growth_of_objects:+.0f} objects"
    )
    table.add_row("open files, threads", f"{report.descriptors}, {report.threads} (begin, end)")
    table.add_row("problems", "; ".join(report.problems) or "none")
    return table


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--out", type=Path, default=Path("out/proof"))
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error("--minutes must be positive")
    console = Console()
    report = Soak(options.minutes * 60, options.seed, console.print).run()
    console.print(table_of(report))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
