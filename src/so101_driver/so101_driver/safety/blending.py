"""Combines the chunks that are in force into one reference, tick by tick.

Chunks overlap: a policy sends the next one long before the last has ended. The reference is a stack
of layers, each a path with its own clock, and each newer layer fades in over the one below with a
C2 weight. So the reference is as smooth across chunks as within them, whatever their rate, and
chunks that disagree are averaged while they fade. Everything, fading included, advances by the
given rate: at rate 0 the reference stands still.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from so101_driver.safety.chunk_gate import SHORTEST_STEP_S, AcceptedChunk
from so101_driver.safety.limits import Limits
from so101_driver.safety.reference import ChunkPath, slowing_time_s
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import Array, Blend

JOIN_SHARE = 0.2
"""Share of the acceleration and jerk limits that fading between two chunks may use; a join between
chunks that are far apart takes longer for it."""

LONGEST_JOIN_S = 0.5
"""But never longer than this: what is left is for the limiter."""

_FADE_ACCELERATION, _FADE_JERK = 5.78, 60.0
"""Largest second and third derivative of the fading weight over a unit of time."""

SETTLED = 0.12
"""How far a layer must have faded in before the next may begin; of the chunks that come earlier the
newest waits. It bounds the stack, and with it what joins that overlap add up to."""

MOST_MEMBERS = 12
"""Chunks of an ensemble; of more, the oldest leave early."""

STREAM_INTERVAL_S = 0.1
"""Single points that follow each other this closely are a motion, others are goals to go to."""

STREAM_POINTS = 4
"""Points of a stream that tell its velocity."""

STREAM_JOIN = 3
"""Intervals of a stream over which a newer point takes over."""

LOOK_AHEAD_S = 0.15
"""A stream's motion is continued for at most this long; without a new point it then brakes."""


@dataclass(slots=True, eq=False)
class _Voice:
    """One chunk's path and its clock.

    Attributes:
        path: What the chunk describes.
        time_s: Path time of the reference's ``next``.
        takes_s: Path time from which it may take over.
        committed: Whether it begins with points that those before it have promised.
        blend: How it is combined with the one before.
        join_s: Time over which it fades in, and out of an ensemble; at first the least.
        longest_join_s: The most that this may become.
        rests: Whether it slows down at its end; not if it has faded away by then.
        entered: Progress of fading in within an ensemble, 0 to 1.
        left: Progress of leaving an ensemble, 0 to 1; negative while it stays.
        state: [2, joints], its position and the step of the last tick that led there.
    """

    path: ChunkPath
    time_s: float
    takes_s: float
    committed: bool
    blend: Blend
    join_s: float
    longest_join_s: float
    rests: bool = True
    entered: float = 1.0
    left: float = -1.0
    state: Array = field(init=False)

    def __post_init__(self) -> None:
        position = self.path.at(self.time_s)
        self.state = np.array((position, np.zeros_like(position)))

    def advance(self, step_s: float) -> None:
        """Go on by ``step_s`` of path time."""
        self.time_s += step_s
        position = self.path.at(self.time_s, self.rests)
        self.state = np.array((position, position - self.state[0]))
        self.entered = min(self.entered + step_s / self.join_s, 1.0)
        if self.left >= 0.0:
            self.left += step_s / self.join_s

    def superseded(self, join_s: float) -> None:
        """A newer chunk fades in over ``join_s``; what is gone by its end need not rest there."""
        if self.time_s <= self.path.slows_s:
            self.rests = self.path.end_s - self.time_s < join_s

    def weight(self, decay_per_s: float) -> float:
        """Weight in an ensemble, before normalisation."""
        share = _fade(self.entered) * (1.0 - _fade(max(self.left, 0.0)))
        return max(share, 1e-9) * math.exp(-decay_per_s * max(self.time_s, 0.0))


@dataclass(slots=True, eq=False)
class _Layer:
    """A voice, or an ensemble of voices (the newest last), that fades in over what is below."""

    voices: list[_Voice]
    join_s: float
    entered: float = 0.0

    def blended(self, decay_per_s: float) -> Array:
        """[2, joints], position and step."""
        if len(self.voices) == 1:
            return self.voices[0].state
        weights = np.array([voice.weight(decay_per_s) for voice in self.voices])
        states = np.array([voice.state for voice in self.voices])
        return np.tensordot(weights / weights.sum(), states, axes=1)


