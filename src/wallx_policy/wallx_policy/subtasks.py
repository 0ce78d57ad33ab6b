"""The step that the model says comes next, and when it has to say it anew.

Two calls, as in Uni-CoT: the model writes the next step towards the instruction, then predicts
actions for that step. Until a step is there, actions are predicted for the instruction itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from wallx_policy.backends.base import Observation


@dataclass(frozen=True, slots=True)
class SubtaskJob:
    """A step to be written.

    Attributes:
        observation: The newest that actions were predicted from, with the user's instruction.
        generation: Of that instruction.
    """

    observation: Observation
    generation: int


@dataclass(slots=True)
class Subtasks:
    """The step of one instruction; times are steady nanoseconds.

    Attributes:
        period_s: Time from one step to the next; 0: only on request.
        text: The step; empty while there is none.
        failure: Why the last attempt brought none; empty after a success.
    """

    period_s: float = 0.0
    text: str = ""
    failure: str = ""
    _generation: int = -1
    _requested: bool = False
    _begun_ns: int | None = None

    def request(self) -> None:
        """Ask for a new step."""
        self._requested = True

    def current(self, generation: int) -> str:
        """Return the step towards an instruction; that of another instruction is forgotten."""
        if generation != self._generation:
            self._generation = generation
            self.text = self.failure = ""
            self._begun_ns = None
        return self.text

    def due(self, now_ns: int, generation: int) -> bool:
        """Whether a step is to be written now."""
        self.current(generation)
        if self._requested:
            return True
        if self.period_s <= 0.0:
            return False
        return self._begun_ns is None or now_ns - self._begun_ns >= self.period_s * 1e9

    def begin(self, now_ns: int) -> None:
        """Note that a step is being written."""
        self._requested = False
        self._begun_ns = now_ns

    def succeed(self, text: str) -> None:
        """Follow a step that was written."""
        self.text, self.failure = text, ""

    def fail(self, why: str) -> None:
        """Keep the old step, if there is one."""
        self.failure = why
