"""Decides which chunks are followed, when their points are due, and when they are stale."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from so101_driver.safety.settings import Settings
from so101_driver.safety.types import ActionKind, Array, Chunk, Limit

MOST_POINTS = 200
SHORTEST_STEP_S = 0.002
LONGEST_STEP_S = 1.0
LARGEST_POSITION_RAD = 4.0 * math.pi
"""No joint means a position beyond this; what merely exceeds the limits is followed up to them."""
LARGEST_IMAGE_AGE_S = 1.0
SINGLE_POINT_TIMEOUT_S = 0.5
"""A single point has no horizon; this is its first timeout, until intervals are measured."""
LONGEST_SINGLE_POINT_TIMEOUT_S = 5.0
"""However rarely they come: no horizon tells when a goal is no longer wanted."""
_HISTORY = 100
_MOST_SESSIONS = 16

SKEW_CHUNKS = 50
"""Chunks whose best one tells the difference between the clocks."""
LONGEST_SENDING_S = 60.0
"""A sender that claims to have taken longer from observation to chunk is not believed."""


@dataclass(frozen=True, slots=True, eq=False)
class AcceptedChunk:
    """A chunk that may be followed.

    Attributes:
        points_rad: [points, joints].
        step_s: Time between points.
        first_due_ns: Steady time at which the first point is due.
        committed_steps: Leading points that repeat what earlier chunks have promised.
    """

    points_rad: Array
    step_s: float
    first_due_ns: int
    committed_steps: int = 0

    def due_rad(self, steady_ns: int) -> Array:
        """The point that is due now; before and after the chunk, its ends."""
        last = len(self.points_rad) - 1
        steps = (steady_ns - self.first_due_ns) * 1e-9 / self.step_s if last else 0.0
        return self.points_rad[round(min(max(steps, 0.0), last))]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a chunk is not followed: the limit that counts it, and a sentence."""

    limit: Limit
    reason: str


