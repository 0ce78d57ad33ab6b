"""The leader on its bus: read truthfully, never written to, told from a follower.

A leader that is written to could stiffen in somebody's hand; one that is mistaken for the follower
would lead the wrong arm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from so101_driver.bus import PortLostError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.readings import Reading
from so101_driver.sim import VirtualBus
from so101_driver.sim.hands import StillHand
from so101_driver.sim.leader_arm import LeaderArm
from so101_driver.teleop_leader import MOST_JUMPS, LeaderReader

from so101_driver import registers as reg

pytestmark = pytest.mark.bus

FOLLOWER = Calibration.load(data_path("sim_calibration.json"))
POSE = (0.3, -0.5, 0.6, -0.4, 0.9, 0.8)
TICK_RAD = 2.0 * np.pi / 4095


def leader_mapping() -> dict[str, dict[str, int]]:
    """Another arm's numbers: other offsets, other ranges."""
    return {
        name: {
            "id": joint.servo_id,
            "drive_mode": 0,
            "homing_offset": joint.homing_offset + 40 + index,
            "range_min": joint.range_min + 13 * (name != "wrist_roll"),
            "range_max": joint.range_max - 60 * (name != "wrist_roll"),
        }
        for index, (name, joint) in enumerate(FOLLOWER.joints.items())
    }


LEADER = Calibration.from_mapping(leader_mapping(), "leader.json")


PERIOD_NS = 20_000_000


class PunctualBus(ServoBus):
    """A bus that a busy machine cannot make late: every read is whole, 20 ms after the last one."""

    def __init__(self, port: str) -> None:
        super().__init__(port)
        self._reads = 0

    def sync_read(self, *arguments: Any) -> dict[int, Reading]:
        for _ in range(100):
            readings = super().sync_read(*arguments)
            if len(readings) == len(SERVO_IDS):
                self._reads += 1
                stamp_ns = 10**12 + self._reads * PERIOD_NS
                return {i: replace(reading, stamp_ns=stamp_ns) for i, reading in readings.items()}
            # A late reply would pass for one to the next question.
            self._settle()
        raise AssertionError("the virtual servos do not answer")


class Bench:
    """A virtual leader, what was written to it, and an open bus."""

    def __init__(self, calibration: Calibration = LEADER) -> None:
        self.hand = StillHand(POSE)
        self.arm = LeaderArm(calibration=calibration, hand=self.hand)
        self.arm.run(0.1)
        self.writes: list[tuple[Any, ...]] = []
        for servo in self.arm.servos.values():
            servo.write = lambda *arguments: self.writes.append(arguments) or False
        self.virtual = VirtualBus(self.arm)
        self.virtual.start()
        self.bus: ServoBus = PunctualBus(self.virtual.port)

    def reader(self, calibration: Calibration = LEADER) -> LeaderReader:
        return LeaderReader(self.bus, calibration, FOLLOWER)

    def move(self, pose) -> None:
        """Put the hand, and with it the arm, somewhere at once."""
        self.hand.held_rad = tuple(pose)
        with self.arm.lock:
            for servo, angle in zip(self.arm.servos.values(), pose, strict=True):
                servo.position_rad = angle

    def close(self) -> None:
        self.bus.close()
        self.virtual.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def late_bench(bench) -> Bench:
    """The same with a bus whose replies may be missing, by the clock of this machine."""
    bench.bus.close()
    bench.bus = ServoBus(bench.virtual.port)
    return bench


def test_angles_are_the_joints_whatever_the_calibration(bench):
    sample = bench.reader().read()
    assert np.allclose(sample.position_rad, POSE, atol=1.6 * TICK_RAD)


def test_a_sample_is_as_old_as_its_question(late_bench):
    reader = late_bench.reader()
    sample = None
    while sample is None:
        before_ns = time.monotonic_ns()
        sample = reader.read()
    assert before_ns <= sample.stamp_ns <= time.monotonic_ns()


def test_nothing_is_ever_written_to_a_leader(bench):
    reader = bench.reader()
    for _ in range(20):
        reader.read()
    assert not bench.writes
    assert all(s.memory.value(reg.TORQUE_ENABLE) == 0 for s in bench.arm.servos.values())


