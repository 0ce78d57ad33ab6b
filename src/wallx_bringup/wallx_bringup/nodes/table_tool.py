"""`wallx measure-table`: asks the user to touch the table and reads the joints each time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from so101_driver.errors import UserError
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import read_content, shapes_of
from so101_driver.safety.geometry_shapes import Fingertip, Table
from so101_driver.table_plane import (
    LEAST_POINTS,
    Plane,
    Touch,
    check_apart,
    plane_of,
    steady_pose,
    touch_of,
    with_table,
)

from wallx_bringup.nodes.tools import DISCOVERY_S

TOPIC = "joint_states"
BACKLOG_S = 0.1
"""Messages that came in while the user was asked are dealt with in this time."""
WINDOW_S = 0.5
STALE_S = 0.5

INTRODUCTION = """\
Finds the table by touching it with the closed gripper at {count} places, each at least 10 cm from
the others and not on one line. To guide the arm by hand, disarm it (`wallx call safety/disarm`),
hold it, and switch its torque off (`wallx call driver/set_torque data:=false`). Or jog it there
with your own tool. Touch the surface lightly: pressing bends the arm.
"""

HEADER = "# Written by `wallx measure-table` from {source}, without its comments.\n"


class TableTool:
    """One run of the command."""

    def __init__(
        self, node: Node, kinematics: Kinematics, geometry_file: Path, show: Callable[[str], None]
    ) -> None:
        """Listen to the joint states.

        Raises:
            UserError: The geometry file is wrong or has no table.
        """
        self._node = node
        self._kinematics = kinematics
        self._show = show
        self._source = geometry_file
        self._content: Mapping[str, Any] = read_content(geometry_file)
        self._fingertips, self._table = self._checked(self._content, str(geometry_file))
        self._samples: list[tuple[float, ...]] = []
        self._problem = ""
        self._newest_ns = 0
        node.create_subscription(JointState, TOPIC, self._on_joints, qos_profile_sensor_data)

    def measure(self, count: int, ask: Callable[[str], str]) -> Plane:
        """Ask for ``count`` touches and return the table.

        Raises:
            UserError: Nobody publishes joint states, or the points tell no table.
        """
        self._wait_for_joints()
        self._show(INTRODUCTION.format(count=count))
        touches: list[Touch] = []
        touched: list[NDArray[np.float64]] = []
        while len(touches) < count:
            try:
                ask(f"Point {len(touches) + 1} of {count}: touch the table, then press Enter. ")
            except EOFError as error:
                raise UserError(
                    f"the input ended after {len(touches)} of {count} points: nothing was written."
                ) from error
            try:
                touch = touch_of(self._kinematics, self._fingertips, self._pose())
                lowest = touch.lowest(self._table.normal)
                check_apart([*touched, touch.points_m[lowest]])
            except UserError as error:
                self._show(f"  not taken: {error}")
                continue
            touches.append(touch)
            touched.append(touch.points_m[lowest])
            x, y, z = 1e3 * touched[-1]
            self._show(f"  {touch.names[lowest]} at x {x:.1f}, y {y:.1f}, z {z:.1f} mm")
        return plane_of(touches, self._table.normal)

    def write(self, plane: Plane, output: Path) -> None:
        """Write a copy of the geometry file with the measured table.

        Raises:
            UserError: The file cannot be written.
        """
        content = with_table(self._content, plane)
        self._checked(content, str(output))
        text = HEADER.format(source=self._source) + yaml.safe_dump(content, sort_keys=False)
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror}.") from error

    def compare(self, plane: Plane) -> str:
        """Return the measured table against that of the file, in words."""
        old = self._table
        height_m = float(old.normal @ old.point_m) / float(old.normal[2])
        turn = math.acos(min(1.0, float(plane.normal @ old.normal)))
        lines = [
            f"table below the base's origin: {1e3 * plane.point_m[2]:+.1f} mm "
            f"(was {1e3 * height_m:+.1f} mm)",
            f"tilt: {math.degrees(plane.tilt_rad):.2f} degrees; turned by "
            f"{math.degrees(turn):.2f} degrees",
        ]
        if len(plane.residuals_m) > LEAST_POINTS:
            worst = 1e3 * abs(plane.residuals_m).max()
            lines.append(f"largest distance of a point from the plane: {worst:.1f} mm")
        return "\n".join(lines)

    def _checked(self, content: Any, source: str) -> tuple[Sequence[Fingertip], Table]:
        shapes = shapes_of(content, self._kinematics.link_names, source)
        if shapes.table is None:
            raise UserError(f"{source} has no table: add the section `table` first.")
        return shapes.fingertips, shapes.table

    def _wait_for_joints(self) -> None:
        deadline_s = time.monotonic() + DISCOVERY_S
        while not self._newest_ns:
            if time.monotonic() > deadline_s:
                name = self._node.resolve_topic_name(TOPIC)
                raise UserError(
                    f"nobody publishes this arm's joints on {name}: start the graph with "
                    "`wallx up` first."
                )
            rclpy.spin_once(self._node, timeout_sec=0.1)

    def _pose(self) -> NDArray[np.float64]:
        self._spin(BACKLOG_S)
        self._samples.clear()
        self._problem = ""
        self._spin(WINDOW_S)
        age_s = (self._node.get_clock().now().nanoseconds - self._newest_ns) * 1e-9
        if self._problem:
            raise UserError(self._problem)
        if age_s > STALE_S:
            raise UserError(
                f"the newest joint state is {age_s:.1f} s old: see `wallx echo driver/status`."
            )
        return steady_pose(self._samples, self._kinematics.joint_names)

    def _spin(self, duration_s: float) -> None:
        deadline_s = time.monotonic() + duration_s
        while (left_s := deadline_s - time.monotonic()) > 0.0:
            rclpy.spin_once(self._node, timeout_sec=left_s)

    def _on_joints(self, message: JointState) -> None:
        measured = dict(zip(message.name, message.position, strict=False))
        missing = [name for name in self._kinematics.joint_names if name not in measured]
        if len(missing) == len(self._kinematics.joint_names):
            return  # of something else on the same topic, such as a mobile base
        if missing:
            self._problem = f"{TOPIC} has no {', '.join(missing)}: it is another arm's."
        self._newest_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self._samples.append(
            tuple(measured.get(name, math.nan) for name in self._kinematics.joint_names)
        )
