"""Converts between the policy's value types and ROS messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from so101_driver.joints import JOINT_NAMES
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from wallx_msgs.msg import ActionChunk, PolicyStatus, StageLatency
from wallx_policy.backends.base import ObjectPose
from wallx_policy.chunks import Chunk
from wallx_policy.contract import ActionKind
from wallx_policy.images import EncodedImage, RawImage
from wallx_policy.runtime import RuntimeStatus

_ACTION_KINDS = {
    ActionKind.GOAL: ActionChunk.ACTION_KIND_GOAL,
    ActionKind.STATE: ActionChunk.ACTION_KIND_STATE,
}


def stamp_ns(stamp: Time) -> int:
    """Return a stamp in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_message(nanoseconds: int) -> Time:
    """Return nanoseconds as a stamp."""
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def image_payload(message: CompressedImage | Image) -> EncodedImage | RawImage:
    """Return an image as it came, without copying or decoding it."""
    if isinstance(message, CompressedImage):
        return EncodedImage(memoryview(message.data))
    return RawImage(
        height=message.height,
        width=message.width,
        step=message.step,
        encoding=message.encoding,
        data=memoryview(message.data),
    )


def joint_positions(message: JointState) -> NDArray[np.float64] | None:
    """Return positions in the order of JOINT_NAMES, or None if the message lacks a joint."""
    if len(message.position) != len(message.name):
        return None
    by_name = dict(zip(message.name, message.position, strict=True))
    if not by_name.keys() >= set(JOINT_NAMES):
        return None
    return np.array([by_name[name] for name in JOINT_NAMES], dtype=np.float64)


def object_poses(message: MarkerArray) -> tuple[int, dict[str, ObjectPose]] | None:
    """Return the oldest stamp and the poses by object name; None for an empty message."""
    markers: Sequence[Marker] = [m for m in message.markers if m.action == Marker.ADD]
    if not markers:
        return None
    poses = {}
    for marker in markers:
        position, turn, size = marker.pose.position, marker.pose.orientation, marker.scale
        poses[marker.ns] = ObjectPose(
            position_m=np.array([position.x, position.y, position.z]),
            quaternion_xyzw=np.array([turn.x, turn.y, turn.z, turn.w]),
            size_m=np.array([size.x, size.y, size.z]),
        )
    return min(stamp_ns(marker.header.stamp) for marker in markers), poses


def chunk_message(chunk: Chunk, frame_id: str, observation_to_publish_s: float) -> ActionChunk:
    """Return the message of a chunk that is about to be published."""
    header = Header(stamp=stamp_message(chunk.stamp_ns), frame_id=frame_id)
    message = ActionChunk(
        header=header,
        source=chunk.source,
        session=int(chunk.session),
        sequence=int(chunk.sequence),
        instruction=chunk.instruction,
        subtask=chunk.subtask,
        contract_hash=chunk.contract_hash,
        camera_names=list(chunk.camera_names),
        camera_stamps=[stamp_message(ns) for ns in chunk.camera_stamps_ns],
        state_stamp=stamp_message(chunk.state_stamp_ns),
        state=[float(value) for value in chunk.state_rad],
        noise_seed=int(chunk.noise_seed),
        observation_sha256=chunk.observation_sha256,
        observation_to_publish_s=float(observation_to_publish_s),
        inference_s=float(chunk.inference_s),
        image_age_s=float(chunk.image_age_s),
        action_kind=_ACTION_KINDS[chunk.action_kind],
        committed_steps=int(chunk.committed_steps),
    )
    message.trajectory = JointTrajectory(header=header, joint_names=list(JOINT_NAMES))
    for step, row in enumerate(chunk.positions_rad.tolist()):
        fraction, seconds = math.modf(step * chunk.period_s)
        message.trajectory.points.append(
            JointTrajectoryPoint(
                positions=row,
                time_from_start=Duration(
                    sec=int(seconds), nanosec=min(round(fraction * 1e9), 999_999_999)
                ),
            )
        )
    return message


def fill_status(
    message: PolicyStatus,
    status: RuntimeStatus,
    rate_hz: float,
    stages: Mapping[str, tuple[float, float]],
) -> None:
    """Add to a message what an active policy says: its status, chunk rate and (p50, p99) in s."""
    message.instruction = status.instruction
    message.subtask = status.subtask
    message.last_error = status.last_error
    message.chunks_published = status.chunks_published
    message.chunk_rate_hz = rate_hz
    message.latencies = [
        StageLatency(stage=stage, p50_s=p50, p99_s=p99) for stage, (p50, p99) in stages.items()
    ]
