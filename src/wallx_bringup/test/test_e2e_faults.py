"""What the arm does when a process dies or a stranger talks: it holds, in the real graph.

Every peer freezes, drops the arm or follows whoever speaks; here the outcome of each is asserted.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

HOLD_TOLERANCE_RAD = 0.02
"""Movement of a standing arm that is noise: quantisation and the plant's own settling."""


def joints(graph):
    return np.array(graph.latest["joint_states"].position)


def listen_to_arm(graph):
    from sensor_msgs.msg import JointState

    from wallx_msgs.msg import DriverStatus, SafetyStatus

    graph.listen("joint_states", JointState, keep=True)
    graph.listen("joint_commands", JointState, keep=True)
    graph.listen("safety/status", SafetyStatus, keep=True)
    graph.listen("driver/status", DriverStatus, keep=True)
    for topic in ("joint_states", "safety/status", "driver/status"):
        graph.wait(f"a message on {topic}", lambda t=topic: t in graph.latest, 60.0)


def wait_until_tracking(graph):
    from wallx_msgs.msg import SafetyStatus

    graph.wait(
        "safety to track chunks",
        lambda: (
            "safety/status" in graph.latest
            and graph.latest["safety/status"].state == SafetyStatus.STATE_TRACKING
        ),
        60.0,
    )
    start = joints(graph)
    graph.wait("the arm to move", lambda: np.nanmax(np.abs(joints(graph) - start)) > 0.1)


def wait_until_still(graph, seconds=0.7):
    """Wait until no joint has moved for a while."""

    def still():
        states = [
            np.array(m.position) for m in graph.history["joint_states"][-int(seconds * 100) :]
        ]
        return len(states) >= seconds * 100 and np.ptp(states, axis=0).max() < HOLD_TOLERANCE_RAD

    graph.watch(seconds)
    graph.wait("the arm to stand still", still)


def test_killed_policy_makes_the_arm_brake_and_hold(live_graph):
    from wallx_msgs.msg import SafetyStatus

    with live_graph("sim:=true", "backend:=sine") as graph:
        listen_to_arm(graph)
        wait_until_tracking(graph)
        graph.kill("policy")
        graph.wait(
            "safety to hold",
            lambda: graph.latest["safety/status"].state == SafetyStatus.STATE_HOLD,
        )
        held = np.array(graph.latest["joint_commands"].position)
        graph.watch(1.0)
        commands = np.array([m.position for m in graph.history["joint_commands"][-50:]])
        assert np.ptp(commands, axis=0).max() < 1e-9, "the command moved while holding"
        assert np.allclose(commands[-1], held, atol=0.05)
        assert graph.latest["safety/status"].reason
        wait_until_still(graph)
        graph.runner.failures.clear()  # the kill was ours


def test_killed_safety_makes_the_driver_hold(live_graph):
    from wallx_msgs.msg import DriverStatus

    with live_graph("sim:=true", "backend:=sine", lonely=("safety",)) as graph:
        listen_to_arm(graph)
        wait_until_tracking(graph)
        graph.kill("safety")
        graph.wait(
            "the driver to hold",
            lambda: graph.latest["driver/status"].state == DriverStatus.STATE_HOLDING,
        )
        wait_until_still(graph)
        status = graph.latest["driver/status"]
        assert all(status.torque_enabled), "the arm was let go"
        goals = np.array(status.goal_position)
        graph.watch(0.5)
        assert np.array_equal(goals, graph.latest["driver/status"].goal_position)
        graph.runner.failures.clear()


