"""Asks the policy a question and shows the answer as it grows."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from so101_driver.errors import UserError

from wallx_bringup.nodes.tools import DISCOVERY_S
from wallx_msgs.action import Ask

CANCEL_S = 2.0
"""How long the policy gets to take back a question."""
GONE_S = 2.0
"""A policy that cannot be seen for so long will not answer any more."""


def ask(node: Node, question: str, views: Sequence[str], show: Callable[[str], None]) -> None:
    """Ask about the newest images and show the answer piece by piece; Ctrl-C takes it back.

    Raises:
        UserError: Nobody answers questions, or the policy says why it cannot.
        KeyboardInterrupt: The question was taken back.
    """
    client = ActionClient(node, Ask, "policy/ask")
    if not client.wait_for_server(timeout_sec=DISCOVERY_S):
        name = node.resolve_topic_name("policy/ask")
        raise UserError(f"nobody answers {name}: `wallx graphs` lists the running graphs.")
    shown = _Shown(show)
    try:
        with _interruption() as interrupted:
            result = _ask(
                node, client, Ask.Goal(question=question, views=list(views)), shown, interrupted
            )
    finally:
        shown.end()
    if result is None:
        raise KeyboardInterrupt
    if result.status != GoalStatus.STATUS_SUCCEEDED:
        raise UserError(result.result.answer or "the question was canceled")


def _ask(
    node: Node, client: ActionClient, goal: Ask.Goal, shown: _Shown, interrupted: threading.Event
) -> Ask.Impl.GetResultService.Response | None:
    """Return the result; None once interrupted."""
    sent = client.send_goal_async(
        goal, feedback_callback=lambda message: shown.grow(message.feedback.text)
    )
    rclpy.spin_until_future_complete(node, sent, timeout_sec=DISCOVERY_S)
    taken = sent.result() if sent.done() else None
    if taken is None or not taken.accepted:
        raise UserError("the policy did not take the question: see its log.")
    done: Future = taken.get_result_async()
    seen_s = time.monotonic()
    while not done.done():
        if interrupted.is_set():
            rclpy.spin_until_future_complete(node, taken.cancel_goal_async(), timeout_sec=CANCEL_S)
            return None
        rclpy.spin_once(node, timeout_sec=0.1)
        if client.server_is_ready():
            seen_s = time.monotonic()
        elif time.monotonic() - seen_s > GONE_S:
            raise UserError("the policy ended before it answered.")
    result = done.result()
    if result.status == GoalStatus.STATUS_SUCCEEDED:
        shown.grow(result.result.answer)
    return result


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets: an exception in the midst of rclpy may get lost there."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


class _Shown:
    """Shows only what is new of a text that grows; a text that changed begins on a new line."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._text = ""

    def grow(self, text: str) -> None:
        if not text.startswith(self._text):
            self.end()
        new = text[len(self._text) :]
        # Words of a model must not steer the terminal.
        self._show("".join(c for c in new if c.isprintable() or c in "\n\t"))
        self._text = text

    def end(self) -> None:
        if self._text:
            self._show("\n")
        self._text = ""
