"""Silence is the bus's only while it is asked: time in which the driver did not run is its own."""

import pytest
from so101_driver.driver_reasons import ReasonCode
from so101_driver.joints import SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import Reading
from so101_driver.silence_watch import SilenceWatch

ALL = {i: Reading(i, b"", ServoError(0), 0) for i in SERVO_IDS}


class Bench:
    def __init__(self):
        self.watch = SilenceWatch(max_bad_cycles=3, bus_silence_s=0.2)
        self.now_ns = 10**9
        self.watch.start(self.now_ns)

    def cycle(self, after_s, readings):
        self.now_ns += round(after_s * 1e9)
        reason = self.watch.update(readings, self.now_ns)
        return reason.code if reason else None


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize("period_s", [0.01, 0.02, 0.04])
def test_a_silent_bus_is_one_after_its_time_however_long_a_read_waits(bench, period_s):
    cycles = round(0.2 / period_s)
    assert {bench.cycle(period_s, {}) for _ in range(cycles)} == {None}
    assert bench.cycle(period_s, {}) is ReasonCode.BUS_SILENT


def test_an_answer_in_between_is_no_silence(bench):
    for _ in range(5):
        assert {bench.cycle(0.02, {}) for _ in range(9)} == {None}
        assert bench.cycle(0.02, ALL) is None


def test_a_driver_that_did_not_run_does_not_blame_the_bus(bench):
    """On a machine without time for it, one lost answer after a pause would be a fault."""
    bench.cycle(0.01, ALL)
    assert bench.cycle(3.0, {}) is None
    assert bench.cycle(1.0, {}) is None
    assert bench.cycle(0.01, ALL) is None
    assert bench.cycle(3.0, {}) is None
    assert {bench.cycle(0.05, {}) for _ in range(3)} == {None}
    assert bench.cycle(0.05, {}) is ReasonCode.BUS_SILENT


def test_one_silent_servo_among_others_is_counted_in_cycles(bench):
    others = {i: reading for i, reading in ALL.items() if i != 3}
    assert {bench.cycle(5.0, others) for _ in range(3)} == {None}
    assert bench.cycle(0.01, others) is ReasonCode.SERVO_SILENT
