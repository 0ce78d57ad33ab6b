"""Reads a bag: every message with both its times, decoded by the definitions in the bag."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import CRCValidationError, StreamReader
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from so101_driver.errors import UserError


@dataclass(slots=True)
class Topic:
    """All messages of one topic, in the order in which they were published.

    Attributes:
        name: Absolute name.
        type_name: Full name of its type.
        publish_ns: When each message was published, by the publisher's clock [n].
        log_ns: When each message was received [n].
        sequence: The publisher's own count [n]; a gap means that the recorder lost messages.
        data: Serialised messages [n].
    """

    name: str
    type_name: str
    publish_ns: NDArray[np.int64]
    log_ns: NDArray[np.int64]
    sequence: NDArray[np.int64]
    data: list[bytes]

    def __len__(self) -> int:
        return len(self.data)


@dataclass(slots=True)
class _Collected:
    publish_ns: list[int] = field(default_factory=list)
    log_ns: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)


class Bag:
    """One recorded bag, read into memory.

    Args:
        folder: The rosbag2 folder, or its MCAP file.

    Attributes:
        topics: By absolute name.
        truncated: The file ends in the middle: the recorder was killed while writing.

    Raises:
        UserError: There is no such bag, or it holds nothing that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truncated = False
        self.topics: dict[str, Topic] = {}
        self._types = get_typestore(Stores.EMPTY)
        self._definitions: dict[str, str] = {}
        self._registered: set[str] = set()
        collected: dict[tuple[str, str], _Collected] = {}
        for path in _mcap_files(folder):
            self._read(path, collected)
        for (name, type_name), found in collected.items():
            order = np.argsort(np.asarray(found.publish_ns, np.int64), kind="stable")
            self.topics[name] = Topic(
                name,
                type_name,
                np.asarray(found.publish_ns, np.int64)[order],
                np.asarray(found.log_ns, np.int64)[order],
                np.asarray(found.sequence, np.int64)[order],
                [found.data[i] for i in order],
            )
        if not self.topics:
            raise UserError(f"the bag {folder} holds no messages: was anything recorded?")

    @property
    def start_ns(self) -> int:
        """Earliest publish time."""
        return int(min(topic.publish_ns[0] for topic in self.topics.values()))

    @property
    def end_ns(self) -> int:
        """Latest publish time."""
        return int(max(topic.publish_ns[-1] for topic in self.topics.values()))

    def find(self, name: str) -> Topic | None:
        """Return a topic by its name relative to whatever namespace it was recorded in."""
        name = name.lstrip("/")
        for topic in self.topics.values():
            if topic.name == f"/{name}" or topic.name.endswith(f"/{name}"):
                return topic
        return None

    def decode(self, topic: Topic) -> list[Any]:
        """Return the topic's messages.

        Raises:
            UserError: The bag carries no definition of the type.
        """
        if topic.type_name not in self._registered:
            text = self._definitions.get(topic.type_name, "")
            if not text:
                raise UserError(
                    f"the bag {self.folder} carries no definition of {topic.type_name} "
                    f"({topic.name}): record it again with the recorder of this package."
                )
            types = get_types_from_msg(text, topic.type_name)
            self._types.register(
                {name: definition for name, definition in types.items() if name not in self._seen()}
            )
            self._registered.add(topic.type_name)
        return [self._types.deserialize_cdr(data, topic.type_name) for data in topic.data]

    def _seen(self) -> set[str]:
        return set(self._types.fielddefs)

    def _read(self, path: Path, collected: dict[tuple[str, str], _Collected]) -> None:
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        try:
            with path.open("rb") as stream:
                for record in StreamReader(stream, validate_crcs=True).records:
                    if isinstance(record, Message):
                        channel = channels[record.channel_id]
                        key = (channel.topic, schemas[channel.schema_id].name)
                        found = collected.setdefault(key, _Collected())
                        found.publish_ns.append(record.publish_time)
                        found.log_ns.append(record.log_time)
                        found.sequence.append(record.sequence)
                        found.data.append(record.data)
                    elif isinstance(record, Schema):
                        schemas[record.id] = record
                        self._definitions[record.name] = record.data.decode()
                    elif isinstance(record, Channel):
                        channels[record.id] = record
        except (McapError, CRCValidationError, struct.error):
            # What was complete before the damage stays evidence; the report says where it ends.
            self.truncated = True
        except OSError as error:
            raise UserError(f"the bag file {path} cannot be read: {error.strerror}") from None


def _mcap_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    files = sorted(folder.glob("*.mcap"))
    if not files:
        what = "has no .mcap file in it" if folder.is_dir() else "does not exist"
        raise UserError(f"the bag {folder} {what}: nothing was recorded there.")
    return files
