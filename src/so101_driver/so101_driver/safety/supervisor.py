"""The safety layer's state machine: what is executed in each state, and what changes the state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from so101_driver.safety.arm_watch import ArmWatch
from so101_driver.safety.chunk_gate import AcceptedChunk, ChunkGate, Refusal
from so101_driver.safety.limits import Limits
from so101_driver.safety.motion import Motion
from so101_driver.safety.parking import ParkingPath
from so101_driver.safety.readiness import driver_problem
from so101_driver.safety.settings import Settings
from so101_driver.safety.shaping import Guarded
from so101_driver.safety.types import (
    ArmState,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    EventKind,
    EventResult,
    Limit,
    Mode,
    OperatorEvent,
    Output,
    State,
    Status,
)

TORQUE_TIMEOUT_S = 6.0
"""Arming fails when the driver has not switched the torque on after this."""

DRIVER_HOLDING_S = 1.0
"""A driver that holds for so long while commands come does not follow them."""

DRIVER_RESYNC_S = 0.3
"""So long after arming the driver may still report what was wrong before."""

DEADMAN_TIMEOUT_S = 0.2
"""A deadman switch reports at 10 Hz or more; one report may be lost."""

PARKING_TIMEOUT_S = 8.0
"""Parking ends where it is after this."""

AUTO_ARM_INTERVAL_S = 0.5
"""How often automatic arming looks; chunks must have come within this time."""

SMALLEST_SCALE, LARGEST_SCALE = 0.1, 0.2

ARMED = (State.HOLD, State.TRACKING, State.STOPPING, State.PARKING)
LATCHED = (State.ESTOP, State.FAULT)


class Supervisor:
    """Turns chunks and requests into one command per tick.

    Pure and deterministic: all time is an argument. ``limits`` must already be the effective ones.
    """

    def __init__(self, limits: Limits, settings: Settings, geometry: Guarded | None = None) -> None:
        self._limits = limits
        self._settings = settings
        self._joints = len(limits.joint_names)
        self._motion = Motion(limits, settings, geometry)
        self._gate = ChunkGate(limits.joint_names, settings)
        self._watch = ArmWatch(limits.joint_names, settings)
        self._state = State.DISARMED
        self._reason = "not armed"
        self._mode = self._next_mode = settings.mode
        self._scale = self._next_scale = settings.scale
        self._cause = ""
        self._disarm_after = False
        self._refused = ""
        self._park_until_ns = 0
        self._arming: OperatorEvent | None = None
        self._arming_until_ns = 0
        self._armed_once = False
        self._armed_ns = 0
        self._auto_arm_ns: int | None = None
        self._chunk_came_ns: int | None = None
        self._driver_holds_ns: int | None = None
        self._deadman_ns: int | None = None
        self._clock_offset_ns: int | None = None
        self._last_tick: int | None = None
        self._missed_ticks = 0
        self._counts: Counter[Limit] = Counter(dict.fromkeys(Limit, 0))
        # Of the present step.
        self._active = Limit(0)
        self._ask_torque = False
        self._results: list[EventResult] = []

    def step(
        self,
        tick: int,
        steady_ns: int,
        ros_ns: int,
        joint_state: ArmState,
        new_chunks: Sequence[Chunk],
        operator_events: Sequence[OperatorEvent],
    ) -> Command:
        """Advance by one tick.

        Args:
            tick: Number of the tick on the loop's fixed grid; a gap means missed ticks.
            steady_ns: Steady time of the tick.
            ros_ns: ROS time of the tick.
            joint_state: What is known about the arm.
            new_chunks: Chunks that came since the last step, in order of arrival.
            operator_events: Requests that came since the last step, in order of arrival.
        """
        self._active = Limit(0)
        self._ask_torque = False
        self._results = []
        if self._last_tick is not None:
            self._missed_ticks += max(tick - self._last_tick - 1, 0)
        self._last_tick = tick

        self._check_clock(steady_ns, ros_ns)
        self._act(self._watch.update(joint_state.joints, steady_ns, ros_ns))
        for event in operator_events:
            self._handle(event, steady_ns, joint_state)
        self._check_arm(steady_ns, joint_state)
        if new_chunks:
            self._chunk_came_ns = steady_ns
        self._take_chunks(new_chunks, steady_ns, ros_ns)
        # After the chunks: the first command of an armed segment is where the arm stands.
        self._continue_arming(steady_ns, joint_state)
        output = self._output()
        self._move(steady_ns)
        known = self._armed_once
        return Command(
            tick=tick,
            output=output,
            positions_rad=self._motion.position_rad if known else None,
            velocities_rad_s=self._motion.velocity_rad_s if known else None,
            state=self._state,
            mode=self._mode,
            active_limits=self._active,
            request_torque=self._ask_torque,
            results=tuple(self._results),
        )

    def status(self, steady_ns: int) -> Status:
        """What SafetyStatus tells."""
        return Status(
            state=self._state,
            mode=self._mode,
            scale=self._scale if self._mode is Mode.SCALED else 1.0,
            source=self._gate.source,
            reason=self._reason,
            active_limits=self._active,
            counts=dict(self._counts),
            chunk_age_s=self._gate.age_s(steady_ns),
            clock_skew_s=self._gate.clock_skew_s,
            intent_clipped=self._motion.intent_clipped,
            missed_ticks=self._missed_ticks,
        )

    # Motion.

    def _output(self) -> Output:
        if self._state in ARMED or (self._state in LATCHED and not self._motion.at_rest):
            return Output.SHADOW if self._mode is Mode.SHADOW else Output.COMMANDS
        return Output.NONE

    def _move(self, steady_ns: int) -> None:
        if self._state is State.TRACKING and not self._gate.fresh(steady_ns):
            self._act(Limit.STALE_CHUNK)
            refused = f"; {self._refused}" if self._refused else ""
            self._stop(f"the newest chunk is {self._gate.age_s(steady_ns):.2f} s old{refused}")
        if self._state is State.TRACKING:
            self._act(self._motion.track())
        elif self._state is State.PARKING:
            if not self._motion.planned and self._motion.at_rest:
                self._motion.plan(ParkingPath(self._motion.position_rad, self._limits))
            acted, parked = self._motion.go()
            self._act(acted)
            if parked:
                self._stop("parked; the servos hold, arm to move again", disarm=True)
            elif steady_ns > self._park_until_ns:
                self._stop(f"parking took more than {PARKING_TIMEOUT_S:g} s", disarm=True)
        elif self._state in ARMED or self._state in LATCHED:
            self._motion.brake()
            if self._state is State.STOPPING and self._motion.at_rest:
                self._stopped()

    def _stop(self, cause: str, disarm: bool = False) -> None:
        """Brake; an earlier wish to disarm stays, and parking that is cut short disarms."""
        if self._state is not State.STOPPING:
            self._disarm_after = self._state is State.PARKING
        self._disarm_after |= disarm
        self._state = State.STOPPING
        self._cause = cause
        self._reason = f"stopping: {cause}"
        self._motion.forget_path()

    def _stopped(self) -> None:
        self._change_mode()
        if self._disarm_after:
            self._disarm(self._cause)
        else:
            self._state = State.HOLD
            self._reason = f"holding: {self._cause}"

    def _latch(self, state: State, reason: str) -> None:
        """ESTOP or FAULT: the verified brake runs to its end whatever comes."""
        self._fail_arming(reason)
        self._state = state
        self._reason = reason
        self._next_mode, self._next_scale = self._mode, self._scale
        self._motion.forget_path()

    def _disarm(self, reason: str) -> None:
        """Stop commanding at once: for an arm at rest, or a driver that does not follow."""
        self._fail_arming(reason)
        self._state = State.DISARMED
        self._reason = reason
        self._motion.forget_path()

    def _change_mode(self) -> None:
        if (self._mode, self._scale) != (self._next_mode, self._next_scale):
            self._mode, self._scale = self._next_mode, self._next_scale
            self._motion.rescale(self._motion_scale())

    def _motion_scale(self) -> float | None:
        return self._scale if self._mode is Mode.SCALED else None

    # Chunks.

    def _take_chunks(self, chunks: Sequence[Chunk], steady_ns: int, ros_ns: int) -> None:
        """Check chunks that came; the newest good one is followed."""
        braking = self._state is State.STOPPING and not self._disarm_after
        if self._next_mode is not self._mode:
            braking = False
        if not chunks or not (self._state in (State.HOLD, State.TRACKING) or braking):
            return
        accepted: AcceptedChunk | None = None
        for chunk in chunks:
            answer = self._gate.offer(chunk, steady_ns, ros_ns, self._state is State.HOLD)
            if isinstance(answer, Refusal):
                self._act(answer.limit)
                self._refused = answer.reason
                if self._state is State.HOLD:
                    self._reason = f"holding: {answer.reason}"
            else:
                accepted = answer
        if accepted is not None and self._deadman_pressed(steady_ns):
            self._refused = ""
            self._motion.follow(accepted, steady_ns)
            self._state = State.TRACKING
            self._reason = f"following chunks of '{self._gate.source}'"

    # Guards.

    def _act(self, limits: Limit) -> None:
        """Count limits that acted."""
        self._active |= limits
        for limit in limits:
            self._counts[limit] += 1

    def _check_clock(self, steady_ns: int, ros_ns: int) -> None:
        last_ns, self._clock_offset_ns = self._clock_offset_ns, ros_ns - steady_ns
        if last_ns is None:
            return
        jump_s = (self._clock_offset_ns - last_ns) * 1e-9
        if abs(jump_s) <= self._settings.max_clock_skew_s:
            return
        self._act(Limit.CLOCK)
        self._gate.forget()
        self._watch.forget_stamps()
        if self._state is State.TRACKING:
            self._stop(f"ROS time jumped by {jump_s:+.2f} s")

    def _check_arm(self, steady_ns: int, arm: ArmState) -> None:
        """Leave the armed states when the arm cannot be controlled."""
        if self._state not in ARMED:
            return
        if self._state in (State.TRACKING, State.PARKING) and not self._deadman_pressed(steady_ns):
            self._stop("the deadman switch is not pressed")
        if self._watch.fresh_reading(steady_ns) is None:
            self._act(Limit.STALE_STATE)
            self._latch(State.FAULT, self._watch.problem)
        elif self._watch.teleport:
            self._act(Limit.TRACKING_MARGIN)
            self._latch(State.FAULT, self._watch.teleport)
        elif self._mode is not Mode.SHADOW:
            self._check_driver(steady_ns, arm.driver)

    def _check_driver(self, steady_ns: int, driver: DriverReading | None) -> None:
        problem = driver_problem(driver, self._joints, steady_ns)
        if problem or driver is None:
            self._act(Limit.STALE_STATE)
            self._latch(State.FAULT, problem)
            return
        if driver.state is not DriverState.HOLDING:
            self._driver_holds_ns = None
        elif self._driver_holds_ns is None:
            self._driver_holds_ns = steady_ns
        holds_long = self._driver_holds_ns is not None and (
            (steady_ns - self._driver_holds_ns) * 1e-9 > DRIVER_HOLDING_S
        )
        settled = (driver.received_ns - self._armed_ns) * 1e-9 > DRIVER_RESYNC_S
        if (driver.desync and settled) or holds_long or not all(driver.torque_on):
            self._act(Limit.DESYNC)
            reason = driver.reason or "torque is off"
            self._disarm(f"the driver does not follow ({reason}): arm again")

    def _deadman_pressed(self, steady_ns: int) -> bool:
        return not self._settings.deadman_required or (
            self._deadman_ns is not None
            and (steady_ns - self._deadman_ns) * 1e-9 <= DEADMAN_TIMEOUT_S
        )

    # Requests.

    def _answer(self, event: OperatorEvent, success: bool, message: str) -> None:
        self._results.append(EventResult(event.number, success, message))

    def _handle(self, event: OperatorEvent, steady_ns: int, arm: ArmState) -> None:
        match event.kind:
            case EventKind.ARM:
                self._handle_arm(event, steady_ns, arm)
            case EventKind.DISARM:
                self._handle_disarm(event)
            case EventKind.ESTOP:
                if self._state is not State.ESTOP:
                    self._latch(State.ESTOP, "emergency stop: reset, then arm")
                self._answer(event, True, "emergency stop")
            case EventKind.RESET:
                self._handle_reset(event)
            case EventKind.PARK:
                self._handle_park(event, steady_ns)
            case EventKind.SET_MODE:
                self._handle_mode(event)
            case EventKind.SELECT_SOURCE:
                self._gate.select(event.text)
                if self._state is State.TRACKING:
                    self._stop("another source of chunks was selected")
                whom = f"'{event.text}'" if event.text else "the first source that comes"
                self._answer(event, True, f"following {whom}")
            case EventKind.DEADMAN:
                self._deadman_ns = steady_ns if event.pressed else None
            case EventKind.TORQUE_REFUSED:
                self._fail_arming(f"the driver refuses torque: {event.text}")

    def _handle_disarm(self, event: OperatorEvent) -> None:
        if self._state in LATCHED:
            self._answer(event, False, f"{self._state.name} is latched: reset instead")
            return
        if self._state in ARMED and not self._motion.at_rest:
            self._stop("disarming", disarm=True)
            self._answer(event, True, "braking, then disarmed")
            return
        self._disarm("disarmed")
        self._answer(event, True, "disarmed")

    def _handle_reset(self, event: OperatorEvent) -> None:
        if self._state not in LATCHED:
            self._answer(event, False, f"nothing to reset: the state is {self._state.name}")
        elif not self._motion.at_rest:
            self._answer(event, False, "still braking")
        else:
            self._disarm("reset: arm to move")
            self._answer(event, True, "reset; arm to move")

    def _handle_park(self, event: OperatorEvent, steady_ns: int) -> None:
        if self._state is State.PARKING:
            self._answer(event, True, "already parking")
        elif self._state not in ARMED:
            self._answer(event, False, f"only an armed arm parks: the state is {self._state.name}")
        elif not self._deadman_pressed(steady_ns):
            self._answer(event, False, "the deadman switch is not pressed")
        else:
            self._motion.forget_path()
            self._next_mode, self._next_scale = self._mode, self._scale
            self._state = State.PARKING
            self._reason = "going to the rest pose"
            self._park_until_ns = steady_ns + round(PARKING_TIMEOUT_S * 1e9)
            self._answer(event, True, "parking, then disarmed")

    def _handle_mode(self, event: OperatorEvent) -> None:
        mode = event.mode
        scale = event.scale or self._scale
        at_rest_states = (State.HOLD, State.DISARMED)
        if mode is None:
            self._answer(event, False, "the mode must be shadow, scaled or full")
        elif event.scale and not SMALLEST_SCALE <= event.scale <= LARGEST_SCALE:
            self._answer(
                event, False, f"the scale must be {SMALLEST_SCALE} to {LARGEST_SCALE}, or 0"
            )
        elif self._state in LATCHED and not self._motion.at_rest:
            self._answer(event, False, "still braking")
        elif mode > self._mode and self._state not in at_rest_states:
            self._answer(event, False, f"going up needs HOLD: the state is {self._state.name}")
        elif self._state in ARMED and self._state is not State.HOLD:
            self._next_mode, self._next_scale = mode, scale
            self._stop(f"changing to {mode.name}", self._disarm_after)
            self._answer(event, True, f"braking, then {mode.name}")
        else:
            leaves_shadow = self._mode is Mode.SHADOW and mode is not Mode.SHADOW
            self._next_mode, self._next_scale = mode, scale
            self._change_mode()
            if leaves_shadow and self._state is State.HOLD:
                # Shadow commands never reached the arm: it stands elsewhere.
                self._disarm(f"{mode.name} after SHADOW: arm to move")
                self._answer(event, True, f"{mode.name}; arm to move")
            else:
                self._answer(event, True, mode.name)

    # Arming.

    def _handle_arm(self, event: OperatorEvent, steady_ns: int, arm: ArmState) -> None:
        if self._state in ARMED:
            self._answer(event, True, "already armed")
        elif self._state in LATCHED:
            self._answer(event, False, f"{self._state.name}: {self._reason}; reset first")
        elif self._arming is not None:
            self._answer(event, False, "already waiting for the driver's torque")
        else:
            self._arming = event
            self._arming_until_ns = steady_ns + round(TORQUE_TIMEOUT_S * 1e9)
            problem = self._not_ready(steady_ns, arm)
            if problem:
                self._fail_arming(problem)
            elif self._mode is not Mode.SHADOW and not _torque_on(arm.driver):
                self._ask_torque = True
                self._reason = "waiting for the driver's torque"

    def _fail_arming(self, problem: str) -> None:
        if self._arming is None:
            return
        self._reason = f"not armed: {problem}"
        self._answer(self._arming, False, problem)
        self._arming = None

    def _not_ready(self, steady_ns: int, arm: ArmState) -> str:
        if arm.input_problem:
            return arm.input_problem
        if self._watch.fresh_reading(steady_ns) is None:
            return self._watch.problem
        if self._mode is Mode.SHADOW:
            return ""
        return driver_problem(arm.driver, self._joints, steady_ns)

    def _no_policy(self, steady_ns: int) -> str:
        """Why automatic arming would be for nothing: no policy sends chunks, or ""."""
        came_ns = self._chunk_came_ns
        if came_ns is None or (steady_ns - came_ns) * 1e-9 > AUTO_ARM_INTERVAL_S:
            return "waiting for a policy's chunks"
        return ""

    def _continue_arming(self, steady_ns: int, arm: ArmState) -> None:
        if self._settings.auto_arm and not self._armed_once and self._state is State.DISARMED:
            due = self._auto_arm_ns is None or steady_ns >= self._auto_arm_ns
            if self._arming is None and due:
                self._auto_arm_ns = steady_ns + round(AUTO_ARM_INTERVAL_S * 1e9)
                problem = self._not_ready(steady_ns, arm) or self._no_policy(steady_ns)
                if problem:
                    self._reason = f"not armed: {problem}"
                else:
                    self._handle_arm(OperatorEvent(EventKind.ARM), steady_ns, arm)
        if self._arming is None:
            return
        problem = self._not_ready(steady_ns, arm)
        reading = self._watch.fresh_reading(steady_ns)
        if problem or reading is None:
            self._fail_arming(problem)
            return
        start = np.array(reading.positions_rad)
        if _torque_on(arm.driver):
            goal = np.array(arm.driver.goal_rad) if arm.driver else start
            # The goal register, not the measurement: a loaded joint hangs below its goal, and
            # arming from the measurement would let the arm sink a little each time.
            if goal.shape == start.shape and np.isfinite(goal).all():
                start = goal
        elif self._mode is not Mode.SHADOW:
            if steady_ns > self._arming_until_ns:
                self._fail_arming(f"the driver has no torque on after {TORQUE_TIMEOUT_S:g} s")
            return
        problem = self._motion.start_problem(start)
        if problem:
            self._fail_arming(problem)
            return
        self._gate.restart()
        self._motion.start(start, self._motion_scale(), None)
        self._armed_once = True
        self._armed_ns = steady_ns
        self._driver_holds_ns = None
        self._refused = ""
        self._state = State.HOLD
        self._reason = "armed and holding: waiting for chunks"
        self._answer(self._arming, True, "armed and holding")
        self._arming = None


def _torque_on(driver: DriverReading | None) -> bool:
    return driver is not None and len(driver.torque_on) > 0 and all(driver.torque_on)
