"""What the measurements need, as arrays taken out of a bag."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES

from wallx_policy.backends.base import ObjectPose
from wallx_policy.evidence.bag import Bag, Topic

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class SafetyState(enum.IntEnum):
    """States of wallx_msgs/SafetyStatus."""

    UNKNOWN = 0
    DISARMED = 1
    HOLD = 2
    TRACKING = 3
    STOPPING = 4
    PARKING = 5
    ESTOP = 6
    FAULT = 7


@dataclass(frozen=True, slots=True)
class JointSeries:
    """joint_states or joint_commands: n messages, joints in the order of JOINT_NAMES.

    Attributes:
        stamp_ns: Header stamps: time of measurement, or the scheduled tick [n].
        publish_ns: Publish times [n].
        sequence: The publisher's count [n].
        position_rad: [n, 6], NaN where a joint is absent or stale.
    """

    stamp_ns: Ints
    publish_ns: Ints
    sequence: Ints
    position_rad: Floats

    def __len__(self) -> int:
        return len(self.stamp_ns)


@dataclass(frozen=True, slots=True)
class ChunkSeries:
    """action_chunk: n messages.

    Attributes:
        stamp_ns: Exposure time of the newest image behind the chunk [n].
        publish_ns: Publish times [n].
        source: Who sent it [n].
    """

    stamp_ns: Ints
    publish_ns: Ints
    source: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stamp_ns)


@dataclass(frozen=True, slots=True)
class SafetySeries:
    """safety/status: n messages.

    Attributes:
        publish_ns: Publish times [n].
        state: [n].
        reason: [n].
        limit_counts: The last counts that the node reported of itself.
    """

    publish_ns: Ints
    state: tuple[SafetyState, ...]
    reason: tuple[str, ...]
    limit_counts: Mapping[str, int]

    def at(self, time_ns: int) -> SafetyState:
        """Return the state at a time; UNKNOWN before the first status."""
        index = int(np.searchsorted(self.publish_ns, time_ns, side="right")) - 1
        return self.state[index] if index >= 0 else SafetyState.UNKNOWN

    def changes(self) -> list[tuple[int, SafetyState]]:
        """Return (time_ns, state) of the first status and of every change."""
        found: list[tuple[int, SafetyState]] = []
        for time_ns, state in zip(self.publish_ns, self.state, strict=True):
            if not found or found[-1][1] != state:
                found.append((int(time_ns), state))
        return found


@dataclass(frozen=True, slots=True)
class ObjectSeries:
    """sim/objects: n messages.

    Attributes:
        time_ns: Publish times [n].
        poses: Pose of every object by name, one mapping per message [n].
    """

    time_ns: Ints
    poses: tuple[Mapping[str, ObjectPose], ...]

    def height_m(self, name: str) -> Floats:
        """Return the height of an object's centre [n], NaN where it is absent."""
        return np.array(
            [pose[name].position_m[2] if name in pose else np.nan for pose in self.poses]
        )


def stamps_ns(messages: list[Any]) -> Ints:
    """Return the header stamps of messages."""
    return np.array(
        [m.header.stamp.sec * 1_000_000_000 + m.header.stamp.nanosec for m in messages], np.int64
    )


def joint_series(bag: Bag, name: str) -> JointSeries | None:
    """Return a JointState topic, None if the bag has none."""
    topic = bag.find(name)
    if topic is None:
        return None
    messages = bag.decode(topic)
    position = np.full((len(messages), len(JOINT_NAMES)), np.nan)
    for row, message in zip(position, messages, strict=True):
        for joint, value in zip(message.name, message.position, strict=False):
            if joint in JOINT_NAMES:
                row[JOINT_NAMES.index(joint)] = value
    return JointSeries(stamps_ns(messages), topic.publish_ns, topic.sequence, position)


def wire_series(bag: Bag) -> JointSeries | None:
    """Return the goal writes that the virtual bus decoded; both times are the bus's own stamp.

    Only writes of all six servos are goals of a command; others are left out.
    """
    topic = bag.find("sim/wire_log")
    if topic is None:
        return None
    kept: list[Any] = []
    sequence: list[int] = []
    for message, number in zip(bag.decode(topic), topic.sequence, strict=True):
        if sorted(message.servo_ids) == list(range(1, len(JOINT_NAMES) + 1)):
            kept.append(message)
            sequence.append(int(number))
    position = np.full((len(kept), len(JOINT_NAMES)), np.nan)
    for row, message in zip(position, kept, strict=True):
        row[np.asarray(message.servo_ids, int) - 1] = message.goal_position
    stamps = stamps_ns(kept)
    return JointSeries(stamps, stamps, np.array(sequence, np.int64), position)


def chunk_series(bag: Bag) -> ChunkSeries | None:
    """Return action_chunk, None if the bag has none."""
    topic = bag.find("action_chunk")
    if topic is None:
        return None
    messages = bag.decode(topic)
    return ChunkSeries(stamps_ns(messages), topic.publish_ns, tuple(m.source for m in messages))


def safety_series(bag: Bag) -> SafetySeries | None:
    """Return safety/status, None if the bag has none."""
    topic = bag.find("safety/status")
    if topic is None:
        return None
    messages = bag.decode(topic)
    known = {state.value for state in SafetyState}
    return SafetySeries(
        topic.publish_ns,
        tuple(SafetyState(m.state if m.state in known else 0) for m in messages),
        tuple(m.reason for m in messages),
        {count.name: int(count.count) for count in messages[-1].limit_counts},
    )


def object_series(bag: Bag) -> ObjectSeries | None:
    """Return sim/objects, None if the bag has none."""
    topic = bag.find("sim/objects")
    if topic is None:
        return None
    poses = []
    for message in bag.decode(topic):
        found = {}
        for marker in message.markers:
            p, q, s = marker.pose.position, marker.pose.orientation, marker.scale
            found[marker.ns] = ObjectPose(
                np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), np.array([s.x, s.y, s.z])
            )
        poses.append(found)
    return ObjectSeries(topic.publish_ns, tuple(poses))


def camera_topics(bag: Bag) -> dict[str, Topic]:
    """Return the image topic of every view, the compressed one where both were recorded."""
    found: dict[str, Topic] = {}
    for name, topic in sorted(bag.topics.items()):
        parts = name.strip("/").split("/")
        if "camera" not in parts or "image_raw" not in parts:
            continue
        # Sorted, so that image_raw/compressed comes after image_raw and replaces it.
        found[parts[parts.index("camera") + 1]] = topic
    return found
