"""Runs a backend on assembled observations and remembers how it goes.

Callbacks feed inputs, one other thread infers; the methods may be called from any thread. Clocks
are given as functions.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wallx_policy.backends.base import Backend, CameraImage, ObjectPose, Observation, PrefixMode
from wallx_policy.chunk_prefix import Following, JointPrefix
from wallx_policy.chunks import BadPrediction, Chunk, ChunkOrigin, make_chunk
from wallx_policy.conditioning import Conditioner, Conditioning
from wallx_policy.latency import LatencyStatistics
from wallx_policy.observation import Gap, NoObservation, ObservationAssembler
from wallx_policy.subtasks import SubtaskJob, Subtasks

QUIET_S = 0.5
"""Without a chunk for this long the status says what is missing."""

DELAYED_S = 0.005
"""An inference that waited longer for a text's token is counted."""


class NoChunk(Enum):
    """Why an attempt to infer brought no chunk."""

    NOT_READY = auto()
    """No observation yet: ask again soon."""
    FAILED = auto()
    """This observation is used up."""


class RuntimeState(Enum):
    """What policy/status says of an active policy."""

    WAITING = auto()
    RUNNING = auto()
    FAULT = auto()


@dataclass(frozen=True, slots=True)
class InferredChunk:
    """A chunk on its way out.

    Attributes:
        chunk: What to publish.
        due_ns: Steady time before which it must not be published.
        inferred_ns: Steady time at which inference ended.
        wait_s: From the observation's stamp to the beginning of inference.
        preprocess_s: What the backend says it spent before the model.
        generation: Of the instruction it was made for.
    """

    chunk: Chunk
    due_ns: int
    inferred_ns: int
    wait_s: float
    preprocess_s: float
    generation: int


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """A moment's view for policy/status."""

    state: RuntimeState
    reason: str
    instruction: str
    subtask: str
    last_error: str
    chunks_published: int


@dataclass(frozen=True, slots=True)
class Clocks:
    """Nanoseconds of the steady clock and of ROS time."""

    steady_ns: Callable[[], int]
    ros_ns: Callable[[], int]


