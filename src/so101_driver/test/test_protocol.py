"""The codec must agree with real servos byte for byte, and survive a noisy half-duplex line.

The packets below are the vendor's examples; a wrong sign bit or checksum turns into arm motion.
"""

import random

import pytest
from so101_driver.protocol import (
    InstructionPacket,
    InstructionParser,
    ServoError,
    StatusPacket,
    StatusParser,
    decode_sign_magnitude,
    encode_sign_magnitude,
    hex_dump,
)

from so101_driver import protocol, registers

IDS = (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (protocol.ping(1), "FF FF 01 02 01 FB"),
        (protocol.read(1, 3, 2), "FF FF 01 04 02 03 02 F3"),
        (protocol.read(1, 56, 2), "FF FF 01 04 02 38 02 BE"),
        (protocol.write(1, 40, b"\x01"), "FF FF 01 04 03 28 01 CE"),
        (
            protocol.write(1, 42, registers.GOAL_POSITION.encode(2048)),
            "FF FF 01 05 03 2A 00 08 C4",
        ),
        (protocol.sync_read(IDS, 56, 4), "FF FF FE 0A 82 38 04 01 02 03 04 05 06 24"),
        (protocol.sync_read(IDS, 56, 15), "FF FF FE 0A 82 38 0F 01 02 03 04 05 06 19"),
        (
            protocol.sync_write(42, {i: registers.GOAL_POSITION.encode(2048) for i in IDS}),
            "FF FF FE 16 83 2A 02 01 00 08 02 00 08 03 00 08 04 00 08 05 00 08 06 00 08 F7",
        ),
        (protocol.status(1), "FF FF 01 02 00 FC"),
        (protocol.status(1, 0, registers.MODEL.encode(777)), "FF FF 01 04 00 09 03 EE"),
        (protocol.status(1, 0, b"\x00\x08"), "FF FF 01 04 00 00 08 F2"),
        (protocol.status(6, ServoError.OVERLOAD, b"\x00\x08"), "FF FF 06 04 20 00 08 CD"),
    ],
)
def test_golden_packets(packet, expected):
    assert hex_dump(packet) == expected


def test_status_parser_reads_golden_replies_with_their_error_bits():
    stream = bytes.fromhex("FFFF01040009 03EE FFFF 06 04 20 00 08 CD".replace(" ", ""))
    packets = StatusParser().feed(stream)
    assert packets == [
        StatusPacket(1, ServoError(0), b"\x09\x03"),
        StatusPacket(6, ServoError.OVERLOAD, b"\x00\x08"),
    ]


@pytest.mark.parametrize(
    ("value", "bit", "raw"), [(-1480, 11, 0x0DC8), (-300, 15, 0x812C), (-250, 10, 0x04FA)]
)
def test_sign_magnitude_examples(value, bit, raw):
    assert encode_sign_magnitude(value, bit) == raw
    assert decode_sign_magnitude(raw, bit) == value
    assert decode_sign_magnitude(encode_sign_magnitude(-value, bit), bit) == -value


def test_sign_magnitude_refuses_what_would_set_the_sign_bit():
    assert encode_sign_magnitude(2047, 11) == 2047
    with pytest.raises(ValueError, match="2048"):
        encode_sign_magnitude(2048, 11)


def test_reverse_velocity_is_negative():
    """Decoding without the sign bit shows slow reverse motion as about +50 rad/s."""
    assert registers.PRESENT_VELOCITY.decode(bytes((0x2C, 0x81))) == -300


def test_parser_takes_any_split_of_the_stream():
    stream = b"".join(protocol.status(i, 0, bytes((i, 0))) for i in IDS)
    for size in range(1, len(stream)):
        parser = StatusParser()
        packets = []
        for start in range(0, len(stream), size):
            packets += parser.feed(stream[start : start + size])
        assert [packet.servo_id for packet in packets] == list(IDS)
        assert parser.garbage_bytes == parser.bad_checksums == parser.pending_bytes == 0


def test_parser_resynchronises_after_garbage():
    good = protocol.status(3, 0, b"\x12\x34")
    for garbage in (b"\x00\x01", b"\xff", b"\xff\xff", b"\xff\xff\xff\x00", b"\xff\xff\x03\x00"):
        parser = StatusParser()
        packets = parser.feed(garbage + good + good)
        assert StatusPacket(3, ServoError(0), b"\x12\x34") in packets, hex_dump(garbage)
        assert parser.garbage_bytes > 0


def test_corrupt_packet_is_dropped_and_the_next_one_read():
    corrupt = bytearray(protocol.status(2, 0, b"\x12\x34"))
    corrupt[5] ^= 0x40
    parser = StatusParser()
    packets = parser.feed(bytes(corrupt) + protocol.status(3))
    assert packets == [StatusPacket(3, ServoError(0), b"")]
    assert parser.bad_checksums == 1


def test_header_bytes_inside_the_parameters_are_data():
    packet = protocol.write(1, 42, b"\xff\xff")
    assert InstructionParser().feed(packet * 2) == [InstructionPacket(1, 3, b"\x2a\xff\xff")] * 2


def test_random_bytes_never_break_the_parser():
    rng = random.Random(7)
    parser = StatusParser()
    for _ in range(300):
        parser.feed(rng.randbytes(rng.randrange(40)))
        assert parser.pending_bytes <= protocol.MAX_LENGTH + 4
    parser.reset()
    assert parser.feed(protocol.status(5)) == [StatusPacket(5, ServoError(0), b"")]


def test_sync_write_refuses_blocks_of_different_sizes():
    with pytest.raises(ValueError, match="one size"):
        protocol.sync_write(42, {1: b"\x00\x08", 2: b"\x00"})


def test_control_table_has_no_overlaps_and_legal_defaults():
    end = 0
    for register in registers.REGISTERS:
        assert register.address >= end, register.name
        end = register.address + register.size
        if not register.read_only:
            assert register.minimum <= register.default <= register.maximum, register.name
        assert register.decode(register.encode(register.default)) == register.default
    assert end <= registers.TABLE_SIZE


def test_registers_decode_from_a_block():
    block = bytes(range(15))
    assert registers.PRESENT_TEMPERATURE.decode_from(block, 56) == 7
    assert registers.PRESENT_CURRENT.decode_from(block, 56) == 0x0E0D
    with pytest.raises(ValueError, match="goal_position"):
        registers.GOAL_POSITION.decode_from(block, 56)
