"""Shared fixtures: a ROS domain of one's own, a recording of known numbers, the references."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES

START_NS = 1_700_000_000_000_000_000
REFERENCES = "WALLX_FIXTURES"
SERVO_TICK_RAD = 2 * np.pi / 4096
AMPLITUDE_RAD = np.array([1.5, 1.2, -1.0, 0.8, -0.5, 1.0])


@dataclass
class SyntheticAct:
    """What the recording shall hold; times in seconds since its start."""

    duration_s: float = 6.0
    missed_ticks: tuple[int, ...] = ()
    lost_by_recorder: tuple[int, ...] = ()
    late_ticks_s: dict[int, float] = field(default_factory=dict)
    chunk_period_s: float = 0.08
    missed_chunks: tuple[int, ...] = ()
    chunk_latency_s: float = 0.12
    wire_delay_s: float = 0.002
    wire_dropped: tuple[int, ...] = ()
    lift_m: float = 0.08
    in_tray: bool = True
    kick_tick: int = -1
    kick_rad: float = 0.0
    leave_out: tuple[str, ...] = ()

    def pose_rad(self, t_s: float) -> np.ndarray:
        """A smooth motion that starts and ends at rest."""
        phase = np.clip(t_s / self.duration_s, 0, 1)
        return AMPLITUDE_RAD * (phase - np.sin(2 * np.pi * phase) / (2 * np.pi))

    def cube_height_m(self, t_s: float) -> float:
        """Height of the cube's centre: lifted in the middle half of the act."""
        share = t_s / self.duration_s
        resting_m = 0.0165 if self.in_tray and share > 0.75 else 0.0125
        return resting_m + self.lift_m * max(0.0, np.sin(2 * np.pi * (share - 0.25)))


