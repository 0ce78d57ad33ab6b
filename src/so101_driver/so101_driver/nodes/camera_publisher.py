"""The three topics of one camera, real or simulated."""

from __future__ import annotations

import array

from rclpy.publisher import Publisher
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from so101_driver.camera_calibration import Intrinsics
from so101_driver.nodes.node_base import NodeBase, reliable


class CameraPublisher:
    """Publishes JPEG files, uncompressed pictures to those who subscribe to them, and camera_info.

    Args:
        node: Owner of the publishers.
        view: Topics are ``camera/<view>/...``.
        width: In pixels.
        height: In pixels.
        frame_prefix: Put before the frame id.
        intrinsics: Of the camera; zeros if it is not calibrated.
    """

    def __init__(
        self,
        node: NodeBase,
        view: str,
        width: int,
        height: int,
        frame_prefix: str = "",
        intrinsics: Intrinsics | None = None,
    ) -> None:
        base = f"camera/{view}"
        self._node = node
        self._width, self._height = width, height
        self._frame_id = f"{frame_prefix}{view}_camera_optical_frame"
        self._compressed: Publisher = node.create_publisher(
            CompressedImage, f"{base}/image_raw/compressed", reliable(2)
        )
        self._raw: Publisher = node.create_publisher(Image, f"{base}/image_raw", reliable(2))
        self._info_publisher: Publisher = node.create_publisher(
            CameraInfo, f"{base}/camera_info", reliable(2)
        )
        self._info = self._camera_info(intrinsics or Intrinsics())

    @property
    def raw_wanted(self) -> bool:
        """Whether anybody subscribes to the uncompressed image."""
        return self._raw.get_subscription_count() > 0

    def publish(self, stamp_ns: int, jpeg: bytes, rgb: bytes = b"") -> None:
        """Publish one picture; ``rgb`` (row by row, red first) only if it was asked for."""
        stamp = Time(nanoseconds=stamp_ns).to_msg()
        compressed = CompressedImage(format="rgb8; jpeg compressed bgr8")
        compressed.header.stamp, compressed.header.frame_id = stamp, self._frame_id
        compressed.data = array.array("B", jpeg)
        self._compressed.publish(compressed)
        if rgb:
            raw = Image(encoding="rgb8", is_bigendian=0)
            raw.header = compressed.header
            raw.width, raw.height, raw.step = self._width, self._height, 3 * self._width
            raw.data = array.array("B", rgb)
            self._raw.publish(raw)
        self._info.header.stamp = stamp
        self._info_publisher.publish(self._info)

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in (self._compressed, self._raw, self._info_publisher):
            self._node.destroy_publisher(publisher)

    def _camera_info(self, intrinsics: Intrinsics) -> CameraInfo:
        info = CameraInfo(width=self._width, height=self._height)
        info.header.frame_id = self._frame_id
        info.distortion_model = intrinsics.distortion_model
        info.d = [float(number) for number in intrinsics.distortion]
        info.k = [float(number) for number in intrinsics.camera_matrix]
        info.r = [float(number) for number in intrinsics.rectification]
        info.p = [float(number) for number in intrinsics.projection]
        return info
