"""The state, its reason and the mode, with the few verbs that change them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from so101_driver.safety.follower import Path
from so101_driver.safety.motion import Motion
from so101_driver.safety.reasons import HOLD_STEP, LATCHED_STEP, NEXT_STEP, ReasonCode
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import (
    Array,
    Change,
    EventResult,
    Limit,
    Mode,
    OperatorEvent,
    State,
)

HEADING_S = 0.2
"""A move leads to where its path is after this time: it may turn at its via pose."""

ARMED = (State.HOLD, State.TRACKING, State.STOPPING, State.PARKING)
LATCHED = (State.ESTOP, State.FAULT)

_PREFIXES = {
    State.DISARMED: "not armed: ",
    State.HOLD: "holding: ",
    State.TRACKING: "",
    State.STOPPING: "stopping: ",
    State.PARKING: "",
    State.ESTOP: "emergency stop: ",
    State.FAULT: "fault: ",
}


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A planned motion from rest to rest that an operator asked for.

    Attributes:
        code: PARKING or RETURNING.
        path: What is followed once the arm is at rest.
        until_ns: When it ends where it is.
    """

    code: ReasonCode
    path: Path
    until_ns: int

    @property
    def heading_rad(self) -> Array:
        """Where it leads at first."""
        return self.path.at(HEADING_S)

    @property
    def disarms(self) -> bool:
        """Whether the arm is disarmed at its end, also when it is cut short."""
        return self.code is ReasonCode.PARKING


