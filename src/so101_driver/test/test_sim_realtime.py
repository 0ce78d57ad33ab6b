"""Simulated time follows the steady clock, and does not race after a machine that stood still."""

from __future__ import annotations

import threading
import time

from so101_driver.sim.realtime import RealTimeRunner


class SlowArm:
    """Stands still once for a quarter of a second, then steps as fast as it is asked to."""

    timestep_s = 0.004

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.steps = 0
        self.stepped = threading.Event()

    @property
    def now_s(self) -> float:
        return self.steps * self.timestep_s

    def step(self) -> None:
        self.steps += 1
        if self.steps == 5:
            time.sleep(0.25)
        if self.steps == 60:
            self.stepped.set()


def test_never_ahead_of_the_clock_and_gives_up_what_it_missed() -> None:
    arm = SlowArm()
    runner = RealTimeRunner(arm)
    begin_s = time.monotonic()
    runner.start()
    assert arm.stepped.wait(10.0)
    elapsed_s = time.monotonic() - begin_s
    runner.stop()
    assert arm.now_s <= elapsed_s + 2 * arm.timestep_s
    assert runner.slipped_s >= 0.2
    assert arm.now_s + runner.slipped_s <= elapsed_s + 2 * arm.timestep_s
    stopped_at = arm.steps
    time.sleep(0.02)
    assert arm.steps == stopped_at
    assert runner.state_age_s() >= 0.02
