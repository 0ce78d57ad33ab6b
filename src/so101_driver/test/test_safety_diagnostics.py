"""Diagnostics must show what is wrong at the level it deserves; messages must survive bad input."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from so101_driver.nodes.safety_diagnostics import Health, diagnose
from so101_driver.nodes.safety_messages import driver_reading, joint_reading
from so101_driver.safety.readiness import skew_sentence

from wallx_msgs.msg import DriverStatus, LimitCount, SafetyStatus

NAMES = ("lift", "turn")
HEALTHY = Health(input_problem="", warnings=(), missed_ticks=0, skew_warning_s=0.01)


def status(**fields: object) -> SafetyStatus:
    values = {
        "state": SafetyStatus.STATE_TRACKING,
        "mode": SafetyStatus.MODE_FULL,
        "reason": "following chunks of 'test'",
        "clock_skew_s": math.nan,
        "clearance_m": math.nan,
        "chunk_age_s": math.nan,
        "loop_period_p50_s": 0.01,
        **fields,
    }
    return SafetyStatus(**values)


def test_all_is_well():
    level, message, values = diagnose(status(), NAMES, HEALTHY)
    assert (level, message) == (DiagnosticStatus.OK, "following chunks of 'test'")
    assert values["clearance"] == "not watched"
    assert values["chunk age"] == "unknown"
    assert values["loop period p50"] == "10.0 ms"


@pytest.mark.parametrize(
    ("fields", "health", "words"),
    [
        ({"clock_skew_s": 0.011}, HEALTHY, ("11 ms ahead of", "chrony")),
        ({"clock_skew_s": -0.02}, HEALTHY, ("20 ms behind", "chrony")),
        ({}, Health("", (), 3, 0.01), ("missed 3 ticks",)),
        ({}, Health("", ("geometry is off", "no real time"), 0, 0.01), ("geometry", "real time")),
    ],
)
def test_warnings(fields: dict[str, float], health: Health, words: tuple[str, ...]):
    level, message, _values = diagnose(status(**fields), NAMES, health)
    assert level == DiagnosticStatus.WARN
    assert message.startswith("following")
    assert all(word in message for word in words)


def test_a_skew_that_the_reason_tells_is_not_told_twice():
    told = status(clock_skew_s=0.03, reason=f"following; {skew_sentence(0.031)}")
    assert diagnose(told, NAMES, HEALTHY)[:2] == (DiagnosticStatus.WARN, told.reason)


def test_a_small_skew_is_no_warning():
    assert diagnose(status(clock_skew_s=0.009), NAMES, HEALTHY)[0] == DiagnosticStatus.OK


@pytest.mark.parametrize("state", [SafetyStatus.STATE_ESTOP, SafetyStatus.STATE_FAULT])
def test_latched_states_are_errors_whatever_else_warns(state: int):
    level, message, _values = diagnose(
        status(state=state, reason="why"), NAMES, Health("", ("geometry is off",), 5, 0.01)
    )
    assert (level, message) == (DiagnosticStatus.ERROR, "why")


def test_an_input_that_cannot_be_heard_is_an_error():
    level, message, _values = diagnose(status(), NAMES, Health("deaf", (), 0, 0.01))
    assert (level, message) == (DiagnosticStatus.ERROR, "deaf")


def test_values_name_joints_limits_and_clearance():
    values = diagnose(
        status(
            following_error=[0.1, -0.2],
            limit_counts=[LimitCount(bit=32, name="TABLE", count=7)],
            clearance_m=0.0123,
            clearance_name="jaw to the table",
            full_s=12.3,
            servo_part="12 V",
        ),
        NAMES,
        HEALTHY,
    )[2]
    assert values["following error turn"] == "-0.200 rad"
    assert values["limit TABLE"] == 7
    assert values["clearance"] == "12 mm (jaw to the table)"
    assert values["time in FULL"] == "12 s"
    assert values["servo part"] == "12 V"


def joints(names: list[str], positions: list[float]) -> JointState:
    return JointState(name=names, position=positions)


def test_joint_states_are_read_by_name():
    reading = joint_reading(joints(["turn", "wheel", "lift"], [1.0, 2.0, 3.0]), NAMES, 5)
    assert reading is not None
    assert reading.positions_rad == (3.0, 1.0)
    assert reading.received_ns == 5


def test_joint_states_of_other_joints_are_none_of_ours():
    assert joint_reading(joints(["wheel"], [1.0]), NAMES, 0) is None


@pytest.mark.parametrize(
    ("names", "positions", "read"),
    [
        (["turn"], [1.0], (math.nan, 1.0)),
        (["turn", "lift"], [1.0], (math.nan, 1.0)),
        ([], [], (math.nan, math.nan)),
        ([], [1.0, 2.0], (math.nan, math.nan)),
        # Left to the core, which says how many joints came.
        (["lift", "turn"], [1.0, 2.0, 3.0], (1.0, 2.0, 3.0)),
    ],
)
def test_joint_states_with_gaps_are_marked(
    names: list[str], positions: list[float], read: tuple[float, ...]
):
    reading = joint_reading(joints(names, positions), NAMES, 0)
    assert reading is not None
    assert reading.positions_rad == pytest.approx(read, nan_ok=True)


def test_desync_is_read_from_the_code_not_from_the_words():
    assert driver_reading(DriverStatus(reason_code="DESYNC"), 0).desync
    assert not driver_reading(DriverStatus(reason="no DESYNC here"), 0).desync
