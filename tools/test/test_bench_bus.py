"""The benchmark against the vendor's SDK runs, and its clock tells old values from new ones."""

from __future__ import annotations

import pytest

pytest.importorskip("scservo_sdk", reason="needs feetech-servo-sdk")

import bench_bus
from rich.table import Table

pytestmark = pytest.mark.bus


def test_a_silent_servo_stalls_the_sdk_and_leaves_it_old_values_and_neither_us():
    results = bench_bus.bench_bus(0.4, say=lambda _line: None)
    case = results["100_hz"]["one_mute"]
    assert case["ours"]["stale_values"] == 0
    assert case["ours"]["values_per_cycle"] > 3.0
    assert case["ours"]["reached_hz"] > 2 * case["sdk"]["reached_hz"]
    assert case["sdk"]["stall_ms"] > 30.0
    # A reader that is set up once gives the values of the servos behind the silent one again.
    assert case["sdk_reader_kept"]["stale_values"] > 0
    table = Table("what", "ours", "baseline", "ratio")
    bench_bus.add_rows(table, results)
    assert table.row_count == 12
    assert set(results["200_hz"]["healthy"]["ratios"]) == {"cpu", "stall", "p50"}


@pytest.mark.parametrize(("ticks", "now", "age"), [(100, 100, 0), (100, 105, 5), (4095, 2, 3)])
def test_ages_go_around_the_turn(ticks, now, age):
    assert bench_bus.age_ms(ticks, now) == age
