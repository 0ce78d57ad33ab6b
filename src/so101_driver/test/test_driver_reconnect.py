"""An unplugged cable must not drop the arm, end the driver, or let it believe what is not so.

The driver without its node, on a link to a pseudo-terminal: what a cable does to it is done by
closing the terminal, and by leading the link to another one with the same servos behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from so101_driver.arm_driver import ArmDriver
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import ReasonCode
from so101_driver.driver_types import Command, DriverConfig, DriverState, JointSample, Refusal
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.sim import VirtualBus

from so101_driver import registers as reg

pytestmark = [pytest.mark.bus, pytest.mark.timeout(60)]

CALIBRATION = Calibration.load(data_path("sim_calibration.json"))
CONFIG = DriverConfig(
    position_limits_rad=np.array([[-1.5, 1.5]] * 5 + [[-0.17, 1.7]]),
    max_speed_rad_s=np.full(6, 2.0),
    torque_ramp_s=0.1,
    # A busy test machine may stall everything at once; that is not what is tested here.
    max_bad_cycles=20,
    bus_silence_s=1.0,
)


class Bench:
    """Servos, a cable that can be pulled, and a driver."""

    def __init__(self, first: VirtualBus, folder: Path) -> None:
        self.terminal = first
        self.chain = first.arm
        self.port = folder / "arm"
        self.port.symlink_to(first.port)
        self.samples: list[JointSample] = []
        self.failures: list[str] = []
        self.bus = ServoBus(str(self.port))
        core = DriverCore(CONFIG, CALIBRATION)
        self.arm = ArmDriver(self.bus, core, CALIBRATION, self._on_cycle, self.failures.append)
        self.arm.start()
        self.wait("torque", lambda: self.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))

    def _on_cycle(self, sample: JointSample | None) -> None:
        if sample is not None:
            self.samples.append(sample)

    @property
    def state(self) -> tuple[DriverState, ReasonCode]:
        snapshot = self.arm.snapshot()
        return snapshot.state, snapshot.reason.code

    @property
    def sentence(self) -> str:
        return self.arm.snapshot().reason.sentence

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline_s, f"no {what}: {self.state} {self.sentence}"
            time.sleep(0.01)

    def unplug(self) -> None:
        self.port.unlink()
        self.terminal.close()
        lost = (DriverState.FAULT, ReasonCode.PORT_LOST)
        self.wait("notice of the lost port", lambda: self.state == lost)

    def plug_in(self) -> None:
        self.terminal = VirtualBus(self.chain)
        self.terminal.start()
        self.port.symlink_to(self.terminal.port)

    def registers(self) -> dict[int, bytes]:
        return {i: bytes(self.chain.servos[i].memory.read(5, 51)) for i in SERVO_IDS}

    def enabled(self) -> list[int]:
        return [self.chain.servos[i].memory.value(reg.TORQUE_ENABLE) for i in SERVO_IDS]

    def goals_rad(self) -> np.ndarray:
        return CALIBRATION.ticks_to_rad([self.chain.servos[i].goal_ticks for i in SERVO_IDS])

    def command(self, position_rad: np.ndarray) -> Refusal | None:
        now_ns = time.time_ns()
        command = Command(JOINT_NAMES, now_ns, tuple(position_rad.tolist()))
        return self.arm.command(command, now_ns, 1).refusal

    def stream(self, position_rad: np.ndarray, cycles: int) -> set[Refusal | None]:
        refusals = set()
        for _ in range(cycles):
            refusals.add(self.command(position_rad))
            time.sleep(0.01)
        return refusals

    def close(self) -> None:
        self.arm.stop()
        self.bus.close()
        self.terminal.close()


@pytest.fixture
def bench(calibrated_servos: VirtualBus, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(calibrated_servos, tmp_path)
    yield made
    made.close()


def test_a_cable_plugged_in_again_is_taken_over_without_a_write(bench: Bench) -> None:
    bench.stream(bench.goals_rad() + 0.05, 10)
    held, goals = bench.registers(), bench.goals_rad()
    bench.unplug()
    assert "gone" in bench.sentence
    assert bench.stream(goals + 0.05, 3) == {Refusal.FAULT}
    seen = len(bench.samples)
    time.sleep(0.1)
    assert len(bench.samples) == seen, "measured without a port"
    assert (bench.arm.snapshot().reading_age_s > 0.05).all()
    bench.plug_in()
    bench.wait("arm", lambda: bench.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))
    assert bench.registers() == held
    assert bench.stream(goals, 3) == {None}
    assert bench.stream(goals + 0.03, 10) == {None}
    assert bench.goals_rad() == pytest.approx(goals + 0.03, abs=0.002)
    assert bench.arm.counters()["port_losses"] == 1
    assert not bench.failures


def test_after_a_gap_commands_must_begin_at_the_goal(bench: Bench) -> None:
    goals = bench.goals_rad()
    bench.unplug()
    bench.plug_in()
    bench.wait("arm", lambda: bench.state[0] is DriverState.HOLDING)
    assert bench.stream(goals + 0.1, 5) == {Refusal.DESYNC}
    assert bench.goals_rad() == pytest.approx(goals)


def test_a_cable_pulled_again_and_again(bench: Bench) -> None:
    for _ in range(3):
        bench.unplug()
        bench.plug_in()
        bench.wait("arm", lambda: bench.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))
    assert bench.arm.counters()["port_losses"] == 3


def test_a_link_to_another_terminal_is_noticed_though_the_old_one_lives(bench: Bench) -> None:
    """Nobody answers on the old one any more, and the port's path is never missing."""
    old = bench.terminal
    bench.terminal = VirtualBus(bench.chain)
    bench.terminal.start()
    fresh = bench.port.with_name("fresh")
    fresh.symlink_to(bench.terminal.port)
    fresh.rename(bench.port)
    old.mute(1)
    time.sleep(0.05)
    assert bench.arm.counters().get("port_losses", 0) == 0, "a mute servo is no reason to look"
    for servo_id in SERVO_IDS:
        old.mute(servo_id)
    bench.wait("loss", lambda: bench.state == (DriverState.FAULT, ReasonCode.PORT_LOST))
    for servo_id in SERVO_IDS:
        old.mute(servo_id, False)
    bench.wait("arm", lambda: bench.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))
    old.close()


