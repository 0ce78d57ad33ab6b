"""The loop keeps to its grid of time: late ticks keep their time, missed ones leave a gap.

The machine may be busy, so that nothing here depends on a tick being punctual.
"""

from __future__ import annotations

import gc
import math
import threading
import time

import numpy as np
import pytest
from so101_driver.nodes.loop import ControlLoop, PeriodStatistics


def no_failure(error: Exception) -> None:
    raise AssertionError(error)


@pytest.mark.parametrize("rate_hz", [50.0, 100.0, 250.0])
def test_ticks_lie_on_the_grid_at_every_rate(rate_hz: float):
    ticks: list[tuple[int, int, int]] = []
    enough = threading.Event()

    def tick(number: int, steady_ns: int) -> None:
        ticks.append((number, steady_ns, time.monotonic_ns()))
        if len(ticks) == 30:
            enough.set()

    loop = ControlLoop(1.0 / rate_hz, tick, no_failure)
    begun_ns = time.monotonic_ns()
    loop.start()
    assert enough.wait(20.0)
    # On a busy machine it may take a while until most ticks are punctual.
    deadline_s = time.monotonic() + 20.0
    while loop.periods.quantiles_s(0.5)[0] != pytest.approx(1.0 / rate_hz, rel=0.2):
        assert time.monotonic() < deadline_s, loop.periods.quantiles_s(0.5)
        time.sleep(0.1)
    loop.stop(5.0)
    count = len(ticks)
    time.sleep(2.0 / rate_hz)
    assert len(ticks) == count
    numbers, grid_ns, real_ns = np.array(ticks).T
    period_ns = round(1e9 / rate_hz)
    assert numbers[0] == 0
    assert (np.diff(numbers) >= 1).all()
    assert (grid_ns - grid_ns[0] == numbers * period_ns).all()
    # Never before its time; never when the whole period is over.
    assert grid_ns[0] >= begun_ns
    assert (real_ns >= grid_ns).all()
    median_s, largest_s = loop.periods.quantiles_s(0.5, 1.0)
    assert largest_s >= median_s


def test_a_tick_that_takes_too_long_leaves_a_gap_instead_of_a_rush():
    numbers: list[int] = []
    done = threading.Event()

    def tick(number: int, _steady_ns: int) -> None:
        numbers.append(number)
        if len(numbers) == 3:
            time.sleep(0.055)
        if len(numbers) == 6:
            done.set()

    loop = ControlLoop(0.01, tick, no_failure)
    loop.start()
    assert done.wait(20.0)
    loop.stop(5.0)
    assert numbers[3] - numbers[2] >= 5


def test_the_collector_rests_while_the_loop_runs_and_works_again_afterwards():
    enabled: list[bool] = []
    done = threading.Event()

    def tick(_number: int, _steady_ns: int) -> None:
        enabled.append(gc.isenabled())
        done.set()

    loop = ControlLoop(0.004, tick, no_failure)
    loop.start()
    assert done.wait(20.0)
    loop.stop(5.0)
    assert not any(enabled)
    assert gc.isenabled()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_tick_ends_the_loop_and_is_told():
    failures: list[Exception] = []
    told = threading.Event()

    def tick(_number: int, _steady_ns: int) -> None:
        raise ArithmeticError("nine")

    def failed(error: Exception) -> None:
        failures.append(error)
        told.set()

    loop = ControlLoop(0.01, tick, failed)
    loop.start()
    assert told.wait(20.0)
    loop.stop(5.0)
    assert [str(error) for error in failures] == ["nine"]
    assert gc.isenabled()


def test_a_refused_priority_is_told_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def refuse(priority: int) -> str:
        asked.append(priority)
        return "no"

    monkeypatch.setattr("so101_driver.nodes.loop.raise_priority", refuse)
    ticked = threading.Event()
    loop = ControlLoop(0.01, lambda _number, _steady_ns: ticked.set(), no_failure, 30)
    loop.start()
    assert loop.priority_problem == "no"
    assert ticked.wait(20.0)
    loop.stop(5.0)
    assert asked == [30]


def test_statistics_cover_the_last_ten_seconds():
    periods = PeriodStatistics(0.02)
    assert all(math.isnan(value) for value in periods.quantiles_s(0.5, 1.0))
    periods.add(9_000_000_000)
    assert periods.quantiles_s(0.5, 0.99, 1.0) == (9.0, 9.0, 9.0)
    for index in range(500):
        periods.add(20_000_000 + index)
    assert periods.quantiles_s(0.0, 1.0) == (0.02, 0.020000499)
    assert periods.quantiles_s(0.5)[0] == pytest.approx(0.02000025, abs=1e-9)