@dataclass(slots=True)
class PolicyRuntime:
    """One activation of a backend."""

    backend: Backend
    assembler: ObservationAssembler
    origin: ChunkOrigin
    clocks: Clocks
    instruction: str = ""
    min_latency_s: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)
    latency: LatencyStatistics = field(default_factory=LatencyStatistics)
    objects: Mapping[str, ObjectPose] = field(default_factory=dict)
    subtask: str = ""
    conditioner: Conditioner = field(
        default_factory=lambda: Conditioner(Conditioning.OFF, Counter())
    )
    subtasks: Subtasks = field(default_factory=Subtasks)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gap: NoObservation = field(default_factory=lambda: NoObservation(Gap.MISSING, "no input yet"))
    _late_counted: bool = False
    _paused_because: str = ""
    _generation: int = 0
    _reset_for: int = -1
    _sequence: int = 0
    _published: int = 0
    _last_chunk_ns: int | None = None
    _failed: bool = False
    _last_error: str = ""
    _observation: Observation | None = None

    # Inputs.

    def add_image(self, view: str, stamp_ns: int, payload: Any) -> None:
        """Keep an image."""
        with self._lock:
            self.assembler.add_image(view, stamp_ns, payload)

    def add_state(self, stamp_ns: int, position_rad: NDArray[np.float64]) -> None:
        """Keep a joint state."""
        with self._lock:
            self.assembler.add_state(stamp_ns, position_rad)

    def set_objects(self, stamp_ns: int, objects: Mapping[str, ObjectPose]) -> None:
        """Keep object poses."""
        with self._lock:
            self.assembler.set_objects(stamp_ns, objects)
            self.objects = objects

    def add_command(self, stamp_ns: int, position_rad: NDArray[np.float64]) -> None:
        """Keep what the arm was told."""
        with self._lock:
            self.conditioner.note_command(stamp_ns, position_rad)

    def set_following(self, following: Following) -> None:
        """Keep what safety says now."""
        with self._lock:
            self.conditioner.note_safety(following, self.clocks.steady_ns())

    def set_instruction(self, text: str) -> None:
        """Follow another instruction from the next inference on; ends a pause.

        The same text again changes nothing while the policy runs.
        """
        with self._lock:
            if text != self.instruction or self._paused_because:
                self.instruction = text
                self._generation += 1
                self._paused_because = ""

    def pause(self, reason: str) -> None:
        """Make no chunks until the next instruction: safety lets the arm brake and hold."""
        with self._lock:
            self._generation += 1
            self._paused_because = reason

    # Inference.

    def infer(self) -> InferredChunk | NoChunk:
        """Make a chunk from the newest observation; called from one thread only."""
        with self._lock:
            if self._paused_because:
                return NoChunk.NOT_READY
            generation, instruction = self._generation, self.instruction
            now_ns, begin_ns = self.clocks.ros_ns(), self.clocks.steady_ns()
            step = self.subtasks.current(generation)
            observation = self.assembler.assemble(now_ns, step or instruction)
            if isinstance(observation, NoObservation):
                self._note_gap(observation)
                return NoChunk.NOT_READY
            self._late_counted = False
            self._observation = observation
            prefix = self.conditioner.prefix(
                self.backend,
                observation.stamp_ns,
                ros_ns=now_ns,
                steady_ns=begin_ns,
                generation=generation,
            )
        if self._reset_for != generation:
            self.backend.reset()
            self._reset_for = generation
        wait_s = (now_ns - observation.stamp_ns) * 1e-9
        try:
            chunk, preprocess_s = self._predict(observation, prefix)
        except BadPrediction as error:
            return self._note_failure("bad_predictions", str(error))
        except Exception as error:
            # Whatever a backend raises, the arm must hold and the user must learn why.
            return self._note_failure("failed_inferences", f"{type(error).__name__}: {error}")
        if step:
            chunk = replace(chunk, instruction=instruction, subtask=step)
        latency_s = max(self.backend.latency_s, self.min_latency_s)
        return InferredChunk(
            chunk=chunk,
            due_ns=begin_ns + round((latency_s - wait_s) * 1e9),
            inferred_ns=self.clocks.steady_ns(),
            wait_s=wait_s,
            preprocess_s=preprocess_s,
            generation=generation,
        )

    def _predict(
        self, observation: Observation, prefix: tuple[JointPrefix, PrefixMode] | None
    ) -> tuple[Chunk, float]:
        begin_ns = self.clocks.steady_ns()
        if prefix is None:
            prediction = self.backend.predict(observation)
        else:
            prediction = self.backend.predict_from(observation, *prefix)
        whole_s = (self.clocks.steady_ns() - begin_ns) * 1e-9
        preprocess_s = prediction.timings_s.get("preprocess", 0.0)
        if prediction.timings_s.get("turn", 0.0) > DELAYED_S:
            self.counters["inferences_delayed_by_text"] += 1
        chunk = make_chunk(
            prediction,
            observation,
            self.backend.contract,
            self.origin,
            self._sequence,
            inference_s=prediction.timings_s.get("infer", whole_s - preprocess_s),
        )
        self._sequence += 1
        self._failed = False
        return chunk, preprocess_s

    def _note_gap(self, gap: NoObservation) -> None:
        if gap.gap is Gap.UNCHANGED:
            return
        self._gap = gap
        if gap.gap is Gap.LATE and not self._late_counted:
            self.counters["observations_late"] += 1
            self._late_counted = True

    def _note_failure(self, counter: str, text: str) -> NoChunk:
        with self._lock:
            self.counters[counter] += 1
            self._failed = True
            self._last_error = text
        return NoChunk.FAILED

    # Text.

    def newest_images(self, views: Sequence[str]) -> dict[str, CameraImage] | NoObservation:
        """Return what the cameras see now."""
        with self._lock:
            return self.assembler.images(views, self.clocks.ros_ns())

    def request_subtask(self) -> tuple[bool, str]:
        """Ask for a new step; returns whether one will be written, and a sentence."""
        with self._lock:
            if self._paused_because:
                return False, self._paused_because
            if not self.instruction:
                return False, "there is no instruction to write a step of"
            self.subtasks.request()
            return True, "the next step is being written; policy/status will show it"

    def begin_subtask(self) -> SubtaskJob | None:
        """Return the step to be written now, if one is due and there is something to see."""
        with self._lock:
            now_ns, observation = self.clocks.steady_ns(), self._observation
            if self._paused_because or not self.instruction or observation is None:
                return None
            age_s = (self.clocks.ros_ns() - observation.stamp_ns) * 1e-9
            if age_s > self.assembler.settings.max_age_s:
                return None
            if not self.subtasks.due(now_ns, self._generation):
                return None
            self.subtasks.begin(now_ns)
            observation = replace(observation, instruction=self.instruction)
            return SubtaskJob(observation, self._generation)

    def subtask_wanted(self, job: SubtaskJob) -> bool:
        """Whether the instruction of a step still stands."""
        with self._lock:
            return job.generation == self._generation

    def end_subtask(self, job: SubtaskJob, text: str, failure: str = "") -> None:
        """Follow a step from the next inference on, or note why there is none."""
        with self._lock:
            if job.generation != self._generation:
                return
            if not failure:
                self.subtasks.succeed(text)
                self.counters["subtasks_written"] += 1
                return
            self.subtasks.fail(failure)
            self.counters["subtasks_failed"] += 1
            self._last_error = f"no next step: {failure}"

    # Publishing and status.

    def still_wanted(self, inferred: InferredChunk) -> bool:
        """Whether the chunk's instruction still stands."""
        with self._lock:
            return inferred.generation == self._generation

    def note_published(self, inferred: InferredChunk, total_s: float) -> None:
        """Count a chunk that was published just now."""
        now_ns = self.clocks.steady_ns()
        with self._lock:
            self._published += 1
            self._last_chunk_ns = now_ns
            self.subtask = inferred.chunk.subtask
            self.conditioner.note_published(inferred.chunk, total_s, inferred.generation)
            self.latency.add(
                now_ns * 1e-9,
                {
                    "wait": inferred.wait_s,
                    "preprocess": inferred.preprocess_s,
                    "infer": inferred.chunk.inference_s,
                    "publish": (now_ns - inferred.inferred_ns) * 1e-9,
                    "total": total_s,
                },
            )

    def status(self) -> RuntimeStatus:
        """Return the present state and the reason for it."""
        with self._lock:
            state, reason = self._state()
            return RuntimeStatus(
                state=state,
                reason=reason,
                instruction=self.instruction,
                subtask=self.subtask,
                last_error=self._last_error,
                chunks_published=self._published,
            )

    def timing(self) -> tuple[float, dict[str, tuple[float, float]]]:
        """Return the chunk rate in Hz and (p50, p99) in seconds by stage."""
        with self._lock:
            rate_hz = self.latency.rate_hz(self.clocks.steady_ns() * 1e-9)
            return rate_hz, self.latency.percentiles()

    def _state(self) -> tuple[RuntimeState, str]:
        if self._failed:
            return RuntimeState.FAULT, f"inference failed: {self._last_error}"
        if self._paused_because:
            return RuntimeState.WAITING, self._paused_because
        now_ns = self.clocks.steady_ns()
        if self._last_chunk_ns is None or now_ns - self._last_chunk_ns > QUIET_S * 1e9:
            return RuntimeState.WAITING, self._gap.reason
        if self.subtasks.failure:
            return RuntimeState.RUNNING, f"running without a new step: {self.subtasks.failure}"
        return RuntimeState.RUNNING, "running"
