"""When a leader leads: engaging must never make a target jump, and nothing leads by accident.

Each way in which an engagement is refused or ends is driven here, without ROS, bus or clock.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES
from so101_driver.teleop import TAKE_OVER_TIMEOUT_S, Teleop
from so101_driver.teleop_clutch import Clutch, misalignment
from so101_driver.teleop_types import (
    Answer,
    ClutchMode,
    EndCode,
    FollowerView,
    LeaderSample,
    SafetyState,
    Step,
    TeleopSettings,
    TeleopState,
)

PERIOD_S = 0.02
POSE = np.array((0.2, -0.6, 0.7, 0.6, 0.1, 0.5))
FAR = np.array((1.0, -0.8, 0.5, 1.2, -2.0, 0.9))
ALL_REFUSE = (SafetyState.UNKNOWN, SafetyState.ESTOP, SafetyState.FAULT, SafetyState.PARKING)


class Desk:
    """A leader, a follower and the core between them, with a clock of their own."""

    def __init__(self, mode: ClutchMode = ClutchMode.ALIGN, leader_rad=POSE) -> None:
        self.core = Teleop(TeleopSettings())
        self.mode = mode
        self.ns = 1_000_000_000
        self.leader_rad = np.array(leader_rad)
        self.problem = ""
        self.missing = False
        self.pose_rad: np.ndarray | None = POSE.copy()
        self.safety = SafetyState.HOLD
        self.source = "teleop"
        self.follows = True
        self.targets: list[np.ndarray] = []
        self.answers: list[Answer] = []
        self.selections = 0
        self.step()

    def step(self, cycles: int = 1) -> Step:
        for _ in range(cycles):
            self.ns += round(PERIOD_S * 1e9)
            sample = None if self.missing else LeaderSample(self.ns, self.leader_rad.copy())
            view = FollowerView(self.pose_rad, self.safety, self.source, "its reason")
            step = self.core.step(self.ns, sample, self.problem, view)
            self.selections += step.select_source
            if step.answer is not None:
                self.answers.append(step.answer)
            if step.target_rad is not None:
                self.targets.append(step.target_rad)
                if self.follows and self.safety in (SafetyState.HOLD, SafetyState.TRACKING):
                    self.safety = SafetyState.TRACKING
        return step

    def engage(self) -> Answer:
        self.core.engage(self.mode)
        before = len(self.answers)
        for _ in range(round(2 * TAKE_OVER_TIMEOUT_S / PERIOD_S)):
            self.step()
            if len(self.answers) > before:
                return self.answers[-1]
        raise AssertionError("no answer")

    def follow(self) -> Desk:
        answer = self.engage()
        assert answer.success, answer.sentence
        assert self.core.state is TeleopState.FOLLOWING
        return self


def test_nothing_is_sent_before_engaging():
    desk = Desk()
    desk.step(100)
    assert desk.core.state is TeleopState.DISENGAGED
    assert not desk.targets
    assert "teleop/engage" in desk.core.sentence


@pytest.mark.parametrize("mode", [ClutchMode.OFFSET, ClutchMode.RELATIVE])
def test_the_first_target_is_the_follower_whatever_the_distance(mode):
    desk = Desk(mode, leader_rad=POSE + FAR).follow()
    assert np.allclose(desk.targets[0], POSE, atol=1e-12)


def test_targets_never_move_faster_than_the_fade_allows_while_the_leader_is_still():
    desk = Desk(ClutchMode.OFFSET, leader_rad=POSE + FAR).follow()
    desk.step(1000)
    targets = np.array(desk.targets)
    speeds = np.abs(np.diff(targets, axis=0)).max() / PERIOD_S
    assert speeds == pytest.approx(TeleopSettings().fade_rad_s, rel=0.01)
    accelerations = np.abs(np.diff(targets, n=2, axis=0)).max() / PERIOD_S**2
    assert accelerations < 0.2
    assert np.allclose(targets[-1], desk.leader_rad)


def test_a_relative_offset_stays():
    desk = Desk(ClutchMode.RELATIVE, leader_rad=POSE + 0.7).follow()
    desk.step(500)
    desk.leader_rad += 0.1
    desk.step()
    assert np.allclose(desk.targets[-1], POSE + 0.1)


def test_align_refuses_and_says_joint_by_joint_where_to_move():
    away = np.array((0.21, -0.21, 0.19, 0.5, -0.3, 0.3))
    desk = Desk(leader_rad=POSE + away)
    answer = desk.engage()
    assert (answer.success, answer.code) == (False, EndCode.NOT_ALIGNED)
    for part in (
        "shoulder_pan 12° anticlockwise",
        "shoulder_lift 12° forward",
        "wrist_flex 29° up",
        "wrist_roll 17° anticlockwise",
        "gripper 16% of its travel closed",
        "teleop/engage",
    ):
        assert part in answer.sentence
    assert "elbow_flex" not in answer.sentence
    desk.step(20)
    assert not desk.targets


def test_align_accepts_at_the_tolerance_and_refuses_just_beyond():
    for index in range(len(JOINT_NAMES)):
        for distance, aligned in ((0.1999, True), (-0.1999, True), (0.2001, False)):
            leader = POSE.copy()
            leader[index] += distance
            assert (misalignment(leader, POSE, 0.2) == "") is aligned


@pytest.mark.parametrize("safety", ALL_REFUSE)
def test_nobody_leads_a_follower_that_is_stopped_parking_or_unknown(safety):
    desk = Desk()
    desk.safety = safety
    answer = desk.engage()
    assert not answer.success
    assert "its reason" in answer.sentence
    assert not desk.targets


@pytest.mark.parametrize(
    "safety", [*ALL_REFUSE, SafetyState.DISARMED], ids=lambda state: state.name
)
def test_a_stop_ends_the_engagement_for_good(safety):
    desk = Desk().follow()
    desk.safety, desk.follows = safety, False
    desk.step()
    sent = len(desk.targets)
    assert desk.core.state is TeleopState.DISENGAGED
    assert not desk.answers[-1].success
    desk.safety, desk.follows = SafetyState.HOLD, True
    desk.step(200)
    assert len(desk.targets) == sent, "it led again without being asked"


def test_taking_over_from_a_policy_asks_once_and_waits_until_the_follower_rests():
    desk = Desk()
    desk.source, desk.safety = "wall_oss", SafetyState.TRACKING
    desk.core.engage(desk.mode)
    desk.step(10)
    assert desk.selections == 1
    assert not desk.targets
    desk.source, desk.safety = "teleop", SafetyState.STOPPING
    desk.pose_rad = POSE + 0.1
    desk.step(10)
    assert not desk.targets, "it led an arm that was still braking"
    desk.safety = SafetyState.HOLD
    desk.step()
    assert desk.core.state is TeleopState.FOLLOWING
    assert np.allclose(desk.targets[0], desk.pose_rad)


def test_safety_is_asked_again_because_it_may_not_have_been_found_yet():
    desk = Desk()
    desk.source, desk.safety = "wall_oss", SafetyState.TRACKING
    desk.core.engage(desk.mode)
    desk.step(round(2.5 / PERIOD_S))
    assert desk.selections == 3
    desk.source, desk.safety = "teleop", SafetyState.HOLD
    desk.step()
    assert desk.answers[-1].success
    desk.step(100)
    assert desk.selections == 3


def test_a_policy_that_does_not_let_go_is_said():
    desk = Desk()
    desk.source, desk.safety = "wall_oss", SafetyState.TRACKING
    answer = desk.engage()
    assert answer.code is EndCode.NOT_TAKEN_OVER
    assert "safety/status" in answer.sentence
    assert not desk.targets


def test_another_source_ends_the_engagement():
    desk = Desk().follow()
    desk.source = "wall_oss"
    desk.step()
    assert desk.answers[-1].code is EndCode.OTHER_SOURCE
    assert "'wall_oss'" in desk.core.sentence


def test_a_disarmed_follower_gets_its_own_pose_until_it_is_armed():
    desk = Desk(ClutchMode.OFFSET, leader_rad=POSE + 0.5)
    desk.safety = SafetyState.DISARMED
    answer = desk.engage()
    assert answer.success
    assert "safety/arm" in answer.sentence
    desk.step(20)
    desk.leader_rad += 0.5
    desk.step(20)
    assert np.allclose(desk.targets, POSE)
    desk.safety = SafetyState.HOLD
    desk.pose_rad = POSE + 0.05
    desk.step()
    assert desk.core.state is TeleopState.FOLLOWING
    assert np.allclose(desk.targets[-1], desk.pose_rad)


def test_alignment_is_checked_again_when_the_arm_is_armed_later():
    desk = Desk()
    desk.safety = SafetyState.DISARMED
    assert desk.engage().success
    desk.leader_rad += 1.0
    desk.step(5)
    desk.safety = SafetyState.HOLD
    desk.step()
    assert desk.answers[-1].code is EndCode.NOT_ALIGNED
    assert np.allclose(desk.targets, POSE)


def test_a_short_hold_goes_on_and_a_long_one_ends():
    desk = Desk().follow()
    desk.follows, desk.safety = False, SafetyState.HOLD
    desk.step(round(0.9 / PERIOD_S))
    assert desk.core.state is TeleopState.FOLLOWING
    desk.step(round(0.2 / PERIOD_S))
    assert desk.answers[-1].code is EndCode.NOT_FOLLOWED
    assert "its reason" in desk.core.sentence


def test_a_loop_that_stood_still_does_not_lead_on():
    """Meanwhile the follower may have been stopped, reset and armed again, which nobody saw."""
    desk = Desk().follow()
    desk.safety, sent = SafetyState.HOLD, len(desk.targets)
    desk.ns += 1_100_000_000
    desk.step()
    assert desk.answers[-1].code is EndCode.NOT_FOLLOWED
    assert len(desk.targets) == sent


def test_a_leader_that_fails_ends_the_engagement_and_comes_back_disengaged():
    desk = Desk().follow()
    sent = len(desk.targets)
    desk.problem, desk.missing = "the cable is out", True
    desk.step()
    assert desk.core.state is TeleopState.NO_LEADER
    assert desk.answers[-1] == Answer(False, "the cable is out", EndCode.LEADER)
    assert desk.engage() == Answer(False, "the cable is out", EndCode.LEADER)
    desk.problem, desk.missing = "", False
    desk.step(50)
    assert desk.core.state is TeleopState.DISENGAGED
    assert "the cable is out" in desk.core.sentence, "the reason is gone before anybody reads it"
    assert len(desk.targets) == sent


def test_an_incomplete_reading_sends_nothing_and_ends_nothing():
    desk = Desk().follow()
    sent = len(desk.targets)
    desk.missing = True
    desk.step(3)
    desk.missing = False
    assert len(desk.targets) == sent
    desk.step()
    assert len(desk.targets) == sent + 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_sent(poison):
    desk = Desk(ClutchMode.OFFSET).follow()
    sent = len(desk.targets)
    good = desk.leader_rad[2]
    desk.leader_rad[2] = poison
    desk.step(5)
    assert len(desk.targets) == sent
    desk.core.disengage()
    desk.leader_rad[2] = good
    desk.step(5)
    desk.safety = SafetyState.HOLD
    desk.pose_rad[4] = poison
    answer = desk.engage()
    assert answer.code is EndCode.NO_POSE
    assert len(desk.targets) == sent
    assert np.isfinite(desk.targets).all()


def test_a_pose_that_is_no_number_is_unknown_and_never_sent():
    """A joint that is stale is NaN in joint_states, and a limp arm's pose comes from there."""
    desk = Desk()
    desk.safety = SafetyState.DISARMED
    assert desk.engage().success
    desk.step(3)
    sent = len(desk.targets)
    desk.pose_rad = np.full(6, math.nan)
    desk.step(5)
    assert len(desk.targets) == sent
    assert desk.core.state is TeleopState.WAITING_FOR_ARM
    desk.safety = SafetyState.HOLD
    desk.step()
    assert desk.answers[-1].code is EndCode.NO_POSE
    assert np.isfinite(desk.targets).all()