def test_killed_driver_is_adopted_without_a_drop(live_graph):
    from wallx_msgs.msg import DriverStatus

    with live_graph("sim:=true", "backend:=sine", lonely=("driver", "safety")) as graph:
        listen_to_arm(graph)
        wait_until_tracking(graph)
        graph.kill("policy")
        wait_until_still(graph)
        before = joints(graph)
        goals_before = np.array(graph.latest["driver/status"].goal_position)
        graph.kill("driver")
        graph.latest.pop("joint_states")
        graph.history["joint_states"].clear()
        graph.history["driver/status"].clear()
        graph.restart("driver")
        graph.wait("joint_states of the new driver", lambda: "joint_states" in graph.latest)
        graph.wait("its status", lambda: graph.history["driver/status"])
        wait_until_still(graph)
        status = graph.latest["driver/status"]
        assert status.state != DriverStatus.STATE_FAULT, status.reason
        assert all(status.torque_enabled)
        moved = np.array([m.position for m in graph.history["joint_states"]]) - before
        assert np.nanmax(np.abs(moved)) < HOLD_TOLERANCE_RAD, "the arm moved while it was adopted"
        assert np.allclose(status.goal_position, goals_before, atol=2e-3)
        graph.runner.failures.clear()


def test_estop_from_a_volatile_and_from_a_latched_button_stops_and_latches(live_graph):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import Bool
    from std_srvs.srv import Trigger

    from wallx_msgs.msg import SafetyStatus

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with live_graph("sim:=true", "backend:=sine") as graph:
        listen_to_arm(graph)
        for qos in (10, latched):
            wait_until_tracking(graph)
            button = graph.node.create_publisher(Bool, "estop", qos)
            graph.wait("a listener on estop", lambda b=button: b.get_subscription_count() >= 2)
            button.publish(Bool(data=True))
            graph.wait(
                "ESTOP",
                lambda: graph.latest["safety/status"].state == SafetyStatus.STATE_ESTOP,
            )
            wait_until_still(graph)
            button.publish(Bool(data=False))
            graph.watch(0.5)
            assert graph.latest["safety/status"].state == SafetyStatus.STATE_ESTOP, "not latched"
            assert not graph.call("safety/arm", Trigger, Trigger.Request()).success
            assert all(graph.latest["driver/status"].torque_enabled), "the arm was let go"
            graph.node.destroy_publisher(button)
            assert graph.call("safety/reset", Trigger, Trigger.Request()).success
            answer = graph.call("safety/arm", Trigger, Trigger.Request())
            assert answer.success, answer.message


def test_poisoned_chunks_are_refused_and_counted(live_graph):
    """Chunks of the followed source with one bad number never reach the arm."""
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectoryPoint

    from wallx_msgs.msg import ActionChunk, SafetyStatus
    from wallx_msgs.srv import SelectSource

    with live_graph("sim:=true", "backend:=hold") as graph:
        listen_to_arm(graph)
        graph.wait(
            "safety to be armed",
            lambda: (
                "safety/status" in graph.latest
                and graph.latest["safety/status"].state
                in (SafetyStatus.STATE_HOLD, SafetyStatus.STATE_TRACKING)
            ),
            60.0,
        )
        graph.call("safety/select_source", SelectSource, SelectSource.Request(source="poison"))
        wait_until_still(graph)
        publisher = graph.node.create_publisher(ActionChunk, "action_chunk", 10)
        graph.wait("safety on action_chunk", lambda: publisher.get_subscription_count() >= 1)
        before = np.array(graph.latest["joint_commands"].position)

        def bad_chunks():
            return {c.name: c.count for c in graph.latest["safety/status"].limit_counts}.get(
                "BAD_CHUNK", 0
            )

        for sequence, poison in enumerate((math.nan, math.inf, 1e308)):
            refused_before = bad_chunks()
            chunk = ActionChunk(
                source="poison",
                session=7,
                sequence=sequence,
                action_kind=ActionChunk.ACTION_KIND_GOAL,
            )
            chunk.header.stamp = graph.node.get_clock().now().to_msg()
            chunk.trajectory.joint_names = list(graph.latest["joint_states"].name)
            for i in range(10):
                positions = [float(v) for v in before]
                if i == 5:
                    positions[2] = poison
                offset = Duration(sec=0, nanosec=i * 40_000_000)
                chunk.trajectory.points.append(
                    JointTrajectoryPoint(positions=positions, time_from_start=offset)
                )
            chunk.trajectory.header = chunk.header
            publisher.publish(chunk)
            graph.wait(
                f"the refusal of {poison} to be counted",
                lambda before=refused_before: bad_chunks() > before,
            )
            graph.watch(0.5)
            assert np.array_equal(before, graph.latest["joint_commands"].position), poison
