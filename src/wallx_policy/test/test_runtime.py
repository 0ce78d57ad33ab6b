"""Between inputs and chunks: latency, pauses, new instructions and failures, on a fake clock."""

from types import SimpleNamespace

import numpy as np
import pytest
from wallx_policy.backends.base import Backend, BackendNeeds, Prediction, PrefixMode
from wallx_policy.backends.scripted import scripted_contract, scripted_description
from wallx_policy.chunk_prefix import JointPrefix
from wallx_policy.chunks import ChunkOrigin
from wallx_policy.observation import AssemblerSettings, ObservationAssembler
from wallx_policy.runtime import Clocks, InferredChunk, NoChunk, PolicyRuntime, RuntimeState

MS = 1_000_000
ROS_OFFSET = 1_700_000_000_000_000_000


class Clock:
    def __init__(self):
        self.ns = 0


class Scripted(Backend):
    """Takes 20 ms to say what it was told to."""

    def __init__(self, clock):
        self.clock = clock
        self.name = "scripted"
        self.contract = scripted_contract()
        self.description = scripted_description("")
        self.needs = BackendNeeds(images=False)
        self.latency_s = 0.1
        self.says = np.zeros((25, 6))
        self.resets = 0

    def predict(self, observation):
        self.clock.ns += 20 * MS
        if isinstance(self.says, Exception):
            raise self.says
        return Prediction(self.says, 0.04, {"preprocess": 0.005})

    def reset(self):
        self.resets += 1


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def runtime(clock):
    settings = AssemblerSettings((), False, 0.0, max_skew_s=0.1, max_age_s=0.5)
    return PolicyRuntime(
        backend=Scripted(clock),
        assembler=ObservationAssembler(settings, lambda payload: payload),
        origin=ChunkOrigin("scripted", 1),
        clocks=Clocks(lambda: clock.ns, lambda: clock.ns + ROS_OFFSET),
        instruction="go",
    )


def state_now(runtime, clock, age_ms=0):
    runtime.add_state(clock.ns + ROS_OFFSET - age_ms * MS, np.zeros(6))


def test_a_chunk_is_due_its_latency_after_the_observation(runtime, clock):
    clock.ns = 1000 * MS
    state_now(runtime, clock, age_ms=7)
    inferred = runtime.infer()
    assert inferred.due_ns == 1000 * MS - 7 * MS + 100 * MS
    assert inferred.wait_s == pytest.approx(0.007)
    assert inferred.preprocess_s == 0.005
    assert inferred.chunk.inference_s == pytest.approx(0.015)
    assert inferred.inferred_ns == 1020 * MS


def test_sequences_count_published_chunks_without_holes(runtime, clock):
    sequences = []
    for says in (np.zeros((25, 6)), RuntimeError("no"), np.full((25, 6), np.nan), np.ones((2, 6))):
        runtime.backend.says = says
        clock.ns += 80 * MS
        state_now(runtime, clock)
        outcome = runtime.infer()
        if isinstance(outcome, InferredChunk):
            sequences.append(outcome.chunk.sequence)
    assert sequences == [0, 1]
    assert runtime.counters["failed_inferences"] == 1
    assert runtime.counters["bad_predictions"] == 1


def test_a_failure_is_a_fault_until_the_next_success(runtime, clock):
    runtime.backend.says = RuntimeError("out of memory")
    state_now(runtime, clock)
    assert runtime.infer() is NoChunk.FAILED
    status = runtime.status()
    assert status.state is RuntimeState.FAULT
    assert "RuntimeError: out of memory" in status.last_error
    runtime.backend.says = np.zeros((25, 6))
    state_now(runtime, clock)
    runtime.note_published(runtime.infer(), 0.1)
    assert runtime.status().state is RuntimeState.RUNNING


def test_nothing_new_means_waiting_and_the_reason_is_told(runtime, clock):
    assert runtime.infer() is NoChunk.NOT_READY
    assert runtime.status().state is RuntimeState.WAITING
    assert "joint_states" in runtime.status().reason
    state_now(runtime, clock)
    runtime.note_published(runtime.infer(), 0.1)
    clock.ns += 501 * MS
    assert runtime.infer() is NoChunk.NOT_READY
    assert runtime.status().state is RuntimeState.WAITING


