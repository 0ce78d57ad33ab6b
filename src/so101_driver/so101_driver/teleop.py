"""Teleoperation without middleware: when a leader leads, and where to.

Time is an argument. Nothing here limits a motion: targets go through the safety layer, like those
of any policy. What is decided here is when targets are sent, and that they begin where the follower
is commanded to be.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from so101_driver.joints import JOINT_NAMES
from so101_driver.teleop_clutch import Clutch, misalignment
from so101_driver.teleop_types import (
    ENGAGED,
    Answer,
    Array,
    ClutchMode,
    EndCode,
    FollowerView,
    LeaderSample,
    SafetyState,
    Step,
    TeleopSettings,
    TeleopState,
)

TAKE_OVER_TIMEOUT_S = 4.0
"""Changing the source and braking take a second at most."""

DISCOVERY_S = 1.0
"""What has not been heard of the follower when engaging may still come for so long; safety, which
may not have been found either, is asked as often."""

READY = "call teleop/engage with data: true to lead"
_AGAIN = "then call teleop/engage"

_STOPS = {
    SafetyState.UNKNOWN: (EndCode.NO_SAFETY, "safety does not report: start it"),
    SafetyState.ESTOP: (EndCode.STOPPED, "the follower is stopped"),
    SafetyState.FAULT: (EndCode.STOPPED, "the follower is stopped"),
    SafetyState.PARKING: (EndCode.PARKING, "the follower is parking or returning: wait for it"),
}
"""States of the safety layer in which nobody leads."""


class Teleop:
    """Decides cycle by cycle whether a target is sent, and which.

    Attributes:
        state: What is done.
        sentence: Why, and what to do next.
        session: Number of the newest engagement.
    """

    def __init__(self, settings: TeleopSettings) -> None:
        self.state = TeleopState.NO_LEADER
        self.sentence = "the leader has not been read yet"
        self.session = 0
        self._settings = settings
        self._wanted: ClutchMode | None = None
        self._clutch = Clutch(ClutchMode.ALIGN, settings.fade_rad_s)
        self._asked_ns: int | None = None
        self._lost = ""
        self._since_ns = 0
        self._answer: Answer | None = None

    def engage(self, mode: ClutchMode) -> None:
        """Ask to lead; the answer comes with one of the next steps."""
        self._wanted = mode
        # What ended before this request is no answer to it.
        self._answer = None

    def disengage(self) -> None:
        """Send nothing more: safety brakes and holds."""
        if self._wanted is not None or self.state in ENGAGED:
            self._end(EndCode.REQUEST, f"disengaged, the follower holds: {READY}")

    def step(
        self,
        now_ns: int,
        leader: LeaderSample | None,
        leader_problem: str,
        follower: FollowerView,
    ) -> Step:
        """Take one cycle.

        Args:
            now_ns: Steady time.
            leader: The reading of this cycle, None if it is incomplete.
            leader_problem: Why the leader cannot lead, or "".
            follower: The other arm and the safety layer.
        """
        self._watch_leader(leader_problem)
        if leader is not None and not _known(leader.position_rad):
            leader = None
        if not _known(follower.pose_rad):
            follower = replace(follower, pose_rad=None)
        if self._wanted is not None:
            self._begin(self._wanted, now_ns)
        target, select = None, False
        if self.state in ENGAGED and self._may_go_on(now_ns, follower):
            if self.state is TeleopState.TAKING_OVER:
                select = self._take_over(now_ns, leader, follower)
            elif self.state is TeleopState.WAITING_FOR_ARM:
                self._wait(now_ns, leader, follower)
            if leader is not None:
                target = self._target(now_ns, leader, follower)
        answer, self._answer = self._answer, None
        return Step(target, self.session, select, answer)

    def _target(
        self, now_ns: int, leader: LeaderSample, follower: FollowerView
    ) -> np.ndarray | None:
        if self.state is TeleopState.FOLLOWING:
            return self._clutch.target(leader.position_rad, now_ns)
        # So that automatic arming sees a sender; it leads nowhere.
        return follower.pose_rad if self.state is TeleopState.WAITING_FOR_ARM else None

    # Beginning.

    def _begin(self, mode: ClutchMode, now_ns: int) -> None:
        self._wanted = None
        if self.state is TeleopState.NO_LEADER:
            self._end(EndCode.LEADER, self.sentence)
            return
        if self.state in ENGAGED:
            if self.state is not TeleopState.TAKING_OVER:
                self._answer = Answer(True, f"already engaged: {self.sentence}")
            return
        self._clutch = Clutch(mode, self._settings.fade_rad_s)
        self._asked_ns = None
        self._since_ns = now_ns
        self.session += 1
        self._enter(TeleopState.TAKING_OVER, "waiting until safety holds for this source")

    def _take_over(self, now_ns: int, leader: LeaderSample | None, follower: FollowerView) -> bool:
        """Wait until the follower rests and is ours; returns whether to ask for that."""
        late = now_ns - self._since_ns > TAKE_OVER_TIMEOUT_S * 1e9
        if follower.source != self._settings.source:
            if late:
                self._give_up("did not select")
                return False
            if self._asked_ns is not None and now_ns - self._asked_ns < DISCOVERY_S * 1e9:
                return False
            self._asked_ns = now_ns
            return True
        if follower.safety not in (SafetyState.HOLD, SafetyState.DISARMED):
            if late:
                self._give_up("did not come to rest for")
        elif leader is not None:
            self._join(now_ns, leader, follower)
        elif late:
            self._end(
                EndCode.LEADER,
                f"the leader could not be read completely within {TAKE_OVER_TIMEOUT_S:g} s: check "
                f"its cable and power, {_AGAIN}",
            )
        return False

    def _just_asked(self, now_ns: int) -> bool:
        taking_over = self.state is TeleopState.TAKING_OVER
        return taking_over and now_ns - self._since_ns <= DISCOVERY_S * 1e9

    def _give_up(self, what: str) -> None:
        self._end(
            EndCode.NOT_TAKEN_OVER,
            f"safety {what} '{self._settings.source}' within {TAKE_OVER_TIMEOUT_S:g} s: see "
            f"safety/status, {_AGAIN}",
        )

    def _join(self, now_ns: int, leader: LeaderSample, follower: FollowerView) -> None:
        """Engage the clutch if the arms are close enough for it."""
        pose_rad = follower.pose_rad
        if pose_rad is None:
            if self._just_asked(now_ns):
                return
            self._end(
                EndCode.NO_POSE, f"the follower's pose is unknown: see driver/status, {_AGAIN}"
            )
            return
        leader_rad = leader.position_rad
        if self._clutch.mode is ClutchMode.ALIGN:
            moves = misalignment(leader_rad, pose_rad, self._settings.align_rad)
            if moves:
                self._end(
                    EndCode.NOT_ALIGNED, f"the leader is elsewhere: move its {moves}; {_AGAIN}"
                )
                return
        if follower.safety is SafetyState.DISARMED:
            self._enter(
                TeleopState.WAITING_FOR_ARM, "engaged, but the follower is not armed: safety/arm"
            )
        else:
            self._clutch.anchor(leader_rad, pose_rad, now_ns)
            self._since_ns = now_ns
            self._enter(TeleopState.FOLLOWING, self._joined(pose_rad - leader_rad))
        self._answer = Answer(True, self.sentence)

    def _joined(self, offset_rad: Array) -> str:
        worst = int(np.abs(offset_rad).argmax())
        distance = f"{math.degrees(abs(float(offset_rad[worst]))):.0f}° ({JOINT_NAMES[worst]})"
        if self._clutch.mode is ClutchMode.RELATIVE:
            return f"the leader leads, from up to {distance} away, which stays"
        return (
            f"the leader leads; up to {distance} between the arms fade within "
            f"{self._clutch.fade_s:.1f} s"
        )

    # Going on.

    def _wait(self, now_ns: int, leader: LeaderSample | None, follower: FollowerView) -> None:
        if leader is not None and follower.safety is not SafetyState.DISARMED:
            self._join(now_ns, leader, follower)

    def _may_go_on(self, now_ns: int, follower: FollowerView) -> bool:
        """End the engagement when the follower cannot, or shall not, be led any more."""
        safety = follower.safety
        if safety is SafetyState.UNKNOWN and self._just_asked(now_ns):
            return True
        if safety in _STOPS:
            code, sentence = _STOPS[safety]
            reason = f" ({follower.reason})" if follower.reason else ""
            self._end(code, f"{sentence}{reason}; {_AGAIN}")
        elif self.state is TeleopState.TAKING_OVER:
            return True
        elif follower.source != self._settings.source:
            self._end(
                EndCode.OTHER_SOURCE,
                f"safety follows {follower.source or 'any source'!r} now: {READY}",
            )
        elif self.state is TeleopState.FOLLOWING:
            if safety is SafetyState.DISARMED:
                self._end(EndCode.DISARMED, f"the follower was disarmed: arm it, {_AGAIN}")
            elif safety is SafetyState.TRACKING:
                self._since_ns = now_ns
            elif now_ns - self._since_ns > self._settings.not_followed_s * 1e9:
                self._end(
                    EndCode.NOT_FOLLOWED,
                    f"safety does not follow ({follower.reason}): clear that, {_AGAIN}",
                )
        return self.state in ENGAGED

    def _watch_leader(self, problem: str) -> None:
        if problem:
            if self.state in ENGAGED:
                self._lost = problem
                self._end(EndCode.LEADER, problem)
            self._enter(TeleopState.NO_LEADER, problem)
        elif self.state is TeleopState.NO_LEADER:
            before, self._lost = self._lost, ""
            why = f" (it ended because {before})" if before else ""
            self._enter(TeleopState.DISENGAGED, f"the leader answers{why}: {READY}")

    def _end(self, code: EndCode, sentence: str) -> None:
        # Whoever waits for an answer gets this one: no request may act after it.
        self._wanted = None
        self._answer = Answer(False, sentence, code)
        if self.state is not TeleopState.NO_LEADER:
            self._enter(TeleopState.DISENGAGED, sentence)

    def _enter(self, state: TeleopState, sentence: str) -> None:
        self.state, self.sentence = state, sentence


def _known(pose_rad: Array | None) -> bool:
    """Whether there is a pose and all of it is numbers: a stale joint is NaN."""
    return pose_rad is not None and bool(np.isfinite(pose_rad).all())
