"""What `bench_chunking` compares: ways to go on from one chunk to the next, and how well they do.

Time is that of the recorded episode. Observations are the recorded ones, whatever is commanded, so
each hand-off is judged by itself: over a whole episode, commands would drift off the observations.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from chunking_episodes import TICK_S, Array, Episode
from chunking_training import (
    HORIZON,
    IMAGE,
    INSTRUCTION,
    PERIOD_S,
    VIEW,
    actions_at,
    state_at,
)
from so101_driver.safety.types import Mode, State
from wallx_policy.chunk_prefix import Following, JointPrefix, PrefixBuilder, PrefixSettings
from wallx_policy.joined_chunks import JoinSettings, TimedChunk
from wallx_policy.model import ActionPrefix, Policy, PrefixMode
from wallx_policy.model.chunking import BETA

FRAME_S = 1.0 / 30.0
"""Between two camera images: not a whole number of periods of a chunk."""
SHORTEST_INTERVAL_S = 0.1
"""Between two observations, however fast inference is."""
ORIGIN_NS = 1_000_000_000_000
TICK_NS = round(TICK_S * 1e9)
OLD_SHARE, NEW_SHARE = 0.3, 0.7
"""LeRobot's ``weighted_average`` of the overlap."""
ENSEMBLE_DECAY = 0.01
"""ACT's weight of a chunk falls by this factor, as an exponent, from one to the next newer."""


AT_ONCE = PrefixSettings(
    margin_s=0.0, join=JoinSettings(join_s=1e-3, acceleration_rad_s2=1e9, jerk_rad_s3=1e9)
)
"""Here nothing smooths a hand-off: safety, which would, hides what is compared."""

MOST_CHUNKS = 12
"""That an ensemble looks back: none is alive longer."""

Path = Callable[[np.ndarray], Array]
"""Commands [times, 6] at times in nanoseconds."""

Memory = dict[int, tuple[TimedChunk, float]]
"""Chunks, and the seconds that they took, by the stamp of their observation."""


class Method(ABC):
    """Goes from one chunk to the next.

    Attributes:
        name: For tables.
    """

    name: str

    @abstractmethod
    def after(self, before: Sequence[TimedChunk], new: TimedChunk) -> Path:
        """Return what is commanded once the new chunk is taken.

        Args:
            before: Chunks so far, oldest first.
            new: The next one.
        """

    def before(self, before: Sequence[TimedChunk]) -> Path:
        """Return what is commanded until then."""
        return before[-1].at

    def mode(self) -> tuple[PrefixMode, float, bool] | None:
        """Return how the new chunk is made to continue the last; None for not at all.

        With it β, and whether the guidance reaches beyond what is committed.
        """
        return None


class Latest(Method):
    """The newest chunk, as it is."""

    name = "no conditioning"

    def after(self, before: Sequence[TimedChunk], new: TimedChunk) -> Path:
        """The chunk's own path."""
        return new.at


class WeightedAverage(Method):
    """The overlap is 0.3 of the old plan and 0.7 of the new, by time (LeRobot does it by index)."""

    name = "weighted average 0.3/0.7"

    def after(self, before: Sequence[TimedChunk], new: TimedChunk) -> Path:
        """The new chunk's rows, mixed where the old one covers them."""
        rows_ns = row_times_ns(new)
        overlap = (rows_ns <= before[-1].end_ns)[:, None]
        mixed = OLD_SHARE * before[-1].at(rows_ns) + NEW_SHARE * new.positions_rad
        points = np.where(overlap, mixed, new.positions_rad)
        return TimedChunk(new.due_ns, new.period_s, points).at


class Ensemble(Method):
    """The mean of all chunks that cover a moment, the oldest counting most, as in ACT."""

    name = "temporal ensemble"

    def after(self, before: Sequence[TimedChunk], new: TimedChunk) -> Path:
        """The mean with the new one."""
        return lambda times_ns: mean_of([*before, new], times_ns)

    def before(self, before: Sequence[TimedChunk]) -> Path:
        """The mean without it."""
        return lambda times_ns: mean_of(before, times_ns)


