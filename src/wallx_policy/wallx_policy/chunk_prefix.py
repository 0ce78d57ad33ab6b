"""What a new chunk has to begin with: what the arm was told, then what it will be told meanwhile.

The new chunk's rows lie between those of the last one, because observations are not whole periods
apart: everything is interpolated by time. All times are ROS time in nanoseconds, given by the
caller; positions are radians in the order of ``so101_driver.joints.JOINT_NAMES``.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline
from so101_driver.safety.types import Mode, State

Array = NDArray[np.float64]

COMMANDS_KEPT = 400
"""Four seconds at 100 Hz."""
CHUNKS_KEPT = 3
"""While safety lets a chunk take over, commands are between it and those before."""


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


@dataclass(frozen=True, slots=True, eq=False)
class TimedChunk:
    """A chunk as safety executes it.

    Attributes:
        due_ns: When row 0 is executed.
        period_s: Time between two rows.
        positions_rad: [rows, 6].
    """

    due_ns: int
    period_s: float
    positions_rad: Array

    @property
    def end_ns(self) -> int:
        """When the last row is executed."""
        return self.due_ns + round((len(self.positions_rad) - 1) * self.period_s * 1e9)

    def covers(self, times_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether times lie between the first row and the last."""
        return (times_ns >= self.due_ns) & (times_ns <= self.end_ns)

    def at(self, times_ns: NDArray[np.int64]) -> Array:
        """Return positions [times, 6], before and after the chunk its ends.

        A cubic through all rows, with the mean of the neighbouring slopes in each.
        """
        rows = len(self.positions_rad)
        if rows == 1:
            return np.repeat(self.positions_rad, len(times_ns), axis=0)
        steps = np.arange(rows, dtype=np.float64)
        wanted = np.clip((times_ns - self.due_ns) * 1e-9 / self.period_s, 0.0, steps[-1])
        slopes = np.gradient(self.positions_rad, axis=0)
        return CubicHermiteSpline(steps, self.positions_rad, slopes)(wanted)


@dataclass(frozen=True, slots=True)
class PrefixSettings:
    """How commands and chunks are put together.

    Attributes:
        tolerance_rad: How far a command may be from where the chunks lead.
        margin_s: From publishing a chunk to the command that begins to follow it.
        join_s: Time in which safety takes a newer chunk over: so long, what separates the last
            command from the chunk goes on to shrink.
        longest_gap_s: Between two commands, and since the last one.
        lookahead_s: How much earlier than due safety executes points; above 0 for chunks of reached
            positions (``action_kind: state``).
    """

    tolerance_rad: float = 0.05
    margin_s: float = 0.02
    join_s: float = 0.1
    longest_gap_s: float = 0.1
    lookahead_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Following:
    """What safety says it is doing; None where it has not said."""

    state: State | None
    mode: Mode | None


class PrefixBuilder:
    """Remembers chunks and commands of one activation, and makes prefixes of them."""

    def __init__(self, settings: PrefixSettings | None = None) -> None:
        self._settings = settings if settings is not None else PrefixSettings()
        self._chunks: deque[TimedChunk] = deque(maxlen=CHUNKS_KEPT)
        self._commands: deque[tuple[int, Array]] = deque(maxlen=COMMANDS_KEPT)

    def clear(self) -> None:
        """Forget everything: at activation, and when the clock jumped."""
        self._chunks.clear()
        self._commands.clear()

    def note_chunk(
        self, stamp_ns: int, image_age_s: float, period_s: float, positions_rad: ArrayLike
    ) -> None:
        """Remember a chunk that was published; the arguments are the message's."""
        positions = np.array(positions_rad, dtype=np.float64)
        due_ns = self._due_ns(stamp_ns, image_age_s)
        if self._chunks and due_ns <= self._chunks[-1].due_ns:
            self._chunks.clear()
        self._chunks.append(TimedChunk(due_ns, period_s, positions))

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
        if not self._chunks:
            return NoPrefix(NoPrefixReason.NO_CHUNK, "no chunk was published yet")
        newest = self._chunks[-1]
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
        fade = np.maximum(1.0 - ahead_s / self._settings.join_s, 0.0)[:, None]
        to_come = newest.at(rows_ns) + fade * (told_rad[-1] - newest.at(last_ns))
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
        lower = np.full_like(told_rad, math.inf)
        upper = np.full_like(told_rad, -math.inf)
        for chunk in self._chunks:
            inside = chunk.covers(times_ns)
            wanted = chunk.at(times_ns[inside])
            lower[inside] = np.minimum(lower[inside], wanted)
            upper[inside] = np.maximum(upper[inside], wanted)
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
