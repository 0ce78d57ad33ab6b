"""The table must give back what is in the bag, and must say no when it is bad.

Each test plants one known rate, delay, fault or omission in a synthetic bag.
"""

import io
import json

import numpy as np
import pytest
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from wallx_policy.evidence import ActFiles, measure_demo, metrics, render_table
from wallx_policy.evidence.measurement import measure_act
from wallx_policy.evidence.rows import Verdict


@pytest.fixture
def baseline(tmp_path):
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({"periods_s": [0.01] * 990 + [0.0101] * 10}))
    return path


@pytest.fixture
def act(synthetic_bag, baseline):
    """Return ``act(**fields)`` -> measurement of a synthetic act beside a good bare thread."""

    def measure(**fields):
        demo = measure_demo([ActFiles("expert", synthetic_bag(**fields))], baseline)
        return demo.acts[0]

    return measure


def row(measured, name):
    (found,) = (row for row in measured.rows if row.name == name)
    return found


def test_a_good_run_meets_every_bar_that_has_one(act):
    measured = act()
    verdicts = {r.name: r.verdict for r in measured.rows if r.verdict is not Verdict.INFORMATION}
    without_limits = {name for name in verdicts if name.startswith("largest")}
    assert len(without_limits) == 3
    for name, verdict in verdicts.items():
        assert verdict is (Verdict.MISSING if name in without_limits else Verdict.MET), name
    assert row(measured, "command rate").measured.startswith("100.00 Hz")
    assert row(measured, "chunk rate").measured == ("12.5 Hz (75 chunks, longest pause 80.0 ms)")
    assert row(measured, "camera face_view").measured.startswith("15.0 Hz")
    assert row(measured, "cube lifted").measured == "80 mm"


def test_a_hole_in_a_stream_shows_beside_its_mean_rate(act):
    measured = act(missed_chunks=(30, 31, 32))
    assert "longest pause 320.0 ms" in row(measured, "chunk rate").measured


def test_what_the_safety_node_says_is_shown_as_its_own_word(act):
    measured = act()
    assert row(measured, "safety states").measured == "HOLD 0.3 s, TRACKING 5.1 s, PARKING 0.5 s"
    assert row(measured, "guards that acted").measured == "BAD_CHUNK 3"
    assert row(measured, "guards that acted").verdict is Verdict.INFORMATION


def test_latency_is_publish_time_minus_observation_stamp(act):
    measured = act(chunk_latency_s=0.16)
    assert row(measured, "observation to chunk").measured == "p50 160.0, p99 160.0, max 160.0 ms"
    assert row(measured, "observation to chunk").verdict is Verdict.MISSED


def test_slow_chunks_are_said_to_be_slow(act):
    assert row(act(chunk_period_s=0.125), "chunk rate").verdict is Verdict.MISSED


def test_missed_ticks_count_and_messages_lost_by_the_recorder_do_not(act):
    measured = act(missed_ticks=(100, 200, 201), lost_by_recorder=(300, 301))
    assert measured.timing.missed == 3
    assert row(measured, "ticks missed").verdict is Verdict.MISSED
    assert any("recorder lost 2 joint_commands" in note for note in measured.notes)
    only_lost = act(name="lost", lost_by_recorder=(300, 301))
    assert row(only_lost, "ticks missed").verdict is Verdict.MET


def test_the_bare_thread_misses_a_tick_when_it_wakes_after_the_next_was_due():
    on_time_and_late = [0.01] * 50 + [0.018, 0.002] + [0.01] * 50
    assert metrics.bare_timing(np.array(on_time_and_late)).missed == 0
    # 25 ms late, then caught up: the tick itself and the one after it came too late.
    caught_up = [0.01] * 50 + [0.035, 0.0, 0.0, 0.005] + [0.01] * 50
    assert metrics.bare_timing(np.array(caught_up)).missed == 2


def test_late_ticks_that_are_caught_up_are_late_but_not_missed(act):
    assert act(late_ticks_s={100: 0.009, 300: 0.008}).timing.missed == 0


def test_late_ticks_show_in_the_period_and_its_error(act):
    late = dict.fromkeys(range(50, 550, 20), 0.004)
    measured = act(late_ticks_s=late)
    assert measured.timing.period.max_s == pytest.approx(0.014, abs=1e-6)
    assert row(measured, "command period error").measured == "p99 4.00 ms"
    assert row(measured, "command period error").verdict is Verdict.MISSED


def test_a_pause_separates_two_armed_segments(act):
    measured = act(missed_ticks=tuple(range(200, 260)))
    assert len(measured.segments) == 2
    assert measured.timing.missed == 0
    assert np.isnan(measured.differences.velocity[measured.segments[1].start]).all()


def test_command_to_wire_delay_is_found_by_value_though_writes_are_dropped(act):
    measured = act(wire_delay_s=0.0042, wire_dropped=tuple(range(10, 590, 3)))
    assert len(measured.wire.delay_s) > 200
    assert measured.wire.delay_s == pytest.approx(0.0042, abs=1e-6)
    assert row(act(name="slow", wire_delay_s=0.013), "command to wire").verdict is Verdict.MISSED


