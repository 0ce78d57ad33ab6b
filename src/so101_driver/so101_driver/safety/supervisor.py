"""The safety layer's tick: guards, requests and chunks in, one command out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from so101_driver.safety.arm_watch import ArmWatch
from so101_driver.safety.arming import Arming
from so101_driver.safety.chunk_gate import AcceptedChunk, ChunkGate, Refusal
from so101_driver.safety.guards import Guards
from so101_driver.safety.limits import Limits
from so101_driver.safety.machine import ARMED, LATCHED, Machine
from so101_driver.safety.motion import Motion
from so101_driver.safety.reasons import ReasonCode
from so101_driver.safety.requests import MOVE_TIMEOUT_S, Requests
from so101_driver.safety.settings import Settings
from so101_driver.safety.shaping import Guarded
from so101_driver.safety.types import (
    ArmState,
    Chunk,
    Command,
    Limit,
    Mode,
    OperatorEvent,
    Output,
    State,
    Status,
)

_REFUSALS = {
    Limit.BAD_CHUNK: ReasonCode.CHUNK_BAD,
    Limit.STALE_CHUNK: ReasonCode.CHUNK_STALE,
    Limit.OTHER_SOURCE: ReasonCode.CHUNK_SOURCE,
    Limit.CLOCK: ReasonCode.CHUNK_CLOCK,
}


class Supervisor:
    """Turns chunks and requests into one command per tick.

    Pure and deterministic: all time is an argument. ``limits`` must already be the effective ones;
    without a geometry nothing but joint limits is checked.
    """

    def __init__(self, limits: Limits, settings: Settings, geometry: Guarded | None = None) -> None:
        self._period_s = settings.period_s
        self._motion = Motion(limits, settings, geometry)
        self._gate = ChunkGate(limits.joint_names, settings)
        self._watch = ArmWatch(limits.joint_names, settings)
        self._machine = Machine(settings, self._motion)
        self._arming = Arming(
            self._machine, self._motion, limits, settings, self._watch, self._gate
        )
        self._guards = Guards(
            self._machine, self._arming, limits, settings, self._watch, self._gate
        )
        self._requests = Requests(
            self._machine, self._arming, self._guards, self._motion, self._gate, limits, geometry
        )
        self._refused = ""
        self._last_tick: int | None = None
        self._missed_ticks = 0
        self._mode_ticks = dict.fromkeys(Mode, 0)

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
        machine, motion = self._machine, self._motion
        machine.begin_step()
        self._arming.asks_for_torque = False
        if self._last_tick is not None:
            self._missed_ticks += max(tick - self._last_tick - 1, 0)
        self._last_tick = tick

        self._guards.check_clock(steady_ns, ros_ns)
        machine.act(self._watch.update(joint_state.joints, steady_ns, ros_ns))
        for event in operator_events:
            self._requests.handle(event, steady_ns, joint_state)
        self._guards.check_arm(steady_ns, joint_state, motion.position_rad)
        if new_chunks:
            self._arming.chunks_came(steady_ns)
            for chunk in new_chunks:
                self._gate.measure_skew(chunk, ros_ns)
            self._take_chunks(new_chunks, steady_ns, ros_ns)
        self._guards.check_skew(steady_ns)
        # After the chunks: the first command of an armed segment is where the arm stands.
        self._arming.advance(steady_ns, joint_state)
        output = self._output()
        if output is Output.COMMANDS:
            self._arming.commanded(steady_ns)
        self._move(steady_ns)
        known = self._arming.armed_ns is not None
        return Command(
            tick=tick,
            output=output,
            positions_rad=motion.position_rad if known else None,
            velocities_rad_s=motion.velocity_rad_s if known else None,
            state=machine.state,
            mode=machine.mode,
            active_limits=machine.active,
            request_torque=self._arming.asks_for_torque,
            results=tuple(machine.results),
            changes=tuple(machine.changes),
        )

    def status(self, steady_ns: int) -> Status:
        """What SafetyStatus tells."""
        machine, following = self._machine, self._guards.following
        armed = self._arming.armed_ns is not None
        skew_s = self._gate.skew_s
        clearance_m, clearance_name = self._motion.clearance() if armed else (np.nan, "")
        return Status(
            state=machine.state,
            mode=machine.mode,
            scale=machine.scale if machine.mode is Mode.SCALED else 1.0,
            source=self._gate.source,
            reason=machine.full_reason,
            active_limits=machine.active,
            counts=dict(machine.counts),
            chunk_age_s=self._gate.age_s(steady_ns),
            # From one chunk only, with the time it was under way, while no better one is known.
            clock_skew_s=self._gate.clock_skew_s if np.isnan(skew_s) else skew_s,
            intent_clipped=self._motion.intent_clipped,
            missed_ticks=self._missed_ticks,
            reason_code=machine.code.name,
            following_error_rad=() if following is None else tuple(following.error_rad.tolist()),
            path_rate=self._guards.rate,
            clearance_m=clearance_m,
            clearance_name=clearance_name,
            servo_part=self._arming.part.name if self._arming.part else "",
            mode_s={mode: ticks * self._period_s for mode, ticks in self._mode_ticks.items()},
        )

    # Motion.

    def _output(self) -> Output:
        machine = self._machine
        if machine.state in ARMED or (machine.state in LATCHED and not self._motion.at_rest):
            return Output.SHADOW if machine.mode is Mode.SHADOW else Output.COMMANDS
        return Output.NONE

    def _move(self, steady_ns: int) -> None:
        machine, motion = self._machine, self._motion
        if machine.state is State.TRACKING and not self._gate.fresh(steady_ns):
            machine.act(Limit.STALE_CHUNK)
            refused = f" ({self._refused})" if self._refused else ""
            age_s = self._gate.age_s(steady_ns)
            machine.stop(ReasonCode.CHUNK_STALE, f"the newest chunk is {age_s:.2f} s old{refused}")
        if machine.state is State.TRACKING:
            machine.act(motion.track(self._guards.rate))
            self._mode_ticks[machine.mode] += 1
        elif machine.state is State.PARKING:
            self._follow_move(steady_ns)
        elif machine.state in ARMED or machine.state in LATCHED:
            motion.brake()
            if machine.state is State.STOPPING and motion.at_rest:
                machine.stopped()

    def _follow_move(self, steady_ns: int) -> None:
        """Brake, then park or return."""
        machine, motion, move = self._machine, self._motion, self._machine.move
        if move is None:
            return
        acted, ended = motion.go(self._guards.rate)
        machine.act(acted)
        if ended and move.disarms:
            machine.stop(ReasonCode.PARKED, "parked, the servos hold")
        elif ended:
            machine.stop(ReasonCode.RETURNED, "at the ready pose")
        elif steady_ns > move.until_ns:
            what = "parking" if move.disarms else "returning"
            machine.stop(ReasonCode.MOVE_TIMEOUT, f"{what} took more than {MOVE_TIMEOUT_S:g} s")
        elif not motion.planned and motion.at_rest:
            motion.plan(move.path)

    # Chunks.

    def _take_chunks(self, chunks: Sequence[Chunk], steady_ns: int, ros_ns: int) -> None:
        """Check chunks that came; the newest good one is followed."""
        machine = self._machine
        if not machine.takes_chunks:
            return
        accepted: AcceptedChunk | None = None
        for chunk in chunks:
            answer = self._gate.offer(chunk, steady_ns, ros_ns, machine.state is State.HOLD)
            if isinstance(answer, Refusal):
                machine.act(answer.limit)
                self._refuse(_REFUSALS[answer.limit], answer.reason)
            else:
                accepted = answer
        if accepted is None:
            return
        target_rad = self._motion.target_rad(accepted, steady_ns)
        blocked = self._guards.blocks(target_rad)
        if blocked:
            machine.act(Limit.JOINT_BLOCKED)
            self._refuse(ReasonCode.JOINT_BLOCKED, blocked)
            if machine.state is State.TRACKING:
                machine.stop(ReasonCode.JOINT_BLOCKED, blocked)
        elif not self._guards.deadman_pressed(steady_ns):
            self._refuse(ReasonCode.DEADMAN, ReasonCode.DEADMAN.value)
        else:
            self._refused = ""
            self._motion.follow(accepted, steady_ns)
            machine.follow(target_rad, self._gate.source)

    def _refuse(self, code: ReasonCode, sentence: str) -> None:
        """Say why a chunk is not followed; while others still are, only once they end."""
        self._refused = sentence
        if self._machine.state is State.HOLD:
            self._machine.say(code, sentence)
