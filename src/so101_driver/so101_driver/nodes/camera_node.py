"""A camera as a ROS node: a V4L2 device, a video file or a folder of pictures."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Read when cv2 is imported: how long OpenCV waits for a silent camera (10 s otherwise).
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")

import cv2

from so101_driver.camera_calibration import Intrinsics, load_intrinsics
from so101_driver.camera_capture import CameraCapture, StampedPicture
from so101_driver.camera_health import Finding
from so101_driver.camera_monitor import CameraMonitor
from so101_driver.camera_parameters import PARAMETERS
from so101_driver.camera_source import (
    CameraSource,
    Description,
    SourceKind,
    SourceSettings,
    make_source,
)
from so101_driver.camera_stamps import Arrival, StampMapper
from so101_driver.errors import UserError
from so101_driver.nodes.camera_publisher import CameraPublisher
from so101_driver.nodes.node_base import FAILED_STATUS, NodeBase, run_node

_VIEW = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")


class CameraNode(NodeBase):
    """Publishes the pictures of one camera; a thread reads, another one publishes the newest."""

    PARAMETERS = PARAMETERS

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._source: CameraSource | None = None
        self._description: Description | None = None
        self._stamps: StampMapper | None = None
        self._monitor: CameraMonitor | None = None
        self._capture: CameraCapture | None = None
        self._publisher: CameraPublisher | None = None
        self._said_source: object = None

    def configure(self) -> None:
        """Find out what the device's name means, and whether the parameters go together."""
        p = self.p
        if not _VIEW.match(p.view):
            raise UserError(
                f"parameter view of node {self.get_name()} must be letters, digits and _, such as "
                f"face_view, not {p.view!r}."
            )
        if (p.width == 0) != (p.height == 0):
            raise UserError(f"node {self.get_name()}: give both width and height, or none of them.")
        if p.calibration and not Path(p.calibration).expanduser().is_file():
            raise UserError(f"the camera calibration {p.calibration} does not exist.")
        self._source = make_source(
            p.device,
            SourceSettings(
                p.width,
                p.height,
                p.rate_hz,
                p.pixel_format,
                p.autofocus,
                p.focus,
                p.exposure_s,
                p.white_balance_k,
            ),
        )

    def activate(self) -> None:
        """Open the camera, check what it gives, then read it until it is told to stop."""
        source, p = self._source, self.p
        source.open()
        try:
            got = source.describe()
            intrinsics = Intrinsics()
            if p.calibration:
                intrinsics = load_intrinsics(p.calibration, got.width, got.height)
        except UserError:
            source.close()
            raise
        self._description = got
        self._stamps = StampMapper(p.latency_s, from_file=got.kind is not SourceKind.DEVICE)
        self._said_source = None
        wanted_hz = p.rate_hz or got.rate_hz
        self._monitor = CameraMonitor(wanted_hz, p.frozen_after_s)
        self._monitor.started(time.monotonic_ns())
        self._publisher = CameraPublisher(
            self, p.view, got.width, got.height, p.frame_prefix, intrinsics
        )
        self._capture = CameraCapture(
            source,
            self._stamps,
            self._both_clocks,
            self._deliver,
            self._on_change,
            self._on_crash,
            p.reconnect_s,
        )
        self.get_logger().info(
            f"{got.kind.value} {got.name}: {got.width}x{got.height} {got.fourcc}, "
            f"{got.rate_hz:g} pictures per second"
        )
        for note in got.notes:
            self.get_logger().warning(note)
        self._capture.start()

    def deactivate(self) -> None:
        """Let go of the camera and take the topics away."""
        capture, self._capture = self._capture, None
        if capture is not None and not capture.stop():
            self.get_logger().warning("the camera does not let go; it is left to the system")
        if self._publisher is not None:
            self._publisher.destroy()
            self._publisher = None

    def cleanup(self) -> None:
        """Forget the source."""
        self._source = None

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """The worst thing first: lost, silent, black or frozen, slow."""
        capture, got = self._capture, self._description
        if capture is None or got is None:
            return bytes([0]), "inactive", {}
        report = self._monitor.report(time.monotonic_ns(), capture.problem)
        values = {
            "device": got.name,
            "kind": got.kind.value,
            "size": f"{got.width}x{got.height}",
            "format": got.fourcc,
            "stamps": self._stamps.source.value,
            "incomplete pictures": self._source.unusable,
            **capture.counters,
            **self._stamps.counters,
            **report.values,
        }
        if got.notes:
            values["notes"] = "; ".join(got.notes)
        return bytes([report.level]), report.message, values

    def _both_clocks(self) -> Arrival:
        return Arrival(time.monotonic_ns(), self.ros_now_ns())

    def _deliver(self, stamped: StampedPicture) -> None:
        """Publish a picture; called in the delivering thread."""
        publisher, picture = self._publisher, stamped.picture
        if not self.active or publisher is None:
            return
        self._say_stamp_source()
        try:
            rgb = picture.rgb().tobytes() if publisher.raw_wanted else b""
        except ValueError:
            self.count("pictures that cannot be decoded")
            return
        publisher.publish(stamped.stamp_ns, picture.to_jpeg(self.p.jpeg_quality), rgb)
        now_ns = time.monotonic_ns()
        age_s = (self.ros_now_ns() - stamped.stamp_ns) * 1e-9
        self._monitor.published(now_ns, age_s)
        if self._monitor.due(now_ns):
            self._look(stamped, now_ns)

    def _look(self, stamped: StampedPicture, now_ns: int) -> None:
        try:
            finding = self._monitor.looked(stamped.picture.gray(), now_ns)
        except ValueError:
            self.count("pictures that cannot be decoded")
            return
        if finding is Finding.GOOD:
            self.get_logger().info("the picture is good again")
        elif finding is not None:
            self.get_logger().warning(f"the picture is {finding.value}")

    def _say_stamp_source(self) -> None:
        if self._stamps.source is not self._said_source:
            self._said_source = self._stamps.source
            self.get_logger().info(f"pictures are stamped by {self._said_source.value}")

    def _on_change(self, problem: str) -> None:
        if problem:
            self.get_logger().error(f"{problem} Looking for it every {self.p.reconnect_s:g} s.")
        else:
            self._monitor.started(time.monotonic_ns())
            self.get_logger().info(f"camera {self.p.device} is back")

    def _on_crash(self, error: Exception) -> None:
        """A bug: end with its trace instead of living on without pictures."""
        traceback.print_exception(error)
        self.finish(FAILED_STATUS)


def main() -> None:
    """Run the node."""
    # Pictures are small: more threads would only disturb the loops of the arm.
    cv2.setNumThreads(1)
    sys.exit(run_node(CameraNode))


if __name__ == "__main__":
    main()
