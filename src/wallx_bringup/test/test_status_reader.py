"""The doctor hears a running graph's own words, and waits no longer than needed for them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from wallx_bringup.domain import lock_free_domain

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(monkeypatch) -> Iterator[None]:
    """Publishes the status of a driver and a safety node in the namespace /left."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from wallx_msgs.msg import DriverStatus, SafetyStatus

    driver = DriverStatus(
        state=DriverStatus.STATE_HOLDING,
        reason="no commands come",
        temperature_c=[30.0, 31.0, 32.0, 33.0, 34.0, 35.0],
        voltage_v=[12.0] * 6,
        error_bits=[0, 0, 32, 0, 0, 0],
    )
    safety = SafetyStatus(state=SafetyStatus.STATE_DISARMED, reason="rest", clock_skew_s=0.25)
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(lock_free_domain())
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain.id)
        node = rclpy.create_node("peer", namespace="/left", context=context)
        drivers = node.create_publisher(DriverStatus, "driver/status", 10)
        safeties = node.create_publisher(SafetyStatus, "safety/status", 10)

        def publish() -> None:
            drivers.publish(driver)
            safeties.publish(safety)

        node.create_timer(0.05, publish)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        yield
        executor.shutdown()
        thread.join()
        node.destroy_node()
        context.try_shutdown()


def test_both_nodes_are_heard(graph) -> None:
    from wallx_bringup.nodes.status_reader import read_graph

    begin_s = time.monotonic()
    reading = read_graph("/left", wait_s=30.0)
    assert time.monotonic() - begin_s < 29.0, "it waited for more than it needed"
    assert reading.driver is not None
    assert (reading.driver.state, reading.driver.reason) == ("HOLDING", "no commands come")
    assert reading.driver.temperature_c[-1] == 35.0
    assert reading.driver.error_bits == (0, 0, 32, 0, 0, 0)
    assert reading.safety is not None
    assert (reading.safety.state, reading.safety.clock_skew_s) == ("DISARMED", 0.25)


def test_silence_is_no_error(graph) -> None:
    from wallx_bringup.nodes.status_reader import read_graph

    reading = read_graph("/right", wait_s=0.5)
    assert reading.driver is None
    assert reading.safety is None