def test_an_unknown_follower_is_refused():
    desk = Desk()
    desk.pose_rad = None
    assert desk.engage().code is EndCode.NO_POSE
    assert not desk.targets


def test_what_comes_within_a_moment_of_engaging_is_waited_for():
    """Discovery takes a while after the start of a graph."""
    desk = Desk()
    desk.safety, desk.pose_rad = SafetyState.UNKNOWN, None
    desk.core.engage(desk.mode)
    desk.step(20)
    desk.safety = SafetyState.HOLD
    desk.step(20)
    assert not desk.answers
    desk.pose_rad = POSE.copy()
    desk.step()
    assert desk.answers[-1].success
    assert np.allclose(desk.targets[0], POSE)


def test_disengaging_stops_sending_and_each_engagement_is_a_session():
    desk = Desk().follow()
    first = desk.core.session
    desk.core.disengage()
    sent = len(desk.targets)
    desk.step(50)
    assert len(desk.targets) == sent
    assert desk.answers[-1].code is EndCode.REQUEST
    desk.safety = SafetyState.HOLD
    desk.follow()
    assert desk.core.session == first + 1


def test_letting_go_and_engaging_in_one_cycle_answers_the_newer_request():
    desk = Desk().follow()
    desk.core.disengage()
    desk.core.engage(desk.mode)
    before = len(desk.answers)
    desk.step()
    assert len(desk.answers) == before, "an answer before anything was decided"
    desk.safety = SafetyState.HOLD
    desk.step()
    assert desk.answers[-1].success


