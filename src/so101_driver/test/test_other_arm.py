"""Another arm, of seven joints: the example of the how-to page.

The limits file is the only place that says which joints there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from so101_driver.errors import UserError
from so101_driver.parameter_spec import COMMON
from so101_driver.safety import (
    ArmState,
    Chunk,
    EventKind,
    JointReading,
    Limit,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)
from so101_driver.safety_parameters import PARAMETERS
from so101_driver.safety_setup import build_setup

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "seven_joint_arm"
LIMITS = Limits.from_file(EXAMPLE / "limits.yaml", "cautious")
JOINTS = LIMITS.joint_names
START_RAD = np.array([0.2, -0.4, 0.1, -1.2, 0.0, 0.3, 0.5])
PERIOD_S = 0.01
TOLERANCE = 1e-6


def assert_legal(positions_rad: np.ndarray, period_s: float = PERIOD_S) -> None:
    """Plain finite differences against the limits file."""
    positions = np.vstack([positions_rad[0], positions_rad[0], positions_rad[0], positions_rad])
    assert (positions >= LIMITS.lower_rad - TOLERANCE).all()
    assert (positions <= LIMITS.upper_rad + TOLERANCE).all()
    largest = (LIMITS.velocity_rad_s, LIMITS.acceleration_rad_s2, LIMITS.jerk_rad_s3)
    for order, limit in enumerate(largest, start=1):
        differences = np.abs(np.diff(positions, order, axis=0)) / period_s**order
        assert (differences <= limit * (1.0 + TOLERANCE) + TOLERANCE / period_s**order).all(), order


def follow(
    supervisor: Supervisor, chunks: dict[int, Chunk], events: dict[int, EventKind], ticks: int
) -> tuple[np.ndarray, list[State]]:
    """Run a Supervisor against a plant that lags 30 ms; returns commands and states."""
    position = START_RAD.copy()
    commands, states = [], []
    for tick in range(ticks):
        now_ns = round(tick * PERIOD_S * 1e9)
        reading = JointReading(tuple(position), now_ns, now_ns)
        asked = [OperatorEvent(events[tick], 1)] if tick in events else []
        came = [chunks[tick]] if tick in chunks else []
        command = supervisor.step(tick, now_ns, now_ns, ArmState(reading), came, asked)
        assert not command.request_torque
        if command.output is Output.COMMANDS:
            commands.append(command.positions_rad)
            position += 0.25 * (command.positions_rad - position)
        states.append(command.state)
    return np.array(commands), states


def chunk(tick: int, sequence: int, points_rad: np.ndarray) -> Chunk:
    return Chunk(
        stamp_ns=round(tick * PERIOD_S * 1e9),
        source="test",
        session=1,
        sequence=sequence,
        joint_names=JOINTS,
        points_rad=points_rad.tolist(),
        offsets_ns=tuple(index * 50_000_000 for index in range(len(points_rad))),
        image_age_s=0.0,
        action_kind=1,
    )


def way_to(target_rad: np.ndarray, start_rad: np.ndarray, steps: int) -> np.ndarray:
    return start_rad + np.linspace(0.0, 1.0, steps)[:, None] * (target_rad - start_rad)


def test_seven_joints_arm_where_they_are_track_and_hold():
    settings = Settings(mode=Mode.FULL, needs_driver=False, servo_dead_time_s=0.0, servo_lag_s=0.03)
    supervisor = Supervisor(LIMITS, settings)
    target = START_RAD + np.array([0.3, 0.2, -0.2, -0.3, 0.4, -0.3, 0.2])
    way = np.vstack([way_to(target, START_RAD, 41), np.tile(target, (10, 1))])
    chunks = {20 + 10 * i: chunk(20 + 10 * i, i, way[2 * i : 2 * i + 10]) for i in range(21)}
    commands, states = follow(supervisor, chunks, {5: EventKind.ARM}, 420)
    np.testing.assert_array_equal(commands[0], START_RAD)
    assert_legal(commands)
    assert State.TRACKING in states
    assert states[-1] is State.HOLD
    np.testing.assert_allclose(commands[-1], target, atol=0.01)


def test_seven_joints_stay_within_limits_when_a_chunk_does_not():
    settings = Settings(mode=Mode.FULL, needs_driver=False, servo_dead_time_s=0.0, servo_lag_s=0.03)
    supervisor = Supervisor(LIMITS, settings)
    generator = np.random.default_rng(7)
    chunks = {
        tick: chunk(tick, tick, generator.uniform(-4.0, 4.0, (20, len(JOINTS))))
        for tick in range(20, 300, 15)
    }
    events = {5: EventKind.ARM, 320: EventKind.ARM, 330: EventKind.PARK}
    commands, states = follow(supervisor, chunks, events, 1500)
    assert_legal(commands)
    assert np.abs(np.diff(commands, axis=0)).max() > 0.005
    assert State.PARKING in states
    assert states[-1] is State.DISARMED
    np.testing.assert_allclose(commands[-1], LIMITS.rest_rad, atol=0.01)


class Parameters:
    """The node's parameters: defaults and what is given."""

    def __init__(self, **given: Any) -> None:
        for spec in (*COMMON, *PARAMETERS.parameters):
            setattr(self, spec.name, spec.example)
        for name, value in given.items():
            assert hasattr(self, name), name
            setattr(self, name, value)


