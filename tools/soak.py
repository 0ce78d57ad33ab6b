#!/usr/bin/env python3
"""`make soak`: the driver at 100 Hz for half an hour, with random faults of the bus all the time.

The driver's own loop runs here, on a pseudo-terminal and in real time; the virtual bus with the
simulated arm is another process. Memory, file descriptors and threads are counted; after a latched
fault torque is asked for, as a user does. Exit status 1 when anything leaked, the driver gave up,
or an arm that should follow does not any more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bus_proof.bus_process import BusProcess
from bus_proof.soak_report import STUCK_S, Recovery, Report, Samples, table_of
from rich.console import Console
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
_REQUEST_S = 5.0
_RELEASE_S = 0.3
_SWING_RAD = 0.15
_AFTER_FAULT_S = 0.5


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
        self._samples = Samples()
        self._lost: list[str] = []
        self._base_rad = np.zeros(len(JOINT_NAMES))
        self._base_s = 0.0
        self._quiet_s = 0.0
        self._recovery = Recovery(0.0)
        self._state = DriverState.ACTIVE
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
        self._recovery = Recovery(begun_s)
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
                self._samples.take(now_s - begun_s)
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
        before, self._state = self._state, snapshot.state
        follows = snapshot.state is DriverState.ACTIVE
        if self._recovery.watch(now_s, self._quiet_s, follows):
            self.report.problems.append(
                f"does not follow after {STUCK_S:.0f} s without a fault: {snapshot.reason.sentence}"
            )
        fault = snapshot.state is DriverState.FAULT
        if fault and before is not DriverState.FAULT:
            self._latched[snapshot.reason.code.value] += 1
        if not follows and now_s > max(self._quiet_s + _AFTER_FAULT_S, self._asked_s + 1.0):
            self._asked_s = now_s
            if fault:
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
            if self._state is DriverState.ACTIVE and time.monotonic() - begun_s > 2.0:
                return
        self.report.problems.append(f"does not follow in the end: {arm.snapshot().reason.sentence}")

    def _in_short(self) -> str:
        return (
            f"{self.report.cycles} cycles, {sum(self._faults.values())} faults, "
            f"{self._samples.newest()}"
        )

    def _sum_up(self, arm: ArmDriver) -> None:
        report = self.report
        report.faults, report.latched = dict(self._faults), dict(self._latched)
        report.counters = dict(arm.counters())
        report.missed_cycles = arm.missed_cycles
        report.recovered = self._recovery.times
        report.longest_recovery_s = self._recovery.longest_s
        self._samples.judge(report, WARM_UP_S)
        report.problems += [f"the driver gave up: {sentence}" for sentence in self._lost]


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
