"""Asks the policy a question and shows the answer as it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.node import Node
from so101_driver.errors import UserError

from wallx_bringup.nodes.tools import DISCOVERY_S
from wallx_msgs.action import Ask

CANCEL_S = 2.0
"""How long the policy gets to take back a question."""


def ask(node: Node, question: str, views: Sequence[str], show: Callable[[str], None]) -> None:
    """Ask about the newest images and show the answer piece by piece; Ctrl-C takes it back.

    Raises:
        UserError: Nobody answers questions, or the policy says why it cannot.
    """
    client = ActionClient(node, Ask, "policy/ask")
    if not client.wait_for_server(timeout_sec=DISCOVERY_S):
        name = node.resolve_topic_name("policy/ask")
        raise UserError(f"nobody answers {name}: `wallx graphs` lists the running graphs.")
    shown = _Shown(show)
    sent = client.send_goal_async(
        Ask.Goal(question=question, views=list(views)),
        feedback_callback=lambda message: shown.grow(message.feedback.text),
    )
    rclpy.spin_until_future_complete(node, sent, timeout_sec=DISCOVERY_S)
    goal = sent.result() if sent.done() else None
    if goal is None or not goal.accepted:
        raise UserError("the policy did not take the question: see its log.")
    done = goal.get_result_async()
    try:
        while not done.done():
            # Ctrl-C is seen between two waits only.
            rclpy.spin_once(node, timeout_sec=0.1)
    except KeyboardInterrupt:
        _take_back(node, goal)
        show("\n")
        raise
    result = done.result()
    if result.status != GoalStatus.STATUS_SUCCEEDED:
        shown.end()
        raise UserError(result.result.answer or "the question was canceled")
    shown.grow(result.result.answer)
    show("\n")


def _take_back(node: Node, goal: ClientGoalHandle) -> None:
    canceled = goal.cancel_goal_async()
    rclpy.spin_until_future_complete(node, canceled, timeout_sec=CANCEL_S)


class _Shown:
    """Shows only what is new of a text that grows; a text that changed begins on a new line."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._text = ""

    def grow(self, text: str) -> None:
        if not text.startswith(self._text):
            self.end()
            self._text = ""
        new = text[len(self._text) :]
        # Words of a model must not steer the terminal.
        self._show("".join(c for c in new if c.isprintable() or c in "\n\t"))
        self._text = text

    def end(self) -> None:
        if self._text:
            self._show("\n")
