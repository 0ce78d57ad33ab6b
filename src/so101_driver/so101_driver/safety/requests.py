"""What operators, buttons and the node ask for."""

from __future__ import annotations

from so101_driver.safety.arming import Arming
from so101_driver.safety.chunk_gate import ChunkGate
from so101_driver.safety.guards import Guards
from so101_driver.safety.limits import Limits
from so101_driver.safety.machine import ARMED, LATCHED, Machine, Move
from so101_driver.safety.motion import Motion
from so101_driver.safety.parking import Blocked, plan
from so101_driver.safety.readiness import Problem
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.shaping import Guarded
from so101_driver.safety.types import (
    ArmState,
    EventKind,
    Mode,
    OperatorEvent,
    State,
)

MOVE_TIMEOUT_S = 8.0
"""Parking and returning end where they are after this."""

SMALLEST_SCALE, LARGEST_SCALE = 0.1, 0.2


class Requests:
    """Answers every request and does what it asks."""

    def __init__(
        self,
        machine: Machine,
        arming: Arming,
        guards: Guards,
        motion: Motion,
        gate: ChunkGate,
        limits: Limits,
        geometry: Guarded | None,
    ) -> None:
        self._machine = machine
        self._arming = arming
        self._guards = guards
        self._motion = motion
        self._gate = gate
        self._limits = limits
        self._geometry = geometry

    def handle(self, event: OperatorEvent, steady_ns: int, arm: ArmState) -> None:
        """Take one request."""
        match event.kind:
            case EventKind.ARM:
                self._arming.ask(event, steady_ns, arm)
            case EventKind.DISARM:
                self._disarm(event)
            case EventKind.ESTOP:
                self._estop(event)
            case EventKind.RESET:
                self._reset(event)
            case EventKind.PARK:
                self._park(event, steady_ns)
            case EventKind.RETURN:
                self._return(event, steady_ns)
            case EventKind.SET_MODE:
                self._set_mode(event)
            case EventKind.SELECT_SOURCE:
                self._select_source(event)
            case EventKind.DEADMAN:
                self._guards.deadman(event.pressed, steady_ns)
            case EventKind.TORQUE_REFUSED:
                self._arming.fail(
                    Problem(ReasonCode.TORQUE_REFUSED, f"the driver refuses torque: {event.text}")
                )

    def _estop(self, event: OperatorEvent) -> None:
        machine = self._machine
        self._arming.by_hand()
        if machine.state is not State.ESTOP:
            machine.latch(State.ESTOP, ReasonCode.ESTOP, "it was pressed")
            self._arming.fail(Problem(ReasonCode.ESTOP, "the emergency stop was pressed"))
        machine.answer(event, True, "emergency stop")

    def _disarm(self, event: OperatorEvent) -> None:
        machine = self._machine
        self._arming.by_hand()
        if machine.state in LATCHED:
            machine.answer(event, False, f"{machine.state.name} is latched: reset instead")
        elif machine.state in ARMED and machine.state is not State.HOLD:
            machine.stop(ReasonCode.DISARMED, "disarmed on request", disarm=True)
            machine.answer(event, True, "braking, then disarmed")
        else:
            self._arming.fail(Problem(ReasonCode.DISARMED, "disarmed"))
            machine.disarm(ReasonCode.DISARMED, "disarmed on request")
            machine.answer(event, True, "disarmed")

    def _reset(self, event: OperatorEvent) -> None:
        machine = self._machine
        if machine.state not in LATCHED:
            machine.answer(event, False, f"nothing to reset: the state is {machine.state.name}")
        elif not self._motion.at_rest:
            machine.answer(event, False, "still braking")
        else:
            machine.disarm(ReasonCode.RESET, "reset")
            machine.answer(event, True, "reset; arm to move")

    def _park(self, event: OperatorEvent, steady_ns: int) -> None:
        machine = self._machine
        if machine.state is State.PARKING and machine.code is ReasonCode.PARKING:
            machine.answer(event, True, "already parking")
        elif machine.state not in ARMED:
            state = machine.state.name
            machine.answer(event, False, f"only an armed arm parks: the state is {state}")
        elif self._begin(event, ReasonCode.PARKING, steady_ns):
            machine.answer(event, True, "parking, then disarmed")

    def _return(self, event: OperatorEvent, steady_ns: int) -> None:
        machine = self._machine
        if machine.state is State.PARKING and machine.code is ReasonCode.RETURNING:
            machine.answer(event, True, "already returning")
        elif machine.state is not State.HOLD:
            machine.answer(event, False, f"returning needs HOLD: {self._not_holding()}")
        elif self._begin(event, ReasonCode.RETURNING, steady_ns):
            machine.answer(event, True, "returning to the ready pose, then holding")

    def _not_holding(self) -> str:
        state = self._machine.state
        if state is State.TRACKING:
            return "the state is TRACKING; stop the sender of chunks, or select another source"
        return f"the state is {state.name}"

    def _begin(self, event: OperatorEvent, code: ReasonCode, steady_ns: int) -> bool:
        """Begin a move if there is a way for it; else answer why not."""
        machine, limits = self._machine, self._limits.for_part(self._arming.part)
        parks = code is ReasonCode.PARKING
        if not self._guards.deadman_pressed(steady_ns):
            machine.answer(event, False, ReasonCode.DEADMAN.value)
            return False
        path = plan(
            self._motion.resting_rad,
            limits.rest_rad if parks else limits.ready_rad,
            limits,
            self._geometry,
            "parking" if parks else "returning",
        )
        if isinstance(path, Blocked):
            machine.answer(event, False, path.sentence)
            return False
        move = Move(code, path, steady_ns + round(MOVE_TIMEOUT_S * 1e9))
        blocked = self._guards.blocks(move.heading_rad)
        if blocked:
            machine.answer(event, False, blocked)
            return False
        machine.begin(move, "going to the rest pose" if parks else "going to the ready pose")
        return True

    def _set_mode(self, event: OperatorEvent) -> None:
        machine, mode = self._machine, event.mode
        scale = event.scale or machine.scale
        if mode is None:
            machine.answer(event, False, "the mode must be shadow, scaled or full")
        elif event.scale and not SMALLEST_SCALE <= event.scale <= LARGEST_SCALE:
            machine.answer(
                event, False, f"the scale must be {SMALLEST_SCALE} to {LARGEST_SCALE}, or 0"
            )
        elif machine.state in LATCHED:
            machine.answer(event, False, f"{machine.state.name} is latched: reset first")
        elif self._arming.pending:
            machine.answer(event, False, "arming waits for the driver's torque: ask again later")
        elif mode > machine.mode and machine.state not in (State.HOLD, State.DISARMED):
            machine.answer(event, False, f"going up needs HOLD: {self._not_holding()}")
        elif (machine.mode, mode) == (Mode.SHADOW, Mode.FULL):
            machine.answer(
                event, False, "FULL comes after SCALED, not after SHADOW: set the mode SCALED first"
            )
        else:
            machine.change_mode(mode, scale)
            later = machine.state is State.STOPPING
            machine.answer(event, True, f"braking, then {mode.name}" if later else machine.reason)

    def _select_source(self, event: OperatorEvent) -> None:
        machine = self._machine
        self._gate.select(event.text)
        if machine.state is State.TRACKING:
            machine.stop(ReasonCode.SOURCE_CHANGED, "another source of chunks was selected")
        whom = f"'{event.text}'" if event.text else "the first source that comes"
        machine.answer(event, True, f"following {whom}")
