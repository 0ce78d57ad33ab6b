"""`wallx topics`, `echo`, `call`, `pub` against a real node, with the QoS that the suite uses."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from wallx_bringup.cli import main
from wallx_bringup.domain import lock_free_domain

pytestmark = pytest.mark.ros


@pytest.fixture
def peer(monkeypatch, tmp_path) -> Iterator[SimpleNamespace]:
    """A node in a domain of its own, which the commands join through the environment."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # no graph of the user's is in the way
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(lock_free_domain())
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain.id)
        node = rclpy.create_node("peer", context=context)
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        fast = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_publisher(String, "status", latched).publish(String(data="no"))
        best_effort = node.create_publisher(String, "fast", fast)
        node.create_timer(0.05, lambda: best_effort.publish(String(data="tick")))
        for qos in (10, latched):  # as the policy listens
            node.create_subscription(String, "instruction", lambda m: heard.put(m.data), qos)

        def on_arm(_request, response):
            response.success, response.message = False, "joint states are stale"
            return response

        node.create_service(Trigger, "safety/arm", on_arm)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        yield SimpleNamespace(heard=heard)
        executor.shutdown()
        thread.join()
        node.destroy_node()
        context.try_shutdown()


def test_topics_lists_what_there_is(peer, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["topics"]) == 0
    output = capsys.readouterr().out
    assert "/status" in output
    assert "std_msgs/msg/String" in output


@pytest.mark.parametrize(("topic", "data"), [("status", "'no'"), ("fast", "tick")])
def test_echo_hears_latched_and_best_effort_publishers(peer, topic, data, capsys) -> None:
    assert main(["echo", topic, "-n", "1"]) == 0
    assert capsys.readouterr().out == f"{{data: {data}}}\n---\n"


def test_call_shows_the_answer_and_its_status_tells_of_a_refusal(peer, capsys) -> None:
    assert main(["call", "safety/arm"]) == 1
    assert capsys.readouterr().out == "{success: false, message: joint states are stale}\n"


def test_pub_reaches_every_reader_before_it_ends(peer) -> None:
    assert main(["pub", "instruction", "data:=12"]) == 0
    assert [peer.heard.get(timeout=10) for _ in range(2)] == ["12", "12"]
    assert peer.heard.empty()


def test_output_into_a_closed_pipe_ends_quietly(peer) -> None:
    """`wallx echo … | head` must not end with a traceback."""
    wallx = subprocess.Popen(
        [sys.executable, "-m", "wallx_bringup.cli", "echo", "fast"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wallx.stdout.readline()
    wallx.stdout.close()
    assert wallx.wait(timeout=20) == 0
    assert "Traceback" not in wallx.stderr.read()


def test_what_is_not_there_is_named(peer, monkeypatch, capsys) -> None:
    monkeypatch.setattr("wallx_bringup.nodes.tools.DISCOVERY_S", 0.5)
    for command in (["echo", "nothing"], ["call", "nothing"], ["pub", "nothing"]):
        assert main(command) == 1
        assert "/nothing" in capsys.readouterr().err
