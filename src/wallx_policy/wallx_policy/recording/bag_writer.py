"""A rosbag2 folder with one MCAP file that is complete on disk after every checkpoint.

An MCAP file ends with a summary that readers need. Here the summary is written after every chunk
and overwritten by the next one, so that a killed recorder leaves a bag that opens as it is.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
)

from wallx_policy.recording.definitions import message_definition, type_hash

METADATA_VERSION = 9
_MAGIC = b"\x89MCAP0\r\n"
_MESSAGE = struct.Struct("<BQHIQQ")
_MESSAGE_FIELDS_BYTES = 22
_FOOTER_BYTES = 8 + 8 + 4
_YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, slots=True)
class OfferedQos:
    """QoS that a publisher offers, in the words of rosbag2's metadata."""

    reliability: str = "reliable"
    durability: str = "volatile"
    history: str = "unknown"
    depth: int = 0
    deadline_ns: int = 2**63 - 1
    lifespan_ns: int = 2**63 - 1
    liveliness: str = "automatic"
    liveliness_lease_ns: int = 2**63 - 1

    def as_metadata(self) -> dict[str, Any]:
        """Return the mapping that rosbag2 writes."""

        def duration(nanoseconds: int) -> dict[str, int]:
            seconds, rest = divmod(nanoseconds, 1_000_000_000)
            return {"sec": seconds, "nsec": rest}

        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": duration(self.deadline_ns),
            "lifespan": duration(self.lifespan_ns),
            "liveliness": self.liveliness,
            "liveliness_lease_duration": duration(self.liveliness_lease_ns),
            "avoid_ros_namespace_conventions": False,
        }


@dataclass(slots=True)
class _Topic:
    name: str
    type_name: str
    qos: list[dict[str, Any]]
    count: int = 0


@dataclass(slots=True)
class _PendingChunk:
    data: bytearray = field(default_factory=bytearray)
    index: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    start_ns: int = 2**63 - 1
    end_ns: int = 0