def test_servos_that_lost_their_supply_meanwhile_are_a_fault_and_stay_limp(bench: Bench) -> None:
    bench.unplug()
    for servo_id in SERVO_IDS:
        bench.chain.servos[servo_id].power_cycle()
    bench.plug_in()
    bench.wait("fault", lambda: bench.state == (DriverState.FAULT, ReasonCode.POWER_CYCLED))
    assert bench.stream(bench.goals_rad(), 5) == {Refusal.FAULT}
    assert bench.enabled() == [0] * 6
    assert bench.arm.give_torque(5.0).success
    bench.wait("torque", lambda: bench.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))


def test_other_goals_than_before_are_a_fault(bench: Bench) -> None:
    bench.unplug()
    servo = bench.chain.servos[3]
    servo.memory.put(reg.GOAL_POSITION, servo.goal_ticks + 300)
    servo.position_rad = servo.goal_rad()
    bench.plug_in()
    bench.wait("fault", lambda: bench.state == (DriverState.FAULT, ReasonCode.AT_START))
    assert "goal of elbow_flex is 26° away from the last one written" in bench.sentence


def test_another_arm_behind_the_port_is_a_fault(bench: Bench) -> None:
    bench.unplug()
    memory = bench.chain.servos[2].memory
    memory.put(reg.MAX_POSITION, memory.value(reg.MAX_POSITION) - 5)
    bench.plug_in()
    bench.wait("fault", lambda: bench.state == (DriverState.FAULT, ReasonCode.SETUP_FAILED))
    assert "max_position" in bench.sentence


def test_a_port_without_all_servos_is_waited_for(bench: Bench) -> None:
    bench.unplug()
    bench.chain.servos[5].muted = True
    bench.plug_in()
    bench.wait("sentence", lambda: "servo 5 (wrist_roll)" in bench.sentence)
    assert bench.state == (DriverState.FAULT, ReasonCode.PORT_LOST)
    answer = bench.arm.give_torque(5.0)
    assert not answer.success
    bench.chain.servos[5].muted = False
    bench.wait("arm", lambda: bench.state == (DriverState.HOLDING, ReasonCode.NO_COMMANDS))


def test_a_limp_arm_comes_back_limp(bench: Bench) -> None:
    bench.arm.release(0.1, 5.0)
    bench.wait("limp arm", bench.arm.settled)
    bench.unplug()
    bench.plug_in()
    bench.wait("arm", lambda: bench.state == (DriverState.HOLDING, ReasonCode.TORQUE_OFF))
    assert bench.enabled() == [0] * 6


def test_a_servo_that_came_back_switched_on_by_a_goal_is_known_all_the_same(bench: Bench) -> None:
    """Writing a goal switches a servo on: its torque does not tell that it has fallen."""
    goals = bench.goals_rad()
    bench.stream(goals, 3)
    servo = bench.chain.servos[2]
    with bench.chain.lock:
        servo.power_cycle()
    refusals = bench.stream(goals, 20)
    assert bench.state == (DriverState.FAULT, ReasonCode.POWER_CYCLED)
    assert servo.memory.value(reg.TORQUE_ENABLE) == 1
    assert Refusal.FAULT in refusals


def test_a_mute_servo_costs_the_others_no_cycle_and_is_never_given_an_old_value(
    bench: Bench,
) -> None:
    bench.terminal.mute(4)
    bench.wait("fault", lambda: bench.state == (DriverState.FAULT, ReasonCode.SERVO_SILENT))
    time.sleep(0.2)
    bench.samples.clear()
    time.sleep(0.5)
    recent = bench.samples[:]
    assert len(recent) > 25
    assert all(math.isnan(sample.position_rad[3]) for sample in recent)
    assert np.isfinite([np.delete(sample.position_rad, 3) for sample in recent[1:]]).all()
    bench.terminal.mute(4, False)
    bench.wait("reply", lambda: math.isfinite(bench.samples[-1].position_rad[3]))
    assert bench.state == (DriverState.FAULT, ReasonCode.SERVO_SILENT), "faults are latched"
    assert bench.arm.give_torque(5.0).success
    assert bench.state[0] is DriverState.HOLDING
