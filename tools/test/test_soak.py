"""Some seconds of the long run with random faults, and that it would see a leak.

The long one is ``make soak``.
"""

from __future__ import annotations

import os
import random

import pytest

pytest.importorskip("mujoco")

import soak
from so101_driver.sim import Fault

pytestmark = pytest.mark.bus


def test_twenty_seconds_with_random_faults_leak_nothing():
    report = soak.Soak(20.0, seed=1, say=print).run()
    print(report)
    assert report.problems == []
    assert report.cycles > 500
    assert sum(report.faults.values()) >= 4
    assert report.counters["missed_cycles"] == report.missed_cycles


def test_every_fault_that_is_drawn_is_one():
    rng = random.Random(0)
    kinds = {Fault.from_mapping(soak.random_fault(rng)).kind for _ in range(2_000)}
    assert len(kinds) >= 17


def test_leaks_are_seen():
    """Files, threads, objects and memory that grow, as the samples would show them."""
    run = soak.Soak(1.0, seed=0, say=print)

    class Arm:
        missed_cycles = 0

        def counters(self):
            return {}

    for i in range(60):
        run._measured.extend((10.0 + i, 50.0 + i, 40_000 + 50 * i, 10 + i // 10, 2 + i // 20))
    run._sum_up(Arm())
    found = " ".join(run.report.problems)
    for word in ("descriptors", "threads", "memory", "objects"):
        assert word in found


def test_a_leaking_driver_is_found(monkeypatch):
    """A driver that opens a file in every cycle."""
    opened = []
    on_cycle = soak.Soak._on_cycle

    def leak(self, sample):
        on_cycle(self, sample)
        if len(opened) < 300:
            opened.append(os.open(os.devnull, os.O_RDONLY))

    monkeypatch.setattr(soak.Soak, "_on_cycle", leak)
    monkeypatch.setattr(soak, "WARM_UP_S", 0.0)
    monkeypatch.setattr(soak, "SAMPLE_EVERY_S", 0.2)
    try:
        report = soak.Soak(2.5, seed=2, say=print).run()
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert any("descriptors" in problem for problem in report.problems)