def test_a_request_that_was_answered_by_an_end_never_acts_later():
    desk = Desk().follow()
    desk.missing = True
    desk.core.engage(desk.mode)
    desk.safety, desk.follows = SafetyState.ESTOP, False
    desk.step()
    assert not desk.answers[-1].success
    desk.missing, desk.safety, desk.follows = False, SafetyState.HOLD, True
    desk.step(20)
    assert desk.core.state is TeleopState.DISENGAGED


def test_engaging_is_refused_in_time_when_the_leader_gives_no_complete_reading():
    """Else a request that nobody waits for any more would act whenever a reading comes."""
    desk = Desk()
    desk.missing = True
    answer = desk.engage()
    assert answer.code is EndCode.LEADER
    assert "completely" in answer.sentence
    desk.missing = False
    desk.step(20)
    assert desk.core.state is TeleopState.DISENGAGED
    assert not desk.targets


def test_letting_go_answers_a_request_that_has_not_begun():
    desk = Desk()
    desk.core.engage(desk.mode)
    desk.core.disengage()
    desk.step()
    assert [answer.code for answer in desk.answers] == [EndCode.REQUEST]
    desk.step(20)
    assert desk.core.state is TeleopState.DISENGAGED


def test_engaging_twice_changes_nothing():
    desk = Desk(ClutchMode.OFFSET, leader_rad=POSE + 0.5).follow()
    desk.step(10)
    session = desk.core.session
    before = desk.targets[-1]
    answer = desk.engage()
    assert answer.success
    assert "already engaged" in answer.sentence
    assert desk.core.session == session
    assert np.abs(desk.targets[-1] - before).max() < 0.3 * PERIOD_S * 1.01


