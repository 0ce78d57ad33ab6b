"""Bags must open in other people's readers, whatever happened to the recorder.

A killed recorder used to leave a file that nothing opens; here the file is complete after every
checkpoint, and a full disk costs only what came after the last one.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mcap.reader import make_reader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
from wallx_policy.recording.bag_writer import BagWriter, OfferedQos
from wallx_policy.recording.definitions import message_definition, type_hash

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 10_000_000


def serialised_string(text: str) -> bytes:
    store = get_typestore(Stores.ROS2_JAZZY)
    return bytes(
        store.serialize_cdr(store.types["std_msgs/msg/String"](text), "std_msgs/msg/String")
    )


def write_strings(writer: BagWriter, first: int, count: int) -> None:
    channel = 1
    for i in range(first, first + count):
        stamp = START_NS + i * PERIOD_NS
        writer.add(channel, stamp + 1000, stamp, serialised_string(f"message {i}"), sequence=i)


@pytest.fixture
def writer(tmp_path):
    writer = BagWriter(tmp_path / "bag", {"task": "put: cube"})
    writer.add_channel("/text", "std_msgs/msg/String", [OfferedQos(durability="transient_local")])
    yield writer
    writer.close()


def read_texts(folder: Path) -> list[str]:
    store = get_typestore(Stores.EMPTY)
    texts = []
    with Reader(folder) as reader:
        for connection in reader.connections:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        for connection, _log_ns, data in reader.messages():
            texts.append(store.deserialize_cdr(data, connection.msgtype).data)
    return texts


def test_rosbags_reads_a_closed_bag_with_its_own_definitions(writer):
    write_strings(writer, 0, 30)
    writer.checkpoint()
    write_strings(writer, 30, 20)
    writer.close()
    assert read_texts(writer.folder) == [f"message {i}" for i in range(50)]
    with Reader(writer.folder) as reader:
        (qos,) = reader.connections[0].ext.offered_qos_profiles
        assert qos.durability.name == "TRANSIENT_LOCAL"
        assert qos.deadline.sec == 9223372036
        assert reader.duration == 49 * PERIOD_NS + 1


def test_metadata_has_what_rosbag2_version_9_writes(writer):
    write_strings(writer, 0, 3)
    writer.close()
    writer.set_custom("kept", "true")
    metadata = yaml.safe_load((writer.folder / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    assert information["version"] == 9
    assert information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["bag_0.mcap"]
    assert information["message_count"] == 3
    assert information["starting_time"]["nanoseconds_since_epoch"] == START_NS + 1000
    assert information["custom_data"] == {"task": "put: cube", "kept": "true"}
    topic = information["topics_with_message_count"][0]
    assert topic["message_count"] == 3
    assert topic["topic_metadata"]["offered_qos_profiles"][0]["reliability"] == "reliable"
    assert topic["topic_metadata"]["type_description_hash"] == type_hash("std_msgs/msg/String")


def test_publish_time_and_sequence_are_kept_beside_the_receive_time(writer):
    write_strings(writer, 0, 3)
    writer.close()
    with writer.path.open("rb") as stream:
        found = [
            (message.log_time, message.publish_time, message.sequence)
            for _schema, _channel, message in make_reader(
                stream, validate_crcs=True
            ).iter_messages()
        ]
    assert found == [
        (START_NS + i * PERIOD_NS + 1000, START_NS + i * PERIOD_NS, i) for i in range(3)
    ]


def test_a_bag_is_complete_after_every_checkpoint_without_closing(writer):
    for part in range(3):
        write_strings(writer, part * 10, 10)
        writer.checkpoint()
        assert len(read_texts(writer.folder)) == (part + 1) * 10


def test_an_empty_bag_opens(writer):
    writer.close()
    with Reader(writer.folder) as reader:
        assert reader.message_count == 0


def test_a_killed_recorder_leaves_a_bag_that_opens(tmp_path):
    program = f"""
import sys, time
from pathlib import Path
from wallx_policy.recording.bag_writer import BagWriter
writer = BagWriter(Path({str(tmp_path / "killed")!r}))
channel = writer.add_channel("/text", "std_msgs/msg/String")
data = bytes.fromhex({serialised_string("message 0").hex()!r})
for i in range(1_000_000):
    writer.add(channel, {START_NS} + i, {START_NS} + i, data)
    if i % 50 == 49:
        writer.checkpoint()
        print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) > 2000:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(read_texts(tmp_path / "killed")) >= 2000


def test_a_full_disk_costs_only_what_came_after_the_last_checkpoint(writer):
    write_strings(writer, 0, 20)
    writer.checkpoint()
    size = os.path.getsize(writer.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        write_strings(writer, 20, 500)
        with pytest.raises(OSError, match="File too large"):
            writer.checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.path.getsize(writer.path) == size
    assert len(read_texts(writer.folder)) == 20
    write_strings(writer, 20, 5)
    writer.close()
    assert read_texts(writer.folder) == [f"message {i}" for i in range(25)]


def test_definitions_carry_every_nested_type():
    text = message_definition("wallx_msgs/msg/ActionChunk")
    for nested in (
        "std_msgs/Header",
        "builtin_interfaces/Time",
        "trajectory_msgs/JointTrajectory",
        "trajectory_msgs/JointTrajectoryPoint",
        "builtin_interfaces/Duration",
    ):
        assert text.count(f"MSG: {nested}\n") == 1
    assert len(get_types_from_msg(text, "wallx_msgs/msg/ActionChunk")) == 6
    assert type_hash("wallx_msgs/msg/ActionChunk").startswith("RIHS01_")