class MessageMaker:
    """Makes messages of installed types from nested dictionaries; what is left out is zero."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.EMPTY)

    def make(self, type_name: str, values: Mapping[str, Any]) -> Any:
        from rosbags.typesys import get_types_from_msg
        from wallx_policy.recording.definitions import message_definition

        if type_name not in self.store.types:
            found = get_types_from_msg(message_definition(type_name), type_name)
            new = {name: fields for name, fields in found.items() if name not in self.store.types}
            self.store.register(new)
        fields = dict(self.store.fielddefs[type_name][1])
        assert set(values) <= set(fields), f"{type_name} has no {set(values) - set(fields)}"
        return self.store.types[type_name](
            **{name: self._field(kind, values.get(name)) for name, kind in fields.items()}
        )

    def _field(self, kind: tuple[Any, Any], value: Any) -> Any:
        tag, detail = kind
        if tag.name == "BASE":
            default = "" if detail[0] == "string" else 0.0 if "float" in detail[0] else 0
            return default if value is None else value
        if tag.name == "NAME":
            return self.make(detail, value or {})
        (element, _count) = detail
        value = [] if value is None else value
        if element[0].name == "BASE" and element[1][0] != "string":
            return np.asarray(value, element[1][0])
        return [self._field(element, item) for item in value]

    def serialised(self, type_name: str, values: Mapping[str, Any]) -> bytes:
        return bytes(self.store.serialize_cdr(self.make(type_name, values), type_name))


@pytest.fixture
def synthetic_bag(tmp_path: Path) -> Callable[..., Path]:
    """Return ``write(name, **SyntheticAct fields)``, which writes a bag and returns its folder."""
    pytest.importorskip("wallx_msgs", reason="needs the built workspace")

    def write(name: str = "act", **fields: Any) -> Path:
        _SyntheticBag(tmp_path / name, SyntheticAct(**fields)).write()
        return tmp_path / name

    return write


class _SyntheticBag:
    def __init__(self, folder: Path, act: SyntheticAct) -> None:
        from wallx_policy.recording.bag_writer import BagWriter

        self.act = act
        self.writer = BagWriter(folder)
        self.maker = MessageMaker()
        self.channels: dict[str, int] = {}
        self.sent: dict[str, int] = {}

    def write(self) -> None:
        self._joints()
        self._chunks()
        self._cameras()
        self._objects()
        self._statuses()
        self.writer.close()

    def _put(
        self,
        topic: str,
        type_name: str,
        publish_s: float,
        stamp_s: float | None,
        values: dict[str, Any],
        lost: bool = False,
    ) -> None:
        self.sent[topic] = self.sent.get(topic, 0) + 1
        if lost or topic in self.act.leave_out:
            return
        if stamp_s is not None:
            stamp_ns = START_NS + round(stamp_s * 1e9)
            stamp = {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}
            values = {"header": {"stamp": stamp, "frame_id": "base_link"}, **values}
        if topic not in self.channels:
            self.channels[topic] = self.writer.add_channel(f"/{topic}", type_name)
        publish_ns = START_NS + round(publish_s * 1e9)
        data = self.maker.serialised(type_name, values)
        # Receive times are late and must play no role.
        log_ns = publish_ns + 7_000_000
        self.writer.add(self.channels[topic], log_ns, publish_ns, data, self.sent[topic])

    def _joints(self) -> None:
        act = self.act
        joint_state, wire_log = "sensor_msgs/msg/JointState", "wallx_msgs/msg/WireLog"
        for tick in range(round(act.duration_s / 0.01)):
            t_s = tick * 0.01
            measured = {"name": JOINT_NAMES, "position": act.pose_rad(t_s - 0.05)}
            self._put("joint_states", joint_state, t_s + 0.001, t_s, measured)
            if tick in act.missed_ticks:
                continue
            goal = act.pose_rad(t_s) + (act.kick_rad if tick == act.kick_tick else 0.0)
            publish_s = t_s + 0.0002 + act.late_ticks_s.get(tick, 0.0)
            lost = tick in act.lost_by_recorder
            command = {"name": JOINT_NAMES, "position": goal}
            self._put("joint_commands", joint_state, publish_s, t_s, command, lost)
            if tick in act.wire_dropped:
                continue
            ticks = np.rint(goal / SERVO_TICK_RAD)
            wire_s = publish_s + act.wire_delay_s
            written = {"servo_ids": range(1, 7), "goal_position": ticks * SERVO_TICK_RAD}
            self._put("sim/wire_log", wire_log, wire_s + 0.0005, wire_s, written)

    def _chunks(self) -> None:
        for index in range(int(self.act.duration_s / self.act.chunk_period_s)):
            if index in self.act.missed_chunks:
                continue
            t_s = index * self.act.chunk_period_s
            chunk = {"source": "expert", "session": 1, "sequence": index, "action_kind": 1}
            publish_s = t_s + self.act.chunk_latency_s
            self._put("action_chunk", "wallx_msgs/msg/ActionChunk", publish_s, t_s, chunk)

    def _cameras(self) -> None:
        import cv2

        for index in range(int(self.act.duration_s * 15)):
            t_s = index / 15
            for view, width in (("face_view", 320), ("wrist_view", 240)):
                picture = np.full((240, width, 3), 60, np.uint8)
                x = int(width * t_s / self.act.duration_s)
                cv2.circle(picture, (x, 120), 20, (40, 40, 220), -1)
                jpeg = cv2.imencode(".jpg", picture)[1].reshape(-1)
                topic = f"camera/{view}/image_raw/compressed"
                values = {"format": "rgb8; jpeg compressed bgr8", "data": jpeg}
                self._put(topic, "sensor_msgs/msg/CompressedImage", t_s + 0.02, t_s, values)

    def _objects(self) -> None:
        for index in range(int(self.act.duration_s * 20)):
            t_s = index / 20
            over_tray = self.act.in_tray and t_s > self.act.duration_s / 2
            cube = {"x": 0.2, "y": -0.19 if over_tray else 0.06}
            cube["z"] = self.act.cube_height_m(t_s)
            tray = {"x": 0.2, "y": -0.19, "z": 0.012}
            upright = {"w": 1.0}
            markers = [
                {
                    "ns": name,
                    "pose": {"position": position, "orientation": upright},
                    "scale": dict(zip("xyz", size, strict=True)),
                }
                for name, position, size in (
                    ("red_cube", cube, (0.025, 0.025, 0.025)),
                    ("tray", tray, (0.12, 0.10, 0.024)),
                )
            ]
            array = "visualization_msgs/msg/MarkerArray"
            self._put("sim/objects", array, t_s, None, {"markers": markers})

    def _statuses(self) -> None:
        for index in range(int(self.act.duration_s * 10)):
            t_s = index / 10
            state = 2 if t_s < 0.3 else 3 if t_s < 0.9 * self.act.duration_s else 5
            counts = [{"bit": 512, "name": "BAD_CHUNK", "count": 3}]
            values = {"state": state, "mode": 3, "reason": "following", "limit_counts": counts}
            self._put("safety/status", "wallx_msgs/msg/SafetyStatus", t_s, t_s, values)


@pytest.fixture(scope="session")
def references() -> Path:
    """The folder of reference outputs: $WALLX_FIXTURES, or beside the repository."""
    beside = Path(__file__).resolve().parents[3].parent / "shared/fixtures/wall_oss"
    folder = Path(os.environ.get(REFERENCES, beside))
    if not (folder / "tiny_wallx").is_dir():
        pytest.skip(
            f"no reference outputs of WALL-OSS in {folder}: set {REFERENCES} to their folder"
        )
    return folder
