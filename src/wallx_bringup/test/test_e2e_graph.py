"""The graph as a whole: every topic is heard with default QoS, strangers move nothing, it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def expected_topics():
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
    from visualization_msgs.msg import MarkerArray

    from wallx_msgs.msg import ActionChunk, DriverStatus, PolicyStatus, SafetyStatus, WireLog

    topics = {
        "joint_states": JointState,
        "joint_commands": JointState,
        "action_chunk": ActionChunk,
        "safety/status": SafetyStatus,
        "driver/status": DriverStatus,
        "policy/status": PolicyStatus,
        "action_trace": MarkerArray,
        "/diagnostics": DiagnosticArray,
        "sim/objects": MarkerArray,
        "sim/wire_log": WireLog,
    }
    for view in ("face_view", "wrist_view"):
        topics[f"camera/{view}/image_raw"] = Image
        topics[f"camera/{view}/image_raw/compressed"] = CompressedImage
        topics[f"camera/{view}/camera_info"] = CameraInfo
    return topics


def test_default_qos_listener_hears_every_topic_in_a_namespace(live_graph):
    """A reliable, volatile subscriber of depth 10 is what rviz, echo and most nodes are."""
    from sensor_msgs.msg import JointState

    from wallx_msgs.msg import SafetyStatus
    from wallx_msgs.srv import SetMode

    with live_graph("namespace:=left/arm", "backend:=sine") as graph:
        for topic, message_type in expected_topics().items():
            graph.listen(topic, message_type)
        graph.listen("safety/shadow_commands", JointState)
        wanted = set(expected_topics())
        graph.wait(
            "a message on every topic",
            lambda: wanted <= set(graph.latest),
            90.0,
        )
        for name, message in graph.latest.items():
            if hasattr(message, "header"):
                assert message.header.stamp.sec > 0, f"{name} has no stamp"
        assert "safety/shadow_commands" not in graph.latest
        shadow = SetMode.Request(mode=SafetyStatus.MODE_SHADOW)
        answer = graph.call("safety/set_mode", SetMode, shadow)
        assert answer.success, answer.message
        graph.wait(
            "shadow commands",
            lambda: "safety/shadow_commands" in graph.latest,
        )


def test_bag_played_beside_the_graph_moves_nothing(live_graph, tmp_path):
    """Every recorded topic, published again beside the live nodes, chunks and commands included."""
    from sensor_msgs.msg import JointState

    from wallx_msgs.msg import SafetyStatus, WireLog

    bag = tmp_path / "bag"
    with live_graph("backend:=sine", f"record:={bag}") as graph:
        graph.listen("joint_states", JointState, keep=True)
        graph.wait("joint_states", lambda: len(graph.history["joint_states"]) > 10, 60.0)
        start = np.array(graph.latest["joint_states"].position)
        graph.wait(
            "motion worth replaying",
            lambda: np.abs(np.array(graph.latest["joint_states"].position) - start).max() > 0.05,
            60.0,
        )
        graph.watch(1.5)

    with live_graph("backend:=hold") as graph:
        graph.listen("safety/status", SafetyStatus)
        graph.listen("sim/wire_log", WireLog, keep=True)
        graph.wait(
            "the arm to be armed and held",
            lambda: (
                "safety/status" in graph.latest
                and graph.latest["safety/status"].state
                in (SafetyStatus.STATE_HOLD, SafetyStatus.STATE_TRACKING)
            ),
            60.0,
        )
        graph.wait("the wire log", lambda: len(graph.history["sim/wire_log"]) > 20)
        held = np.array(graph.history["sim/wire_log"][-1].goal_position)
        graph.history["sim/wire_log"].clear()
        played = play_everything(graph, bag)
        assert {"/joint_commands", "/joint_states", "/action_chunk"} <= played
        graph.watch(1.0)
        goals = [m.goal_position for m in graph.history["sim/wire_log"]]
        deviation = np.abs(np.array([g for g in goals if len(g) == 6]) - held)
        assert deviation.size == 0 or deviation.max() < 0.01, "the replayed bag moved the arm"


def play_everything(graph, bag: Path) -> set[str]:
    """Publish a bag's messages as they were recorded, stamps and pace included.

    From the first command on. The simulator's own wire log is left out: it is the witness.
    """
    from rclpy.serialization import deserialize_message
    from rosbags.highlevel import AnyReader

    types = {f"/{name.lstrip('/')}": kind for name, kind in expected_topics().items()}
    types.pop("/sim/wire_log")
    publishers = {}
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic in types]
        for connection in connections:
            kind = types[connection.topic]
            publishers[connection.topic] = graph.node.create_publisher(kind, connection.topic, 10)
        commands = publishers["/joint_commands"]
        graph.wait("the driver to see the player", lambda: commands.get_subscription_count() >= 1)
        moving = [c for c in connections if c.topic == "/joint_commands"]
        _, first_ns, _ = next(reader.messages(connections=moving))
        begun_s = time.monotonic()
        for connection, stamp_ns, raw in reader.messages(connections=connections, start=first_ns):
            while time.monotonic() - begun_s < (stamp_ns - first_ns) * 1e-9:
                graph.pump()
            message = deserialize_message(raw, types[connection.topic])
            publishers[connection.topic].publish(message)
    return set(publishers)


def shared_memory():
    return {p.name for p in Path("/dev/shm").iterdir()}


def graph_processes(root: psutil.Process):
    return {p.pid: p for p in root.children(recursive=True)}


@pytest.mark.parametrize("signals", [1, 2], ids=["one Ctrl-C", "two Ctrl-C"])
def test_ctrl_c_parks_and_leaves_nothing_behind(tmp_path, signals):
    """No process, no zombie, no shared-memory file, no link; exit status 0."""
    memory_before = shared_memory()
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    log = tmp_path / "output.txt"
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "ROS_LOG_DIR": str(tmp_path / "ros_log"),
    }
    wallx = Path(sys.prefix) / "bin" / "wallx"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(wallx), "up", "backend:=sine", f"record:={tmp_path / 'bag'}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            wait_for_text(log, process, "TRACKING")
            processes = graph_processes(psutil.Process(process.pid))
            assert len(processes) >= 6, "fewer processes than nodes"
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            status = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    text = log.read_text()
    assert status == 0, text[-3000:]
    assert not [p for p in processes.values() if p.is_running()], "a process is left"
    assert shared_memory() <= memory_before, "a shared-memory file is left"
    assert not list(runtime.rglob("*")) or not list(runtime.glob("wallx/run-*"))
    assert (tmp_path / "bag" / "metadata.yaml").exists(), "the bag was not finished"


def wait_for_text(log: Path, process: subprocess.Popen, text: str, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        content = log.read_text()
        if text in content:
            return
        assert process.poll() is None, content[-3000:]
        time.sleep(0.1)
    pytest.fail(f"no '{text}' within {timeout_s:.0f} s:\n{log.read_text()[-3000:]}", pytrace=False)
