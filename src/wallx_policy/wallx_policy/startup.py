"""Entry points of this package's nodes; see so101_driver.startup."""

from __future__ import annotations

from so101_driver.startup import start


def policy_node() -> None:
    """Entry point of ``ros2 run wallx_policy policy_node``."""
    start("wallx_policy.nodes.policy_node")


def recorder_node() -> None:
    """Entry point of ``ros2 run wallx_policy recorder_node``."""
    start("wallx_policy.nodes.recorder_node")


def trace_node() -> None:
    """Entry point of ``ros2 run wallx_policy trace_node``."""
    start("wallx_policy.nodes.trace_node")
