"""What must hold between requests, states and outputs, whatever comes; checked after each step.

These are the sentences of the contract about states, kept apart from the code that implements them:
they watch only what goes into a Supervisor and what comes out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from so101_driver.safety import (
    Chunk,
    Command,
    EventKind,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Status,
)
from so101_driver.safety.transitions import allowed

if TYPE_CHECKING:
    from proof.world import Weather

ARMED = (State.HOLD, State.TRACKING, State.STOPPING, State.PARKING)
MOVING = (State.TRACKING, State.PARKING)
LATCHED = (State.ESTOP, State.FAULT)
DEADMAN_S = 0.2
ONE_POINT_S = 0.5
LONGEST_PARKING_S = 12.0
ANSWERED = frozenset(EventKind) - {EventKind.DEADMAN, EventKind.TORQUE_REFUSED}
STILL_RAD = 1e-9
"""Rounding."""


class Rules:
    """Follows one Supervisor from outside."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._gripper = limits.joint_names.index("gripper")
        self._before: Command | None = None
        self._counts: dict[object, int] = {}
        self._good_ns: int | None = None
        self._pressed_ns: int | None = None
        self._chunk_ns: int | None = None
        self._interval_ns = 0
        self._fresh_until_ns = 0
        self._anchor: NDArray[np.float64] | None = None
        self._parked = False
        self._scale = settings.scale
        self._parking_ns: int | None = None
        self._arm_asked = settings.auto_arm
        self._arming: set[int] = set()

    def check(
        self,
        command: Command,
        status: Status,
        chunks: tuple[Chunk, ...],
        events: tuple[OperatorEvent, ...],
        steady_ns: int,
        weather: Weather,
    ) -> None:
        """Raise AssertionError naming the first broken rule."""
        self._note(chunks, events, steady_ns, weather)
        kinds = {event.kind for event in events}
        before = State.DISARMED if self._before is None else self._before.state
        after = command.state
        self._changes(command, before)
        self._answers(command, events)
        self._outputs(command, before)
        self._latches(before, after, kinds)
        self._watchdogs(after, steady_ns)
        self._scaled(command, before, status.scale)
        self._status(status, command)
        self._before = command

    def _note(
        self,
        chunks: tuple[Chunk, ...],
        events: tuple[OperatorEvent, ...],
        steady_ns: int,
        weather: Weather,
    ) -> None:
        if weather.joints in ("good", "teleport"):
            self._good_ns = steady_ns
        for event in events:
            if event.kind is EventKind.DEADMAN:
                self._pressed_ns = steady_ns if event.pressed else None
            self._arm_asked |= event.kind is EventKind.ARM
        for chunk in chunks:
            if self._chunk_ns is not None:
                self._interval_ns = max(self._interval_ns, steady_ns - self._chunk_ns)
            self._chunk_ns = steady_ns
            last = chunk.offsets_ns[-1] if chunk.offsets_ns else 0
            age_s = chunk.image_age_s if 0.0 <= chunk.image_age_s <= 1.0 else 0.0
            horizon_ns = max(last, 0) + round(age_s * 1e9)
            if len(chunk.points_rad) <= 1:
                # Two intervals and the latency, which is at most the timeout that admits a chunk.
                horizon_ns = 2 * self._interval_ns + 2 * round(ONE_POINT_S * 1e9)
            if self._settings.chunk_timeout_s:
                horizon_ns = round(self._settings.chunk_timeout_s * 1e9)
            self._fresh_until_ns = max(self._fresh_until_ns, steady_ns + horizon_ns)

    def _changes(self, command: Command, before: State) -> None:
        """Every change is told, without a gap, and stands in the table of docs/states.md."""
        for change in command.changes:
            name = f"{change.before.name} to {change.after.name} for {change.code.name}"
            assert change.before is before, f"{name} began in {before.name}"
            assert allowed(change.before, change.after, change.code), f"{name} is not in the table"
            before = change.after
        assert before is command.state, f"a change to {command.state.name} was not told"

    def _answers(self, command: Command, events: tuple[OperatorEvent, ...]) -> None:
        """Who asks is answered once: to arm when it is done or given up, else at once."""
        asked = {event.number for event in events if event.number and event.kind in ANSWERED}
        arms = {event.number for event in events if event.number and event.kind is EventKind.ARM}
        answered = [result.number for result in command.results if result.number]
        assert asked <= set(answered) | arms, "a request without an answer"
        self._arming = (self._arming | arms) - set(answered)
        if command.state is not State.DISARMED:
            assert not self._arming, f"{command.state.name} without an answer to a request to arm"

    def _outputs(self, command: Command, before: State) -> None:
        if command.state is State.DISARMED and before is State.DISARMED:
            assert command.output is Output.NONE, "commands while disarmed"
        if command.output is not Output.NONE:
            assert self._arm_asked, "commands without having been armed"
            assert command.positions_rad is not None and command.velocities_rad_s is not None
        shadow_before = self._before is None or self._before.mode is Mode.SHADOW
        if command.mode is Mode.SHADOW and shadow_before:
            assert command.output is not Output.COMMANDS, "SHADOW reached the arm"
            assert not command.request_torque, "SHADOW asked for torque"
        if command.state is State.HOLD and command.velocities_rad_s is not None:
            assert not command.velocities_rad_s.any(), "HOLD moves"

    def _latches(self, before: State, after: State, kinds: set[EventKind]) -> None:
        if before in LATCHED and after is not before:
            reset = after is State.DISARMED and EventKind.RESET in kinds
            # Resetting and arming in one step is two requests, in order.
            reset |= after is State.HOLD and {EventKind.RESET, EventKind.ARM} <= kinds
            reset |= after in LATCHED and bool(kinds & {EventKind.ESTOP, EventKind.RESET})
            assert reset, f"{before.name} became {after.name} without a reset"
        if EventKind.ESTOP in kinds and not kinds & {EventKind.RESET}:
            assert after is State.ESTOP, f"an emergency stop led to {after.name}"

    def _watchdogs(self, after: State, steady_ns: int) -> None:
        period_s = self._settings.period_s
        if after in ARMED:
            silent_s = math.inf if self._good_ns is None else (steady_ns - self._good_ns) * 1e-9
            allowed_s = self._settings.joint_state_timeout_s
            assert silent_s <= allowed_s + 1e-9, f"armed without joint states for {silent_s:.3f} s"
        if after in MOVING and self._settings.deadman_required:
            pressed_ns = self._pressed_ns
            loose_s = math.inf if pressed_ns is None else (steady_ns - pressed_ns) * 1e-9
            assert loose_s <= DEADMAN_S + 1e-9, f"{after.name} without the deadman switch"
        if after is State.TRACKING:
            stale_s = (steady_ns - self._fresh_until_ns) * 1e-9
            assert stale_s <= 2.0 * period_s, f"following a chunk {stale_s:.2f} s after its end"
        if after is not State.PARKING:
            self._parking_ns = None
        elif self._parking_ns is None:
            self._parking_ns = steady_ns
        else:
            parking_s = (steady_ns - self._parking_ns) * 1e-9
            assert parking_s <= LONGEST_PARKING_S, "parking does not end"

    def _scaled(self, command: Command, before: State, scale: float) -> None:
        """SCALED stays around the pose in which it began, and its gripper stands.

        Choosing another scale, which takes an arm at rest, begins anew.
        """
        position, last = command.positions_rad, self._before
        if command.mode is not Mode.SCALED or command.state not in ARMED or position is None:
            self._anchor = None
            return
        begins = (
            last is None
            or last.mode is not command.mode
            or scale != self._scale
            or any(result.message == "armed and holding" for result in command.results)
        )
        self._scale = scale
        if State.PARKING in (before, command.state):
            self._parked = True
        if self._anchor is None or begins or self._parked:
            self._anchor = position
            # Parking leaves the neighbourhood; a new one begins where the arm comes to rest.
            self._parked = command.state is not State.HOLD and self._parked and not begins
            return
        away = np.abs(position - self._anchor)
        radius = self._settings.scaled_radius_rad
        assert away.max() <= radius + 1e-6, f"SCALED is {away.max():.4f} rad away from its start"
        gripper = self._gripper
        if not self._settings.scaled_gripper:
            moved = float(away[gripper])
            assert moved <= STILL_RAD, f"the gripper moved by {moved:.3g} rad in SCALED"

    def _status(self, status: Status, command: Command) -> None:
        assert status.state is command.state and status.mode is command.mode
        assert status.reason, "no reason"
        assert 0.0 <= status.intent_clipped <= 1.0, f"intent_clipped is {status.intent_clipped}"
        assert 0.0 <= status.path_rate <= 1.0, f"path_rate is {status.path_rate}"
        for limit in command.active_limits:
            count = status.counts[limit]
            assert count > self._counts.get(limit, 0), f"{limit.name} acted but was not counted"
        for limit, count in status.counts.items():
            assert count >= self._counts.get(limit, 0), f"{limit} was counted down"
        self._counts = dict(status.counts)
