"""A chunk continues the one under way exactly when it is to; whoever wonders why not is told."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from so101_driver.safety.types import Mode, State
from wallx_policy.backends.base import PrefixMode
from wallx_policy.backends.scripted import scripted_contract
from wallx_policy.chunk_prefix import Following
from wallx_policy.conditioning import AUTO_MODE, Conditioner, Conditioning

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
BACKEND = SimpleNamespace(name="still", contract=scripted_contract())
TRACKING = Following(State.TRACKING, Mode.FULL)
LATENCY_S = 0.1


class Arm:
    """Holds still: chunks and commands are zero; the clocks run from the same zero."""

    def __init__(self, wanted: Conditioning, latency_s: float = LATENCY_S) -> None:
        self.counters: Counter[str] = Counter()
        self.conditioner = Conditioner(wanted, self.counters)
        self.latency_s = latency_s
        self.now_ms = 0

    def run(self, following: Following = TRACKING, chunks: int = 8, off_rad: float = 0.0) -> None:
        """One chunk every 80 ms, a command every 10."""
        for _ in range(chunks):
            chunk = SimpleNamespace(
                stamp_ns=START_NS + self.now_ms * MS - round(self.latency_s * 1e9),
                image_age_s=0.0,
                period_s=0.04,
                positions_rad=np.zeros((25, 6)),
                committed_steps=0,
            )
            self.conditioner.note_published(chunk, self.latency_s, generation=1)
            for _ in range(8):
                self.now_ms += 10
                self.conditioner.note_command(START_NS + self.now_ms * MS, np.full(6, off_rad))
            self.conditioner.note_safety(following, self.now_ms * MS)

    def prefix(self, generation: int = 1, later_ms: int = 0):
        return self.conditioner.prefix(
            BACKEND,
            START_NS + (self.now_ms - 20) * MS,
            ros_ns=START_NS + self.now_ms * MS,
            steady_ns=(self.now_ms + later_ms) * MS,
            generation=generation,
        )


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [
        (Conditioning.AUTO, AUTO_MODE),
        (Conditioning.FROZEN, PrefixMode.FROZEN),
        (Conditioning.GUIDED, PrefixMode.GUIDED),
    ],
)
def test_the_mode_is_the_one_asked_for(wanted: Conditioning, mode: PrefixMode) -> None:
    arm = Arm(wanted)
    arm.run()
    prefix, how = arm.prefix()
    assert how is mode
    # Rows at 0, 40, 80, 120 ms after the observation; the chunk arrives after 100 and a margin.
    assert prefix.committed == 4
    assert len(prefix.positions_rad) > prefix.committed
    assert "4 of 25 steps committed" in arm.conditioner.says
    assert not arm.counters


def test_off_is_off() -> None:
    arm = Arm(Conditioning.OFF)
    arm.run()
    assert arm.prefix() is None
    assert not arm.counters


@pytest.mark.parametrize(("latency_s", "used"), [(0.039, False), (0.041, True)])
def test_auto_waits_for_inference_to_take_a_period(latency_s: float, used: bool) -> None:
    arm = Arm(Conditioning.AUTO, latency_s)
    arm.run()
    assert (arm.prefix() is not None) is used
    assert ("not needed" in arm.conditioner.says) is not used
    assert not arm.counters
    always = Arm(Conditioning.FROZEN, latency_s)
    always.run()
    assert always.prefix() is not None


@pytest.mark.parametrize(
    ("following", "reason"),
    [
        (Following(State.TRACKING, Mode.SCALED), "NOT_FULL"),
        (Following(State.TRACKING, Mode.SHADOW), "NOT_FULL"),
        (Following(State.TRACKING, None), "NOT_FULL"),
        (Following(State.HOLD, Mode.FULL), "NOT_TRACKING"),
        (Following(None, Mode.FULL), "NOT_TRACKING"),
    ],
)
def test_nothing_is_continued_that_safety_does_not_follow(following, reason: str) -> None:
    arm = Arm(Conditioning.AUTO)
    arm.run(following)
    assert arm.prefix() is None
    assert arm.counters == {f"chunks without prefix: {reason}": 1}
    assert arm.conditioner.says.startswith("none: safety")


def test_commands_that_left_the_chunk_are_not_continued() -> None:
    arm = Arm(Conditioning.AUTO)
    arm.run(off_rad=0.06)
    assert arm.prefix() is None
    assert arm.counters == {"chunks without prefix: LEFT": 1}


def test_the_first_chunks_tell_no_latency() -> None:
    arm = Arm(Conditioning.AUTO)
    arm.run(chunks=5)
    assert arm.prefix() is None
    assert arm.counters == {"chunks without prefix: NO_LATENCY": 1}
    arm.run(chunks=1)
    assert arm.prefix() is not None


def test_old_news_of_safety_are_none() -> None:
    arm = Arm(Conditioning.AUTO)
    arm.run()
    assert arm.prefix(later_ms=500) is not None
    assert arm.prefix(later_ms=501) is None
    assert arm.counters == {"chunks without prefix: NOT_FULL": 1}


def test_another_instruction_keeps_only_what_cannot_be_changed() -> None:
    arm = Arm(Conditioning.AUTO)
    arm.run()
    prefix, _ = arm.prefix(generation=2)
    assert len(prefix.positions_rad) == prefix.committed == 4
