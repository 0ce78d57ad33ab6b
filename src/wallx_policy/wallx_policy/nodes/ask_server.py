"""The action policy/ask: questions about what the cameras see, answered beside the chunks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from wallx_msgs.action import Ask
from wallx_policy.backends.base import BadText, Writing
from wallx_policy.nodes.text_worker import TextWorker
from wallx_policy.text_tasks import Canceled, TextTasks

MOST_OPEN = 4
"""Questions that may wait at a time, the one being answered included."""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str


class _Canceled:
    pass


_Outcome = _Answer | _Refusal | _Canceled


@dataclass(slots=True)
class _Question:
    """One goal; the worker's thread writes ``text`` and ``outcome``, the executor reads them."""

    goal: ServerGoalHandle
    worker: TextWorker
    done: Future = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)
    text: str = ""
    told: str = ""
    outcome: _Outcome | None = None

    def run(self, tasks: TextTasks, stopped: Callable[[], bool]) -> None:
        """Answer it; called by the worker."""

        def cancelled() -> bool:
            return stopped() or self.given_up.is_set()

        if cancelled():
            self.outcome = _Canceled()
            return

        def tell(text: str) -> None:
            self.text = text

        request = self.goal.request
        try:
            writing = Writing(tell, cancelled)
            self.outcome = _Answer(tasks.ask(request.question, list(request.views), writing))
        except BadText as error:
            self.outcome = _Refusal(str(error))
        except Canceled:
            self.outcome = _Canceled()


class AskServer:
    """Takes questions; ``check`` must be called regularly from the node's executor.

    A goal that cannot be answered is aborted, and its ``answer`` says why: a rejected one could say
    nothing.
    """

    def __init__(self, node: Node, worker: Callable[[], TextWorker | str]) -> None:
        """Serve on a node; ``worker`` returns who writes, or why nobody does."""
        self._worker = worker
        self._open: list[_Question] = []
        self._server = ActionServer(
            node,
            Ask,
            "policy/ask",
            execute_callback=self._execute,
            goal_callback=lambda _request: GoalResponse.ACCEPT,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
        )

    def check(self) -> None:
        """Send feedback and results."""
        worker = self._worker()
        for question in list(self._open):
            outcome = question.outcome
            if worker is not question.worker and not isinstance(outcome, _Answer):
                outcome = _Refusal("the policy was deactivated")
            if outcome is not None or question.goal.is_cancel_requested:
                question.given_up.set()
            text = outcome.text if isinstance(outcome, _Answer) else question.text
            if text != question.told:
                question.told = text
                question.goal.publish_feedback(Ask.Feedback(text=text))
            if outcome is not None:
                self._open.remove(question)
                question.done.set_result(outcome)

    async def _execute(self, goal: ServerGoalHandle) -> Ask.Result:
        worker = self._worker()
        if isinstance(worker, str):
            goal.abort()
            return Ask.Result(answer=worker)
        if len(self._open) >= MOST_OPEN:
            goal.abort()
            return Ask.Result(answer=f"{MOST_OPEN} questions are waiting already: ask again later")
        question = _Question(goal, worker)
        self._open.append(question)
        worker.submit(question.run)
        outcome: _Outcome = await question.done
        if isinstance(outcome, _Answer):
            goal.succeed()
            return Ask.Result(answer=outcome.text)
        if isinstance(outcome, _Canceled) and goal.is_cancel_requested:
            goal.canceled()
            return Ask.Result(answer=question.told)
        goal.abort()
        reason = outcome.reason if isinstance(outcome, _Refusal) else "it was given up"
        return Ask.Result(answer=reason)
