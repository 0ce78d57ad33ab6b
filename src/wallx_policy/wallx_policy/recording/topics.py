"""Which topics a recording holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JOINT_STATE = "sensor_msgs/msg/JointState"


@dataclass(frozen=True, slots=True)
class RecordedTopic:
    """One topic of a recording.

    Attributes:
        name: As the graph uses it, relative names resolve in the recorder's namespace.
        type_name: Full name of its type.
        any_durability: Publishers may offer it volatile or transient local, so both are requested.
        shows_life: Whether its flow means that the arm may still be moving.
    """

    name: str
    type_name: str
    any_durability: bool = False
    shows_life: bool = False


_ALWAYS = (
    RecordedTopic("joint_states", JOINT_STATE, shows_life=True),
    RecordedTopic("joint_commands", JOINT_STATE, shows_life=True),
    RecordedTopic("safety/shadow_commands", JOINT_STATE, shows_life=True),
    RecordedTopic("action_chunk", "wallx_msgs/msg/ActionChunk"),
    RecordedTopic("safety/status", "wallx_msgs/msg/SafetyStatus"),
    RecordedTopic("driver/status", "wallx_msgs/msg/DriverStatus"),
    RecordedTopic("policy/status", "wallx_msgs/msg/PolicyStatus"),
    RecordedTopic("safety/deadman", "std_msgs/msg/Bool"),
    RecordedTopic("instruction", "std_msgs/msg/String", any_durability=True),
    RecordedTopic("sim/objects", "visualization_msgs/msg/MarkerArray"),
    RecordedTopic("sim/wire_log", "wallx_msgs/msg/WireLog", shows_life=True),
    RecordedTopic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
)


def recorded_topics(
    camera_names: Sequence[str], image_transport: str, estop_topic: str
) -> tuple[RecordedTopic, ...]:
    """Return every topic to record.

    Args:
        camera_names: Views, e.g. ``face_view``.
        image_transport: ``compressed`` or ``raw``.
        estop_topic: Where emergency-stop buttons publish.
    """
    topics = [*_ALWAYS, RecordedTopic(estop_topic, "std_msgs/msg/Bool", any_durability=True)]
    for view in camera_names:
        image = f"camera/{view}/image_raw"
        if image_transport == "compressed":
            topics.append(RecordedTopic(f"{image}/compressed", "sensor_msgs/msg/CompressedImage"))
        else:
            topics.append(RecordedTopic(image, "sensor_msgs/msg/Image"))
        topics.append(RecordedTopic(f"camera/{view}/camera_info", "sensor_msgs/msg/CameraInfo"))
    return tuple(topics)
