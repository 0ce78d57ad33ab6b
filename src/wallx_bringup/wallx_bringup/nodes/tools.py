"""What the docs use of the ros2 command, for machines where ROS 2 came from pip."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from so101_driver.errors import UserError
from so101_driver.nodes.node_base import latched

import wallx_msgs.msg
from wallx_bringup.message_text import fill_message, message_text

DISCOVERY_S = 5.0
"""Discovery takes 0.1 s or 2.5 s, at random."""

SETTLED_S = 0.5
"""No further reader has turned up for so long: there is none."""


@contextlib.contextmanager
def tool_node(namespace: str, handles_signals: bool = True) -> Iterator[Node]:
    """A short-lived node in the graph's namespace.

    Without ``handles_signals``, Ctrl-C is an ordinary KeyboardInterrupt and the node lives on.
    """
    options = SignalHandlerOptions.ALL if handles_signals else SignalHandlerOptions.NO
    rclpy.init(args=[], signal_handler_options=options)
    node = rclpy.create_node("wallx_tool", namespace=namespace, start_parameter_services=False)
    try:
        yield node
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def list_topics(node: Node) -> list[tuple[str, str, int, int]]:
    """Return name, type, publishers and subscribers of each topic, once discovery has settled."""
    known: list[tuple[str, str, int, int]] = []
    start_s = changed_s = time.monotonic()
    while time.monotonic() - start_s < DISCOVERY_S:
        rclpy.spin_once(node, timeout_sec=0.1)
        now = [
            (name, ", ".join(types), node.count_publishers(name), node.count_subscribers(name))
            for name, types in sorted(node.get_topic_names_and_types())
        ]
        if now != known:
            known, changed_s = now, time.monotonic()
        others = any(not row[0].startswith(("/rosout", "/parameter_events")) for row in known)
        if others and time.monotonic() - changed_s > 1.0:
            break
    return known


def echo(node: Node, topic: str, count: int | None, show: Callable[[str], None]) -> int:
    """Show messages of a topic as YAML until ``count`` have come; returns how many came.

    Raises:
        UserError: Nobody publishes the topic.
    """
    name = node.resolve_topic_name(topic)
    publishers = _wait_for(node, lambda: node.get_publishers_info_by_topic(name))
    if not publishers:
        raise UserError(
            f"nobody publishes {name}: `wallx topics` lists the topics, `wallx graphs` the graphs."
        )
    profiles = [publisher.qos_profile for publisher in publishers]
    # Request no more than every publisher offers.
    best_effort = any(p.reliability == ReliabilityPolicy.BEST_EFFORT for p in profiles)
    latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
    qos = QoSProfile(
        depth=10,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    received = 0

    def on_message(message: Any) -> None:
        nonlocal received
        if count is None or received < count:
            received += 1
            show(message_text(message))

    node.create_subscription(_load_type(publishers[0].topic_type), name, on_message, qos)
    while count is None or received < count:
        rclpy.spin_once(node, timeout_sec=0.5)
    return received


def call(node: Node, service: str, given: Mapping[str, str], timeout_s: float) -> tuple[bool, str]:
    """Call a service; returns whether it succeeded and its response as text.

    Raises:
        UserError: The service does not exist, a field does not fit, or no answer comes.
    """
    name = node.resolve_service_name(service)
    types = _wait_for(node, lambda: dict(node.get_service_names_and_types()).get(name))
    if not types:
        raise UserError(
            f"there is no service {name}: check its name, and with `wallx graphs` what is running."
        )
    service_type = _load_type(types[0])
    client = node.create_client(service_type, name)
    request = service_type.Request()
    fill_message(request, given, (wallx_msgs.msg.SafetyStatus,))
    if not client.wait_for_service(timeout_sec=DISCOVERY_S):
        raise UserError(f"service {name} is known but its node does not answer.")
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=timeout_s)
    if not future.done():
        raise UserError(f"service {name} gave no answer within {timeout_s:g} s.")
    response = future.result()
    return bool(getattr(response, "success", True)), message_text(response)


def publish(node: Node, topic: str, given: Mapping[str, str]) -> str:
    """Publish one message on a topic that somebody reads; returns the message as text.

    Raises:
        UserError: Nobody reads the topic, or a field does not fit.
    """
    name = node.resolve_topic_name(topic)
    readers = _wait_for(node, lambda: node.get_subscriptions_info_by_topic(name))
    if not readers:
        raise UserError(
            f"nobody reads {name}: `wallx topics` lists the topics, `wallx graphs` the graphs."
        )
    message_type = _load_type(readers[0].topic_type)
    message = message_type()
    fill_message(message, given, (wallx_msgs.msg.SafetyStatus,))
    # Transient local, so that readers that ask for it are reached as well as the others.
    publisher = node.create_publisher(message_type, name, latched())
    if not _wait_for_all_readers(node, publisher, name):
        raise UserError(f"whoever reads {name} cannot hear a reliable publisher.")
    publisher.publish(message)
    publisher.wait_for_all_acked(Duration(seconds=DISCOVERY_S))
    return message_text(message)


def _wait_for_all_readers(node: Node, publisher: Publisher, name: str) -> bool:
    """Wait until every reader is matched and no further one turns up; whether there is any.

    Readers of one topic are discovered one after the other: whoever publishes once and leaves
    would otherwise reach only the first.
    """
    start_s = changed_s = time.monotonic()
    matched = 0
    while time.monotonic() - start_s < DISCOVERY_S:
        rclpy.spin_once(node, timeout_sec=0.05)
        before, matched = matched, publisher.get_subscription_count()
        if matched != before:
            changed_s = time.monotonic()
        known = len(node.get_subscriptions_info_by_topic(name))
        if 0 < known <= matched and time.monotonic() - changed_s > SETTLED_S:
            break
    return matched > 0


def _wait_for(node: Node, find: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + DISCOVERY_S
    while not (found := find()) and time.monotonic() < deadline_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    return found


def _load_type(name: str) -> Any:
    package, kind, message = name.split("/")
    try:
        return getattr(import_module(f"{package}.{kind}"), message)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"type {name} is not installed here: build the package {package} and source it."
        ) from error
