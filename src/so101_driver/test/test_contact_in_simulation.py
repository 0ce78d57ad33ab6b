"""Watch and guard on the simulated arm: what must not trip them, and how soon a jam is met."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

import mujoco
from ruckig import InputParameter, Ruckig, Synchronization, Trajectory
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import Command, DriverConfig, StartAction
from so101_driver.joints import GRIPPER, JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.overload_guard import GuardConfig, OverloadRegisters
from so101_driver.protocol import ServoError
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, Reading, ServoState
from so101_driver.safety.contact import FollowingWatch
from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.plant import ServoModel

from so101_driver import registers as reg

TICK_S = 0.01
CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
PAN, LIFT, ELBOW = 0, 1, 2
RAISED_RAD = np.array([0.0, -0.4, -0.3, 0.3, 0.0, 0.2])
ABOVE_TABLE_RAD = np.array([0.0, -0.3, 0.6, 1.2, 0.0, 0.2])
TOUCH_M = 0.0125
"""Height of the tip at which the fingers, which are thicker, touch the table."""
FOREARM_LEVEL_RAD = np.array([0.0, -0.3, 0.0, 0.0, 0.0, 0.2])
HORIZONTAL_RAD = np.array([0.0, 1.5, -1.4, 0.0, 0.0, 0.2])
"""Level and as long as it gets: the most that the shoulder can have to carry."""
STRETCHED_RAD = np.array([0.0, 1.0, -1.0, 0.0, 0.0, 0.2])


def limits_of(profile):
    return Limits.from_file(data_path("so101_limits.yaml"), profile)


def fastest(start_rad, goal_rad, limits):
    """Commands from rest to rest, each joint at its own limits, then half a second of rest."""
    request = InputParameter(len(start_rad))
    request.current_position = list(start_rad)
    request.target_position = list(goal_rad)
    request.max_velocity = limits.velocity_rad_s.tolist()
    request.max_acceleration = limits.acceleration_rad_s2.tolist()
    request.max_jerk = limits.jerk_rad_s3.tolist()
    request.synchronization = Synchronization.No
    path = Trajectory(len(start_rad))
    Ruckig(len(start_rad)).calculate(request, path)
    ticks = int(path.duration / TICK_S) + 50
    return [np.array(path.at_time(min(k * TICK_S, path.duration))[0]) for k in range(1, ticks)]


class Watched:
    """The simulated arm with goals at 100 Hz and the watch beside it."""

    def __init__(self, profile="cautious", start_rad=RAISED_RAD):
        self.limits = limits_of(profile)
        self.arm = ArmSimulation(seed=1, start_rad=tuple(start_rad))
        self.arm.enable_torque()
        self.command_rad = np.array(start_rad)
        self.watch = FollowingWatch(self.limits, Settings())
        self.watch.start(self.command_rad)
        self.ticks = 0
        self.worst_rad = np.zeros(len(JOINT_NAMES))
        self.slowest = 1.0

    def tick(self, command_rad):
        self.ticks += 1
        while self.arm.now_s < self.ticks * TICK_S:
            self.arm.step()
        following = self.watch.update(command_rad, self.arm.joints_rad())
        self.command_rad = np.array(command_rad)
        self.arm.set_goals_rad(command_rad)
        self.worst_rad = np.maximum(self.worst_rad, np.abs(following.error_rad))
        self.slowest = min(self.slowest, following.rate)
        return following

    def go(self, goal_rad):
        for command in fastest(self.command_rad, goal_rad, self.limits):
            assert self.tick(command).blocked == ()


def other(**joints):
    goal = RAISED_RAD.copy()
    for name, position in joints.items():
        goal[JOINT_NAMES.index(name)] = position
    return goal


MOVES = {
    "each joint alone": [
        other(shoulder_pan=1.2),
        other(shoulder_pan=-1.2),
        other(shoulder_lift=0.7),
        other(shoulder_lift=-1.2),
        other(elbow_flex=1.0),
        other(elbow_flex=-1.2),
        other(wrist_flex=1.4),
        other(wrist_flex=-1.4),
        other(wrist_roll=2.0),
        other(wrist_roll=-2.0),
    ],
    "all at once": [
        np.array([1.2, 0.3, -0.5, -0.5, 1.5, 0.2]),
        np.array([-1.2, -1.2, 0.6, 1.0, -1.5, 0.2]),
        np.array([1.0, 0.6, -0.6, 0.0, 0.0, 0.2]),
        np.array([-1.0, -0.6, 0.6, 0.0, 0.0, 0.2]),
    ],
    "stretched up and down": [
        STRETCHED_RAD,
        np.array([0.0, -0.8, -1.0, 0.0, 0.0, 0.2]),
        STRETCHED_RAD,
        np.array([1.5, 1.0, -1.0, 0.0, 0.0, 0.2]),
        np.array([-1.5, 1.0, -1.0, 0.0, 0.0, 0.2]),
    ],
}


@pytest.mark.parametrize("moves", MOVES)
def test_full_speed_under_gravity_is_neither_slowed_nor_blocked_in_the_cautious_profile(moves):
    watched = Watched("cautious")
    for goal in MOVES[moves]:
        watched.go(goal)
    margin_rad = (watched.limits.following_slow_rad - watched.worst_rad)[:GRIPPER]
    assert watched.slowest == 1.0
    assert margin_rad.min() > 0.04


@pytest.mark.parametrize("moves", MOVES)
def test_in_the_demo_profile_it_is_hardly_slowed_and_not_blocked(moves):
    """At 3 rad/s a stretched arm needs all that the servo has left at this speed."""
    watched = Watched("demo")
    for goal in MOVES[moves]:
        watched.go(goal)
    margin_rad = (watched.limits.following_stop_rad - watched.worst_rad)[:GRIPPER]
    assert watched.slowest > 0.95
    assert margin_rad.min() > 0.10


def test_the_sag_of_the_stretched_arm_is_a_third_of_the_stop_error():
    watched = Watched("cautious", STRETCHED_RAD)
    for _ in range(300):
        following = watched.tick(STRETCHED_RAD)
    sag_rad = np.abs(following.error_rad)[LIFT]
    assert 0.03 < sag_rad < watched.limits.following_stop_rad[LIFT] / 3


def follow_until_blocked(watched, path, jam_at=None):
    """Follow a path at the watch's rate, as the safety layer does; returns (joints, seconds).

    The seconds run from the jam: joint ``jam_at[1]`` sticks at tick ``jam_at[0]`` of the path, or
    the tip touches the table.
    """
    at, rate, seconds = 0.0, 1.0, None
    for _ in range(1000):
        at = min(at + rate, len(path) - 1.0)
        index = int(at)
        ahead = path[min(index + 1, len(path) - 1)]
        following = watched.tick(path[index] + (ahead - path[index]) * (at - index))
        rate = following.rate
        if following.blocked:
            return following, seconds
        if seconds is not None:
            seconds += TICK_S
        elif jam_at is not None and at >= jam_at[0]:
            watched.arm.world.set_stuck(jam_at[1], True)
            seconds = 0.0
        elif jam_at is None and watched.arm.tip_pose()[2, 3] < TOUCH_M:
            seconds = 0.0
    raise AssertionError("nothing was blocked")


@pytest.mark.parametrize(("profile", "latest_s"), [("cautious", 1.1), ("demo", 0.7)])
@pytest.mark.parametrize("joint", [PAN, LIFT, ELBOW])
def test_a_stuck_joint_is_blocked_soon(profile, joint, latest_s):
    watched = Watched(profile)
    goal = RAISED_RAD.copy()
    goal[joint] -= 1.4
    path = fastest(RAISED_RAD, goal, watched.limits)
    following, seconds = follow_until_blocked(watched, path, (30, joint))
    print(f"{profile}, {JOINT_NAMES[joint]}: {seconds:.2f} s")
    assert following.blocked == (joint,)
    assert JOINT_NAMES[joint] in following.sentence
    assert seconds < latest_s


@pytest.mark.parametrize(("profile", "latest_s"), [("cautious", 1.1), ("demo", 0.7)])
def test_the_table_blocks_an_arm_that_is_sent_through_it(profile, latest_s):
    watched = Watched(profile, ABOVE_TABLE_RAD)
    goal = ABOVE_TABLE_RAD + np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0])
    path = fastest(ABOVE_TABLE_RAD, goal, watched.limits)
    following, seconds = follow_until_blocked(watched, path)
    print(f"{profile}, table: {seconds:.2f} s")
    assert LIFT in following.blocked
    assert seconds < latest_s


# The driver's overload guard.


class Driven:
    """The driver core and the simulated arm in lockstep.

    Args:
        start_rad: Where the arm stands.
        guarded: Whether torque limits reach the servos.
        stride: Cycles of 10 ms that are passed at once; 10 leaves the diagnostic reads alone.
    """

    def __init__(self, start_rad, *, guarded=True, stride=1):
        self.arm = ArmSimulation(seed=1, start_rad=tuple(start_rad))
        gripper = self.arm.servos[SERVO_IDS[GRIPPER]]
        gripper.write(reg.OVERLOAD_TORQUE.address, reg.OVERLOAD_TORQUE.encode(25), 0.0)
        self.arm.enable_torque()
        limits = limits_of("cautious")
        self.core = DriverCore(
            DriverConfig(
                position_limits_rad=np.stack([limits.lower_rad, limits.upper_rad], axis=-1),
                max_speed_rad_s=limits.velocity_rad_s,
            ),
            CALIBRATION,
        )
        self.guarded = guarded
        self.stride = stride
        self.ticks = 0
        self.duty = []
        full = (1000,) * 5 + (500,)
        overload = (OverloadRegisters(),) * 5 + (OverloadRegisters(threshold=0.25),)
        found = self.core.start(self._states().values(), full, self.now_ns, overload)
        assert found is StartAction.ADOPT

    @property
    def now_ns(self):
        return self.ticks * 10_000_000 + 1_000_000_000

    def _read(self, address, size):
        return {
            i: Reading(i, servo.read(address, size), ServoError(0), self.now_ns)
            for i, servo in self.arm.servos.items()
        }

    def _states(self):
        return {
            i: ServoState.from_reading(reading)
            for i, reading in self._read(STATE_ADDRESS, STATE_SIZE).items()
        }

    def _write(self, write):
        for servo_id, value in write.values.items():
            self.arm.servos[servo_id].write(
                write.register.address, write.register.encode(value), self.arm.now_s
            )

    def tick(self, goal_rad):
        self.ticks += self.stride
        while self.arm.now_s < self.ticks * TICK_S:
            self.arm.step()
        size = reg.DIAGNOSTICS_SIZE if self.ticks % 10 == 0 else 4
        self.core.observe(self._read(reg.PRESENT_POSITION.address, size), self.now_ns)
        writes = []
        if self.ticks % 10 == 5 % self.stride:
            writes += self.core.check_states(self._states())
        writes += self.core.tick(self.now_ns)
        for write in writes:
            if self.guarded or write.register is not reg.TORQUE_LIMIT:
                self._write(write)
        command = Command(JOINT_NAMES, self.now_ns, tuple(map(float, goal_rad)))
        result = self.core.command(command, self.now_ns, self.now_ns)
        if result.write is not None:
            self._write(result.write)
        self.duty.append([servo.plant.duty for servo in self.arm.servos.values()])
        return self.core.snapshot(self.now_ns)

    def hold(self, goal_rad, seconds):
        for _ in range(round(seconds / TICK_S / self.stride)):
            snapshot = self.tick(goal_rad)
        return snapshot

    @property
    def trips(self):
        return [servo.overload_trips for servo in self.arm.servos.values()]


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("joint", [PAN, LIFT, ELBOW])
def test_a_blocked_joint_under_a_stream_of_goals_never_trips_its_servo(joint, guarded):
    driven = Driven(RAISED_RAD, guarded=guarded)
    driven.hold(RAISED_RAD, 1.0)
    driven.arm.world.set_stuck(joint, True)
    goal = RAISED_RAD.copy()
    goal[joint] -= 0.34
    snapshot = driven.hold(goal, 30.0)
    duty = np.abs(driven.duty)[-1500:, joint]
    if not guarded:
        # What the guard is for: each trip ends with the next goal, so the duty stays at its full.
        assert driven.trips[joint] >= 10
        assert duty.mean() > 0.95
        return
    share = GuardConfig().sustainable[joint]
    assert driven.trips == [0] * 6
    assert duty.max() <= share + 1e-3
    assert snapshot.torque_limit[joint] == pytest.approx(share)
    assert snapshot.reason.code is ReasonCode.TORQUE_LIMITED
    assert JOINT_NAMES[joint] in snapshot.reason.sentence
    assert driven.core.counters[f"torque_limited_{JOINT_NAMES[joint]}"] == 1

    driven.arm.world.set_stuck(joint, False)
    snapshot = driven.hold(goal, 6.0)
    assert snapshot.torque_limit.tolist() == [1.0] * 5 + [0.5]
    assert snapshot.reason.code is ReasonCode.NONE
    assert driven.arm.joints_rad() == pytest.approx(goal, abs=0.1)


@pytest.mark.parametrize("pose_rad", [STRETCHED_RAD, HORIZONTAL_RAD])
def test_what_is_left_holds_the_arm_as_the_full_torque_does_on_the_weakest_servo(pose_rad):
    """A 7.4 V servo on 5 V; the guard must never drop an arm."""
    heights_m = []
    for shares in ((1.0,) * 6, GuardConfig().sustainable):
        arm = ArmSimulation(model=ServoModel(stall_torque_nm=1.35), start_rad=tuple(pose_rad))
        for servo_id, share in zip(SERVO_IDS, shares, strict=True):
            value = reg.TORQUE_LIMIT.encode(round(share * 1000))
            arm.servos[servo_id].write(reg.TORQUE_LIMIT.address, value, 0.0)
        arm.enable_torque()
        arm.set_goals_rad(pose_rad)
        arm.run(5.0)
        heights_m.append(arm.tip_pose()[2, 3])
    # Friction and free play leave the arm within a fraction of a millimetre.
    assert heights_m[1] == pytest.approx(heights_m[0], abs=5e-4)


def test_a_load_that_sinks_under_the_limit_is_held_without_tripping():
    """At the elbow: more than the 50 % that it is left with, less than the 76 % it can give."""
    driven = Driven(FOREARM_LEVEL_RAD)
    model = driven.arm.world.model
    model.body_mass[model.body("gripper_link").id] += 0.75
    driven.hold(FOREARM_LEVEL_RAD, 10.0)
    assert driven.core.counters["torque_limited_elbow_flex"] == 1
    assert driven.core.counters["torque_yielded_elbow_flex"] == 1
    before_m = driven.arm.tip_pose()[2, 3]
    assert before_m > 0.12
    snapshot = driven.hold(FOREARM_LEVEL_RAD, 10.0)
    assert snapshot.torque_limit[ELBOW] == pytest.approx(0.76)
    assert driven.trips == [0] * 6
    assert driven.arm.tip_pose()[2, 3] == pytest.approx(before_m, abs=0.005)


def place_cube_in_gripper(arm, name="red_cube"):
    """Put a cube between the pads, turned like them."""
    joint = arm.world.model.joint(name)
    pose = arm.tip_pose()
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, pose[:3, :3].ravel())
    at = int(joint.qposadr[0])
    arm.world.data.qpos[at : at + 7] = (*pose[:3, 3], *quaternion)
    mujoco.mj_forward(arm.world.model, arm.world.data)


def test_a_grasp_of_ten_minutes_keeps_the_cube_and_spares_the_gripper():
    pose = RAISED_RAD.copy()
    pose[GRIPPER] = 0.14
    driven = Driven(pose, stride=10)
    place_cube_in_gripper(driven.arm)
    closed = pose.copy()
    closed[GRIPPER] = -0.15
    height_m = driven.arm.cube_position_m("red_cube")[2]
    snapshot = driven.hold(closed, 600.0)
    assert driven.arm.gripped("red_cube")
    assert driven.arm.cube_position_m("red_cube")[2] == pytest.approx(height_m, abs=0.03)
    assert snapshot.torque_limit[GRIPPER] == pytest.approx(0.2)
    assert np.abs(driven.duty)[-100:, GRIPPER].max() <= 0.201
    assert driven.trips == [0] * 6
    # Gripping is no fault of the arm: nothing to report.
    assert snapshot.reason.code is ReasonCode.NONE
    assert driven.core.counters["torque_limited_gripper"] == 1
