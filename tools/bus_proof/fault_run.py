"""Runs one case of the fault matrix: the same body for every fault, at rest and moving.

Half a second of normal use, the fault, then time to recover by itself; after a latched fault
torque is asked for, as a user does. In the end the arm must follow again with fresh values.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import DriverState
from so101_driver.joints import data_path

from bus_proof import judge
from bus_proof.fault_cases import Case, Outcome
from bus_proof.lockstep import BEGIN_NS, Lockstep
from bus_proof.set_up import RAISED_RAD

FAULT_AT_S = 0.6
ALONE_S = 0.8
"""Time after the fault in which an arm that was only held comes back by itself."""
RECOVERY_S = 2.2
"""Then torque may be asked for, the source begins anew, and in the end commands are followed."""
FOLLOWED_S = 0.4
"""At the end, this long, everything must be as at the beginning."""
RELEASE_S = 0.3
MOST_DROP_MM = 5.0
ARMED_AGAIN_S = 1.4
_AMPLITUDE_RAD = 0.5
_OMEGA = 4.8
_DIRECTIONS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])


@dataclass(slots=True)
class Result:
    """What came of one case.

    Attributes:
        case: The row.
        moving: Whether the arm moved.
        outcome: What the driver made of it.
        codes: Reasons that its status gave, in order.
        problems: What was wrong; empty is the aim.
        missing_share: Of the measurements of single joints while the fault lasted.
        drop_mm: How far the true tip of a resting arm was below its first height.
        cycles: Of the driver's loop.
    """

    case: Case
    moving: bool
    outcome: Outcome = Outcome.TOLERATED
    codes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    missing_share: float = 0.0
    drop_mm: float = 0.0
    cycles: int = 0

    @property
    def expected(self) -> Outcome:
        """What should have come of it."""
        return self.case.moving if self.moving else self.case.at_rest

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.problems and self.outcome is self.expected


class _Run:
    def __init__(self, case: Case, moving: bool, seed: int) -> None:
        self.case = case
        self.moving = moving
        self.base_rad = np.array(RAISED_RAD)
        self.lockstep = Lockstep(self._wanted, seed)
        self.answers: list[Future[Any]] = []
        self.fault_ended_s = FAULT_AT_S + case.lasts_s
        self.ask_s = self.fault_ended_s + ALONE_S
        self.end_s = self.ask_s + RECOVERY_S
        self.asked = False

    def _wanted(self, seconds: float) -> np.ndarray:
        if not self.moving:
            return self.base_rad
        return self.base_rad + _AMPLITUDE_RAD * (1 - np.cos(_OMEGA * seconds)) / 2 * _DIRECTIONS

    def wanted_at(self, at_ns: int) -> np.ndarray:
        """What was commanded at a time, since the source last began."""
        return self._wanted((at_ns - self.lockstep.source_begin_ns) * 1e-9)

    def run(self) -> None:
        step = self.lockstep
        step.at(FAULT_AT_S, self._begin_fault)
        step.at(self.fault_ended_s, step.wire.clear)
        step.at(self.ask_s, self._take_over)
        step.at(self.ask_s + ARMED_AGAIN_S, self._arm_again)
        step.run(self.end_s)

    def _begin_fault(self) -> None:
        for fault in self.case.faults:
            self.lockstep.wire.inject(fault)

    def _take_over(self) -> None:
        """What a user does: after a fault let go what is half limp, then ask for torque."""
        snapshot = self.lockstep.driver.snapshot()
        if snapshot.state is not DriverState.FAULT:
            return
        self.asked = True
        if snapshot.reason.code is ReasonCode.POWER_CYCLED:
            self.lockstep.ask_for_release(RELEASE_S)
        self.lockstep.at(
            self.ask_s + RELEASE_S + 0.2,
            lambda: self.answers.append(self.lockstep.ask_for_torque()),
        )

    def _arm_again(self) -> None:
        """Begin the motion anew from where the driver holds, as safety does."""
        goal_rad = self.lockstep.driver.snapshot().goal_rad
        if self.lockstep.driver.snapshot().state is not DriverState.ACTIVE or self.asked:
            # Never from beyond where the motion may go.
            self.base_rad = np.array(goal_rad)
            self.lockstep.start_source_anew()


def run_case(case: Case, moving: bool, seed: int = 0) -> Result:
    """Run one case and judge it."""
    run = _Run(case, moving, seed)
    result = Result(case, moving)
    try:
        run.run()
    except Exception as error:
        result.problems.append(f"{type(error).__name__}: {error}")
        return result
    step = run.lockstep
    result.cycles = len(step.samples)
    fault_ns = BEGIN_NS + round(FAULT_AT_S * 1e9)
    ask_ns = BEGIN_NS + round(run.ask_s * 1e9)
    end_ns = BEGIN_NS + round(run.end_s * 1e9)
    during = [(t, s) for t, s in step.snapshots if fault_ns <= t < ask_ns]
    result.codes = tuple(dict.fromkeys(s.reason.code.value for _, s in during))
    result.outcome = _outcome(step, during, fault_ns, ask_ns)
    result.missing_share = _missing(step, fault_ns, BEGIN_NS + round(run.fault_ended_s * 1e9))
    result.drop_mm = _drop_mm(step, ask_ns)
    if not moving and not case.falls and result.drop_mm > MOST_DROP_MM:
        result.problems.append(f"the tip dropped by {result.drop_mm:.1f} mm")
    ruler = judge.Ruler(data_path("so101.urdf").parent, "demo")
    goals = judge.goals_on_wire(step.wire.sent)
    result.problems += _judge(run, ruler, goals, ask_ns)
    result.problems += _recovery_problems(run, ruler, goals, end_ns)
    if case.reasons and not set(case.reasons) & set(result.codes):
        result.problems.append(f"no reason {' or '.join(case.reasons)} but {result.codes}")
    return result


def _outcome(step: Lockstep, during: list[Any], fault_ns: int, ask_ns: int) -> Outcome:
    if not during or during[-1][1].state is DriverState.FAULT:
        return Outcome.LATCHED
    if any(snapshot.state is not DriverState.ACTIVE for _, snapshot in during):
        return Outcome.HELD
    warned = any(snapshot.reason.code.value for _, snapshot in during)
    missing = _missing(step, fault_ns, ask_ns) > 0
    reported = any(name.startswith(("servo_", "bus_servo_")) for name in step.driver.counters())
    return Outcome.DEGRADED if warned or missing or reported else Outcome.TOLERATED


def _drop_mm(step: Lockstep, until_ns: int) -> float:
    heights = [
        height
        for (at_ns, _, _), height in zip(step.truth, step.tip_m, strict=True)
        if at_ns < until_ns
    ]
    return (heights[0] - min(heights)) * 1e3


def _missing(step: Lockstep, begin_ns: int, end_ns: int) -> float:
    """Share of single measurements that are missing in a time."""
    parts = [
        1.0 if sample is None else float(np.isnan(sample.position_rad).mean())
        for at_ns, sample in step.samples
        if begin_ns <= at_ns < end_ns
    ]
    return float(np.mean(parts)) if parts else 0.0


def _judge(run: _Run, ruler: judge.Ruler, goals: list[judge.GoalOnWire], ask_ns: int) -> list[str]:
    step = run.lockstep
    problems = judge.wrong_goals(goals, ruler, np.array(RAISED_RAD))
    problems += judge.wrong_motion(step.truth, ruler, run.case.falls)
    if not run.moving:
        until = [entry for entry in step.truth if entry[0] < ask_ns]
        problems += judge.stirred(until, run.case.falls)
    problems += judge.stale_values(step.samples, step.truth)
    problems += judge.flattering_ages(step.snapshots, step.wire.intact, BEGIN_NS)
    problems += _motion_in_fault(run, goals, ask_ns)
    problems += [
        f"servo {servo_id} got torque again although it had lost its supply"
        for at_ns, servo_id in step.revived
        if at_ns < ask_ns
    ]
    return _shortened(problems)


def _motion_in_fault(run: _Run, goals: list[judge.GoalOnWire], ask_ns: int) -> list[str]:
    """Goals and torque that were written while the driver said FAULT and nobody had asked."""
    step = run.lockstep
    faults: list[tuple[int, int]] = []
    begun: int | None = None
    for at_ns, snapshot in step.snapshots:
        if snapshot.state is DriverState.FAULT and begun is None:
            begun = at_ns
        elif snapshot.state is not DriverState.FAULT and begun is not None:
            faults.append((begun, at_ns))
            begun = None
    if begun is not None:
        faults.append((begun, ask_ns))
    written = [(goal.at_ns, f"goal of servo {goal.servo_id}") for goal in goals]
    written += [
        (at_ns, f"torque {value} of servo {servo}")
        for at_ns, servo, value in judge.torque_on_wire(step.wire.sent)
    ]
    return [
        f"{what} was written in FAULT"
        for at_ns, what in written
        for begin, end in faults
        if begin < at_ns < min(end, ask_ns)
    ]


def _recovery_problems(
    run: _Run, ruler: judge.Ruler, goals: list[judge.GoalOnWire], end_ns: int
) -> list[str]:
    """What is not as before at the end."""
    step = run.lockstep
    problems = [
        f"torque was refused: {answer.result().message}"
        for answer in run.answers
        if answer.done() and not answer.result().success
    ]
    problems += [f"the driver gave up: {sentence}" for sentence in step.lost]
    last_ns = end_ns - round(FOLLOWED_S * 1e9)
    snapshots = [snapshot for at_ns, snapshot in step.snapshots if at_ns >= last_ns]
    if not snapshots or any(s.state is not DriverState.ACTIVE for s in snapshots):
        last = step.snapshots[-1][1]
        problems.append(f"not following in the end: {last.state.value}, {last.reason.sentence}")
    if _missing(step, last_ns, end_ns) > 0:
        problems.append("measurements are missing in the end")
    followed = judge.not_followed(goals, step.truth, run.wanted_at, last_ns, ruler, run.case.falls)
    return problems + followed


def _shortened(problems: list[str]) -> list[str]:
    """Keep the first of each kind, with how many more there are."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.split(" ")[0], []).append(problem)
    return [
        found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
        for found in kinds.values()
    ]
