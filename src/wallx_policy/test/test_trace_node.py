"""The trace node runs without torch and says in rviz why the arm stands."""

import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from wallx_msgs.msg import ActionChunk, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("test", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_chunk_path_and_reason_are_published(node):
    status = node.create_publisher(
        SafetyStatus,
        "safety/status",
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    )
    chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
    commands = node.create_publisher(JointState, "joint_commands", 10)
    # Said once, before the trace node exists: a latched reason must still be shown.
    status.publish(SafetyStatus(state=SafetyStatus.STATE_ESTOP, reason="button on estop"))
    received = []
    node.create_subscription(MarkerArray, "action_trace", received.append, 10)
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    chunk = ActionChunk()
    chunk.trajectory.points = [JointTrajectoryPoint(positions=[0.01 * i] * 6) for i in range(25)]

    def complete():
        markers = {m.ns: m for m in received[-1].markers} if received else {}
        return bool(markers) and all(m.action == Marker.ADD for m in markers.values())

    process = subprocess.Popen(
        [sys.executable, "-m", "wallx_policy.nodes.trace_node"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline_s = time.monotonic() + 15.0
        while not complete() and time.monotonic() < deadline_s and process.poll() is None:
            chunks.publish(chunk)
            commands.publish(JointState(position=[0.1] * 6))
            executor.spin_once(timeout_sec=0.05)
        found = complete()
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert found, f"no complete trace within 15 s; the node said:\n{output}"
    assert process.returncode == 0, output
    markers = {marker.ns: marker for marker in received[-1].markers}
    assert len(markers["chunk"].points) == len(markers["chunk"].colors) == 25
    assert markers["chunk"].header.frame_id == "base_link"
    assert len(markers["executed"].points) >= 2
    assert markers["state"].text == "ESTOP\nbutton on estop"


def test_recording_evidence_and_trace_import_without_torch():
    program = (
        "import sys\n"
        "import wallx_policy.evidence.report, wallx_policy.evidence.video\n"
        "import wallx_policy.evidence.table, wallx_policy.trace\n"
        "assert 'rclpy' not in sys.modules, 'rclpy'\n"
        "import wallx_policy.nodes.recorder_node, wallx_policy.nodes.trace_node\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
