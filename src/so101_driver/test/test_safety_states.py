"""Every way the safety layer changes its state, and the sentence that says why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety import (
    ActionKind,
    ArmState,
    Chunk,
    Command,
    DriverReading,
    DriverState,
    EventKind,
    EventResult,
    JointReading,
    Limit,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)

LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
START = (0.2, -0.6, 0.7, 0.6, 0.1, 0.5)
GOAL = (0.21, -0.58, 0.71, 0.61, 0.1, 0.5)
T = 0.01


class Scene:
    """A supervisor, an arm that obeys it and a clock; time passes tick by tick."""

    def __init__(self, mode: Mode = Mode.FULL, **settings: Any) -> None:
        self.supervisor = Supervisor(LIMITS, Settings(mode=mode, **settings))
        self.ns = 1_000_000_000
        self.ros_offset_ns = 10**18
        self.tick = 0
        self.measured: tuple[float, ...] = START
        self.driver: DriverReading | None = DriverReading(
            DriverState.ACTIVE, "", (True,) * 6, GOAL, False, 0
        )
        self.measuring = True
        self.sequence = 0
        self.problem = ""
        self.commands: list[Command] = []
        self.results: list[EventResult] = []

    @property
    def ros_ns(self) -> int:
        return self.ns + self.ros_offset_ns

    @property
    def last(self) -> Command:
        return self.commands[-1]

    @property
    def status(self) -> Any:
        return self.supervisor.status(self.ns)

    def step(self, *events: OperatorEvent, chunks: tuple[Chunk, ...] = (), ticks: int = 1) -> Any:
        for _ in range(ticks):
            self.tick += 1
            self.ns += 10_000_000
            joints = JointReading(self.measured, self.ros_ns, self.ns) if self.measuring else None
            driver = self.driver and replace(self.driver, received_ns=self.ns)
            arm = ArmState(joints, driver, self.problem)
            command = self.supervisor.step(self.tick, self.ns, self.ros_ns, arm, chunks, events)
            self.commands.append(command)
            self.results += command.results
            events, chunks = (), ()
        return self.last

    def ask(self, kind: EventKind, **details: Any) -> EventResult:
        self.step(OperatorEvent(kind, 7, **details))
        return self.results[-1]

    def arm(self) -> Scene:
        self.step()
        assert self.ask(EventKind.ARM).success, self.status.reason
        return self

    def chunk(self, target: Any = None, age_s: float = 0.0, **changes: Any) -> Chunk:
        """A second from the commanded pose to a target; ``age_s`` old at the next step."""
        self.sequence += 1
        position = self.last.positions_rad
        begin = np.array(START if position is None else position)
        end = begin + 0.3 if target is None else np.array(target)
        chunk = Chunk(
            stamp_ns=self.ros_ns + 10_000_000 - round(age_s * 1e9),
            source="policy",
            session=1,
            sequence=self.sequence,
            joint_names=JOINT_NAMES,
            points_rad=begin + (end - begin) * np.linspace(0, 1, 25)[:, None],
            offsets_ns=tuple(40_000_000 * i for i in range(25)),
            image_age_s=0.0,
            action_kind=int(ActionKind.GOAL),
        )
        return replace(chunk, **changes)

    def track(self, seconds: float = 0.4, **changes: Any) -> Scene:
        for _ in range(round(seconds / (8 * T))):
            self.step(chunks=(self.chunk(**changes),), ticks=8)
        assert self.last.state is State.TRACKING, self.status.reason
        return self


# Arming.


def test_arming_takes_the_goal_register_and_does_not_move():
    scene = Scene().arm()
    assert scene.last.state is State.HOLD
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)
    scene.step(ticks=50)
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)
    assert scene.last.output is Output.COMMANDS


def test_twenty_cycles_under_sag_do_not_creep():
    scene = Scene()
    for _ in range(20):
        scene.arm().step(ticks=5)
        hanging = scene.last.positions_rad - 0.05
        scene.measured = tuple(hanging)
        scene.driver = replace(scene.driver, goal_rad=tuple(scene.last.positions_rad))
        assert scene.ask(EventKind.DISARM).success
        scene.step(ticks=3)
        assert scene.last.output is Output.NONE
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_arming_asks_for_torque_once_and_waits():
    scene = Scene()
    scene.driver = replace(scene.driver, torque_on=(False,) * 6, goal_rad=(math.nan,) * 6)
    scene.step()
    assert scene.step(OperatorEvent(EventKind.ARM, 3)).request_torque
    scene.step(ticks=20)
    assert not any(command.request_torque for command in scene.commands[-20:])
    assert scene.last.state is State.DISARMED
    assert scene.results == []
    scene.driver = replace(scene.driver, torque_on=(True,) * 6)
    scene.step()
    assert scene.results == [EventResult(3, True, "armed and holding")]
    np.testing.assert_array_equal(scene.last.positions_rad, START)


def test_arming_fails_when_torque_does_not_come():
    scene = Scene()
    scene.driver = replace(scene.driver, torque_on=(False,) * 6)
    scene.step()
    scene.step(OperatorEvent(EventKind.ARM, 3), ticks=700)
    assert not scene.results[-1].success
    assert "torque" in scene.results[-1].message
    scene.step(OperatorEvent(EventKind.ARM, 4))
    scene.step(OperatorEvent(EventKind.TORQUE_REFUSED, text="too hot"))
    assert "too hot" in scene.results[-1].message


def no_joints(scene: Scene) -> None:
    scene.measuring = False


def nan_joint(scene: Scene) -> None:
    scene.measured = (*START[:2], math.nan, *START[3:])


def no_driver(scene: Scene) -> None:
    scene.driver = None


def driver_fault(scene: Scene) -> None:
    scene.driver = replace(scene.driver, state=DriverState.FAULT, reason="servo 3 is silent")


def deaf_input(scene: Scene) -> None:
    scene.problem = "a publisher of estop cannot be heard"


def far_outside(scene: Scene) -> None:
    scene.driver = replace(scene.driver, goal_rad=(*GOAL[:2], 1.69 + 0.18, *GOAL[3:]))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (no_joints, "no joint states"),
        (nan_joint, "elbow_flex is not measured"),
        (no_driver, "driver has not reported"),
        (driver_fault, "servo 3 is silent"),
        (deaf_input, "estop"),
        (far_outside, "elbow_flex stands 10.3 degrees outside"),
    ],
)
def test_arming_is_refused_with_the_reason(problem: Any, words: str):
    scene = Scene()
    problem(scene)
    scene.step(ticks=3)
    answer = scene.ask(EventKind.ARM)
    assert not answer.success
    assert words in answer.message
    assert words in scene.status.reason
    assert scene.last.output is Output.NONE


def test_an_arm_a_little_outside_is_armed_where_it_stands():
    scene = Scene()
    folded = (*GOAL[:2], 1.69 + 0.17, *GOAL[3:])
    scene.driver = replace(scene.driver, goal_rad=folded)
    scene.arm()
    np.testing.assert_array_equal(scene.last.positions_rad, folded)


def test_auto_arms_once_when_everything_is_ready():
    scene = Scene(auto_arm=True)
    scene.measuring = False
    scene.step(ticks=120)
    assert "not armed" in scene.status.reason
    scene.measuring = True
    scene.step(ticks=60)
    assert "waiting for a policy's chunks" in scene.status.reason
    assert scene.last.state is State.DISARMED, "nobody asks the arm to move, so it stays off"
    for _ in range(10):
        scene.step(chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.TRACKING
    scene.ask(EventKind.DISARM)
    for _ in range(20):
        scene.step(chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.DISARMED


# Chunks.


def test_a_chunk_is_followed_and_its_silence_stops_the_arm():
    scene = Scene().arm().track()
    assert scene.status.source == "policy"
    moving = np.abs(scene.last.velocities_rad_s).max()
    assert moving > 0.1
    scene.step(ticks=20)
    assert scene.last.state is State.STOPPING
    assert scene.last.output is Output.COMMANDS
    scene.step(ticks=40)
    assert scene.last.state is State.HOLD
    assert "old" in scene.status.reason
    assert scene.status.counts[Limit.STALE_CHUNK] == 1
    scene.track()


@pytest.mark.parametrize(
    ("changes", "limit", "words"),
    [
        ({"action_kind": 0}, Limit.BAD_CHUNK, "action_kind"),
        ({"joint_names": JOINT_NAMES[::-1]}, Limit.BAD_CHUNK, "joints"),
        ({"points_rad": []}, Limit.BAD_CHUNK, "no points"),
        ({"points_rad": [GOAL] * 24}, Limit.BAD_CHUNK, "24 points but 25 times"),
        ({"points_rad": [GOAL] * 24 + [GOAL[:5]]}, Limit.BAD_CHUNK, "5 positions"),
        ({"points_rad": [(*GOAL[:5], math.nan)] * 25}, Limit.BAD_CHUNK, "gripper of point 0"),
        ({"points_rad": [(1e308, *GOAL[1:])] * 25}, Limit.BAD_CHUNK, "shoulder_pan"),
        ({"offsets_ns": (0,) * 25}, Limit.BAD_CHUNK, "0 s apart"),
        ({"offsets_ns": tuple(40_000_000 * i for i in range(1, 26))}, Limit.BAD_CHUNK, "not 0"),
        ({"offsets_ns": tuple(10**6 * i * i for i in range(25))}, Limit.BAD_CHUNK, "equally"),
        ({"image_age_s": math.nan}, Limit.BAD_CHUNK, "image_age_s"),
        ({"age_s": 2.0}, Limit.STALE_CHUNK, "2.00 s after"),
        ({"age_s": -0.051}, Limit.CLOCK, "0.05 s ahead"),
        ({"age_s": -2.31}, Limit.CLOCK, "2.31 s ahead: synchronise with chrony"),
    ],
)
def test_a_bad_chunk_is_refused_and_counted(changes: dict[str, Any], limit: Limit, words: str):
    scene = Scene().arm()
    scene.step(chunks=(scene.chunk(**changes),))
    assert scene.last.state is State.HOLD
    assert scene.status.counts[limit] == 1
    assert limit in scene.last.active_limits
    assert words in scene.status.reason
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


def test_a_stamp_slightly_in_the_future_counts_as_now():
    ahead, now = Scene().arm(), Scene().arm()
    ahead.step(chunks=(ahead.chunk(age_s=-0.049),), ticks=30)
    now.step(chunks=(now.chunk(age_s=0.0),), ticks=30)
    np.testing.assert_allclose(ahead.last.positions_rad, now.last.positions_rad, atol=1e-12)
    assert ahead.status.clock_skew_s == pytest.approx(0.049)


def test_order_holds_within_a_session_and_sessions_replace_each_other():
    scene = Scene().arm().track()
    first = scene.chunk(session=1)
    scene.step(chunks=(first, first))
    assert scene.status.counts[Limit.STALE_CHUNK] == 1
    scene.step(chunks=(scene.chunk(session=2, age_s=0.3),))
    assert scene.status.counts[Limit.STALE_CHUNK] == 2
    scene.step(chunks=(scene.chunk(session=2, sequence=0),))
    assert scene.status.counts[Limit.STALE_CHUNK] == 2


def test_one_source_is_followed_until_another_is_selected():
    scene = Scene().arm().track()
    scene.step(chunks=(scene.chunk(source="teleop"),))
    assert scene.status.counts[Limit.OTHER_SOURCE] == 1
    assert scene.last.state is State.TRACKING
    assert scene.ask(EventKind.SELECT_SOURCE, text="teleop").success
    assert scene.last.state is State.STOPPING
    scene.step(ticks=60)
    scene.step(chunks=(scene.chunk(source="policy"),))
    assert scene.last.state is State.HOLD
    scene.step(chunks=(scene.chunk(source="teleop"),))
    assert scene.last.state is State.TRACKING


def test_reached_positions_are_executed_ahead_of_commanded_ones():
    def at_100_ms(kind: ActionKind) -> float:
        scene = Scene(state_lookahead_s=0.1).arm()
        scene.step(chunks=(scene.chunk(age_s=0.2, action_kind=int(kind)),), ticks=40)
        return float(scene.last.positions_rad[0])

    assert at_100_ms(ActionKind.STATE) - at_100_ms(ActionKind.GOAL) == pytest.approx(
        0.1 * 0.3 / 0.96, rel=0.2
    )


def test_missed_ticks_slip_time_and_are_counted():
    scene = Scene().arm().track()
    before = scene.last.positions_rad
    scene.tick += 5
    scene.ns += 50_000_000
    scene.step()
    assert scene.status.missed_ticks == 5
    step = np.abs(scene.last.positions_rad - before)
    assert (step <= LIMITS.velocity_rad_s * T * (1 + 1e-9)).all()


def test_what_the_limits_take_away_is_told():
    scene = Scene().arm().track(0.8, target=np.array(GOAL) + 0.1)
    assert scene.status.intent_clipped < 0.35
    scene.track(1.2, target=(12.0, *GOAL[1:]))
    assert scene.status.intent_clipped > 0.5
    assert scene.status.counts[Limit.POSITION] + scene.status.counts[Limit.VELOCITY] > 0


# Guards.


@pytest.mark.parametrize("kind", [EventKind.ESTOP, None])
def test_stops_latch_until_reset_and_arm(kind: EventKind | None):
    scene = Scene(chunk_timeout_s=0.9).arm().track()
    if kind:
        scene.ask(kind)
    else:
        scene.measuring = False
        scene.step(ticks=22)
    state = State.ESTOP if kind else State.FAULT
    assert scene.last.state is state
    assert scene.last.output is Output.COMMANDS
    assert not scene.ask(EventKind.RESET).success
    scene.measuring = True
    scene.step(ticks=60)
    assert scene.last.output is Output.NONE
    assert not np.any(scene.last.velocities_rad_s)
    assert not scene.ask(EventKind.ARM).success
    assert not scene.ask(EventKind.PARK).success
    assert scene.ask(EventKind.RESET).success
    assert scene.last.state is State.DISARMED
    scene.step(chunks=(scene.chunk(),))
    assert scene.last.state is State.DISARMED
    scene.arm()


def test_a_measured_jump_latches_and_never_moves_the_command():
    scene = Scene().arm()
    scene.step(ticks=5)
    scene.measured = (START[0] + 0.5, *START[1:])
    scene.step()
    assert scene.last.state is State.FAULT
    assert "shoulder_pan was measured to jump by +0.50" in scene.status.reason
    assert scene.status.counts[Limit.TRACKING_MARGIN] == 1
    np.testing.assert_array_equal(scene.last.positions_rad, GOAL)


@pytest.mark.parametrize(
    ("age_ns", "limit", "words"),
    [
        (99_000_000, None, ""),
        (101_000_000, Limit.STALE_STATE, "0.10 s old"),
        (-49_000_000, None, ""),
        (-51_000_000, Limit.CLOCK, "in the future"),
    ],
)
def test_joint_states_out_of_time_are_refused(age_ns: int, limit: Limit | None, words: str):
    scene = Scene()
    reading = JointReading(START, scene.ros_ns - age_ns, scene.ns)
    driver = replace(scene.driver, received_ns=scene.ns)
    event = OperatorEvent(EventKind.ARM, 1)
    command = scene.supervisor.step(
        1, scene.ns, scene.ros_ns, ArmState(reading, driver), (), (event,)
    )
    assert command.results[0].success == (limit is None)
    assert words in command.results[0].message
    assert limit is None or scene.status.counts[limit] == 1


def test_joint_states_that_repeat_do_not_keep_the_arm_alive():
    scene = Scene().arm()
    frozen_ns = scene.ros_ns
    for tick in range(1, 40):
        scene.ns += 5_000_000
        reading = JointReading(START, frozen_ns, scene.ns)
        arm = ArmState(reading, replace(scene.driver, received_ns=scene.ns))
        command = scene.supervisor.step(scene.tick + tick, scene.ns, scene.ros_ns, arm, (), ())
        if tick * 5 <= 90:
            assert command.state is State.HOLD
    scene.ns += 20_000_000
    command = scene.supervisor.step(scene.tick + 41, scene.ns, scene.ros_ns, arm, (), ())
    assert command.state is State.FAULT
    assert scene.status.counts[Limit.STALE_STATE] > 30


def test_a_silent_driver_is_a_fault():
    scene = Scene().arm()
    silent = replace(scene.driver, received_ns=scene.ns)
    for _ in range(110):
        scene.tick += 1
        scene.ns += 10_000_000
        arm = ArmState(JointReading(START, scene.ros_ns, scene.ns), silent)
        command = scene.supervisor.step(scene.tick, scene.ns, scene.ros_ns, arm, (), ())
    assert command.state is State.FAULT
    assert "driver has not reported for 1.0" in scene.status.reason


def test_desync_and_a_holding_driver_need_arming_again():
    scene = Scene().arm()
    scene.step(ticks=50)
    scene.driver = replace(scene.driver, desync=True, reason="DESYNC")
    scene.step()
    assert scene.last.state is State.DISARMED
    assert "DESYNC" in scene.status.reason
    # What the driver still reports from before does not disarm at once.
    scene.arm().step(ticks=20)
    assert scene.last.state is State.HOLD
    scene.driver = replace(scene.driver, desync=False, state=DriverState.HOLDING, reason="two")
    scene.step(ticks=90)
    assert scene.last.state is State.HOLD
    scene.step(ticks=20)
    assert scene.last.state is State.DISARMED
    assert scene.status.counts[Limit.DESYNC] == 2


def test_torque_that_goes_off_disarms():
    scene = Scene().arm()
    scene.driver = replace(scene.driver, torque_on=(True,) * 5 + (False,))
    scene.step()
    assert scene.last.state is State.DISARMED


@pytest.mark.parametrize("jump_ns", [-(10**10), 10**9])
def test_a_jump_of_ros_time_stops_and_recovers(jump_ns: int):
    scene = Scene().arm().track()
    scene.ros_offset_ns += jump_ns
    scene.step()
    assert scene.last.state is State.STOPPING
    assert "ROS time jumped" in scene.status.reason
    assert scene.status.counts[Limit.CLOCK] == 1
    scene.step(ticks=60)
    scene.track()


def test_the_deadman_switch_must_keep_coming():
    scene = Scene(deadman_required=True).arm()
    pressed = OperatorEvent(EventKind.DEADMAN, pressed=True)
    scene.step(chunks=(scene.chunk(),))
    assert scene.last.state is State.HOLD
    scene.step(pressed, chunks=(scene.chunk(),))
    assert scene.last.state is State.TRACKING
    for _ in range(4):
        scene.step(pressed, chunks=(scene.chunk(),), ticks=8)
    assert scene.last.state is State.TRACKING
    scene.step(OperatorEvent(EventKind.DEADMAN, pressed=False))
    assert scene.last.state is State.STOPPING
    scene.step(ticks=60)
    assert not scene.ask(EventKind.PARK).success
    scene.step(pressed)
    assert scene.ask(EventKind.PARK).success
    scene.step(ticks=100)
    # Parking that is cut short does not go back to following chunks.
    assert scene.last.state is State.DISARMED


# Requests.


def test_parking_ends_at_the_rest_pose_disarmed():
    scene = Scene().arm().track()
    assert scene.ask(EventKind.PARK).success
    while scene.last.state is not State.DISARMED:
        # Chunks that still come are not followed.
        scene.step(chunks=(scene.chunk(),))
        assert scene.tick < 1000
    np.testing.assert_allclose(scene.last.positions_rad[:5], LIMITS.rest_rad[:5], atol=0.003)
    assert "parked" in scene.status.reason


def test_disarming_in_motion_brakes_first():
    scene = Scene().arm().track()
    assert scene.ask(EventKind.DISARM).success
    assert scene.last.state is State.STOPPING
    scene.step(chunks=(scene.chunk(),))
    scene.step(ticks=60)
    assert scene.last.state is State.DISARMED
    assert not np.any(scene.last.velocities_rad_s)


def test_shadow_runs_everything_but_commands_nothing():
    scene = Scene(Mode.SHADOW)
    scene.driver = None
    scene.arm().track()
    assert {command.output for command in scene.commands} == {Output.NONE, Output.SHADOW}
    assert np.abs(scene.last.velocities_rad_s).max() > 0.1
    assert not scene.ask(EventKind.SET_MODE, mode=Mode.FULL).success
    scene.step(ticks=80)
    assert scene.last.state is State.HOLD
    assert scene.ask(EventKind.SET_MODE, mode=Mode.FULL).success
    assert scene.last.state is State.DISARMED


def test_going_down_brakes_before_the_mode_changes():
    scene = Scene().arm().track()
    assert scene.ask(EventKind.SET_MODE, mode=Mode.SHADOW).success
    assert (scene.last.state, scene.last.mode) == (State.STOPPING, Mode.FULL)
    scene.step(ticks=60)
    assert (scene.last.state, scene.last.mode) == (State.HOLD, Mode.SHADOW)
    stopping = [c for c in scene.commands if c.state is State.STOPPING]
    assert {c.output for c in stopping} == {Output.COMMANDS}


@pytest.mark.parametrize("scale", [0.09, 0.21, math.nan])
def test_an_impossible_scale_is_refused(scale: float):
    scene = Scene().arm()
    assert not scene.ask(EventKind.SET_MODE, mode=Mode.SCALED, scale=scale).success
    assert not scene.ask(EventKind.SET_MODE, mode=None).success


def test_scaled_goes_the_scaled_way_and_no_further_than_its_radius():
    scene = Scene(Mode.SCALED, scale=0.2, scaled_radius_rad=0.05).arm()
    for _ in range(5):
        # The policy sees an arm that lags far behind and asks again and again.
        scene.step(chunks=(scene.chunk(),), ticks=8)
    moved = scene.last.positions_rad - np.array(GOAL)
    # 0.3 rad in 0.96 s, a fifth of it in 0.4 s; the gripper stays.
    np.testing.assert_allclose(moved[:5], 0.2 * 0.3 / 0.96 * 0.4, rtol=0.25)
    assert moved[5] == 0.0
    for sign in (1.0, -1.0):
        for _ in range(30):
            target = scene.last.positions_rad + 0.3 * sign
            scene.step(chunks=(scene.chunk(target),), ticks=8)
        moved = sign * (scene.last.positions_rad - np.array(GOAL))
        assert (moved <= 0.05 + 1e-9).all()
        np.testing.assert_allclose(moved[:5], 0.05, atol=1e-3)
