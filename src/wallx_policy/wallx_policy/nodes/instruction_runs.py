"""The action run_instruction: follow an instruction until a named check says it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from so101_driver.nodes.node_base import latched

from wallx_msgs.action import RunInstruction
from wallx_msgs.msg import SafetyStatus
from wallx_policy.backends.base import ObjectPose
from wallx_policy.runtime import PolicyRuntime
from wallx_policy.success import CHECKS

STEADY_S = 0.5
"""A check must say yes for this long: an object that only flies by is no success."""
FEEDBACK_PERIOD_S = 0.5

Outcome = tuple[int, str]


@dataclass(slots=True)
class _Run:
    goal: ServerGoalHandle
    done: Future
    deadline_s: float
    yes_since_s: float | None = None
    feedback_at_s: float = 0.0


class InstructionRuns:
    """One run at a time; ``check`` must be called regularly from the node's executor."""

    def __init__(
        self, node: Node, check_name: str, runtime: Callable[[], PolicyRuntime | None]
    ) -> None:
        self._check_name = check_name
        self._runtime = runtime
        self._run: _Run | None = None
        self._intent_clipped = float("nan")
        node.create_subscription(SafetyStatus, "safety/status", self._on_safety, latched())
        self._server = ActionServer(
            node,
            RunInstruction,
            "run_instruction",
            execute_callback=self._execute,
            goal_callback=self._accept,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
        )

    def check(self) -> None:
        """Look whether the run is over; send feedback."""
        run = self._run
        if run is None:
            return
        now_s = time.monotonic()
        runtime = self._runtime()
        outcome = self._outcome(run, now_s, runtime)
        if outcome is not None:
            self._run = None
            replaced = outcome[0] == RunInstruction.Result.OUTCOME_FAILED
            if runtime is not None and not replaced:
                runtime.pause(f"run_instruction ended: {outcome[1]}; waiting for an instruction")
            run.done.set_result(outcome)
        elif now_s >= run.feedback_at_s and runtime is not None:
            run.feedback_at_s = now_s + FEEDBACK_PERIOD_S
            run.goal.publish_feedback(
                RunInstruction.Feedback(
                    subtask=runtime.subtask, intent_clipped=float(self._intent_clipped)
                )
            )

    def _outcome(self, run: _Run, now_s: float, runtime: PolicyRuntime | None) -> Outcome | None:
        result = RunInstruction.Result
        if runtime is None:
            return result.OUTCOME_FAILED, "the policy was deactivated"
        if run.goal.is_cancel_requested:
            return result.OUTCOME_CANCELED, "canceled"
        if runtime.instruction != run.goal.request.instruction:
            return result.OUTCOME_FAILED, f"replaced by the instruction {runtime.instruction!r}"
        if not self._succeeds(runtime.objects):
            run.yes_since_s = None
        elif run.yes_since_s is None:
            run.yes_since_s = now_s
        if run.yes_since_s is not None and now_s - run.yes_since_s >= STEADY_S:
            return result.OUTCOME_SUCCEEDED, f"check {self._check_name} says yes"
        if now_s >= run.deadline_s:
            said = f"check {self._check_name} said no" if self._check_name else "no success check"
            return result.OUTCOME_TIMEOUT, f"{run.goal.request.timeout_s:g} s are over, {said}"
        return None

    def _succeeds(self, objects: Mapping[str, ObjectPose]) -> bool:
        return bool(self._check_name) and CHECKS[self._check_name](objects)

    def _on_safety(self, message: SafetyStatus) -> None:
        self._intent_clipped = message.intent_clipped

    def _accept(self, request: RunInstruction.Goal) -> GoalResponse:
        possible = self._runtime() is not None and self._run is None and request.timeout_s > 0.0
        return GoalResponse.ACCEPT if possible else GoalResponse.REJECT

    async def _execute(self, goal: ServerGoalHandle) -> RunInstruction.Result:
        runtime = self._runtime()
        if runtime is None:
            goal.abort()
            return RunInstruction.Result(
                outcome=RunInstruction.Result.OUTCOME_FAILED, reason="the policy was deactivated"
            )
        runtime.set_instruction(goal.request.instruction)
        run = _Run(goal, Future(), time.monotonic() + goal.request.timeout_s)
        self._run = run
        outcome, reason = await run.done
        if outcome == RunInstruction.Result.OUTCOME_SUCCEEDED:
            goal.succeed()
        elif outcome == RunInstruction.Result.OUTCOME_CANCELED:
            goal.canceled()
        else:
            goal.abort()
        return RunInstruction.Result(outcome=outcome, reason=reason)