class ChunkGate:
    """Checks chunks and remembers the newest accepted one.

    Attributes:
        source: Whose chunks are followed; empty until the first one is accepted.
        clock_skew_s: How far the newest chunk's stamp was ahead of its arrival beyond what its
            latency explains; NaN without one.
        skew_s: How far the sender's clock is ahead of this one (behind: negative), too small by the
            least time that a chunk was under way; NaN while unknown.
    """

    def __init__(self, joint_names: tuple[str, ...], settings: Settings) -> None:
        self._joint_names = joint_names
        self._settings = settings
        self._selected = self.source = settings.source
        self.clock_skew_s = self.skew_s = math.nan
        self._skews_s: deque[float] = deque(maxlen=SKEW_CHUNKS)
        self._skew_of: tuple[str, int] | None = None
        self._intervals_s: deque[float] = deque(maxlen=_HISTORY)
        self._latencies_s: deque[float] = deque(maxlen=_HISTORY)
        self._newest: Chunk | None = None
        self._given_up: deque[tuple[str, int]] = deque(maxlen=_MOST_SESSIONS)
        self._stamp_ns = 0
        self._arrival_ns = 0
        self._timeout_s = 0.0

    def select(self, source: str) -> None:
        """Follow another publisher; empty takes the next one that comes."""
        self._selected = source
        self.restart()

    def restart(self) -> None:
        """Begin anew, for an arm that was just armed; the clocks are what they were."""
        self.source = self._selected
        self._newest = None
        self._given_up.clear()
        self._intervals_s.clear()
        self._latencies_s.clear()
        self.clock_skew_s = math.nan

    def forget(self) -> None:
        """Drop the history after a jump of ROS time: no earlier chunk is fresh, no skew known."""
        source = self.source
        self.restart()
        self.source = source
        self._skews_s.clear()
        self.skew_s = math.nan

    def measure_skew(self, chunk: Chunk, ros_ns: int) -> None:
        """Compare clocks by a chunk that arrived now, followed or not, in any state of the arm.

        A chunk left its sender ``observation_to_publish_s`` after its stamp by the sender's clock.
        What its arrival seems too late by is the skew and the time under way; the chunk that was
        under way for the shortest time tells most.
        """
        followed = self.source or self._selected
        sending_s = chunk.observation_to_publish_s
        if (followed and chunk.source != followed) or not 0.0 <= sending_s <= LONGEST_SENDING_S:
            return
        if (chunk.source, chunk.session) != self._skew_of:
            self._skew_of = (chunk.source, chunk.session)
            self._skews_s.clear()
        # The tick's own time would be early by the tick's delay, which would look like a skew.
        received_ns = ros_ns if chunk.received_ros_ns is None else chunk.received_ros_ns
        self._skews_s.append((chunk.stamp_ns - received_ns) * 1e-9 + sending_s)
        self.skew_s = max(self._skews_s)

    def age_s(self, steady_ns: int) -> float:
        """Time since the newest accepted chunk's observation; NaN without one."""
        return math.nan if self._newest is None else (steady_ns - self._stamp_ns) * 1e-9

    def fresh(self, steady_ns: int) -> bool:
        """Whether the newest accepted chunk may still be followed."""
        return self._newest is not None and self.age_s(steady_ns) <= self._timeout_s

    def offer(
        self, chunk: Chunk, steady_ns: int, ros_ns: int, any_session: bool
    ) -> AcceptedChunk | Refusal:
        """Check a chunk that arrived now; ``any_session`` takes any new session."""
        if self.source and chunk.source != self.source:
            return Refusal(
                Limit.OTHER_SOURCE,
                f"chunks of '{chunk.source}' are ignored because '{self.source}' is followed",
            )
        problem, points, step_s = _content(chunk, self._joint_names)
        if problem:
            return Refusal(Limit.BAD_CHUNK, problem)
        ahead_s = (chunk.stamp_ns - ros_ns) * 1e-9
        if ahead_s > self._settings.max_clock_skew_s:
            return Refusal(
                Limit.CLOCK, f"the policy's clock is {ahead_s:.2f} s ahead: synchronise with chrony"
            )
        # From here on everything is steady time: ROS time is mapped once, on receipt.
        stamp_ns = steady_ns - max(ros_ns - chunk.stamp_ns, 0)
        latency_s = (steady_ns - stamp_ns) * 1e-9
        horizon_s = chunk.image_age_s + (len(points) - 1) * step_s
        longest_s = self._settings.chunk_timeout_s or (
            horizon_s if len(points) > 1 else SINGLE_POINT_TIMEOUT_S
        )
        if latency_s > longest_s:
            return Refusal(
                Limit.STALE_CHUNK, f"a chunk arrived {latency_s:.2f} s after its observation"
            )
        disorder = self._disorder(chunk, any_session)
        if disorder:
            return Refusal(Limit.STALE_CHUNK, disorder)
        self._remember(chunk, steady_ns, stamp_ns, latency_s, horizon_s, len(points))
        sending_s = chunk.observation_to_publish_s
        self.clock_skew_s = (
            ahead_s + sending_s if 0.0 <= sending_s <= LONGEST_SENDING_S else max(ahead_s, 0.0)
        )
        lookahead_s = (
            self._settings.state_lookahead_s if chunk.action_kind == ActionKind.STATE else 0.0
        )
        due_ns = stamp_ns + round((chunk.image_age_s - lookahead_s) * 1e9)
        return AcceptedChunk(points, step_s, due_ns, chunk.committed_steps)

    def _disorder(self, chunk: Chunk, any_session: bool) -> str:
        last = self._newest
        if last is None:
            return ""
        if _session(chunk) != _session(last):
            if any_session:
                return ""
            if _session(chunk) in self._given_up:
                return (
                    f"a session of '{chunk.source}' that was given up for a newer one still sends: "
                    "are two of them running?"
                )
            if chunk.stamp_ns > last.stamp_ns:
                return ""
            return "a new session's chunk is older than the one that is followed"
        if chunk.sequence <= last.sequence:
            return f"chunk {chunk.sequence} came after chunk {last.sequence}"
        if chunk.stamp_ns < last.stamp_ns:
            return f"chunk {chunk.sequence} has an older observation than the one before"
        return ""

    def _remember(
        self,
        chunk: Chunk,
        steady_ns: int,
        stamp_ns: int,
        latency_s: float,
        horizon_s: float,
        points: int,
    ) -> None:
        last = self._newest
        if last is None or _session(last) != _session(chunk):
            self._intervals_s.clear()
            if _session(chunk) in self._given_up:
                self._given_up.remove(_session(chunk))
            if last is not None:
                self._given_up.append(_session(last))
        elif steady_ns > self._arrival_ns:
            # Chunks of one tick are one arrival.
            self._intervals_s.append((steady_ns - self._arrival_ns) * 1e-9)
        self._latencies_s.append(latency_s)
        self._newest = chunk
        self._stamp_ns, self._arrival_ns = stamp_ns, steady_ns
        self.source = chunk.source
        if self._settings.chunk_timeout_s > 0.0:
            self._timeout_s = self._settings.chunk_timeout_s
            return
        measured_s = math.inf
        if self._intervals_s:
            measured_s = 2.0 * _quantile(self._intervals_s, 0.5) + _quantile(
                self._latencies_s, 0.99
            )
        elif points == 1:
            measured_s = SINGLE_POINT_TIMEOUT_S
        longest_s = horizon_s if points > 1 else LONGEST_SINGLE_POINT_TIMEOUT_S
        self._timeout_s = min(longest_s, measured_s)


