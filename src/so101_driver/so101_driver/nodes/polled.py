"""Subscriptions that no executor serves: their owner asks for messages when it wants them.

An executor wakes for every message of every topic. A reader that needs only the newest message
ten times a second, or everything but in bulk, asks far more cheaply itself. Receive times do not
suffer, because the middleware stamps them.
"""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription


class _NotForExecutor(CallbackGroup):
    """Keeps subscriptions away from the executor."""

    def can_execute(self, entity: Any) -> bool:
        """Never: the owner takes the messages."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Refuse."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing begins, so nothing ends."""


class PolledSubscription:
    """One subscription whose messages are taken by ``take``.

    Args:
        node: The owner; remappings and namespace are its own.
        message_type: Class of the messages.
        topic: Name.
        qos: Requested; its depth is how many messages wait to be taken.
        raw: Give serialised messages instead of objects.
    """

    def __init__(
        self, node: Node, message_type: type, topic: str, qos: QoSProfile, raw: bool = False
    ) -> None:
        self._node = node
        self._type = message_type
        self._raw = raw
        self.qos = qos
        self._subscription: Subscription = node.create_subscription(
            message_type,
            topic,
            lambda _message: None,
            qos,
            callback_group=_NotForExecutor(),
            raw=raw,
        )

    def take(self) -> tuple[Any, dict[str, Any]] | None:
        """Return the oldest waiting message and what the middleware knows of it, or None."""
        handle = self._subscription.handle
        with handle:
            return handle.take_message(self._type, self._raw)

    def newest(self) -> Any | None:
        """Return the newest waiting message and forget the others; None if there is none."""
        newest = None
        while (taken := self.take()) is not None:
            newest = taken[0]
        return newest

    def destroy(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)
