"""The driver meets every fault of the bus, at rest and moving; the same body runs for all.

The loop, the bus, the core and the plant are the real ones; time, port and threads are simulated
(``bus_proof/lockstep.py``). ``make fault-matrix`` prints the matrix. The second half shows that the
judge sees what it should.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from bus_proof import judge
from bus_proof.fault_cases import CASES, Outcome
from bus_proof.fault_run import run_case
from bus_proof.judge import GoalOnWire, Ruler
from bus_proof.lockstep import Lockstep
from bus_proof.set_up import RAISED_RAD
from fault_matrix import PAGE
from so101_driver.driver_types import JointSample
from so101_driver.joints import data_path
from so101_driver.sim import Fault, FaultKind

RULER = Ruler(data_path("so101.urdf").parent, "demo")
START_RAD = np.array(RAISED_RAD)
MS = 1_000_000


@pytest.mark.parametrize("moving", [False, True], ids=["at rest", "moving"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fault_has_its_outcome_and_the_arm_recovers(case, moving):
    result = run_case(case, moving)
    assert result.problems == []
    assert result.outcome is result.expected


def test_the_matrix_has_all_kinds_of_outcome_and_enough_rows():
    assert len(CASES) >= 24
    assert {case.moving for case in CASES} == set(Outcome)
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_page_has_every_row_with_its_outcomes():
    """What ``make fault-matrix`` wrote last is what is asserted here."""
    rows = re.findall(r"^\| (.+?) \| (\w+) \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    cases = [(case.name, case.at_rest.value, case.moving.value) for case in CASES]
    assert rows == cases, "docs/fault-matrix.md is stale: run `make fault-matrix`"


def test_a_run_depends_on_nothing_but_its_arguments():
    case = next(case for case in CASES if "together" in case.name)
    first, second = run_case(case, True, seed=3), run_case(case, True, seed=3)
    assert first.missing_share == second.missing_share > 0
    assert run_case(case, True, seed=4).missing_share != first.missing_share


def swing(seconds):
    """Up and back, clear of the table."""
    return START_RAD + 0.3 * (1 - np.cos(4.0 * seconds)) * np.array([1, -1, 1, 1, -1, 1])


def healthy_run():
    step = Lockstep(swing)
    step.run(1.0)
    return step


def not_followed(step, goals, truth, falls=frozenset()):
    """Of the last 0.4 s."""

    def wanted(at_ns):
        return swing((at_ns - step.source_begin_ns) * 1e-9)

    begin_ns = step.now_ns - 400 * MS
    return judge.not_followed(goals, truth, wanted, begin_ns, RULER, falls)


def test_a_healthy_run_has_no_findings():
    step = healthy_run()
    goals = judge.goals_on_wire(step.wire.sent)
    assert len(goals) > 500
    assert judge.wrong_goals(goals, RULER, START_RAD) == []
    assert judge.wrong_motion(step.truth, RULER, frozenset()) == []
    assert judge.stale_values(step.samples, step.truth) == []
    assert judge.flattering_ages(step.snapshots, step.wire.intact, step.truth[0][0]) == []
    assert judge.stirred(step.truth, frozenset())
    assert not_followed(step, goals, step.truth) == []


def test_the_judge_sees_a_driver_that_does_not_pass_commands_on():
    step = healthy_run()
    goals = judge.goals_on_wire(step.wire.sent)
    silent = [goal for goal in goals if goal.servo_id != 4]
    assert not_followed(step, silent, step.truth) == ["wrist_flex got 0 goals in the end"]
    late = [replace(goal, at_ns=goal.at_ns + 10 * MS) for goal in goals]
    assert "rad from its commands" in not_followed(step, late, step.truth)[0]


def test_the_judge_sees_a_joint_without_torque():
    step = healthy_run()
    goals = judge.goals_on_wire(step.wire.sent)
    limp = [(at_ns, true - [0, 0, 0.2, 0, 0, 0], shown) for at_ns, true, shown in step.truth]
    (wrong,) = not_followed(step, goals, limp)
    assert wrong.startswith("elbow_flex is ")
    assert not_followed(step, goals, limp, frozenset({2})) == []


def test_the_judge_sees_values_of_the_cycle_before():
    """The published positions of a moving arm are passed on one cycle late."""
    step = healthy_run()
    late = [
        (now_ns, JointSample(sample.stamp_ns, before.position_rad, before.velocity_rad_s))
        for (_, before), (now_ns, sample) in zip(step.samples, step.samples[1:], strict=False)
    ]
    assert judge.stale_values(late, step.truth)


def test_the_judge_sees_ages_that_are_too_young():
    step = healthy_run()
    silent = [reply for reply in step.wire.intact if reply[1] != 3]
    wrong = judge.flattering_ages(step.snapshots, silent, step.truth[0][0])
    assert wrong and all("joint 3" in one for one in wrong)


@pytest.mark.parametrize(
    ("ticks", "after_ms", "finding"),
    [(2065, 10, None), (2140, 10, None), (2250, 10, "jumped"), (3500, 1000, "outside")],
)
def test_the_judge_sees_goals_that_are_too_far(ticks, after_ms, finding):
    goals = [GoalOnWire(0, 1, 2065), GoalOnWire(after_ms * MS, 1, ticks)]
    wrong = judge.wrong_goals(goals, RULER, np.zeros(6))
    assert bool(wrong) == (finding is not None)
    assert finding is None or finding in wrong[0]


def test_a_servo_that_gets_torque_back_is_seen():
    """What no driver may do: write goals to servos that have lost their supply."""
    step = Lockstep(lambda _t: START_RAD)
    step.at(0.3, lambda: step.wire.inject(Fault(kind=FaultKind.POWER_CYCLE, servo=2, for_s=0.05)))
    goal = step.arm.servos[2].goal_ticks
    step.at(0.4, lambda: step.arm.set_goals_ticks({2: goal}))
    step.run(0.6)
    assert [servo_id for _, servo_id in step.revived] == [2]