def test_finite_differences_are_those_of_the_commanded_motion(act):
    measured = act()
    largest = np.nanmax(np.abs(measured.differences.velocity), axis=0)
    # x = A (p - sin(2 pi p) / 2 pi) has its largest speed, 2 A / duration, in the middle.
    assert largest[0] == pytest.approx(2 * 1.5 / 6.0, rel=1e-3)
    kicked = act(name="kicked", kick_tick=300, kick_rad=0.01)
    step = np.nanmax(np.abs(kicked.differences.velocity), axis=0) - largest
    assert step == pytest.approx(1.0, abs=0.01)
    gap = act(name="gap", lost_by_recorder=(300,), missed_ticks=())
    assert np.nanmax(np.abs(gap.differences.velocity[:, 0])) == pytest.approx(largest[0], rel=1e-3)


def test_a_jump_in_the_commands_breaks_the_limits(synthetic_bag):
    limits = {"limits_file": data_path("so101_limits.yaml"), "limits_profile": "demo"}
    smooth = measure_act(ActFiles("smooth", synthetic_bag("smooth"), **limits), None)
    kicked = measure_act(
        ActFiles("kicked", synthetic_bag("kicked", kick_tick=300, kick_rad=0.01), **limits), None
    )
    for kind in ("acceleration", "jerk"):
        assert row(smooth, f"largest {kind}").verdict is Verdict.MET
        assert row(kicked, f"largest {kind}").verdict is Verdict.MISSED


def test_a_cube_left_on_the_table_is_not_in_the_tray(act):
    measured = act(in_tray=False, lift_m=0.03)
    assert row(measured, "cube in the tray").verdict is Verdict.MISSED
    assert row(measured, "cube lifted").measured == "30 mm"
    assert row(measured, "cube lifted").verdict is Verdict.MISSED


@pytest.mark.parametrize(
    ("topic", "rows"),
    [
        ("joint_commands", ["command rate", "ticks missed", "command to wire", "largest jerk"]),
        ("joint_states", ["joint states"]),
        ("action_chunk", ["chunk rate", "observation to chunk"]),
        ("sim/wire_log", ["command to wire"]),
        ("sim/objects", ["cube lifted", "cube in the tray"]),
        ("camera/wrist_view/image_raw/compressed", ["camera wrist_view"]),
    ],
)
def test_what_is_not_in_the_bag_is_missing_and_never_met(act, topic, rows):
    measured = act(leave_out=(topic,), duration_s=2.0)
    for name in rows:
        assert row(measured, name).verdict is Verdict.MISSING


def test_without_a_bare_thread_its_bars_are_missing(synthetic_bag):
    measured = measure_act(ActFiles("expert", synthetic_bag(duration_s=2.0)), None)
    assert row(measured, "command period error").verdict is Verdict.MISSING
    assert row(measured, "ticks missed").verdict is Verdict.MISSING


def test_an_act_without_a_task_has_no_bars_on_the_cube(synthetic_bag):
    files = ActFiles("model", synthetic_bag(duration_s=2.0), has_task=False, note="Random weights.")
    measured = measure_act(files, None)
    assert not [r for r in measured.rows if "cube" in r.name]
    assert measured.notes == ("Random weights.",)


def test_a_truncated_bag_is_measured_up_to_its_end_and_says_so(synthetic_bag):
    folder = synthetic_bag(duration_s=2.0)
    (path,) = folder.glob("*.mcap")
    path.write_bytes(path.read_bytes()[:-30])
    measured = measure_act(ActFiles("expert", folder), None)
    assert measured.bag.truncated
    assert any("ends in the middle" in note for note in measured.notes)
    assert len(measured.commands) == 200


@pytest.mark.parametrize("content", [b"", b"no mcap", b"something longer that is no mcap"])
def test_a_file_that_is_no_bag_is_named(tmp_path, content):
    (tmp_path / "x.mcap").write_bytes(content)
    with pytest.raises(UserError, match="no messages"):
        measure_demo([ActFiles("expert", tmp_path)])


def test_a_missing_bag_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        measure_demo([ActFiles("expert", tmp_path / "bag")])
    (tmp_path / "bag").mkdir()
    with pytest.raises(UserError, match=r"has no \.mcap file"):
        measure_demo([ActFiles("expert", tmp_path / "bag")])


def test_a_broken_baseline_is_named(tmp_path, synthetic_bag):
    (tmp_path / "bare.json").write_text("[]")
    with pytest.raises(UserError, match="periods_s"):
        measure_demo([ActFiles("a", synthetic_bag(duration_s=1.0))], tmp_path / "bare.json")


def test_the_table_shows_every_row(synthetic_bag, baseline):
    from rich.console import Console

    demo = measure_demo([ActFiles("expert", synthetic_bag(duration_s=2.0))], baseline)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(render_table(demo))
    text = console.export_text()
    for measured in demo.acts[0].rows:
        assert measured.name in text and measured.measured in text
    assert [r.name for _, r in demo.missed if r.verdict is Verdict.MISSING]
