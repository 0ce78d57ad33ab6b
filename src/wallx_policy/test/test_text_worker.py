"""The thread that writes text takes questions in turn, writes steps between them, and ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from wallx_policy.nodes.text_worker import TextWorker

WAIT_S = 5.0


class Tasks:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stepped = threading.Event()

    def write_subtask(self, _stopped) -> bool:
        self.done.append("step")
        self.stepped.set()
        return True


def never() -> None:
    raise AssertionError("nothing crashed")


def test_questions_come_in_turn_and_do_not_keep_steps_from_being_written() -> None:
    tasks, finished = Tasks(), threading.Event()
    worker = TextWorker(tasks, never)
    for name in ("first", "second"):
        worker.submit(lambda tasks, _stopped, name=name: tasks.done.append(name))
    worker.submit(lambda _tasks, _stopped: finished.set())
    worker.start()
    assert finished.wait(WAIT_S)
    assert worker.stop(WAIT_S)
    assert tasks.done[:4] == ["first", "step", "second", "step"]


def test_steps_are_written_without_questions() -> None:
    tasks = Tasks()
    worker = TextWorker(tasks, never)
    worker.start()
    assert tasks.stepped.wait(WAIT_S)
    assert worker.stop(WAIT_S)


def test_a_step_under_way_learns_that_it_is_to_stop() -> None:
    begun, ended = threading.Event(), threading.Event()

    def write_subtask(stopped) -> bool:
        begun.set()
        while not stopped():
            ended.wait(0.001)
        return True

    worker = TextWorker(SimpleNamespace(write_subtask=write_subtask), never)
    worker.start()
    assert begun.wait(WAIT_S)
    assert worker.stop(WAIT_S)


def test_a_question_under_way_learns_that_it_is_to_stop() -> None:
    begun = threading.Event()

    def question(_tasks, stopped) -> None:
        begun.set()
        while not stopped():
            begun.wait(0.001)

    worker = TextWorker(Tasks(), never)
    worker.submit(question)
    worker.start()
    assert begun.wait(WAIT_S)
    assert worker.stop(WAIT_S)


def test_a_bug_is_reported_and_ends_the_thread(capsys) -> None:
    crashed = threading.Event()
    worker = TextWorker(Tasks(), crashed.set)

    def broken(_tasks, _stopped) -> None:
        raise RuntimeError("no such attribute")

    worker.submit(broken)
    worker.start()
    assert crashed.wait(WAIT_S)
    assert worker.stop(WAIT_S)
    assert "no such attribute" in capsys.readouterr().err
