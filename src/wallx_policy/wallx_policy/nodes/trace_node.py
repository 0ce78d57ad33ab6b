"""Shows in rviz what the policy wants, what the arm does and why it stands."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import JointState
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import BASE, Kinematics
from so101_driver.nodes.node_base import NodeBase, best_effort, latched, run_node
from so101_driver.nodes.polled import PolledSubscription
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from wallx_msgs.msg import ActionChunk, SafetyStatus
from wallx_policy.trace import ActionTrace, Line
from wallx_policy.trace_parameters import PARAMETERS

LINE_WIDTH_M = 0.003
TEXT_HEIGHT_M = 0.025
TEXT_POSITION_M = (0.0, 0.0, 0.45)
ORDINARY = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
ALARM = ColorRGBA(r=1.0, g=0.2, b=0.2, a=1.0)
STATE_NAMES = {
    value: name.removeprefix("STATE_")
    for name in dir(SafetyStatus)
    if name.startswith("STATE_") and isinstance(value := getattr(SafetyStatus, name), int)
}


class TraceNode(NodeBase):
    """Polls the newest chunk, command and status, and publishes them as markers."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__()
        self._trace: ActionTrace | None = None
        self._inputs: list[PolledSubscription] = []
        self._timer = None
        self._publisher = self.create_publisher(MarkerArray, "action_trace", 10)
        self._text = ("", ORDINARY)

    def configure(self) -> None:
        """Load the kinematics."""
        path = Path(self.p.urdf) if self.p.urdf else data_path("so101.urdf")
        self._trace = ActionTrace(Kinematics.from_urdf(path), self.p.executed_s)

    def activate(self) -> None:
        """Subscribe and start publishing."""
        self._chunks = PolledSubscription(self, ActionChunk, "action_chunk", best_effort())
        self._commands = PolledSubscription(self, JointState, "joint_commands", best_effort())
        self._shadow = PolledSubscription(self, JointState, "safety/shadow_commands", best_effort())
        self._status = PolledSubscription(self, SafetyStatus, "safety/status", latched())
        self._inputs = [self._chunks, self._commands, self._shadow, self._status]
        self._timer = self.create_timer(1.0 / self.p.rate_hz, self._publish)

    def deactivate(self) -> None:
        """Stop publishing and listening."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        for source in self._inputs:
            source.destroy()
        self._inputs = []

    def _publish(self) -> None:
        now_s = time.monotonic()
        self._take(now_s)
        chunk, executed = self._trace.lines(now_s)
        markers = [
            self._line_marker("chunk", chunk),
            self._line_marker("executed", executed),
            self._text_marker(),
        ]
        self._publisher.publish(MarkerArray(markers=markers))

    def _take(self, now_s: float) -> None:
        chunk = self._chunks.newest()
        if chunk is not None:
            points = [point.positions for point in chunk.trajectory.points]
            if all(len(point) == len(JOINT_NAMES) for point in points):
                self._trace.chunk(now_s, np.array(points))
            else:
                self.count("chunks of another arm")
        for source in (self._commands, self._shadow):
            command = source.newest()
            if command is not None and len(command.position) == len(JOINT_NAMES):
                self._trace.command(now_s, command.position)
        status = self._status.newest()
        if status is not None:
            alarm = status.state in (SafetyStatus.STATE_ESTOP, SafetyStatus.STATE_FAULT)
            text = f"{STATE_NAMES.get(status.state, '?')}\n{status.reason}"
            self._text = (text, ALARM if alarm else ORDINARY)

    def _marker(self, name: str, kind: int) -> Marker:
        marker = Marker(ns=name, id=0, type=kind, action=Marker.ADD)
        marker.header.frame_id = f"{self.p.frame_prefix}{BASE}"
        marker.header.stamp = self.get_clock().now().to_msg()
        marker.pose.orientation.w = 1.0
        return marker

    def _line_marker(self, name: str, line: Line | None) -> Marker:
        marker = self._marker(name, Marker.LINE_STRIP)
        # A line needs two points; rviz complains about less, so the old one is removed instead.
        if line is None or len(line.points_m) < 2:
            marker.action = Marker.DELETE
            return marker
        marker.scale.x = LINE_WIDTH_M
        marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in line.points_m]
        marker.colors = [
            ColorRGBA(r=float(r), g=float(g), b=float(b), a=float(a)) for r, g, b, a in line.colours
        ]
        return marker

    def _text_marker(self) -> Marker:
        text, colour = self._text
        marker = self._marker("state", Marker.TEXT_VIEW_FACING)
        if not text:
            marker.action = Marker.DELETE
            return marker
        x, y, z = TEXT_POSITION_M
        marker.pose.position = Point(x=x, y=y, z=z)
        marker.scale.z = TEXT_HEIGHT_M
        marker.color = colour
        marker.text = text
        return marker


def main() -> None:
    """Run the node."""
    sys.exit(run_node(TraceNode))


if __name__ == "__main__":
    main()
