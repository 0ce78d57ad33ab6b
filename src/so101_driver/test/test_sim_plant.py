"""The plant must be as slow and as soft as a real SO-101, or policies meet it first on hardware.

Dead time, lag, speed, sag and the trap of a stale goal are what an ideal simulator hides.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mujoco")

from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.parts import FOLLOWER_7V4, FOLLOWER_12V, ServoPart
from so101_driver.sim.plant import DriveSettings, ServoModel, ServoPlant
from so101_driver.sim.virtual_servo import VirtualServo

from so101_driver import registers as reg

UPRIGHT_RAD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def held_arm(start_rad: tuple[float, ...] = UPRIGHT_RAD, p_gain: int = 16) -> ArmSimulation:
    arm = ArmSimulation(start_rad=start_rad)
    for servo in arm.servos.values():
        write(servo, reg.P_GAIN, p_gain)
    arm.enable_torque()
    arm.set_goals_rad(start_rad)
    arm.run(1.0)
    return arm


def write(servo: VirtualServo, register: reg.Register, value: int, now_s: float = 0.0) -> None:
    servo.write(register.address, register.encode(value), now_s)


def pan_response(arm: ArmSimulation, step_rad: float, duration_s: float) -> np.ndarray:
    start = arm.world.joint_positions_rad()
    goal = [start[0] + step_rad, *UPRIGHT_RAD[1:]]
    arm.set_goals_rad(goal)
    moved = []
    for _ in range(round(duration_s / arm.timestep_s)):
        arm.step()
        moved.append(arm.world.joint_positions_rad()[0] - start[0])
    return np.array(moved) / step_rad


def test_a_goal_moves_the_joint_after_the_dead_time_and_then_with_a_lag() -> None:
    arm = held_arm()
    # Friction holds the joint up to a degree off its goal: start from equilibrium.
    arm.set_goals_rad([0.3, 0, 0, 0, 0, 0])
    arm.run(1.5)
    moved = pan_response(arm, 0.2, 0.6)
    dead_s = np.argmax(moved > 0.01) * arm.timestep_s
    reached_s = np.argmax(moved > 0.63) * arm.timestep_s
    assert 0.085 <= dead_s <= 0.125
    assert 0.020 <= reached_s - dead_s <= 0.090
    assert 0.85 < moved[-1] < 1.1


def test_speed_stays_below_the_servo_and_below_its_goal_velocity_register() -> None:
    arm = held_arm()
    arm.set_goals_rad([-1.2, 0, 0, 0, 0, 0])
    arm.run(2.0)
    for limit_radps, steps in ((4.1, 0), (1.0, 652)):
        write(arm.servos[1], reg.GOAL_VELOCITY, steps)
        arm.set_goals_rad([1.2 * math.copysign(1, -arm.joints_rad()[0]), 0, 0, 0, 0, 0])
        fastest = 0.0
        for _ in range(800):
            arm.step()
            fastest = max(fastest, abs(arm.world.joint_velocities_radps()[0]))
        assert 0.85 * limit_radps < fastest < 1.2 * limit_radps


def test_gravity_makes_a_loaded_joint_hang_degrees_below_its_goal() -> None:
    stretched = (0.0, 0.9, -0.9, 0.0, 0.0, 0.0)
    soft, stiff = (
        np.degrees(held_arm(stretched, p_gain).joints_rad() - stretched) for p_gain in (16, 32)
    )
    assert 2.0 < soft[1] < 6.0
    # Half of it but for what friction holds.
    assert stiff[1] / soft[1] == pytest.approx(0.5, abs=0.15)


def test_without_torque_a_raised_arm_falls_and_a_folded_one_stays() -> None:
    raised = held_arm((0.0, 0.6, -0.6, 0.0, 0.0, 0.0))
    raised.disable_torque()
    height_m = raised.tip_pose()[2, 3]
    raised.run(2.0)
    assert raised.tip_pose()[2, 3] < height_m - 0.1
    assert raised.tip_pose()[2, 3] > -0.01

    folded = ArmSimulation()
    before = folded.world.joint_positions_rad()
    folded.run(5.0)
    assert folded.world.joint_positions_rad() == pytest.approx(before, abs=0.01)


def test_enabling_torque_with_a_stale_goal_jumps_and_with_a_seeded_one_does_not() -> None:
    for seeded in (True, False):
        arm = ArmSimulation(goal_write_enables_torque=False)
        before = arm.joints_rad()
        if seeded:
            arm.enable_torque()
        else:
            for servo in arm.servos.values():
                write(servo, reg.TORQUE_ENABLE, 1)
        arm.run(0.5)
        moved_rad = np.abs(arm.joints_rad() - before).max()
        assert (moved_rad < 0.03) == seeded


def test_torque_limit_zero_is_limp_and_goals_then_move_nothing() -> None:
    arm = ArmSimulation()
    for servo in arm.servos.values():
        write(servo, reg.TORQUE_LIMIT, 0)
    before = arm.joints_rad()
    arm.set_goals_rad(UPRIGHT_RAD)
    arm.run(1.0)
    assert np.abs(arm.joints_rad() - before).max() < 0.02


def test_present_position_flickers_by_a_tick_at_most() -> None:
    arm = held_arm()
    ticks = np.array([arm.joint_ticks() for _ in range(50)])
    assert np.all(np.ptp(ticks, axis=0) <= 1)


def test_acceleration_register_slows_the_start() -> None:
    plant, slow = ServoPlant(), ServoPlant()
    for one, acceleration in ((plant, 39.0), (slow, 2.0)):
        one.command(0.0, 1.0)
        settings = DriveSettings(enabled=True, max_acceleration_radps2=acceleration)
        for tick in range(50):
            one.step(tick * 0.004, 0.004, 0.0, 0.0, settings)
    assert slow.setpoint_velocity_radps < 0.3 < plant.setpoint_velocity_radps
    assert slow.setpoint_velocity_radps == pytest.approx(2.0 * (50 * 0.004 - 0.085), abs=0.02)


def test_goal_filter_does_not_overshoot() -> None:
    plant = ServoPlant()
    plant.command(0.0, 1.5)
    settings = DriveSettings(enabled=True, max_acceleration_radps2=39.0)
    largest = 0.0
    for tick in range(400):
        plant.step(tick * 0.004, 0.004, plant.setpoint_rad, 0.0, settings)
        largest = max(largest, plant.setpoint_rad)
    assert largest < 1.505
    assert plant.setpoint_rad == pytest.approx(1.5, abs=0.002)


def test_a_joint_that_turns_back_waits_until_the_motor_has_crossed_the_free_play() -> None:
    def waited_s(backlash_deg: float) -> float:
        plant = ServoPlant(ServoModel(backlash_rad=math.radians(backlash_deg), dead_time_s=0.0))
        settings = DriveSettings(enabled=True)
        plant.start_from(0.0)
        for sign in (1.0, -1.0):
            plant.command(0.0, 0.05 * sign)
            ticks = 0
            while plant.step(0.001, 0.001, 0.0, 0.0, settings) * sign <= 0.1:
                ticks += 1
            for _ in range(300):
                plant.step(0.001, 0.001, 0.0, 0.0, settings)
        return ticks * 1e-3

    none, some, more = waited_s(0.0), waited_s(0.5), waited_s(1.0)
    assert none + 0.01 < some < more < none + 0.1


def test_the_joint_is_free_within_the_play_and_only_there() -> None:
    model = ServoModel(backlash_rad=0.02)
    plant, settings = ServoPlant(model), DriveSettings(enabled=True)
    # Less than the gears' friction never crosses it, so the joint feels nothing.
    weak_rad = 0.5 * model.gear_friction_nm / model.stiffness_nm_per_rad
    assert not any(plant.step(0.004 * n, 0.004, -weak_rad, 0.0, settings) for n in range(500))
    assert plant.duty > 0.0
    strong_rad = 4.0 * model.gear_friction_nm / model.stiffness_nm_per_rad
    torques = [plant.step(0.0, 0.004, -strong_rad, 0.0, settings) for _ in range(100)]
    assert torques[0] == 0.0
    # Once it rests on a flank, a weak torque the same way gets through.
    assert plant.step(0.0, 0.004, -weak_rad, 0.0, settings) > 0.0


def test_a_lower_supply_gives_less_torque_and_speed() -> None:
    def torque_nm(supply_v: float, velocity_radps: float) -> float:
        plant = ServoPlant(ServoModel(backlash_rad=0.0))
        settings = DriveSettings(enabled=True, supply_v=supply_v)
        return plant.step(0.0, 0.004, -2.0, velocity_radps, settings)

    assert torque_nm(12.0, 0.0) == pytest.approx(2.94)
    assert torque_nm(14.0, 0.0) == pytest.approx(2.94)
    assert torque_nm(6.0, 0.0) == pytest.approx(1.47)
    assert torque_nm(6.0, 2.65) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("limit", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("supply_v", [3.5, 12.0])
def test_the_torque_limit_holds_at_any_speed_and_either_way(limit: float, supply_v: float) -> None:
    """Beyond the free speed, too: a limp arm that falls must not be pushed."""

    def duty(velocity_radps: float, error_rad: float) -> float:
        plant = ServoPlant(ServoModel(backlash_rad=0.0))
        settings = DriveSettings(enabled=True, torque_limit=limit, supply_v=supply_v)
        plant.step(0.0, 0.004, -error_rad, velocity_radps, settings)
        return plant.duty

    for velocity_radps in (0.0, 1.0, 5.0, 20.0):
        for error_rad in (-1.0, 0.0, 1.0):
            forward, backward = duty(velocity_radps, error_rad), duty(-velocity_radps, -error_rad)
            assert abs(forward) <= limit
            assert backward == pytest.approx(-forward)


def test_a_loaded_servo_warms_as_measured() -> None:
    plant = ServoPlant(ServoModel(dead_time_s=0.0))
    settings = DriveSettings(enabled=True)
    error_rad = 0.354 * 2.94 / 12.0
    for second in range(600):
        plant.step(float(second), 1.0, -error_rad, 0.0, settings)
    assert plant.temperature_c - plant.model.ambient_c == pytest.approx(15.0, abs=3.0)


def test_supply_sags_under_load_and_current_follows_duty() -> None:
    arm = held_arm((0.0, 0.9, -0.9, 0.0, 0.0, 0.0))
    loaded = arm.servos[2]
    assert loaded.supply_v < 12.2
    block = loaded.read(reg.DIAGNOSTICS_ADDRESS, reg.DIAGNOSTICS_SIZE)
    load = reg.PRESENT_LOAD.decode_from(block, reg.DIAGNOSTICS_ADDRESS)
    current = reg.PRESENT_CURRENT.decode_from(block, reg.DIAGNOSTICS_ADDRESS)
    assert load < -100
    assert current * reg.CURRENT_A == pytest.approx(0.03 + abs(load) * 1e-3 * 2.7, abs=0.02)


def test_a_stretched_arm_is_lifted_more_slowly_than_an_empty_servo_turns() -> None:
    """The figures of docs/virtual-arm.md."""

    def fastest_radps(part: ServoPart) -> float:
        stretched = (0.0, 1.2, -1.2, 0.0, 0.0, 0.2)
        arm = ArmSimulation(start_rad=stretched, part=part)
        arm.enable_torque()
        arm.set_goals_rad(stretched)
        arm.run(1.0)
        arm.set_goals_rad((0.0, -0.9, -1.2, 0.0, 0.0, 0.2))
        fastest = 0.0
        for _ in range(400):
            arm.step()
            # While it is still stretched out: the first 45 degrees.
            if arm.world.joint_positions_rad()[1] > 0.45:
                fastest = max(fastest, -arm.world.joint_velocities_radps()[1])
        return fastest

    assert fastest_radps(FOLLOWER_12V) == pytest.approx(3.0, abs=0.1)
    assert fastest_radps(FOLLOWER_7V4) == pytest.approx(0.9, abs=0.1)


def test_an_arm_of_seven_volt_servos_is_slower_and_softer_and_says_its_supply() -> None:
    def held(part: ServoPart) -> tuple[float, float, float]:
        arm = ArmSimulation(start_rad=(-1.0, 0.0, 0.0, 0.0, 0.0, 0.0), part=part)
        arm.enable_torque()
        arm.set_goals_rad([1.0, 0.9, -0.9, 0.0, 0.0, 0.0])
        fastest = 0.0
        for _ in range(500):
            arm.step()
            fastest = max(fastest, arm.world.joint_velocities_radps()[0])
        volts = arm.servos[1].read(reg.PRESENT_VOLTAGE.address, 1)[0] * reg.VOLTAGE_V
        return fastest, arm.joints_rad()[1] - 0.9, volts

    strong, weak = held(FOLLOWER_12V), held(FOLLOWER_7V4)
    assert weak[0] < 3.4 < strong[0]
    assert weak[1] > strong[1] + 0.01 > 0.02
    assert (strong[2], weak[2]) == (pytest.approx(12.1, abs=0.2), pytest.approx(5.0, abs=0.2))