def setup(**given: Any) -> Any:
    limits = {"limits_file": str(EXAMPLE / "limits.yaml"), "limits_profile": "cautious"}
    return build_setup(Parameters(**{"driver": "none", **limits, **given}))


def test_without_urdf_the_limits_file_counts_alone_and_lost_protection_is_said():
    made = setup()
    assert made.limits.joint_names == JOINTS
    assert made.geometry is None
    assert not made.settings.needs_driver
    (warning,) = made.warnings
    assert "geometry is off" in warning
    assert "the tip's speed is not limited" in warning


def test_geometry_of_seven_joints_keeps_the_arm_off_the_table_and_itself():
    made = setup(
        urdf=str(EXAMPLE / "arm.urdf"),
        base_link="base",
        tip_link="tool",
        geometry_file=str(EXAMPLE / "geometry.yaml"),
        mode="full",
        watch_following=False,
    )
    assert made.geometry is not None
    assert not any("geometry" in warning for warning in made.warnings)
    supervisor = Supervisor(made.limits, made.settings, made.geometry)
    down = np.array([0.0, 1.6, 0.0, -0.9, 0.0, 1.0, 0.0])
    folded = np.array([0.0, -1.0, 0.0, -2.4, 0.0, 1.6, 0.0])
    assert (made.geometry.clearances(np.array([down, folded])).min(axis=1) < -0.02).all()
    goals = [np.tile(target, (20, 1)) for target in (down, folded)]
    chunks = {tick: chunk(tick, tick, goals[tick // 400]) for tick in range(20, 800, 15)}
    commands, _states = follow(supervisor, chunks, {5: EventKind.ARM}, 900)
    assert_legal(commands)
    assert made.geometry.clearances(commands).min() >= -1e-6
    counts = supervisor.status(0).counts
    assert counts[Limit.TABLE] > 0
    assert counts[Limit.SELF_COLLISION] > 0
    tips = made.geometry.tip_positions(commands)
    speeds_m_s = np.linalg.norm(np.diff(tips, axis=0), axis=1) / PERIOD_S
    assert 0.3 < speeds_m_s.max() <= made.limits.tip_speed_m_s * 1.0001


def test_a_watch_that_is_switched_off_is_said():
    assert "watch_following" in setup(watch_following=False).warnings[-1]


def test_a_urdf_narrows_the_limits(tmp_path: Path):
    urdf = tmp_path / "arm.urdf"
    text = (EXAMPLE / "arm.urdf").read_text()
    urdf.write_text(text.replace('lower="-1.7" upper="1.7"', 'lower="-1.7" upper="1.2"'))
    made = setup(urdf=str(urdf), base_link="base", tip_link="tool")
    assert made.limits.upper_rad[5] == 1.2
    assert made.limits.upper_rad[0] == LIMITS.upper_rad[0]


def test_a_joint_without_ends_keeps_the_limits_of_the_file(tmp_path: Path):
    urdf = tmp_path / "arm.urdf"
    text = (EXAMPLE / "arm.urdf").read_text()
    urdf.write_text(text.replace('"joint_7" type="revolute"', '"joint_7" type="continuous"'))
    made = setup(urdf=str(urdf), base_link="base", tip_link="tool")
    assert made.limits.upper_rad[6] == LIMITS.upper_rad[6]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"driver": "so101"}, ("calibration", "driver:=none")),
        ({"calibration": "so101.json"}, ("calibration", "driver:=none")),
        ({"geometry_file": "geometry.yaml"}, ("geometry_file", "urdf")),
        ({"urdf": "nowhere.urdf"}, ("nowhere.urdf",)),
        ({"limits_profile": "fast"}, ("fast", "cautious")),
    ],
)
def test_what_does_not_go_together_is_one_sentence(given: dict[str, str], words: tuple[str, ...]):
    with pytest.raises(UserError) as refusal:
        setup(**given)
    assert all(word in str(refusal.value) for word in words)
    assert "\n" not in str(refusal.value)