def test_asking_twice_while_taking_over_is_answered_by_what_is_decided():
    desk = Desk()
    desk.source, desk.safety = "wall_oss", SafetyState.TRACKING
    for _ in range(2):
        desk.core.engage(desk.mode)
        desk.step(5)
    assert not desk.answers, "nothing is decided yet"
    desk.safety = SafetyState.ESTOP
    desk.step()
    assert [answer.success for answer in desk.answers] == [False]


def test_a_clutch_that_fades_has_no_step_at_either_end():
    clutch = Clutch(ClutchMode.OFFSET, 0.3)
    clutch.anchor(np.zeros(6), np.full(6, 0.8), 0)
    times = np.linspace(-0.1, clutch.fade_s + 0.1, 4000)
    shares = np.array([clutch.share(round(t * 1e9)) for t in times])
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    speed = np.gradient(shares, times)
    assert np.abs(np.gradient(speed, times)).max() < 6.0 / clutch.fade_s**2


def test_whatever_happens_a_session_begins_at_the_follower_and_nothing_is_sent_unasked():
    """Random requests, leaders, safety states and sources; the properties hold in every step."""
    rng = np.random.default_rng(4)
    led = 0
    for _ in range(150):
        desk = Desk(rng.choice(list(ClutchMode)), POSE + rng.normal(0.0, 0.3, 6))
        asked, leading = False, False
        for _ in range(60):
            match rng.integers(14):
                case 0 | 1 | 2:
                    desk.mode = rng.choice(list(ClutchMode))
                    desk.core.engage(desk.mode)
                    asked = True
                case 3:
                    desk.core.disengage()
                    asked = False
                case 4:
                    desk.safety = rng.choice(list(SafetyState))
                case 5 | 6 | 7:
                    desk.safety, desk.source = SafetyState.HOLD, "teleop"
                case 8:
                    desk.source = rng.choice(["teleop", "", "policy"])
                case 9:
                    desk.problem = rng.choice(["", "", "gone"])
                case 10:
                    desk.missing = bool(rng.integers(2))
                case 11:
                    pose = POSE + rng.normal(0.0, 0.2, 6)
                    desk.pose_rad = (pose, pose, None, pose * math.nan)[rng.integers(4)]
                case _:
                    desk.leader_rad += rng.normal(0.0, 0.02, 6)
            sent = len(desk.targets)
            step = desk.step()
            if len(desk.targets) == sent:
                assert step.target_rad is None
            else:
                assert asked, "nobody asked"
                assert np.isfinite(step.target_rad).all()
                assert not desk.problem
                assert desk.source == "teleop"
                if not leading:
                    assert np.allclose(step.target_rad, desk.pose_rad), "a jump"
                    led += 1
            leading = desk.core.state is TeleopState.FOLLOWING
            if step.answer is not None and not step.answer.success:
                asked = False
    assert led > 100