def test_a_still_hand_gives_still_angles(bench):
    """Encoders flicker by a tick; a follower that is sent the flicker hums."""
    reader = bench.reader()
    for _ in range(15):
        reader.read()
    angles = np.array([reader.read().position_rad for _ in range(60)])
    assert np.ptp(angles, axis=0).max() <= 0.51 * TICK_RAD
    raw = {s.present_ticks() for s in bench.arm.servos.values() for _ in range(20)}
    assert len(raw) > 6, "the encoders do not flicker, so this test proves nothing"


def test_the_trigger_opens_the_gripper_from_end_to_end(bench):
    reader = bench.reader()
    joint = LEADER.joints["gripper"]
    scale = bench.arm.servos[6].scale
    for tick, angle in ((joint.range_min, -0.174533), (joint.range_max, 1.74533)):
        bench.move((*POSE[:5], scale.angle_rad(tick + joint.homing_offset)))
        for _ in range(MOST_JUMPS + 1):
            sample = reader.read()
        assert sample.position_rad[5] == pytest.approx(angle, abs=3e-3)


def test_the_follower_is_told_by_the_calibration_in_its_servos():
    bench = Bench(FOLLOWER)
    try:
        with pytest.raises(UserError, match=r"is the follower.*swap the ports"):
            bench.reader(LEADER)
    finally:
        bench.close()


def test_an_arm_of_neither_calibration_is_refused():
    other = {
        name: {**entry, "homing_offset": entry["homing_offset"] + 5}
        for name, entry in leader_mapping().items()
    }
    bench = Bench(Calibration.from_mapping(other, "other.json"))
    try:
        with pytest.raises(UserError, match=r"homing_offset .*leader\.json"):
            bench.reader(LEADER)
    finally:
        bench.close()


def test_an_arm_that_is_held_is_refused(bench):
    bench.arm.servos[3].memory.put(reg.TORQUE_ENABLE, 1)
    with pytest.raises(UserError, match=r"servo 3 \(elbow_flex\).*torque on.*swap the ports"):
        bench.reader()
    assert not bench.writes


def test_a_silent_servo_gives_no_sample_and_is_named_by_its_age(late_bench):
    bench = late_bench
    reader = bench.reader()
    while reader.read() is None:
        pass
    incomplete = reader.incomplete
    bench.virtual.mute(4)
    for _ in range(3):
        assert reader.read() is None
    assert reader.incomplete == incomplete + 3
    now_ns = time.monotonic_ns()
    silent_s, heard_s = reader.age_s(4, now_ns), reader.age_s(3, now_ns)
    assert silent_s > heard_s
    assert reader.silent(now_ns, silent_s + 0.001) == ""
    assert reader.silent(now_ns, (silent_s + heard_s) / 2) == "servo 4 (wrist_flex)"
    assert reader.silent(now_ns + 10**9, 0.5) == "all six servos"
    bench.virtual.mute(4, False)
    deadline_s = time.monotonic() + 5.0
    while reader.read() is None:
        assert time.monotonic() < deadline_s


def test_one_impossible_position_is_dropped_and_a_lasting_one_is_named_once(bench):
    reader = bench.reader()
    start = reader.read()
    jumped = list(POSE)
    jumped[4] -= 3.5
    bench.move(jumped)
    assert reader.read() is None
    bench.move(POSE)
    assert np.allclose(reader.read().position_rad, start.position_rad, atol=2 * TICK_RAD)
    assert reader.take_jump() == ""
    bench.move(jumped)
    for _ in range(MOST_JUMPS - 1):
        assert reader.read() is None
    assert reader.read() is not None
    assert reader.jumps == MOST_JUMPS + 1
    assert (reader.take_jump(), reader.take_jump()) == (JOINT_NAMES[4], "")


@pytest.mark.parametrize(
    ("from_rad", "to_rad", "good"),
    [(0.9, 0.31, True), (0.9, 0.29, False), (3.0, 3.1, True), (3.0, 3.2, False)],
    ids=["as fast as a hand can", "faster", "up to the encoder's end", "past it"],
)
def test_no_hand_is_faster_than_30_rad_s_but_an_encoder_is(bench, from_rad, to_rad, good):
    reader = bench.reader()
    for angle_rad in (from_rad, to_rad):
        bench.move((*POSE[:4], angle_rad, POSE[5]))
        sample = reader.read()
    assert (sample is not None) is good


def test_a_pulled_cable_is_an_error_of_its_own(bench):
    reader = bench.reader()
    reader.read()
    bench.virtual.close()
    with pytest.raises(PortLostError):
        for _ in range(3):
            reader.read()