class Machine:
    """The only place where state, reason and mode change.

    Attributes:
        state: What is executed.
        code: Why, as a code.
        reason: Why, as one sentence that says what to do next.
        mode: How far chunks reach the arm.
        scale: Share of a chunk's speed in SCALED mode.
        move: What PARKING executes, and STOPPING after it; None otherwise.
        active: Limits that acted in this step.
        counts: How often each limit has acted.
        changes: Changes of state or code in this step.
        results: Answers given in this step.
    """

    def __init__(self, settings: Settings, motion: Motion) -> None:
        self._motion = motion
        self.state = State.DISARMED
        self.code = ReasonCode.NOT_ARMED
        self.reason = _sentence(self.state, self.code, "")
        self.mode = self._next_mode = settings.mode
        self.scale = self._next_scale = settings.scale
        self.move: Move | None = None
        self._target_rad: Array | None = None
        self._cause = ""
        self._disarm_after = False
        self._notes: dict[str, str] = {}
        self.counts: Counter[Limit] = Counter(dict.fromkeys(Limit, 0))
        self.begin_step()

    def begin_step(self) -> None:
        """Forget what is told per step."""
        self.active = Limit(0)
        self.changes: list[Change] = []
        self.results: list[EventResult] = []

    def act(self, limits: Limit) -> None:
        """Count limits that acted."""
        self.active |= limits
        for limit in limits:
            self.counts[limit] += 1

    def answer(self, event: OperatorEvent, success: bool, message: str) -> None:
        """Answer a request."""
        self.results.append(EventResult(event.number, success, message))

    def note(self, topic: str, limit: Limit, sentence: str) -> None:
        """Add something to the reason while it lasts; counted when it begins, empty ends it."""
        if not sentence:
            self._notes.pop(topic, None)
        elif topic not in self._notes:
            self.act(limit)
            self._notes[topic] = sentence

    @property
    def full_reason(self) -> str:
        """The reason with what has been noted."""
        return "; ".join((self.reason, *self._notes.values()))

    # What may happen in the present state.

    @property
    def motion_scale(self) -> float | None:
        """Share of a chunk's speed; None for all of it."""
        return self.scale if self.mode is Mode.SCALED else None

    @property
    def target_rad(self) -> Array | None:
        """Where the present motion leads; None when there is none."""
        if self.state is State.TRACKING:
            return self._target_rad
        if self.state is not State.PARKING or self.move is None:
            return None
        heading_rad = self._motion.heading_rad(HEADING_S)
        return self.move.heading_rad if heading_rad is None else heading_rad

    @property
    def takes_chunks(self) -> bool:
        """Whether a chunk may be followed now."""
        if self.state is State.STOPPING:
            mode_stays = (self._next_mode, self._next_scale) == (self.mode, self.scale)
            return mode_stays and self.move is None and not self._disarm_after
        return self.state in (State.HOLD, State.TRACKING)

    @property
    def will_disarm(self) -> bool:
        """Whether the present braking or move ends disarmed."""
        if self.state is State.PARKING:
            return self.move is not None and self.move.disarms
        return self.state is State.STOPPING and self._disarm_after

    # Verbs.

    def enter(self, state: State, code: ReasonCode, detail: str) -> None:
        """Be in a state for a reason; the state may be the present one."""
        if (state, code) != (self.state, self.code) or code is ReasonCode.MODE_CHANGED:
            self.changes.append(Change(self.state, state, code))
        self.state, self.code = state, code
        self.reason = _sentence(state, code, detail)

    def say(self, code: ReasonCode, detail: str) -> None:
        """Give another reason for the present state."""
        self.enter(self.state, code, detail)

    def hold(self, code: ReasonCode, detail: str) -> None:
        """Begin a new armed segment at rest."""
        self._disarm_after = False
        self.move = None
        self.enter(State.HOLD, code, detail)

    def follow(self, target_rad: Array, source: str) -> None:
        """Follow a chunk that leads to a target."""
        self._target_rad = target_rad
        self.enter(State.TRACKING, ReasonCode.FOLLOWING, f"following chunks of '{source}'")

    def begin(self, move: Move, detail: str) -> None:
        """Brake, then execute a move; a change of mode that is on its way comes after it."""
        self._motion.forget_path()
        self.move = move
        self.enter(State.PARKING, move.code, detail)

    def stop(self, code: ReasonCode, cause: str, disarm: bool = False) -> None:
        """Brake; an earlier wish to disarm stays, and parking that is cut short disarms."""
        if self.state is not State.STOPPING:
            self._disarm_after = self.move is not None and self.move.disarms
        self._disarm_after |= disarm
        self._cause = cause
        self._motion.forget_path()
        self.enter(State.STOPPING, code, cause)

    def stopped(self) -> None:
        """End braking: hold, or be disarmed."""
        changed = self._take_mode()
        if changed or self.move is not None:
            # A move left the neighbourhood that SCALED mode is confined to: it is here now.
            self._motion.rescale(self.motion_scale)
        if self._disarm_after:
            self.disarm(self.code, self._cause)
        else:
            self.hold(self.code, self._cause)

    def latch(self, state: State, code: ReasonCode, detail: str) -> None:
        """ESTOP or FAULT: the verified brake runs to its end whatever comes.

        A change of mode that is on its way comes with the reset: who lowered it counts on it.
        """
        self.move = None
        self._motion.forget_path()
        self.enter(state, code, detail)

    def disarm(self, code: ReasonCode, detail: str) -> None:
        """Stop commanding at once: for an arm at rest, or a driver that does not follow.

        What was in motion must not go on when a stop is latched later: the arm is elsewhere then.
        """
        self.move = None
        self._take_mode()
        self._motion.halt()
        self.enter(State.DISARMED, code, detail)

    def change_mode(self, mode: Mode, scale: float) -> None:
        """Take another mode, after braking where the arm may be moving."""
        self._next_mode, self._next_scale = mode, scale
        detail = f"the mode changes to {mode.name}"
        if self.state in ARMED and self.state is not State.HOLD:
            self.stop(ReasonCode.MODE_CHANGED, detail)
            return
        leaves_shadow = self.mode is Mode.SHADOW and mode is not Mode.SHADOW
        if self._take_mode():
            self._motion.rescale(self.motion_scale)
        if leaves_shadow and self.state is State.HOLD:
            # Shadow commands never reached the arm: it stands elsewhere.
            self.disarm(ReasonCode.MODE_CHANGED, f"{mode.name} comes after SHADOW")
        else:
            self.say(ReasonCode.MODE_CHANGED, f"the mode is {mode.name}")

    def _take_mode(self) -> bool:
        changed = (self.mode, self.scale) != (self._next_mode, self._next_scale)
        self.mode, self.scale = self._next_mode, self._next_scale
        return changed


def _sentence(state: State, code: ReasonCode, detail: str) -> str:
    """One sentence: what the arm does, why, and what to do about it."""
    if state in LATCHED:
        step = LATCHED_STEP
    else:
        steps = {State.DISARMED: NEXT_STEP, State.HOLD: HOLD_STEP}.get(state, {})
        step = steps.get(code, "")
    return _PREFIXES[state] + "; ".join(part for part in (detail or code.value, step) if part)
