"""Questions and steps: what is fed, followed, counted, refused; on a fake clock and backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from so101_driver.errors import UserError
from wallx_policy.backends.base import Backend as BackendBase
from wallx_policy.backends.base import BackendNeeds, BadText, Prediction, Writing
from wallx_policy.backends.scripted import scripted_contract, scripted_description
from wallx_policy.chunks import ChunkOrigin
from wallx_policy.contract import Camera, Contract
from wallx_policy.observation import AssemblerSettings, ObservationAssembler, observation_sha256
from wallx_policy.runtime import Clocks, InferredChunk, PolicyRuntime, RuntimeState
from wallx_policy.subtasks import Subtasks
from wallx_policy.text_tasks import Canceled, TextTasks

MS = 1_000_000
ROS_OFFSET = 1_700_000_000_000_000_000
VIEWS = ("face_view", "wrist_view")


def contract() -> Contract:
    base = scripted_contract()
    return replace(base, cameras=tuple(Camera(view, 4, 4) for view in VIEWS))


class Writer(BackendBase):
    """Writes what it is told to; an exception it raises."""

    def __init__(self) -> None:
        self.name = "writer"
        self.contract = contract()
        self.description = scripted_description("")
        self.needs = BackendNeeds(images=True)
        self.writes_text = True
        self.says: str | Exception = "move left"
        self.while_writing: Callable[[], None] = lambda: None
        self.seen: list = []
        self.asked: list = []
        self.sent_for: list = []

    def predict(self, observation):
        self.seen.append(observation)
        return Prediction(np.zeros((25, 6)), 0.04)

    def ask(self, images, question, writing):
        self.asked.append((tuple(images), question))
        writing.on_text("move")
        return self._written()

    def subtask(self, observation, writing):
        self.sent_for.append(observation)
        text = self._written()
        if writing.cancelled():
            raise BadText("the sentence was cancelled")
        return text

    def _written(self):
        self.while_writing()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Robot:
    """A runtime whose cameras and joints can be made to speak."""

    def __init__(self, period_s: float = 0.0, instruction: str = "tidy up") -> None:
        self.ns = 0
        self.backend = Writer()
        settings = AssemblerSettings(VIEWS, False, 0.0, max_skew_s=0.1, max_age_s=0.5)
        self.runtime = PolicyRuntime(
            backend=self.backend,
            assembler=ObservationAssembler(settings, lambda payload: payload),
            origin=ChunkOrigin("writer", 1),
            clocks=Clocks(lambda: self.ns, lambda: self.ns + ROS_OFFSET),
            instruction=instruction,
            subtasks=Subtasks(period_s),
        )
        self.tasks = TextTasks(self.runtime)

    def infer(self, later_ms: int = 80):
        """Let time pass, see something new, and make a chunk of it."""
        self.ns += later_ms * MS
        for view in VIEWS:
            self.runtime.add_image(view, self.ns + ROS_OFFSET, np.zeros((4, 4, 3), np.uint8))
        self.runtime.add_state(self.ns + ROS_OFFSET, np.zeros(6))
        inferred = self.runtime.infer()
        assert isinstance(inferred, InferredChunk)
        self.runtime.note_published(inferred, 0.1)
        return inferred.chunk

    def step(self) -> bool:
        return self.tasks.write_subtask(lambda: False)

    def ask(self, question: str = "what?", views=(), cancelled=lambda: False) -> str:
        self.heard: list[str] = []
        return self.tasks.ask(question, views, Writing(self.heard.append, cancelled))


class TestQuestions:
    def test_views_come_in_the_order_of_the_contract(self) -> None:
        robot = Robot()
        robot.infer()
        assert robot.ask("what is there?") == "move left"
        assert robot.ask("and there?", ["wrist_view"]) == "move left"
        robot.ask("both?", ["wrist_view", "face_view"])
        assert robot.backend.asked == [
            (VIEWS, "what is there?"),
            (("wrist_view",), "and there?"),
            (VIEWS, "both?"),
        ]
        assert robot.heard == ["move"]
        assert robot.runtime.counters["questions_answered"] == 3

    def test_nothing_is_used_up_and_nothing_delays_the_status(self) -> None:
        robot = Robot()
        robot.infer()
        robot.runtime.pause("done")
        assert robot.ask() == "move left"
        assert robot.runtime.status().last_error == ""
        robot.runtime.set_instruction("go on")
        assert robot.infer().instruction == "go on"

    @pytest.mark.parametrize(
        ("question", "views", "words"),
        [
            (" ", (), "the question is empty"),
            ("what?", ("top_view",), "no view 'top_view'; the views are: face_view, wrist_view"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, question, views, words) -> None:
        robot = Robot()
        robot.infer()
        with pytest.raises(BadText, match=words):
            robot.ask(question, views)
        assert not robot.backend.asked
        assert robot.runtime.counters["questions_failed"] == 1

    def test_old_images_are_no_answer(self) -> None:
        robot = Robot()
        with pytest.raises(BadText, match="no image of camera face_view yet"):
            robot.ask()
        robot.infer()
        robot.ns += 600 * MS
        with pytest.raises(BadText, match=r"nothing from camera wrist_view for 0\.6 s"):
            robot.ask(views=["wrist_view"])

    def test_a_backend_without_words_says_what_to_do(self) -> None:
        robot = Robot()
        robot.infer()
        robot.backend.writes_text = False
        with pytest.raises(BadText, match="backend writer writes no text: start the graph"):
            robot.ask()

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (BadText("not finite"), "^not finite$"),
            (UserError("too long"), "^too long$"),
            (RuntimeError("out of memory"), "^RuntimeError: out of memory$"),
        ],
    )
    def test_a_failure_is_counted_and_told(self, error, words) -> None:
        robot = Robot()
        robot.infer()
        robot.backend.says = error
        with pytest.raises(BadText, match=words):
            robot.ask()
        assert robot.runtime.counters["questions_failed"] == 1
        assert robot.runtime.status().state is RuntimeState.RUNNING

    def test_a_canceled_question_has_no_answer(self) -> None:
        robot = Robot()
        robot.infer()
        with pytest.raises(Canceled):
            robot.ask(cancelled=lambda: True)
        assert robot.runtime.counters["questions_canceled"] == 1
        assert robot.runtime.counters["questions_answered"] == 0


class TestSteps:
    def test_a_step_is_fed_in_place_of_the_instruction_and_told(self) -> None:
        robot = Robot(period_s=1.0)
        before = robot.infer()
        assert (before.instruction, before.subtask) == ("tidy up", "")
        assert robot.step()
        after = robot.infer()
        assert (after.instruction, after.subtask) == ("tidy up", "move left")
        assert [seen.instruction for seen in robot.backend.seen] == ["tidy up", "move left"]
        assert robot.runtime.status().subtask == "move left"
        # The hash is of what was fed.
        assert after.observation_sha256 == observation_sha256(robot.backend.seen[1])
        assert after.observation_sha256 != before.observation_sha256

    def test_it_is_renewed_every_period_from_the_users_words(self) -> None:
        robot = Robot(period_s=1.0)
        begun_ms = []
        for _ in range(30):
            robot.infer(100)
            if robot.step():
                begun_ms.append(robot.ns // MS)
        assert begun_ms == [100, 1100, 2100]
        assert {seen.instruction for seen in robot.backend.sent_for} == {"tidy up"}
        stamps = [seen.stamp_ns for seen in robot.backend.sent_for]
        assert stamps == [ROS_OFFSET + ms * MS for ms in begun_ms]
        assert robot.runtime.counters["subtasks_written"] == 3

    def test_without_a_period_only_on_request(self) -> None:
        robot = Robot()
        robot.infer()
        assert not robot.step()
        assert robot.runtime.request_subtask()[0]
        assert robot.step()
        assert not robot.step()
        assert robot.infer().subtask == "move left"
        robot.infer(10_000)
        assert not robot.step()
        assert robot.infer().subtask == "move left"

    def test_a_request_has_to_make_sense(self) -> None:
        robot = Robot(instruction="")
        robot.infer()
        assert robot.runtime.request_subtask() == (
            False,
            "there is no instruction to write a step of",
        )
        robot.runtime.set_instruction("tidy up")
        robot.runtime.pause("run_instruction ended")
        assert robot.runtime.request_subtask() == (False, "run_instruction ended")
        assert not robot.step()

    def test_another_instruction_ends_the_step_at_once_and_asks_for_a_new_one(self) -> None:
        robot = Robot(period_s=60.0)
        robot.infer()
        robot.step()
        robot.runtime.set_instruction("wave")
        robot.backend.says = "lift the hand"
        assert robot.infer().subtask == ""
        assert robot.backend.seen[-1].instruction == "wave"
        assert robot.step()
        assert robot.backend.sent_for[-1].instruction == "wave"
        assert robot.infer().subtask == "lift the hand"

    def test_a_step_that_comes_too_late_is_not_followed(self) -> None:
        robot = Robot(period_s=60.0)
        robot.infer()
        robot.backend.while_writing = lambda: robot.runtime.set_instruction("wave")
        assert robot.step()
        robot.backend.while_writing = lambda: None
        assert robot.infer().subtask == ""
        assert robot.runtime.counters == {}
        assert robot.step()
        assert robot.infer().subtask == "move left"

    def test_a_request_before_a_new_instruction_is_for_the_new_one(self) -> None:
        robot = Robot()
        robot.infer()
        robot.runtime.request_subtask()
        robot.runtime.set_instruction("wave")
        robot.infer()
        assert robot.step()
        assert robot.backend.sent_for[-1].instruction == "wave"

    @pytest.mark.parametrize(
        ("says", "words"),
        [
            (BadText("the sentence did not end"), "the sentence did not end"),
            (RuntimeError("out of memory"), "RuntimeError: out of memory"),
            ("  ", "the text is empty"),
        ],
    )
    def test_after_a_failure_the_old_step_is_followed_and_the_status_says_so(
        self, says, words
    ) -> None:
        robot = Robot(period_s=1.0)
        robot.infer()
        robot.step()
        robot.backend.says = says
        robot.infer(1000)
        assert robot.step()
        assert robot.infer().subtask == "move left"
        status = robot.runtime.status()
        assert status.state is RuntimeState.RUNNING
        assert status.reason == f"running without a new step: {words}"
        assert status.last_error == f"no next step: {words}"
        assert robot.runtime.counters["subtasks_failed"] == 1
        robot.backend.says = "grasp"
        robot.infer(1000)
        robot.step()
        assert robot.infer().subtask == "grasp"
        assert robot.runtime.status().reason == "running"

    def test_without_a_first_step_the_instruction_itself_is_followed(self) -> None:
        robot = Robot(period_s=1.0)
        robot.backend.says = BadText("empty")
        robot.infer()
        robot.step()
        chunk = robot.infer()
        assert (chunk.subtask, robot.backend.seen[-1].instruction) == ("", "tidy up")

    def test_nothing_is_written_of_what_was_seen_long_ago(self) -> None:
        robot = Robot(period_s=1.0)
        assert not robot.step()
        robot.infer()
        robot.ns += 501 * MS
        assert not robot.step()
        robot.infer()
        assert robot.step()

    def test_a_policy_without_an_instruction_or_paused_writes_no_step(self) -> None:
        robot = Robot(period_s=1.0, instruction="")
        robot.infer()
        assert not robot.step()
        robot.runtime.set_instruction("tidy up")
        robot.infer()
        robot.runtime.pause("done")
        assert not robot.step()

    def test_a_step_ended_by_a_new_instruction_in_the_last_moment_is_not_followed(self) -> None:
        robot = Robot(period_s=1.0)
        robot.infer()
        job = robot.runtime.begin_subtask()
        robot.runtime.set_instruction("wave")
        robot.runtime.end_subtask(job, "move left")
        assert robot.infer().subtask == ""
        assert robot.runtime.counters == {}

    def test_a_step_that_was_stopped_is_no_failure(self) -> None:
        robot = Robot(period_s=1.0)
        robot.infer()
        assert robot.tasks.write_subtask(lambda: True)
        assert robot.runtime.counters == {}
        assert robot.infer().subtask == ""