class Blender:
    """Reference positions for three successive ticks, from all chunks in force.

    Attributes:
        before: Reference one tick before ``now``.
        now: Reference at the time of the present commanded position.
        next: Reference at the time of the command to be made.
        step: How far the chunks themselves go from ``now`` to ``next``. Joins are not in it: a
            chunk that begins where the arm is, behind the one before, still goes forwards.
        steps_only: Whether only ``step`` is used. The gap between two chunks does not matter then,
            and a join that is longer for it would go on with what older chunks say of later.
    """

    def __init__(self, limits: Limits, settings: Settings) -> None:
        self._limits = limits
        self._settings = settings
        self.steps_only = False
        self._stack: list[_Layer] = []
        self._waiting: list[_Voice] = []
        self._stream: deque[tuple[int, Array]] = deque(maxlen=STREAM_POINTS)
        self.before = self.now = self.next = self.step = np.zeros(len(limits.joint_names))

    @property
    def empty(self) -> bool:
        """Whether no chunk is in force."""
        return not self._stack

    @property
    def ended(self) -> bool:
        """Whether the reference is at rest from now on."""
        margin_s = 2.0 * self._settings.period_s
        return (
            len(self._stack) == 1
            and not self._waiting
            and all(
                voice.time_s - margin_s >= voice.path.duration_s for voice in self._stack[0].voices
            )
        )

    def clear(self) -> None:
        """Forget all chunks."""
        self._stack.clear()
        self._waiting.clear()
        self._stream.clear()

    def add(self, chunk: AcceptedChunk, steady_ns: int) -> None:
        """Take a chunk; ``steady_ns`` is the time of the command to be made."""
        voice = self._voice(chunk, steady_ns)
        if not self._stack:
            self._stack.append(_Layer([voice], voice.join_s, entered=1.0))
            period_s = self._settings.period_s
            self.before, self.now, self.next = (
                voice.path.at(voice.time_s + k * period_s) for k in (-2, -1, 0)
            )
            self.step = self.next - self.now
            return
        if voice.committed:
            # It was made to follow those before it, so they keep their turns.
            takes_in_s = voice.takes_s - voice.time_s
            self._waiting = [
                other for other in self._waiting if other.takes_s - other.time_s < takes_in_s
            ]
            self._waiting.append(voice)
        else:
            self._waiting = [voice]
        self._take_over()

    def advance(self, rate: float = 1.0) -> None:
        """Go on by exactly one tick; path time advances by ``rate`` of it."""
        period_s = self._settings.period_s
        step_s = rate * period_s
        for layer in self._stack:
            if layer.entered < 1.0:
                layer.entered = min(layer.entered + step_s / layer.join_s, 1.0)
            for voice in layer.voices:
                voice.advance(step_s)
            if len(layer.voices) > 1:
                _thin_out(layer.voices)
        while len(self._stack) > 1 and self._stack[1].entered >= 1.0:
            del self._stack[0]
        for voice in self._waiting:
            # What waits stays aligned with time, so that its turn recovers what was lost.
            voice.advance(period_s)
        self.before, self.now = self.now, self.next
        if self._stack:
            self.next, self.step = self._blended()
            self._take_over()

    def _blended(self) -> Array:
        """Position and step of the whole stack."""
        decay_per_s = self._settings.ensemble_decay_per_s
        blended = self._stack[0].blended(decay_per_s)
        for layer in self._stack[1:]:
            blended = blended + _fade(layer.entered) * (layer.blended(decay_per_s) - blended)
        return blended

    # Taking over.

    def _take_over(self) -> None:
        """Let the newest whose turn it is begin; those before it are past then."""
        for index in range(len(self._waiting) - 1, -1, -1):
            if self._its_turn(self._waiting[index]):
                self._enter(self._waiting[index])
                del self._waiting[: index + 1]
                return

    def _its_turn(self, voice: _Voice) -> bool:
        if self._stack[-1].entered < SETTLED:
            return False
        present = self._stack[-1].voices[-1]
        if voice.time_s >= voice.takes_s and (
            voice.blend is not Blend.HALF
            or present.time_s >= self._settings.half_share * present.path.end_s
        ):
            return True
        return present.time_s >= present.path.slows_s and voice.time_s >= 0.0

    def _enter(self, voice: _Voice) -> None:
        top = self._stack[-1]
        present = top.voices[-1]
        if voice.blend is present.blend is Blend.ENSEMBLE:
            weights = [v.weight(self._settings.ensemble_decay_per_s) for v in (*top.voices, voice)]
            voice.join_s = self._join_s(voice, present, weights[-1] / sum(weights))
            voice.entered = 0.0
            present.superseded(voice.join_s)
            top.voices.append(voice)
            return
        layer = _Layer([voice], self._join_s(voice, present))
        for older in top.voices:
            older.superseded(layer.join_s)
        self._stack.append(layer)

    def _join_s(self, voice: _Voice, present: _Voice, share: float = 1.0) -> float:
        """Time that fading from the reference to a voice needs within its share of the limits."""
        if self.steps_only:
            return voice.join_s
        ahead_s = voice.join_s
        later = present.path.at(present.time_s + ahead_s)
        gap = share * np.maximum(
            np.abs(voice.path.at(voice.time_s) - self.next),
            np.abs(voice.path.at(voice.time_s + ahead_s) - later),
        )
        by_acceleration = np.sqrt(
            _FADE_ACCELERATION * gap / (JOIN_SHARE * self._limits.acceleration_rad_s2)
        )
        by_jerk = np.cbrt(_FADE_JERK * gap / (JOIN_SHARE * self._limits.jerk_rad_s3))
        needed_s = float(np.maximum(by_acceleration, by_jerk).max())
        return max(voice.join_s, min(needed_s, voice.longest_join_s))

    # From chunks to paths.

    def _voice(self, chunk: AcceptedChunk, steady_ns: int) -> _Voice:
        time_s = (steady_ns - chunk.first_due_ns) * 1e-9
        points, step_s, join_s = chunk.points_rad, chunk.step_s, self._settings.join_s
        longest_join_s = LONGEST_JOIN_S
        committed = chunk.committed_steps > 0
        blend = Blend.LATEST if committed else self._settings.blend
        if len(points) == 1:
            points, step_s, interval_s = self._continued(chunk, time_s)
            blend = Blend.LATEST
            if step_s > 0.0:
                # A longer join would be a lag: the path of a stream is short.
                join_s = longest_join_s = min(join_s, STREAM_JOIN * interval_s)
        else:
            self._stream.clear()
        path = ChunkPath(
            points,
            step_s,
            self._settings.fit_tolerance_rad,
            self._limits,
        )
        takes_s = max(chunk.committed_steps - 1, 0) * step_s
        return _Voice(
            path,
            time_s,
            takes_s=takes_s,
            committed=committed,
            blend=blend,
            join_s=max(join_s, self._settings.period_s),
            longest_join_s=longest_join_s,
        )

    def _continued(self, chunk: AcceptedChunk, time_s: float) -> tuple[Array, float, float]:
        """Points that go on from a single point, their spacing, and the time since the one before.

        A lone point is a goal. Points that follow each other closely are samples of a motion: it
        goes on with its velocity until the next one comes, and without one for a bounded time.
        """
        stream, limits = self._stream, self._limits
        due_ns, point = chunk.first_due_ns, chunk.points_rad[0]
        if stream:
            interval_s = (due_ns - stream[-1][0]) * 1e-9
            if not SHORTEST_STEP_S <= interval_s <= STREAM_INTERVAL_S:
                stream.clear()
        stream.append((due_ns, point))
        if len(stream) < 2:
            return chunk.points_rad, 0.0, 0.0
        times = np.array([(due - due_ns) * 1e-9 for due, _ in stream])
        positions = np.array([position for _, position in stream])
        centred = times - times.mean()
        velocity = centred @ positions / (centred @ centred)
        velocity = np.minimum(np.maximum(velocity, -limits.velocity_rad_s), limits.velocity_rad_s)
        interval_s = -float(times[0]) / (len(stream) - 1)
        ahead_s = min(max(time_s, 0.0) + (STREAM_JOIN + 2) * interval_s, LOOK_AHEAD_S)
        ahead_s += slowing_time_s(velocity, limits)
        return np.array((point, point + ahead_s * velocity)), ahead_s, interval_s


def _thin_out(voices: list[_Voice]) -> None:
    """Let voices of an ensemble leave in time before they end, while the newest stays."""
    for age, voice in enumerate(reversed(voices)):
        if age and voice.left < 0.0:
            ends = voice.rests or voice.time_s >= voice.path.end_s - voice.join_s
            if ends or age >= MOST_MEMBERS:
                voice.left = 0.0
    voices[:] = [voice for voice in voices if voice.left < 1.0]


def _fade(progress: float) -> float:
    """Weight that rises from 0 to 1 with zero first and second derivative at both ends."""
    u = min(max(progress, 0.0), 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))
