"""Hears once what the driver and the safety node of a running graph say of themselves."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile

from wallx_bringup.doctor.graph_checks import DriverStatus, GraphReading, SafetyStatus
from wallx_bringup.nodes.tools import DISCOVERY_S, tool_node
from wallx_msgs import msg


def read_graph(namespace: str, wait_s: float = DISCOVERY_S) -> GraphReading:
    """Return what was heard within ``wait_s``; no longer than needed."""
    heard: dict[str, Any] = {}
    # The readers ask for no more than any publisher of these topics offers.
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE)
    with tool_node(namespace) as node:
        node.create_subscription(
            msg.DriverStatus, "driver/status", lambda m: heard.update(driver=m), qos
        )
        node.create_subscription(
            msg.SafetyStatus, "safety/status", lambda m: heard.update(safety=m), qos
        )
        end_s = time.monotonic() + wait_s
        while len(heard) < 2 and time.monotonic() < end_s:
            rclpy.spin_once(node, timeout_sec=0.1)
    return GraphReading(_driver(heard.get("driver")), _safety(heard.get("safety")))


def _driver(message: msg.DriverStatus | None) -> DriverStatus | None:
    if message is None:
        return None
    return DriverStatus(
        _state(msg.DriverStatus, message.state),
        message.reason,
        tuple(float(value) for value in message.temperature_c),
        tuple(float(value) for value in message.voltage_v),
        tuple(int(value) for value in message.error_bits),
    )


def _safety(message: msg.SafetyStatus | None) -> SafetyStatus | None:
    if message is None:
        return None
    return SafetyStatus(
        _state(msg.SafetyStatus, message.state), message.reason, float(message.clock_skew_s)
    )


def _state(kind: type, value: int) -> str:
    for name in dir(kind):
        if name.startswith("STATE_") and getattr(kind, name) == value:
            return name.removeprefix("STATE_")
    return str(value)
