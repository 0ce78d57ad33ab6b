"""Some seconds of the long run with random faults, and that it would see a leak.

The long one is ``make soak``.
"""

from __future__ import annotations

import os
import random

import pytest

pytest.importorskip("mujoco")

import soak
from bus_proof.soak_report import Recovery, Report, Samples
from so101_driver.sim import Fault

pytestmark = pytest.mark.bus


def test_some_seconds_with_random_faults_leak_nothing(monkeypatch):
    monkeypatch.setattr(soak, "WARM_UP_S", 3.0)
    monkeypatch.setattr(soak, "SAMPLE_EVERY_S", 0.5)
    report = soak.Soak(8.0, seed=59, say=print).run()
    print(report)
    assert report.problems == []
    assert report.cycles > 200
    assert sum(report.faults.values()) >= 4
    assert report.recovered >= 1
    assert report.counters["missed_cycles"] == report.missed_cycles


def test_every_fault_that_is_drawn_is_one():
    rng = random.Random(0)
    kinds = {Fault.from_mapping(soak.random_fault(rng)).kind for _ in range(2_000)}
    assert len(kinds) >= 17


def test_leaks_are_seen():
    """Files, threads, objects and memory that grow, as the samples would show them."""
    samples, report = Samples(), Report()
    for i in range(60):
        samples.add(10.0 + i, 50.0 + i, 40_000 + 50 * i, 10 + i // 10, 2 + i // 20)
    samples.judge(report, from_s=8.0)
    found = " ".join(report.problems)
    for word in ("descriptors", "threads", "memory", "objects"):
        assert word in found


def watched(faults_at_s: list[float], follows) -> tuple[Recovery, list[float]]:
    """A minute with a fault of 1 s at each of these times; when the arm was said to be stuck."""
    recovery, quiet_s, stuck_at_s = Recovery(0.0), 0.0, []
    for tick in range(6_000):
        now_s = tick * 0.01
        if now_s in faults_at_s:
            quiet_s = now_s + 1.0
        if recovery.watch(now_s, quiet_s, follows(now_s)):
            stuck_at_s.append(now_s)
    return recovery, stuck_at_s


def test_an_arm_that_never_follows_again_is_stuck_although_faults_go_on():
    every_third = [3.0 * i for i in range(1, 20)]
    recovery, stuck_at_s = watched(every_third, lambda now_s: now_s < 3.0)
    # Two of three seconds are without a fault: the twentieth such second ends with the 34th.
    assert stuck_at_s == pytest.approx([34.0], abs=0.2)
    assert recovery.times == 0


def test_a_recovery_takes_what_it_takes_without_a_fault():
    recovery, stuck_at_s = watched([10.0, 12.0], lambda now_s: not 10.1 <= now_s < 15.0)
    assert stuck_at_s == []
    assert recovery.times == 1
    # From 11 to 12 s, and from 13 to 15 s.
    assert recovery.longest_s == pytest.approx(3.0, abs=0.05)


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
        report = soak.Soak(1.5, seed=2, say=print).run()
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert any("descriptors" in problem for problem in report.problems)
