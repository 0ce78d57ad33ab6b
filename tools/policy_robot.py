"""For tests of the policy node: the robot around it, plugged-in policies, the node as a process."""

from __future__ import annotations

import array
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from so101_driver.joints import JOINT_NAMES
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from wallx_msgs.msg import ActionChunk, PolicyStatus


@contextlib.contextmanager
def ros_context(package: Path, **plugins: str) -> Iterator[rclpy.Context]:
    """A ROS context; meanwhile backends of these names are installed, classes called ``Plugin``."""
    metadata = package / "plugged_in-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged_in\nVersion: 1.0\n")
    entries = ["[wallx_policy.backends]"]
    for name, source in plugins.items():
        (package / f"{name}_policy.py").write_text(source)
        entries.append(f"{name} = {name}_policy:Plugin")
    (metadata / "entry_points.txt").write_text("\n".join(entries))
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        context = rclpy.Context()
        rclpy.init(context=context)
        yield context
        rclpy.shutdown(context=context)


class PolicyProcesses:
    """Runs the policy node, one at a time."""

    def __init__(self, **parameters: object) -> None:
        self._parameters = parameters
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> PolicyProcesses:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end()

    def start(self, **parameters: object) -> subprocess.Popen:
        """Start the node with these parameters; the one started before is ended."""
        self._end()
        code = "from wallx_policy.nodes.policy_node import main; main()"
        command = [sys.executable, "-c", code, "--ros-args"]
        for name, value in {**self._parameters, **parameters}.items():
            command += ["-p", f"{name}:={value}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._processes.append(process)
        return process

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdout.close()
        self._processes.clear()


class Robot:
    """Cameras, joint states and whoever listens to the policy; everything runs in `wait_for`.

    Attributes:
        sizes: Width and height of the pictures that are sent, by view.
        position_rad: What the joints say.
        chunks: All that came.
        statuses: All that came.
        stamps: Of all pictures sent, by view.
    """

    def __init__(self, context: rclpy.Context) -> None:
        self.node = rclpy.create_node("robot", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.joint_names = list(JOINT_NAMES)
        self.sizes = {"face_view": (32, 24), "wrist_view": (24, 24)}
        self.position_rad = [0.1] * 6
        self.cube_xyz = (0.2, 0.0, 0.0125)
        self.chunks, self.statuses, self.stamps = [], [], {}
        self._publishers = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(ActionChunk, "action_chunk", self.chunks.append, 10)
        self.node.create_subscription(PolicyStatus, "policy/status", self.statuses.append, latched)
        self.instruction = self.node.create_publisher(String, "instruction", latched)
        self.node.create_timer(0.01, self._send_joints)
        self.node.create_timer(1 / 15, self._send_images)
        self.node.create_timer(0.05, self._send_objects)

    def publish(self, topic: str, message: Any) -> None:
        """Publish one message, reliably."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, 10)
        self._publishers[topic].publish(message)

    def _now(self) -> Time:
        return self.node.get_clock().now().to_msg()

    def _send_joints(self) -> None:
        message = JointState(name=self.joint_names, position=self.position_rad, velocity=[0.0] * 6)
        message.header.stamp = self._now()
        self.publish("joint_states", message)

    def _send_images(self) -> None:
        for view, (width, height) in self.sizes.items():
            bgr = np.zeros((height, width, 3), np.uint8)
            bgr[:, :, 2] = 200
            jpeg = cv2.imencode(".jpg", bgr)[1].tobytes()
            message = CompressedImage(format="jpeg", data=array.array("B", jpeg))
            message.header.stamp = stamp = self._now()
            self.stamps.setdefault(view, []).append((stamp.sec, stamp.nanosec))
            self.publish(f"camera/{view}/image_raw/compressed", message)
            raw = Image(height=height, width=width, step=3 * width, encoding="bgr8")
            raw.header.stamp = stamp
            raw.data = array.array("B", bgr.tobytes())
            self.publish(f"camera/{view}/image_raw", raw)

    def _send_objects(self) -> None:
        cube = Marker(ns="red_cube", action=Marker.ADD)
        tray = Marker(ns="tray", action=Marker.ADD)
        for marker, xyz, size in ((cube, self.cube_xyz, 0.025), (tray, (0.2, -0.2, 0.0), 0.1)):
            marker.header.stamp = self._now()
            marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = xyz
            marker.scale.x = marker.scale.y = marker.scale.z = size
        self.publish("sim/objects", MarkerArray(markers=[cube, tray]))

    def wait_for(
        self,
        what: str,
        condition: Callable[[], Any],
        process: subprocess.Popen,
        timeout_s: float = 20.0,
    ) -> None:
        """Let everything run until a condition holds; if it does not, show what the node said."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            self.executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > deadline_s:
                process.kill()
                said = process.stdout.read()
                last = self.statuses[-1].reason if self.statuses else "nothing"
                pytest.fail(f"waited in vain for {what}; status: {last}; the node said:\n{said}")

    def wait_for_exit(self, process: subprocess.Popen) -> str:
        """Return what the node said once it has ended."""
        self.wait_for("the node's end", lambda: process.poll() is not None, process)
        return process.stdout.read()
