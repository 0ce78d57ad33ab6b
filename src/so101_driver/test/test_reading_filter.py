"""A damaged reply with a right checksum must not become a position; a true jump must, in time."""

import pytest
from so101_driver.protocol import ServoError
from so101_driver.reading_filter import ReadingFilter
from so101_driver.readings import Reading

from so101_driver import registers as reg

PERIOD_NS = 10_000_000


class Bench:
    def __init__(self):
        self.filter = ReadingFilter()
        self.now_ns = 10**9

    def answer(self, ticks, velocity=0, periods=1):
        self.now_ns += periods * PERIOD_NS
        data = reg.PRESENT_POSITION.encode(ticks) + reg.PRESENT_VELOCITY.encode(velocity)
        readings = {3: Reading(3, data, ServoError(0), self.now_ns)}
        return 3 in self.filter.plausible(readings)


@pytest.fixture
def bench():
    made = Bench()
    assert made.answer(2000)
    return made


@pytest.mark.parametrize("sign", [1, -1])
def test_a_joint_at_full_speed_is_believed_and_one_beyond_is_not(bench, sign):
    assert bench.answer(2000 + sign * 60)
    assert not bench.answer(2000 + sign * 60 + sign * 70)


def test_a_single_outlier_is_dropped(bench):
    assert not bench.answer(3000)
    assert bench.answer(2005)


def test_two_outliers_that_do_not_agree_are_dropped(bench):
    assert not bench.answer(3000)
    assert not bench.answer(1000)
    assert bench.answer(2005)


def test_a_place_that_is_confirmed_is_believed(bench):
    assert not bench.answer(3000)
    assert bench.answer(3010)
    assert bench.answer(3020)


def test_after_a_silence_a_servo_may_be_anywhere_it_can_have_turned_to(bench):
    assert bench.answer(2500, periods=20)


def test_an_impossible_velocity_is_no_reading(bench):
    assert bench.answer(2000, velocity=-4000)
    assert not bench.answer(2000, velocity=30000)


def test_a_new_start_believes_anything(bench):
    bench.filter.start()
    assert bench.answer(100)
