"""Listens to the graph while configuring, for the comparison with a contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.nodes.node_base import NodeBase, best_effort, reliable
from visualization_msgs.msg import MarkerArray

from wallx_policy.backends.base import Backend
from wallx_policy.contract import Camera
from wallx_policy.contract_checks import GraphDescription
from wallx_policy.images import to_rgb
from wallx_policy.nodes.policy_messages import image_payload


def camera_topics(backend: Backend, given: str) -> tuple[Camera, ...]:
    """Return the contract's cameras with the topics that the user gave.

    Raises:
        UserError: for an entry that is not ``view=topic``, or a view of no camera.
    """
    cameras = {camera.view: camera for camera in backend.contract.cameras}
    for entry in filter(None, (part.strip() for part in given.split(","))):
        view, equals, topic = entry.partition("=")
        if not equals or view not in cameras:
            raise UserError(
                f"camera_topics has {entry!r}; it must be view=topic with a view of the "
                f"contract: {', '.join(cameras) or 'this backend takes no images'}"
            )
        cameras[view] = Camera(view, cameras[view].width, cameras[view].height, topic)
    return tuple(cameras.values())


def image_type(transport: str) -> tuple[type, str]:
    """Return the type of image messages, and what their topics end with."""
    if transport == "raw":
        return Image, "image_raw"
    return CompressedImage, "image_raw/compressed"


def describe_graph(
    node: NodeBase, backend: Backend, cameras: tuple[Camera, ...]
) -> GraphDescription:
    """Listen to every input until each has sent something usable.

    Raises:
        UserError: for an image that cannot be decoded, or object poses that do not come.
    """
    message_type, suffix = image_type(node.p.image_transport)
    wanted: dict[str, tuple[type, QoSProfile]] = {"joint_states": (JointState, reliable())}
    topics = {camera.view: f"{camera.topic}/{suffix}" for camera in cameras}
    for topic in topics.values():
        wanted[topic] = (message_type, best_effort(2))
    if backend.needs.objects:
        wanted["sim/objects"] = (MarkerArray, reliable())

    def complete(received: Mapping[str, Any]) -> bool:
        # NaN marks a servo that has not answered yet.
        return all(value == value for value in received["joint_states"].position)

    received = node.collect_messages(wanted, node.p.graph_timeout_s, complete)
    if backend.needs.objects and "sim/objects" not in received:
        raise UserError(
            f"backend {backend.name} needs the simulator's object poses, but nothing came on "
            f"sim/objects for {node.p.graph_timeout_s:g} s: start the simulator, or choose "
            "another backend"
        )
    sizes = {}
    for view, topic in topics.items():
        if topic in received:
            try:
                height, width, _channels = to_rgb(image_payload(received[topic])).shape
            except ValueError as error:
                raise UserError(f"image of {topic} is unusable: {error}") from error
            sizes[view] = (width, height)
    joints = received.get("joint_states", JointState())
    return GraphDescription(
        cameras=sizes,
        joint_names=tuple(joints.name),
        state_rad=tuple(joints.position),
        calibration=Calibration.load(node.p.calibration) if node.p.calibration else None,
        # Remapped, so that the sentence names what the user wrote.
        camera_topics={view: node.resolve_topic_name(topic) for view, topic in topics.items()},
    )
