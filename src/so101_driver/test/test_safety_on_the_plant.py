"""Supervisor, driver core and simulated arm in lockstep: what shows only when they act together.

An arm that is armed from where it is measured sinks a little each time, because a loaded joint
hangs below its goal; and a folded arm rests on its stops, outside the limits it may be moved in.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

pytest.importorskip("mujoco")

from arm_loop import TICK_S, DrivenLoop
from proof.checker import Bounds, Checker
from proof.plain_geometry import PlainArm, PlainGeometry
from so101_driver.calibration import Calibration
from so101_driver.driver_types import StartAction
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety import (
    ActionKind,
    Chunk,
    EventKind,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
    effective_limits,
)
from so101_driver.safety.geometry_file import load_geometry
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.virtual_servo import IdealServo, TickScale

from so101_driver import registers as reg

LIMITS_FILE, URDF, GEOMETRY_FILE = (
    data_path(name) for name in ("so101_limits.yaml", "so101.urdf", "so101_geometry.yaml")
)
KINEMATICS = Kinematics.from_urdf(URDF)
GEOMETRY = load_geometry(GEOMETRY_FILE, KINEMATICS, JOINT_NAMES)
PLAIN_ARM = PlainArm(URDF, JOINT_NAMES)
PLAIN_GEOMETRY = PlainGeometry(GEOMETRY_FILE, PLAIN_ARM)
SIMULATED = Calibration.load(data_path("sim_calibration.json"))
STRETCHED_RAD = np.array([0.0, 0.9, -0.9, 0.0, 0.0, 0.2])
READY_RAD = np.array([0.0, -0.6, 0.5, 1.1, 0.0, 0.3])
BENT_RAD = np.array([0.0, -0.3, 0.6, 1.2, 0.0, 0.2])
LOW_RAD = np.array([0.0, 0.3, 0.2, 0.7, 0.0, 0.2])


class IdealArm:
    """Servos that are where they are told to be, on stops that no goal changes."""

    def __init__(self, position_rad, calibration):
        self.now_s = 0.0
        self.servos = {}
        ticks = np.rint(
            (np.asarray(position_rad) - calibration.ticks_to_rad(np.zeros(6)))
            / (calibration.ticks_to_rad(np.ones(6)) - calibration.ticks_to_rad(np.zeros(6)))
        ).astype(int)
        for servo_id, name, tick in zip(SERVO_IDS, JOINT_NAMES, ticks, strict=True):
            joint = calibration.joints[name]
            servo = IdealServo(
                servo_id,
                scale=TickScale(zero_tick=joint.mid_tick, homing_offset=joint.homing_offset),
                registers={
                    reg.HOMING_OFFSET: joint.homing_offset,
                    reg.MIN_POSITION: joint.range_min,
                    reg.MAX_POSITION: joint.range_max,
                },
            )
            servo.write(reg.GOAL_POSITION.address, reg.GOAL_POSITION.encode(int(tick)), 0.0)
            servo.write(reg.TORQUE_ENABLE.address, reg.TORQUE_ENABLE.encode(0), 0.0)
            self.servos[servo_id] = servo

    def step(self):
        self.now_s += TICK_S


class Loop(DrivenLoop):
    """All three at 100 Hz, and a record of the commands.

    Args:
        arm: With servos by id, ``step`` and ``now_s``.
        calibration: Of the arm.
        settings: Of the supervisor.
    """

    def __init__(self, arm, calibration, settings):
        self.limits = effective_limits(LIMITS_FILE, "cautious", URDF, calibration)
        supervisor = Supervisor(self.limits, settings, GEOMETRY)
        super().__init__(arm, supervisor, self.limits, calibration)
        assert self.found in (StartAction.ADOPT, StartAction.GIVE_TORQUE)
        self.rows, self.answers, self.last = [], [], None

    def step(self, chunks=(), events=()):
        self.last = super().step(chunks, events)
        self.answers += self.last.results
        if self.last.output is Output.COMMANDS:
            self.rows.append(np.array(self.last.positions_rad))
        return self.last

    def run(self, seconds):
        for _ in range(round(seconds / TICK_S)):
            self.step()

    def ask(self, kind):
        self.step(events=(OperatorEvent(kind, 1),))

    def arm_it(self):
        self.ask(EventKind.ARM)
        self.run(1.0)
        assert self.last.state is State.HOLD, self.answers[-1]

    def goal_ticks(self):
        return np.array([state.goal_ticks for state in self.states().values()])

    def chunk_to(self, goal_rad, seconds):
        points = self.rows[-1] + np.linspace(0.0, 1.0, 40)[:, None] * (goal_rad - self.rows[-1])
        offsets = tuple(round(k * seconds * 1e9 / 39) for k in range(40))
        stamp = self.now_ns + 10_000_000
        return Chunk(
            stamp, "test", 1, self.tick, JOINT_NAMES, points, offsets, 0.0, ActionKind.GOAL
        )


@pytest.mark.parametrize("adopts_goals", [True, False])
def test_twenty_cycles_of_arming_do_not_let_the_arm_creep(adopts_goals):
    """Without the goals, as for a controller that does not tell them, the arm does sink."""
    arm = ArmSimulation(seed=1, start_rad=tuple(STRETCHED_RAD))
    arm.enable_torque()
    loop = Loop(arm, SIMULATED, Settings(mode=Mode.FULL, needs_driver=adopts_goals))
    loop.arm_it()
    held = ArmSimulation(seed=1, start_rad=tuple(STRETCHED_RAD))
    held.enable_torque()
    held.run(arm.now_s)
    goals, height_m, held_m = loop.goal_ticks(), arm.tip_pose()[2, 3], held.tip_pose()[2, 3]
    for _ in range(20):
        loop.ask(EventKind.DISARM)
        loop.run(0.1)
        assert loop.last.output is Output.NONE
        loop.ask(EventKind.ARM)
        loop.run(0.3)
        assert loop.last.state is State.HOLD
    # The simulated friction itself gives way by 0.17 mm/s, under an arm that just stands too.
    held.run(arm.now_s - held.now_s)
    sunk_mm = 1e3 * (height_m - arm.tip_pose()[2, 3] - (held_m - held.tip_pose()[2, 3]))
    print(f"twenty cycles let the tip sink by {sunk_mm:.3f} mm")
    if adopts_goals:
        np.testing.assert_array_equal(loop.goal_ticks(), goals)
        assert abs(sunk_mm) < 0.1
    else:
        assert sunk_mm > 10.0


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(
    ("pose_rad", "push_m"), [(BENT_RAD, 0.05), (LOW_RAD, 0.07)], ids=["from above", "far out"]
)
def test_a_table_pushed_up_into_the_standing_arm_moves_no_command_and_the_arm_comes_back(
    pose_rad, push_m, guarded
):
    """The command stays, whatever the measurement does, and no servo works itself into its trip."""
    arm = ArmSimulation(seed=1, start_rad=tuple(pose_rad))
    arm.enable_torque()
    loop = Loop(arm, SIMULATED, Settings(mode=Mode.FULL))
    loop.arm_it()
    if not guarded:
        loop.core.tick = lambda _now_ns: ()
    armed, goals, tip_m = len(loop.rows), loop.goal_ticks(), arm.tip_pose()[2, 3]
    table = arm.world.model.body("table")

    def move_table(height_m, speed_m_s=0.02):
        ticks = round(abs(height_m - table.pos[2]) / speed_m_s / TICK_S)
        for height in np.linspace(table.pos[2], height_m, ticks):
            table.pos[2] = height
            loop.step()

    move_table(tip_m + push_m)
    loop.run(10.0)
    trips = [servo.overload_trips for servo in arm.servos.values()]
    if not guarded:
        assert sum(trips) >= 1
        return
    pushed_m = arm.tip_pose()[2, 3] - tip_m
    status = loop.supervisor.status(loop.now_ns)
    print(f"the tip was pushed up by {1e3 * pushed_m:.0f} mm: {status.reason}")
    assert pushed_m > push_m
    assert (loop.last.state, status.reason_code) == (State.HOLD, "JOINT_BLOCKED")
    assert trips == [0] * 6
    duty = [abs(servo.plant.duty) for servo in arm.servos.values()]
    assert max(duty) <= 0.76 + 1e-3

    move_table(0.0)
    loop.run(6.0)
    assert loop.supervisor.status(loop.now_ns).reason_code != "JOINT_BLOCKED"
    assert arm.tip_pose()[2, 3] == pytest.approx(tip_m, abs=0.005)
    assert loop.core.snapshot(loop.now_ns).torque_limit.tolist() == [1.0] * 5 + [0.5]
    # From arming on nothing has moved the command, and the arm was always held.
    assert np.ptp(np.array(loop.rows[armed - 1 :]), axis=0).max() == 0.0
    np.testing.assert_array_equal(loop.goal_ticks(), goals)
    assert all(servo.settings.enabled for servo in arm.servos.values())


def calibration_of(pan, lift, wrist, gripper):
    """A follower with these travels, in ticks, about the middle of the encoder."""
    travels = dict(zip(JOINT_NAMES, (pan, lift, 2200, wrist, 4095, gripper), strict=True))
    return Calibration.from_mapping(
        {
            name: {
                "id": servo_id,
                "drive_mode": 0,
                "homing_offset": 0,
                "range_min": (4095 - travel) // 2,
                "range_max": (4095 - travel) // 2 + travel,
            }
            for servo_id, (name, travel) in zip(SERVO_IDS, travels.items(), strict=True)
        }
    )


CALIBRATIONS = [
    (pan, lift, wrist, gripper)
    for (pan, gripper), lift, wrist in product(
        ((2365, 1456), (2662, 1514)), (2315, 2504), (2082, 2367)
    )
]
"""Of two published followers, and every mixture of their shoulders and wrists."""


@pytest.mark.parametrize(
    ("travels", "torque_on"), [(t, k % 3 == 0) for k, t in enumerate(CALIBRATIONS)]
)
def test_a_folded_arm_on_its_stops_can_be_armed_and_unfolded(travels, torque_on):
    """Upper arm on its rear stop, forearm on its upper one, gripper shut, the wrist as it lies."""
    calibration = calibration_of(*travels)
    stops = calibration.position_limits_rad
    wrist_rad = 0.7 if torque_on else 0.3
    folded = np.array([0.0, stops[1, 0], stops[2, 1], wrist_rad, 0.0, stops[5, 0]])
    arm = IdealArm(folded, calibration)
    if torque_on:
        for servo in arm.servos.values():
            servo.write(reg.TORQUE_ENABLE.address, reg.TORQUE_ENABLE.encode(1), 0.0)
    loop = Loop(arm, calibration, Settings(mode=Mode.FULL))
    loop.arm_it()
    np.testing.assert_allclose(loop.rows[0], folded, atol=0.002)
    goal = np.clip(READY_RAD, loop.limits.lower_rad, loop.limits.upper_rad)
    loop.step(chunks=(loop.chunk_to(goal, 2.0),))
    loop.run(3.5)
    np.testing.assert_allclose(loop.rows[-1], goal, atol=0.01)
    narrower = (PLAIN_ARM.ranges, stops)
    checker = Checker(
        Bounds.read(LIMITS_FILE, "cautious", narrower=narrower),
        TICK_S,
        PLAIN_ARM,
        PLAIN_GEOMETRY,
    )
    assert checker.check(np.array(loop.rows)) == []
    assert loop.core.counters["rate_limited"] == 0


def test_the_calibrations_reach_beyond_the_limits():
    """Or the test above would not start from outside."""
    lift_stops = {calibration_of(*t).position_limits_rad[1, 0] for t in CALIBRATIONS}
    lower = Limits.from_file(LIMITS_FILE, "cautious").lower_rad[1]
    assert min(lift_stops) < lower - 0.17