def _session(chunk: Chunk) -> tuple[str, int]:
    return chunk.source, chunk.session


def _quantile(values: deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def _content(chunk: Chunk, joint_names: tuple[str, ...]) -> tuple[str, Array, float]:
    """Return what is wrong with a chunk's content or "", its points and their spacing."""
    nothing = np.zeros((0, len(joint_names)))

    def bad(reason: str) -> tuple[str, Array, float]:
        return reason, nothing, 0.0

    if chunk.action_kind not in (ActionKind.GOAL, ActionKind.STATE):
        return bad("a chunk does not say whether its actions are goals or states (action_kind)")
    if tuple(chunk.joint_names) != joint_names:
        return bad(
            f"a chunk is for the joints {', '.join(chunk.joint_names) or 'none'}, "
            f"not {', '.join(joint_names)}"
        )
    count = len(chunk.points_rad)
    if count == 0:
        return bad("a chunk has no points")
    if count > MOST_POINTS:
        return bad(f"a chunk has {count} points, more than {MOST_POINTS}")
    if len(chunk.offsets_ns) != count:
        return bad(f"a chunk has {count} points but {len(chunk.offsets_ns)} times")
    for index, point in enumerate(chunk.points_rad):
        if len(point) != len(joint_names):
            return bad(
                f"point {index} of a chunk has {len(point)} positions for {len(joint_names)} joints"
            )
    if not 0 <= chunk.committed_steps <= count:
        return bad(f"a chunk of {count} points has {chunk.committed_steps} committed steps")
    points = np.array(chunk.points_rad, dtype=np.float64)
    legal = np.abs(points) <= LARGEST_POSITION_RAD
    if not legal.all():
        # Written so that NaN is caught too.
        index, joint = np.argwhere(~legal)[0]
        return bad(
            f"{joint_names[joint]} of point {index} of a chunk is {points[index, joint]} rad"
        )
    if not 0.0 <= chunk.image_age_s <= LARGEST_IMAGE_AGE_S:
        return bad(f"a chunk's image_age_s is {chunk.image_age_s}")
    if chunk.offsets_ns[0] != 0:
        return bad("a chunk's first time_from_start is not 0")
    if count == 1:
        return "", points, 0.0
    step_s = chunk.offsets_ns[-1] * 1e-9 / (count - 1)
    if not SHORTEST_STEP_S <= step_s <= LONGEST_STEP_S:
        return bad(f"a chunk's points are {step_s:g} s apart")
    # A tenth of a per cent of a step: rounding of message times, not jitter.
    tolerance_s = 1e-3 * step_s
    for index, offset_ns in enumerate(chunk.offsets_ns):
        if abs(offset_ns * 1e-9 - index * step_s) > tolerance_s:
            return bad(f"the points of a chunk are not equally far apart in time (point {index})")
    return "", points, step_s