class Conditioned(Latest):
    """The model continues the chunk under way."""

    def __init__(self, mode: PrefixMode, beta: float = BETA, guide: bool = True) -> None:
        self.name = mode.value
        self._how = mode, beta, guide

    def mode(self) -> tuple[PrefixMode, float, bool] | None:
        """As it was made."""
        return self._how


def mean_of(chunks: Sequence[TimedChunk], times_ns: np.ndarray) -> Array:
    """Return ACT's mean of the chunks that cover a moment; of the newest alone where none does."""
    alive = [chunk for chunk in chunks if chunk.end_ns > times_ns[0]]
    total, weights = np.zeros((len(times_ns), 6)), np.zeros((len(times_ns), 1))
    for age, chunk in enumerate(alive):
        newest = chunk is alive[-1]
        weight = np.exp(-ENSEMBLE_DECAY * age) * (chunk.covers(times_ns)[:, None] | newest)
        total += weight * chunk.at(times_ns)
        weights += weight
    return total / weights


def row_times_ns(chunk: TimedChunk) -> np.ndarray:
    """When the rows of a chunk are due."""
    steps = np.arange(len(chunk.positions_rad)) * chunk.period_s
    return chunk.due_ns + np.round(steps * 1e9).astype(np.int64)


@dataclass(slots=True, eq=False)
class Handoffs:
    """From one chunk to the next, by joint.

    Attributes:
        times_s: When.
        jump_rad: How far the new plan is off the old one, at most, within a period; [n, 6].
        velocity_rad_s: By how much the velocity of the commands changes, from one period before to
            one after, beyond what the demonstration's does; [n, 6].
        error_rad: RMS distance of the commands from the demonstration's, from the arrival of the
            chunk to that of the next.
        infer_s: Of each inference.
        without_prefix: Chunks for which a prefix was wanted and not made.
        paths: Commands before and after, if they were to be kept.
    """

    times_s: list[float] = field(default_factory=list)
    jump_rad: list[Array] = field(default_factory=list)
    velocity_rad_s: list[Array] = field(default_factory=list)
    error_rad: list[float] = field(default_factory=list)
    infer_s: list[float] = field(default_factory=list)
    without_prefix: int = 0
    paths: list[tuple[Path, Path]] = field(default_factory=list)


def observation_stamps(duration_s: float, delay_s: float) -> list[int]:
    """The frames that are looked at: each the first after the chunk of the last has come."""
    frames = [ORIGIN_NS + round(n * FRAME_S * 1e9) for n in range(int(duration_s / FRAME_S))]
    stamps = frames[:1]
    least_ns = round(max(delay_s, SHORTEST_INTERVAL_S) * 1e9)
    for frame in frames:
        if frame - stamps[-1] >= least_ns:
            stamps.append(frame)
    return stamps


def hand_over(
    policy: Policy,
    episode: Episode,
    method: Method,
    delay_s: float,
    memory: Memory | None = None,
    *,
    paths: bool = False,
) -> Handoffs:
    """Judge every hand-off of an episode by itself.

    The old chunk is always one that was made without a prefix, from its own recorded observation;
    it is followed from the moment that it arrives. So all methods start from the same old plans.

    Args:
        policy: Makes the chunks.
        episode: Recorded.
        method: To judge.
        delay_s: From an observation to its chunk.
        memory: Holds the chunks that were made without a prefix, for other methods at this delay.
        paths: Whether to keep the commands, for pictures.
    """
    found = Handoffs()
    memory = {} if memory is None else memory
    stamps = observation_stamps(episode.duration_s, delay_s)
    for stamp_ns in stamps:
        if stamp_ns not in memory:
            memory[stamp_ns] = _predicted(policy, episode, stamp_ns, None)
    chunks = [memory[stamp_ns][0] for stamp_ns in stamps]
    delay_ns = round(delay_s * 1e9)
    for number, stamp_ns in enumerate(stamps[1:], 1):
        new, seconds = memory[stamp_ns]
        arrival_ns = takes_ns = stamp_ns + delay_ns
        if method.mode() is not None:
            prefix = _prefix(method, chunks[number - 1], stamp_ns, delay_ns)
            if prefix is None:
                found.without_prefix += 1
            else:
                new, seconds = _predicted(policy, episode, stamp_ns, prefix)
                takes_ns = new.row_ns(prefix.committed - 1)
        found.infer_s.append(seconds)
        before = chunks[max(0, number - MOST_CHUNKS) : number]
        interval_ns = stamp_ns - stamps[number - 1]
        plans = method.before(before), method.after(before, new)
        _judge(*plans, takes_ns, (arrival_ns, arrival_ns + interval_ns), episode, found)
        if paths:
            found.paths.append(plans)
    return found