class BagWriter:
    """Writes messages that are already serialised.

    Args:
        folder: Created here; must not exist.
        custom_data: Texts kept in the bag's metadata.
        ros_distro: Distribution whose middleware serialised the messages.

    Raises:
        FileExistsError: The folder exists.
        OSError: The folder or the file cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        custom_data: Mapping[str, str] | None = None,
        ros_distro: str = "unknown",
    ) -> None:
        self.folder = folder
        self._custom_data = dict(custom_data or {})
        self._ros_distro = ros_distro
        self._topics: dict[int, _Topic] = {}
        self._schemas: dict[str, Schema] = {}
        self._channels: list[Channel] = []
        self._chunk = _PendingChunk()
        self._chunk_indexes = bytearray()
        self._chunk_count = 0
        self._start_ns = 2**63 - 1
        self._end_ns = 0
        folder.mkdir(parents=True)
        self.path = folder / f"{folder.name}_0.mcap"
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)

        head = RecordBuilder()
        Header(profile="ros2", library="wallx-ros").write(head)
        offset = len(_MAGIC) + head.count
        Metadata(name="rosbag2", metadata={"ROS_DISTRO": ros_distro}).write(head)
        self._metadata_index = MetadataIndex(
            offset=offset, length=len(_MAGIC) + head.count - offset, name="rosbag2"
        )
        self._end = 0
        self._summary = b""
        self._append(_MAGIC + head.end())
        self._write_metadata()

    @property
    def message_count(self) -> int:
        """Messages added so far, the pending ones included."""
        return sum(topic.count for topic in self._topics.values())

    @property
    def bytes_on_disk(self) -> int:
        """Size of the file at the last checkpoint."""
        return self._end + len(self._summary)

    def add_channel(self, topic: str, type_name: str, qos: Sequence[OfferedQos] = ()) -> int:
        """Announce a topic and return its channel id.

        Raises:
            UserError: The type's definition is not installed.
        """
        schema = self._schemas.get(type_name)
        if schema is None:
            schema = Schema(
                id=len(self._schemas) + 1,
                name=type_name,
                encoding="ros2msg",
                data=message_definition(type_name).encode(),
            )
            self._schemas[type_name] = schema
            self._chunk.data += _packed(schema)
        profiles = [offer.as_metadata() for offer in qos]
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding="cdr",
            schema_id=schema.id,
            metadata={
                "offered_qos_profiles": _yaml(profiles).strip() if profiles else "",
                "topic_type_hash": type_hash(type_name),
            },
        )
        self._channels.append(channel)
        self._chunk.data += _packed(channel)
        self._topics[channel.id] = _Topic(topic, type_name, profiles)
        return channel.id

    def add(
        self, channel: int, log_ns: int, publish_ns: int, data: bytes, sequence: int = 0
    ) -> None:
        """Add one serialised message to the pending chunk; it is on disk after a checkpoint.

        Args:
            channel: From ``add_channel``.
            log_ns: When it was received.
            publish_ns: When it was published.
            data: CDR.
            sequence: The publisher's own count of its messages, 0 where unknown.
        """
        chunk = self._chunk
        chunk.index.setdefault(channel, []).append((log_ns, len(chunk.data)))
        chunk.data += _MESSAGE.pack(
            Opcode.MESSAGE,
            _MESSAGE_FIELDS_BYTES + len(data),
            channel,
            sequence & 0xFFFFFFFF,
            log_ns,
            publish_ns,
        )
        chunk.data += data
        chunk.start_ns = min(chunk.start_ns, log_ns)
        chunk.end_ns = max(chunk.end_ns, log_ns)
        self._topics[channel].count += 1

    def checkpoint(self) -> None:
        """Make everything added so far readable on disk.

        Raises:
            OSError: The disk is full or gone; what earlier checkpoints wrote stays readable.
        """
        if not self._chunk.index:
            return
        chunk, self._chunk = self._chunk, _PendingChunk()
        data = bytes(chunk.data)
        records = RecordBuilder()
        Chunk(
            compression="",
            data=data,
            message_start_time=chunk.start_ns,
            message_end_time=chunk.end_ns,
            uncompressed_crc=zlib.crc32(data),
            uncompressed_size=len(data),
        ).write(records)
        chunk_length = records.count
        offsets = {}
        for channel, entries in chunk.index.items():
            offsets[channel] = self._end + records.count
            MessageIndex(channel_id=channel, records=entries).write(records)
        index = ChunkIndex(
            message_start_time=chunk.start_ns,
            message_end_time=chunk.end_ns,
            chunk_start_offset=self._end,
            chunk_length=chunk_length,
            message_index_offsets=offsets,
            message_index_length=records.count - chunk_length,
            compression="",
            compressed_size=len(data),
            uncompressed_size=len(data),
        )
        before = (bytes(self._chunk_indexes), self._chunk_count, self._start_ns, self._end_ns)
        self._chunk_indexes += _packed(index)
        self._chunk_count += 1
        self._start_ns = min(self._start_ns, chunk.start_ns)
        self._end_ns = max(self._end_ns, chunk.end_ns)
        try:
            self._append(records.end())
        except OSError:
            indexes, self._chunk_count, self._start_ns, self._end_ns = before
            self._chunk_indexes = bytearray(indexes)
            for channel, entries in chunk.index.items():
                self._topics[channel].count -= len(entries)
            raise
        self._write_metadata()

    def set_custom(self, key: str, value: str) -> None:
        """Store a text in the bag's metadata, also after closing."""
        self._custom_data[key] = value
        self._write_metadata()

    def close(self) -> None:
        """Write what is pending and close the file. The file is closed even if that fails."""
        try:
            self.checkpoint()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, records: bytes) -> None:
        """Replace the summary at the end of the file by ``records`` and a new summary."""
        end, summary = self._end, self._summary
        self._end = end + len(records)
        self._summary = self._summary_records()
        try:
            _write_all(self._file, records + self._summary, end)
        except OSError:
            # The old summary's blocks are still ours, so putting it back needs no new space.
            self._end, self._summary = end, summary
            with contextlib.suppress(OSError):
                _write_all(self._file, summary, end)
                os.ftruncate(self._file, end + len(summary))
            raise

    def _summary_records(self) -> bytes:
        """Return everything that follows the data: its end, the summary and the footer."""
        data_end = _packed(DataEnd(data_section_crc=0))
        summary_start = self._end + len(data_end)
        counts = {channel: topic.count for channel, topic in self._topics.items()}
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=counts,
            chunk_count=self._chunk_count,
            message_count=self.message_count,
            metadata_count=1,
            message_start_time=self._start_ns if self._chunk_count else 0,
            message_end_time=self._end_ns,
            schema_count=len(self._schemas),
        )
        summary = b"".join(
            (
                *(_packed(schema) for schema in self._schemas.values()),
                *(_packed(channel) for channel in self._channels),
                _packed(statistics),
                bytes(self._chunk_indexes),
                _packed(self._metadata_index),
            )
        )
        crc = zlib.crc32(summary)
        crc = zlib.crc32(struct.pack("<BQQQ", Opcode.FOOTER, _FOOTER_BYTES, summary_start, 0), crc)
        footer = Footer(summary_start=summary_start, summary_offset_start=0, summary_crc=crc)
        return data_end + summary + _packed(footer) + _MAGIC

    def _write_metadata(self) -> None:
        duration = {
            "nanoseconds": max(0, self._end_ns - self._start_ns) if self._chunk_count else 0
        }
        start = {"nanoseconds_since_epoch": self._start_ns if self._chunk_count else 0}
        information = {
            "version": METADATA_VERSION,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": start,
            "message_count": self.message_count,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic.name,
                        "type": topic.type_name,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": topic.qos,
                        "type_description_hash": type_hash(topic.type_name),
                    },
                    "message_count": topic.count,
                }
                for topic in self._topics.values()
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.path.name],
            "files": [
                {
                    "path": self.path.name,
                    "starting_time": dict(start),
                    "duration": dict(duration),
                    "message_count": self.message_count,
                }
            ],
            "custom_data": self._custom_data or None,
            "ros_distro": self._ros_distro,
        }
        # Replaced in one step, so that a reader never sees half of it.
        temporary = self.folder / "metadata.yaml.tmp"
        temporary.write_text(_yaml({"rosbag2_bagfile_information": information}), encoding="utf-8")
        temporary.replace(self.folder / "metadata.yaml")


def _packed(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return builder.end()


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_YAML_DUMPER, sort_keys=False, allow_unicode=True))


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
