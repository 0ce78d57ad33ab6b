"""Decides whether the next chunk continues the one under way, and counts why it does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from wallx_policy.backends.base import Backend, PrefixMode
from wallx_policy.chunk_prefix import (
    Following,
    JointPrefix,
    NoPrefix,
    PrefixBuilder,
    PrefixSettings,
)
from wallx_policy.chunks import Chunk
from wallx_policy.latency import SteadyLatency

AUTO_MODE = PrefixMode.GUIDED
"""What ``auto`` takes; docs/chunking.md has the measurement behind it."""

TRUSTED_STATUS_S = 0.5
"""Safety says ten times a second what it does; older news say nothing."""

UNKNOWN = Following(None, None)


class Conditioning(Enum):
    """When and how chunks continue each other; the parameter ``chunk_conditioning``."""

    AUTO = "auto"
    """When a chunk comes later than one period after its observation."""
    OFF = "off"
    FROZEN = "frozen"
    GUIDED = "guided"

    @property
    def mode(self) -> PrefixMode:
        """How; of OFF it means nothing."""
        named = {Conditioning.FROZEN: PrefixMode.FROZEN, Conditioning.GUIDED: PrefixMode.GUIDED}
        return named.get(self, AUTO_MODE)


@dataclass(slots=True)
class Conditioner:
    """Of one activation; not thread-safe.

    Attributes:
        wanted: When and how.
        lookahead_s: How much earlier than due safety executes points; 0 for chunks of goals.
        counters: Gets one count per chunk without a prefix, by reason.
        says: One sentence on the last chunk, for diagnostics.
    """

    wanted: Conditioning
    counters: Counter[str]
    lookahead_s: float = 0.0
    says: str = "no chunk was made yet"
    _builder: PrefixBuilder = field(init=False)
    _latency: SteadyLatency = field(default_factory=SteadyLatency)
    _following: Following = UNKNOWN
    _following_ns: int = 0
    _generation: int = -1

    def __post_init__(self) -> None:
        self._builder = PrefixBuilder(PrefixSettings(lookahead_s=self.lookahead_s))

    def note_command(self, stamp_ns: int, positions_rad: NDArray[np.float64]) -> None:
        """Remember what the arm was told, ROS time."""
        self._builder.note_command(stamp_ns, positions_rad)

    def note_safety(self, following: Following, steady_ns: int) -> None:
        """Remember what safety says it does, and when it said so."""
        self._following, self._following_ns = following, steady_ns

    def note_published(self, chunk: Chunk, total_s: float, generation: int) -> None:
        """Remember a chunk, the time since its observation, and which instruction it is of."""
        self._latency.add(total_s)
        self._generation = generation
        self._builder.note_chunk(
            chunk.stamp_ns,
            chunk.image_age_s,
            chunk.period_s,
            chunk.positions_rad,
            published_ns=chunk.stamp_ns + round(total_s * 1e9),
            committed=chunk.committed_steps,
        )

    def prefix(
        self,
        backend: Backend,
        stamp_ns: int,
        *,
        ros_ns: int,
        steady_ns: int,
        generation: int,
    ) -> tuple[JointPrefix, PrefixMode] | None:
        """Return what the chunk of an observation has to begin with and how; None for nothing.

        Args:
            backend: Who makes the chunk.
            stamp_ns: Of the observation, ROS time.
            ros_ns: The present.
            steady_ns: The present.
            generation: Of the instruction that the chunk is for. The rest of a chunk of another one
                is no longer wanted: only what cannot be changed any more is given.
        """
        if self.wanted is Conditioning.OFF:
            self.says = "off"
            return None
        contract, expected_s = backend.contract, self._latency.expected_s
        slow = expected_s is None or expected_s > contract.period_s
        if self.wanted is Conditioning.AUTO and not slow:
            self.says = f"not needed: chunks come {expected_s * 1e3:.0f} ms after their observation"
            return None
        recent = steady_ns - self._following_ns <= TRUSTED_STATUS_S * 1e9
        found = self._builder.build(
            stamp_ns,
            contract.image_age_s,
            contract.period_s,
            contract.horizon,
            now_ns=ros_ns,
            latency_s=expected_s,
            following=self._following if recent else UNKNOWN,
            guide=generation == self._generation,
        )
        if isinstance(found, NoPrefix):
            self.counters[f"chunks without prefix: {found.reason.name}"] += 1
            self.says = f"none: {found.text}"
            return None
        mode = self.wanted.mode
        self.says = f"{mode.value}, {found.committed} of {contract.horizon} steps committed"
        return found, mode
