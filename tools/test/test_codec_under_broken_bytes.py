"""The codec under broken bytes: it must give exactly the packets that are in them, as they come.

The judge is a second parser, written differently; the long run is ``make fuzz-bus``. The second
half shows that the judge sees a codec that is wrong.
"""

from __future__ import annotations

import pytest
from bus_proof.byte_sequences import Kind, draw, wire
from bus_proof.codec_check import check
from bus_proof.plain_codec import parse, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from so101_driver.protocol import StatusParser

from so101_driver import protocol

SEEDS = range(20_000)


def test_broken_bytes_of_every_kind_give_only_what_is_in_them():
    findings = check(SEEDS)
    assert findings.failures == []
    assert set(findings.sequences) == {kind.value for kind in Kind}
    assert findings.packets > 10_000


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=120)
    | st.lists(st.sampled_from([0, 1, 2, 4, 0xFE, 0xFF]), max_size=60).map(bytes),
    st.lists(st.integers(1, 30), max_size=40),
    st.sampled_from([2, 4, 15, 248]),
)
def test_any_bytes_in_any_pieces_give_the_same_packets(data, sizes, largest):
    parser = StatusParser(largest)
    packets, at = [], 0
    for size in [*sizes, len(data) or 1]:
        packets += parser.feed(data[at : at + size])
        at += size
    truth = parse(data, largest)
    assert tuple((p.servo_id, int(p.error), p.parameters) for p in packets) == truth.packets
    assert parser.pending_bytes == truth.unfinished
    assert parser.garbage_bytes == truth.noise


@given(st.integers(0, 253), st.integers(0, 255), st.binary(max_size=248), st.data())
def test_one_wrong_byte_is_always_noticed(servo_id, error, parameters, data):
    """All bytes but the length: a wrong length may take bytes of the next packet in."""
    sent = bytearray(protocol.status(servo_id, error, parameters))
    assert bytes(sent) == wire((servo_id, error, parameters))
    at = data.draw(st.sampled_from([i for i in range(2, len(sent)) if i != 3]))
    sent[at] ^= data.draw(st.integers(1, 255))
    whole = parse(bytes(sent), 248).packets
    # Only what parameters happen to contain may be left.
    assert all(len(packet[2]) < len(parameters) for packet in whole)


@pytest.mark.parametrize("bit", [10, 11, 15])
def test_every_word_has_the_value_that_its_sign_bit_says(bit):
    for word in range(1 << 16):
        value = protocol.decode_sign_magnitude(word, bit)
        assert value == signed(word & 255, word >> 8, bit)
        if word < 1 << (bit + 1) and value:
            assert protocol.encode_sign_magnitude(value, bit) == word


def broken_skip(monkeypatch):
    """Forget the byte after a bad packet's header too."""
    monkeypatch.setattr(
        StatusParser, "_skip", lambda self, n: type(self).__mro__[1]._skip(self, n and n + 1)
    )


def broken_checksum(monkeypatch):
    """Believe every checksum whose lowest bit is right."""

    class Lenient(int):
        def __eq__(self, other):
            return int(self) & 1 == other & 1

        def __ne__(self, other):
            return not self == other

        __hash__ = int.__hash__

    true_sum = protocol.checksum
    monkeypatch.setattr(protocol, "checksum", lambda body: Lenient(true_sum(body)))


def broken_hurry(monkeypatch):
    """Raise on what looks odd, as the codec of peers does."""

    def feed(self, data):
        if data.startswith(b"\xff\xff\xff"):
            raise ValueError("odd")
        return [protocol.StatusPacket(i, protocol.ServoError(c), p) for i, c, p in self._feed(data)]

    monkeypatch.setattr(StatusParser, "feed", feed)


@pytest.mark.parametrize("defect", [broken_skip, broken_checksum, broken_hurry])
def test_the_judge_sees_a_codec_that_is_wrong(monkeypatch, defect):
    defect(monkeypatch)
    assert check(range(2_000)).failures


def test_the_expected_packets_do_not_come_from_a_parser():
    """For every kind with known packets they are those that were sent, or all but the damaged."""
    known = [s for s in map(draw, range(3_000)) if s.expected is not None]
    assert {s.kind for s in known} == {Kind.CLEAN, Kind.ONE_BYTE_WRONG}
    for sequence in known:
        missing = len(sequence.sent) - len(sequence.expected)
        assert missing == (sequence.kind is Kind.ONE_BYTE_WRONG)
