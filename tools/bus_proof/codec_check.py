"""Feeds byte sequences to the codec and says what it did wrong, by the plain parser's word."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from so101_driver.protocol import InstructionParser, StatusParser

from bus_proof.byte_sequences import Sequence, draw
from bus_proof.plain_codec import parse

HANG_S = 1.0
"""A sequence of at most a few hundred bytes takes microseconds."""


@dataclass(slots=True)
class Findings:
    """Sums over many sequences.

    Attributes:
        sequences: How many, by kind.
        bytes_fed: All of them.
        packets: That the codec gave.
        failures: What is wrong, with the seed; empty is the aim.
        by_chance: Packets that nobody sent and whose checksum is right: no reader of these bytes
            can tell.
        by_chance_asked_for: Of these, replies of 4 bytes, without error bits, from one of six
            servos: what a driver asks for.
    """

    sequences: Counter[str] = field(default_factory=Counter)
    bytes_fed: int = 0
    packets: int = 0
    failures: list[str] = field(default_factory=list)
    by_chance: int = 0
    by_chance_asked_for: int = 0
    slowest_s: float = 0.0

    def add(self, other: Findings) -> None:
        """Take the sums of another run in."""
        self.sequences += other.sequences
        self.bytes_fed += other.bytes_fed
        self.packets += other.packets
        self.failures += other.failures
        self.by_chance += other.by_chance
        self.by_chance_asked_for += other.by_chance_asked_for
        self.slowest_s = max(self.slowest_s, other.slowest_s)


def check(seeds: Iterable[int]) -> Findings:
    """Check the sequences of some seeds."""
    findings = Findings()
    for seed in seeds:
        sequence = draw(seed)
        findings.sequences[sequence.kind.value] += 1
        findings.bytes_fed += len(sequence.data)
        begun_s = time.perf_counter()
        try:
            problem = _check_one(sequence, findings)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        duration_s = time.perf_counter() - begun_s
        findings.slowest_s = max(findings.slowest_s, duration_s)
        if duration_s > HANG_S:
            problem = problem or f"took {duration_s:.1f} s"
        if problem:
            findings.failures.append(f"seed {seed} ({sequence.kind.value}): {problem}")
    return findings


def _check_one(sequence: Sequence, findings: Findings) -> str:
    """Return what is wrong with how both parsers took a sequence, or nothing."""
    truth = parse(sequence.data, sequence.largest)
    got: tuple[tuple[int, int, bytes], ...] = ()
    for parser in (StatusParser(sequence.largest), InstructionParser(sequence.largest)):
        packets = [packet for piece in sequence.pieces for packet in parser.feed(piece)]
        got = tuple(
            (p.servo_id, int(getattr(p, "error", getattr(p, "instruction", 0))), p.parameters)
            for p in packets
        )
        if got != truth.packets:
            return f"{type(parser).__name__} gave {got} instead of {truth.packets}"
        if (parser.pending_bytes, parser.garbage_bytes) != (truth.unfinished, truth.noise):
            return f"{type(parser).__name__} lost count of its bytes"
    findings.packets += len(got)
    if sequence.expected is not None:
        wanted = tuple(p for p in sequence.expected if len(p[2]) <= sequence.largest)
        if got != wanted:
            return f"{got} came out of {wanted}"
    sent = Counter(sequence.sent)
    for packet in got:
        if sent[packet]:
            sent[packet] -= 1
            continue
        findings.by_chance += 1
        servo_id, code, parameters = packet
        if 1 <= servo_id <= 6 and len(parameters) == 4 and code == 0:
            findings.by_chance_asked_for += 1
    return ""
