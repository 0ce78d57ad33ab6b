"""Answers questions and writes steps for a running policy, and counts how that goes.

Both are called from one thread beside the one that infers. The backend lets a waiting inference go
first after every token, so that text makes chunks late by a token, or once by a prompt, never by an
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from so101_driver.errors import UserError

from wallx_policy.backends.base import BadText, Writing
from wallx_policy.observation import NoObservation
from wallx_policy.runtime import PolicyRuntime


def no_text(backend_name: str) -> str:
    """Return what a user is told of a backend that writes no text."""
    return (
        f"backend {backend_name} writes no text: start the graph with backend:=wall_oss and a "
        "checkpoint that was trained with text"
    )


class Canceled(Exception):
    """Whoever asked wants no answer any more."""


@dataclass(frozen=True, slots=True)
class TextTasks:
    """What a runtime's backend writes."""

    runtime: PolicyRuntime

    def ask(self, question: str, views: Sequence[str], writing: Writing) -> str:
        """Return the answer to a question about the newest images.

        Args:
            question: In plain words.
            views: Of the contract; all of them if none is named.
            writing: Whom to tell, whom to ask.

        Raises:
            BadText: when there is no answer; one sentence says why.
            Canceled: when it was canceled meanwhile.
        """
        counters = self.runtime.counters
        try:
            answer = self._answer(question, views, writing)
        except BadText:
            counters["questions_failed"] += 1
            raise
        except UserError as error:
            counters["questions_failed"] += 1
            raise BadText(str(error)) from error
        except Exception as error:
            # Whatever a backend raises, chunks go on and the user must learn why.
            counters["questions_failed"] += 1
            raise BadText(f"{type(error).__name__}: {error}") from error
        if writing.cancelled():
            counters["questions_canceled"] += 1
            raise Canceled
        counters["questions_answered"] += 1
        return answer

    def _answer(self, question: str, views: Sequence[str], writing: Writing) -> str:
        backend = self.runtime.backend
        if not backend.writes_text:
            raise BadText(no_text(backend.name))
        if not question.strip():
            raise BadText("the question is empty")
        known = [camera.view for camera in backend.contract.cameras]
        for view in views:
            if view not in known:
                raise BadText(f"there is no view {view!r}; the views are: {', '.join(known)}")
        wanted = [view for view in known if view in views] if views else known
        images = self.runtime.newest_images(wanted)
        if isinstance(images, NoObservation):
            raise BadText(images.reason)
        return backend.ask(images, question, writing)

    def write_subtask(self, stopped: Callable[[], bool]) -> bool:
        """Write the next step if one is due; returns whether it was.

        A step for an instruction that does not stand any more is given up.
        """
        runtime = self.runtime
        job = runtime.begin_subtask()
        if job is None:
            return False

        def cancelled() -> bool:
            return stopped() or not runtime.subtask_wanted(job)

        try:
            text = runtime.backend.subtask(job.observation, Writing(lambda _text: None, cancelled))
        except (BadText, UserError) as error:
            text, failure = "", str(error)
        except Exception as error:
            # Whatever a backend raises, chunks go on and the user must learn why.
            text, failure = "", f"{type(error).__name__}: {error}"
        else:
            failure = "" if text.strip() else "the text is empty"
        if not cancelled():
            runtime.end_subtask(job, text, failure)
        return True