def test_late_inputs_are_counted_once_per_episode(runtime, clock):
    state_now(runtime, clock, age_ms=600)
    for _ in range(5):
        assert runtime.infer() is NoChunk.NOT_READY
    assert runtime.counters["observations_late"] == 1
    clock.ns += 100 * MS
    state_now(runtime, clock)
    assert isinstance(runtime.infer(), InferredChunk)
    clock.ns += 600 * MS
    assert runtime.infer() is NoChunk.NOT_READY
    assert runtime.counters["observations_late"] == 2


def test_a_new_instruction_resets_the_backend_and_voids_chunks_on_their_way(runtime, clock):
    state_now(runtime, clock)
    before = runtime.infer()
    assert runtime.backend.resets == 1
    assert runtime.still_wanted(before)
    runtime.set_instruction("go")
    assert runtime.still_wanted(before)
    runtime.set_instruction("stop")
    assert not runtime.still_wanted(before)
    clock.ns += 80 * MS
    state_now(runtime, clock)
    after = runtime.infer()
    assert after.chunk.instruction == "stop"
    assert runtime.backend.resets == 2
    assert runtime.still_wanted(after)


def test_a_pause_makes_no_chunks_until_the_next_instruction(runtime, clock):
    state_now(runtime, clock)
    before = runtime.infer()
    runtime.pause("done")
    assert not runtime.still_wanted(before)
    clock.ns += 80 * MS
    state_now(runtime, clock)
    assert runtime.infer() is NoChunk.NOT_READY
    assert runtime.status().reason == "done"
    runtime.set_instruction("go")
    assert isinstance(runtime.infer(), InferredChunk)


def test_rate_and_percentiles_cover_what_was_published(runtime, clock):
    for _ in range(30):
        clock.ns += 60 * MS
        state_now(runtime, clock)
        runtime.note_published(runtime.infer(), 0.1)
    rate_hz, stages = runtime.timing()
    assert rate_hz == pytest.approx(12.5, abs=0.5)
    assert stages["total"] == pytest.approx((0.1, 0.1))
    assert stages["infer"][0] == pytest.approx(0.015)
    clock.ns += 3000 * MS
    assert runtime.timing()[0] == 0.0


def test_a_prefix_reaches_the_backend_and_its_promise_the_chunk(runtime, clock):
    prefix = JointPrefix(np.zeros((5, 6)), 3)
    asked = []

    class Found:
        def prefix(self, backend, stamp_ns, **now):
            asked.append((stamp_ns, now))
            return prefix, PrefixMode.FROZEN

    def predict_from(observation, given, mode):
        assert given is prefix
        assert mode is PrefixMode.FROZEN
        return Prediction(runtime.backend.says, 0.04, committed_steps=given.committed)

    runtime.conditioner, runtime.backend.predict_from = Found(), predict_from
    clock.ns = 1000 * MS
    state_now(runtime, clock, age_ms=7)
    assert runtime.infer().chunk.committed_steps == 3
    now = {"ros_ns": ROS_OFFSET + 1000 * MS, "steady_ns": 1000 * MS, "generation": 0}
    assert asked == [(ROS_OFFSET + 993 * MS, now)]


def test_chunks_commands_and_safety_are_told_to_the_conditioner(runtime, clock):
    told = []
    runtime.conditioner = SimpleNamespace(
        prefix=lambda *_args, **_now: None,
        note_command=lambda *said: told.append(said),
        note_safety=lambda *said: told.append(said),
        note_published=lambda chunk, *said: told.append((chunk.sequence, *said)),
    )
    state_now(runtime, clock)
    runtime.set_instruction("wave")
    runtime.note_published(runtime.infer(), 0.13)
    runtime.add_command(7, "pose")
    clock.ns = 8 * MS
    runtime.set_following("tracking")
    assert told == [(0, 0.13, 1), (7, "pose"), ("tracking", 8 * MS)]


def test_an_inference_that_waited_for_a_text_is_counted(runtime, clock):
    for turn_s in (0.004, 0.006):
        clock.ns += 80 * MS
        state_now(runtime, clock)
        says = Prediction(np.zeros((25, 6)), 0.04, {"preprocess": 0.005, "turn": turn_s})
        runtime.backend.predict = lambda _observation, says=says: says
        runtime.infer()
    assert runtime.counters["inferences_delayed_by_text"] == 1
