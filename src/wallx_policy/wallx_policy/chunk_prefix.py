"""What a new chunk has to begin with: what the arm was told, then what it will be told meanwhile.

The new chunk's rows lie between those of the last one, because observations are not whole periods
apart: everything is interpolated by time. All times are ROS time in nanoseconds, given by the
caller; positions are radians in the order of ``so101_driver.joints.JOINT_NAMES``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import ArrayLike, NDArray
from so101_driver.safety.types import Mode, State

from wallx_policy.joined_chunks import JoinedChunks, JoinSettings, TimedChunk

Array = NDArray[np.float64]

COMMANDS_KEPT = 400
"""Four seconds at 100 Hz."""
CORRECTION_S = 0.2
"""What separates the newest command from the expected one is expected to vanish in so long."""


class NoPrefixReason(Enum):
    """Why a chunk is made without a prefix."""

    NOT_FULL = auto()
    """Commands do not follow the chunks in time: SHADOW or SCALED."""
    NOT_TRACKING = auto()
    """Safety does not follow chunks."""
    NO_CHUNK = auto()
    """There is none to continue."""
    NO_LATENCY = auto()
    """Not enough inferences yet to know how long one takes."""
    NO_COMMANDS = auto()
    """What the arm was told since the observation is not known."""
    LEFT = auto()
    """Commands are not where the chunks lead."""
    NO_OVERLAP = auto()
    """The last chunk ends before the new one can arrive."""


@dataclass(frozen=True, slots=True)
class NoPrefix:
    """Why there is none, for counters and for the user."""

    reason: NoPrefixReason
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class JointPrefix:
    """The beginning of a new chunk.

    Attributes:
        positions_rad: [rows, 6] on the new chunk's grid, from its row 0 on.
        committed: Leading rows that the new chunk cannot change any more; at least 1.
    """

    positions_rad: Array
    committed: int


@dataclass(frozen=True, slots=True)
class PrefixSettings:
    """How commands and chunks are put together.

    Attributes:
        tolerance_rad: How far a command may be from where the chunks lead.
        margin_s: From publishing a chunk to the command that begins to follow it.
        longest_gap_s: Between two commands, and since the last one.
        lookahead_s: How much earlier than due safety executes points; above 0 for chunks of reached
            positions (``action_kind: state``).
        join: How safety lets a chunk take over.
    """

    tolerance_rad: float = 0.05
    margin_s: float = 0.02
    longest_gap_s: float = 0.1
    lookahead_s: float = 0.0
    join: JoinSettings = field(default_factory=JoinSettings)


@dataclass(frozen=True, slots=True)
class Following:
    """What safety says it is doing; None where it has not said."""

    state: State | None
    mode: Mode | None


class PrefixBuilder:
    """Remembers chunks and commands of one activation, and makes prefixes of them."""

    def __init__(self, settings: PrefixSettings | None = None) -> None:
        self._settings = settings if settings is not None else PrefixSettings()
        self._chunks = JoinedChunks(self._settings.join)
        self._commands: deque[tuple[int, Array]] = deque(maxlen=COMMANDS_KEPT)

    def clear(self) -> None:
        """Forget everything: at activation, and when the clock jumped."""
        self._chunks.clear()
        self._commands.clear()

    def note_chunk(
        self,
        stamp_ns: int,
        image_age_s: float,
        period_s: float,
        positions_rad: ArrayLike,
        *,
        published_ns: int,
        committed: int,
    ) -> None:
        """Remember a chunk when it is published; the other arguments are the message's."""
        chunk = TimedChunk(
            self._due_ns(stamp_ns, image_age_s),
            period_s,
            np.array(positions_rad, dtype=np.float64),
        )
        arrival_ns = published_ns + round(self._settings.margin_s * 1e9)
        self._chunks.add(chunk, arrival_ns, committed)

    def note_command(self, stamp_ns: int, positions_rad: ArrayLike) -> None:
        """Remember one of ``joint_commands``; a stamp that does not grow begins anew."""
        positions = np.array(positions_rad, dtype=np.float64)
        if self._commands and stamp_ns <= self._commands[-1][0]:
            self._commands.clear()
        if np.isfinite(positions).all():
            self._commands.append((stamp_ns, positions))

    def build(
        self,
        stamp_ns: int,
        image_age_s: float,
        period_s: float,
        horizon: int,
        *,
        now_ns: int,
        latency_s: float | None,
        following: Following,
        guide: bool = True,
    ) -> JointPrefix | NoPrefix:
        """Return what the chunk of an observation has to begin with, or why nothing is known.

        The committed rows are those until the new chunk arrives and the first one after: on the way
        to that one, the last chunk is still followed.

        Args:
            stamp_ns: Of the observation.
            image_age_s: Of the contract.
            period_s: Between rows of the new chunk.
            horizon: Rows of the new chunk.
            now_ns: The present.
            latency_s: From an observation's stamp to its chunk, as `SteadyLatency` says.
            following: What safety does.
            guide: Whether to give more than the committed rows; not after a change of instruction,
                when the rest of the last chunk is no longer wanted.
        """
        if refusal := _not_following(following):
            return refusal
        if latency_s is None:
            return NoPrefix(NoPrefixReason.NO_LATENCY, "too few inferences yet to know their time")
        newest = self._chunks.newest
        if newest is None:
            return NoPrefix(NoPrefixReason.NO_CHUNK, "no chunk was published yet")
        rows_ns = self._due_ns(stamp_ns, image_age_s) + np.round(
            np.arange(horizon) * period_s * 1e9
        ).astype(np.int64)
        arrival_ns = stamp_ns + round((latency_s + self._settings.margin_s) * 1e9)
        committed = int(np.searchsorted(rows_ns, arrival_ns)) + 1
        rows = int(np.searchsorted(rows_ns, newest.end_ns, side="right"))
        if rows < committed:
            return NoPrefix(
                NoPrefixReason.NO_OVERLAP,
                f"the new chunk is to take over at its row {committed - 1} of {horizon}, the last "
                f"one covers {rows}",
            )
        told = self._told(int(rows_ns[0]), now_ns)
        if isinstance(told, NoPrefix):
            return told
        told_ns, told_rad = told
        if refusal := self._left(told_ns, told_rad):
            return refusal
        rows_ns = rows_ns[: rows if guide else committed]
        last_ns = told_ns[-1:]
        ahead_s = np.maximum(rows_ns - last_ns, 0) * 1e-9
        fade = np.maximum(1.0 - ahead_s / CORRECTION_S, 0.0)[:, None]
        to_come = self._chunks.at(rows_ns) + fade * (told_rad[-1] - self._chunks.at(last_ns))
        done = np.stack([np.interp(rows_ns, told_ns, joint) for joint in told_rad.T], axis=-1)
        positions = np.where((rows_ns <= last_ns)[:, None], done, to_come)
        return JointPrefix(positions, committed)

    def _due_ns(self, stamp_ns: int, image_age_s: float) -> int:
        return stamp_ns + round((image_age_s - self._settings.lookahead_s) * 1e9)

    def _told(self, from_ns: int, now_ns: int) -> tuple[NDArray[np.int64], Array] | NoPrefix:
        """Return stamps and positions of the commands from the last one before a time on."""

        def unknown(text: str) -> NoPrefix:
            return NoPrefix(NoPrefixReason.NO_COMMANDS, text)

        if not self._commands:
            return unknown("no joint_commands yet")
        stamps_ns = np.array([stamp_ns for stamp_ns, _ in self._commands], dtype=np.int64)
        age_s = (now_ns - int(stamps_ns[-1])) * 1e-9
        if abs(age_s) > self._settings.longest_gap_s:
            return unknown(f"the last of joint_commands is {age_s:.2f} s old")
        begin = int(np.searchsorted(stamps_ns, from_ns, side="right")) - 1
        if begin < 0:
            return unknown("joint_commands do not reach back to the observation")
        stamps_ns = stamps_ns[begin:]
        gap_s = float(np.diff(stamps_ns).max(initial=0)) * 1e-9
        if gap_s > self._settings.longest_gap_s:
            return unknown(f"joint_commands have a gap of {gap_s:.2f} s")
        positions = np.array([positions for _, positions in list(self._commands)[begin:]])
        return stamps_ns, positions

    def _left(self, times_ns: NDArray[np.int64], told_rad: Array) -> NoPrefix | None:
        """Compare commands with the chunks: they may be on any of them, or on the way between."""
        lower, upper = self._chunks.bounds(times_ns)
        known = np.isfinite(lower)
        off = np.maximum(lower - told_rad, told_rad - upper)[known]
        most_rad = float(off.max(initial=0.0))
        if most_rad <= self._settings.tolerance_rad:
            return None
        return NoPrefix(
            NoPrefixReason.LEFT,
            f"commands are {most_rad:.3f} rad from where the chunks lead "
            f"({self._settings.tolerance_rad:g} allowed)",
        )


def _not_following(following: Following) -> NoPrefix | None:
    if following.mode is not Mode.FULL:
        mode = "unknown" if following.mode is None else following.mode.name
        return NoPrefix(NoPrefixReason.NOT_FULL, f"safety's mode is {mode}, not FULL")
    if following.state is not State.TRACKING:
        state = "unknown" if following.state is None else following.state.name
        return NoPrefix(NoPrefixReason.NOT_TRACKING, f"safety is in {state}, not TRACKING")
    return None
