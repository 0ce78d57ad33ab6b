"""Heat and a failing supply take load off a servo before it lets go, and never drop the arm."""

from collections import Counter

import pytest
from so101_driver.joints import JOINT_NAMES
from so101_driver.servo_health import HealthConfig, Ratings, ServoHealth, Trouble

CONFIG = HealthConfig()
RATINGS = Ratings(70.0, 9.0, 14.0)
ELBOW, LIFT = 2, 1


class Bench:
    def __init__(self):
        self.counters = Counter()
        self.health = ServoHealth(CONFIG, self.counters)
        self.health.start([RATINGS] * len(JOINT_NAMES))
        self.now_ns = 10**9

    def feel(self, temperature_c=40.0, voltage_v=12.0, joint=ELBOW, seconds=0.1):
        """Ten measurements a second."""
        for _ in range(round(seconds * 10)):
            self.now_ns += 100_000_000
            self.health.observe(joint, temperature_c, voltage_v, self.now_ns)
        return self.health.torque_shares()[joint]

    @property
    def troubles(self):
        return [(strain.joint, strain.trouble) for strain in self.health.strains()]

    @property
    def exhausted(self):
        return self.health.exhausted(self.now_ns)


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize(
    ("temperature_c", "warned", "share"),
    [
        (59, False, 1.0),
        (60, True, 1.0),
        (63, True, 1.0),
        (64, True, 0.8),
        (66, True, 0.6),
        (75, True, 0.6),
    ],
)
def test_torque_falls_in_steps_as_a_servo_nears_its_limit(bench, temperature_c, warned, share):
    assert bench.feel(temperature_c) == share
    assert bench.troubles == ([("elbow_flex", Trouble.HOT)] if warned else [])


def test_a_joint_that_carries_the_arm_keeps_what_its_weight_needs(bench):
    assert bench.feel(69, joint=LIFT) == CONFIG.floor[LIFT] == 0.7


def test_a_step_back_takes_cooling_by_the_hysteresis(bench):
    assert bench.feel(66) == 0.6
    assert bench.feel(67 - CONFIG.hysteresis_c) == 0.6
    assert bench.feel(66 - CONFIG.hysteresis_c - 1) == 0.8
    assert bench.feel(70 - 6 - CONFIG.hysteresis_c - 1) == 1.0
    assert bench.troubles
    bench.feel(70 - 10 - CONFIG.hysteresis_c - 1)
    assert not bench.troubles
    assert bench.counters["hot_elbow_flex"] == 1


def test_heat_is_a_fault_only_when_it_lasts(bench):
    bench.feel(68, seconds=9.9)
    assert bench.exhausted is None
    bench.feel(60)
    bench.feel(68, seconds=CONFIG.hot_s)
    assert bench.exhausted is None
    bench.feel(68, seconds=0.3)
    assert (bench.exhausted.joint, bench.exhausted.trouble) == ("elbow_flex", Trouble.HOT)


def test_a_low_supply_takes_torque_off_and_lasting_is_a_fault(bench):
    assert bench.feel(voltage_v=12.0) == 1.0
    assert bench.feel(voltage_v=9.2, seconds=2.0) == CONFIG.low_voltage_share
    assert bench.troubles == [("elbow_flex", Trouble.LOW_VOLTAGE)]
    assert bench.exhausted is None
    bench.feel(voltage_v=8.5, seconds=4.0)
    assert bench.exhausted.trouble is Trouble.LOW_VOLTAGE
    assert bench.feel(voltage_v=12.0, seconds=2.0) == 1.0
    assert bench.exhausted is None
    assert bench.troubles == []


def test_a_dip_as_motors_start_is_nothing(bench):
    bench.feel(voltage_v=12.0, seconds=1.0)
    bench.feel(voltage_v=8.0, seconds=0.1)
    assert bench.troubles == []


def test_a_high_supply_is_told_and_a_fault_when_it_lasts(bench):
    assert bench.feel(voltage_v=13.8, seconds=1.0) == 1.0
    assert bench.troubles == [("elbow_flex", Trouble.HIGH_VOLTAGE)]
    bench.feel(voltage_v=14.4, seconds=4.0)
    assert bench.exhausted.trouble is Trouble.HIGH_VOLTAGE


def test_servos_are_judged_by_their_own_limits(bench):
    bench.health.start([Ratings(80.0, 4.0, 8.0)] * len(JOINT_NAMES))
    assert bench.feel(66, 5.0, seconds=1.0) == 1.0
    assert bench.troubles == []