def _prefix(method: Method, old: TimedChunk, stamp_ns: int, delay_ns: int) -> ActionPrefix | None:
    """What the policy node would send: the old chunk was followed since it arrived."""
    mode, beta, guide = method.mode()  # type: ignore[misc]
    builder = PrefixBuilder(AT_ONCE)
    builder.note_chunk(
        old.due_ns,
        0.0,
        PERIOD_S,
        old.positions_rad,
        published_ns=old.due_ns + delay_ns,
        committed=0,
    )
    ticks_ns = stamp_ns + TICK_NS * np.arange(-5, 1)
    for tick_ns, command in zip(ticks_ns, old.at(ticks_ns), strict=True):
        builder.note_command(int(tick_ns), command)
    found = builder.build(
        stamp_ns,
        0.0,
        PERIOD_S,
        HORIZON,
        now_ns=stamp_ns,
        latency_s=delay_ns * 1e-9,
        following=Following(State.TRACKING, Mode.FULL),
        guide=guide,
    )
    if not isinstance(found, JointPrefix):
        return None
    return ActionPrefix(found.positions_rad, found.committed, mode, beta)


def _predicted(
    policy: Policy, episode: Episode, stamp_ns: int, prefix: ActionPrefix | None
) -> tuple[TimedChunk, float]:
    time_s = (stamp_ns - ORIGIN_NS) * 1e-9
    observation = {
        "images": {VIEW: IMAGE},
        "state": state_at(episode, time_s),
        "instruction": INSTRUCTION,
    }
    # The same noise for every method and delay, another one for every moment.
    noise = policy.noise(round(time_s * 1e3))
    begun_s = time.perf_counter()
    actions = policy.predict(observation, noise, prefix).actions
    return TimedChunk(stamp_ns, PERIOD_S, actions), time.perf_counter() - begun_s


def _judge(
    before: Path,
    after: Path,
    takes_ns: int,
    span_ns: tuple[int, int],
    episode: Episode,
    found: Handoffs,
) -> None:
    period_ns = round(PERIOD_S * 1e9)
    around_ns = np.array([-TICK_NS // 2, TICK_NS // 2])
    ahead_ns = takes_ns + np.arange(0, period_ns + 1, TICK_NS)
    times_ns = np.arange(*span_ns, TICK_NS)
    commands = np.where((times_ns < takes_ns)[:, None], before(times_ns), after(times_ns))

    def velocity(path: Path, at_ns: int) -> Array:
        return np.diff(path(at_ns + around_ns), axis=0)[0] / TICK_S

    def shown(times_ns: np.ndarray) -> Array:
        return actions_at(episode, (times_ns - ORIGIN_NS) * 1e-9)

    earlier_ns, later_ns = takes_ns - period_ns, takes_ns + period_ns
    change = velocity(after, later_ns) - velocity(before, earlier_ns)
    expected = velocity(shown, later_ns) - velocity(shown, earlier_ns)
    found.times_s.append((takes_ns - ORIGIN_NS) * 1e-9)
    found.jump_rad.append(np.abs(after(ahead_ns) - before(ahead_ns)).max(axis=0))
    found.velocity_rad_s.append(np.abs(change - expected))
    found.error_rad.append(float(np.sqrt(np.square(commands - shown(times_ns)).mean())))
