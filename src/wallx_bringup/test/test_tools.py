"""`wallx topics`, `echo`, `call`, `pub` against a real node, with the QoS that the suite uses."""

from __future__ import annotations

import contextlib
import queue
import signal
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
    from rclpy.action import ActionServer, CancelResponse
    from rclpy.executors import MultiThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    from wallx_msgs.action import Ask

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # no graph of the user's is in the way
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(lock_free_domain())
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain.id)
        node = rclpy.create_node("peer", context=context)
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        given_up = threading.Event()
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

        def answer(goal):
            heard.put(f"{goal.request.question} {list(goal.request.views)}")
            for text in ("the", "the red\x1b[2J"):
                goal.publish_feedback(Ask.Feedback(text=text))
            if goal.request.question == "forever?":
                while not goal.is_cancel_requested and not given_up.wait(0.01):
                    pass
                heard.put("canceled")
                goal.canceled() if goal.is_cancel_requested else goal.abort()
                return Ask.Result(answer="the red")
            if goal.request.question == "why?":
                goal.abort()
                return Ask.Result(answer="it writes no text")
            goal.succeed()
            return Ask.Result(answer="the red\x1b[2J cube")

        ActionServer(
            node, Ask, "policy/ask", answer, cancel_callback=lambda _goal: CancelResponse.ACCEPT
        )
        executor = MultiThreadedExecutor(num_threads=3, context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        yield SimpleNamespace(heard=heard, given_up=given_up)
        given_up.set()
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


def test_an_answer_is_shown_once_as_it_grows(peer, capsys) -> None:
    assert main(["ask", "what?", "--view", "wrist_view", "--view", "face_view"]) == 0
    assert capsys.readouterr().out == "the red[2J cube\n"
    assert peer.heard.get(timeout=10) == "what? ['wrist_view', 'face_view']"


def test_a_question_without_an_answer_says_why(peer, capsys) -> None:
    assert main(["ask", "why?"]) == 1
    assert capsys.readouterr().err.endswith("wallx: it writes no text\n")


def test_a_policy_that_ends_will_not_answer(peer, monkeypatch, capsys) -> None:
    from rclpy.action import ActionClient

    monkeypatch.setattr("wallx_bringup.nodes.ask_client.GONE_S", 0.3)
    there = ActionClient.server_is_ready
    monkeypatch.setattr(
        ActionClient, "server_is_ready", lambda client: peer.heard.empty() and there(client)
    )
    assert main(["ask", "forever?"]) == 1
    assert capsys.readouterr().err.endswith("wallx: the policy ended before it answered.\n")
    peer.given_up.set()


def test_ctrl_c_takes_a_question_back(peer) -> None:
    wallx = subprocess.Popen(
        [sys.executable, "-m", "wallx_bringup.cli", "ask", "forever?"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert peer.heard.get(timeout=20) == "forever? []"
    wallx.send_signal(signal.SIGINT)
    assert peer.heard.get(timeout=20) == "canceled"
    assert wallx.wait(timeout=20) == 130
    assert "Traceback" not in wallx.stderr.read()


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
