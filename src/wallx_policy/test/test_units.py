"""Units are concluded from what excludes the others, and never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from so101_driver.joints import JOINT_NAMES
from wallx_policy.contract_types import Channel, Statistics, Unit
from wallx_policy.units import judge_arm, judge_gripper, possible_units

COLUMNS = tuple(Channel(name, Unit.PLAIN) for name in JOINT_NAMES)
TRAVEL = np.array([117.0, 110.0, 97.0, 104.0, 180.0])
FOLDED_DEG = {"shoulder_lift": (-104.0, 20.0), "elbow_flex": (-40.0, 96.0)}


def extent(**joints: tuple[float, float]) -> Statistics:
    ends = [joints.get(name, (0.0, 0.0)) for name in JOINT_NAMES]
    return Statistics(min=tuple(low for low, _ in ends), max=tuple(high for _, high in ends))


@pytest.mark.parametrize(
    ("joints", "units", "words"),
    [
        ({"elbow_flex": (-1.5, 1.7)}, {Unit.RAD}, "elbow_flex reaches 1.7"),
        ({"wrist_roll": (-3.1, 3.1)}, {Unit.RAD}, "hardly move"),
        (FOLDED_DEG, {Unit.DEG}, "shoulder_lift reaches 104, beyond ±100"),
        ({"wrist_roll": (-160.0, 10.0)}, {Unit.DEG}, "wrist_roll reaches 160"),
        (
            {"elbow_flex": (-40.0, 90.0)},
            {Unit.DEG, Unit.RANGE_100},
            "elbow_flex reaches 90, which is too far for radians and not beyond ±100",
        ),
        # Above the elbow's widest travel in degrees: a hint, no proof.
        (
            {"elbow_flex": (-40.0, 99.4)},
            {Unit.DEG, Unit.RANGE_100},
            "elbow_flex would be beyond its travel, which speaks for ±100",
        ),
        (
            {"shoulder_pan": (-100.0, 30.0), "elbow_flex": (0.0, 100.0)},
            {Unit.RANGE_100},
            "shoulder_pan and elbow_flex end at exactly 100, clipped",
        ),
        # One end may lie there by chance, shoulder_lift's by the limit of a simulated arm.
        ({"elbow_flex": (0.0, 100.0)}, {Unit.DEG, Unit.RANGE_100}, "100"),
        (
            {"shoulder_lift": (-100.0, 100.0), "elbow_flex": (0.0, 100.0)},
            {Unit.DEG, Unit.RANGE_100},
            "100",
        ),
        # Zeros of a calibration before mid-range, and what no arm can do.
        ({"shoulder_lift": (-10.0, 188.0)}, set(), "shoulder_lift would be far beyond its travel"),
        ({"shoulder_lift": (-0.2, 3.1)}, set(), "shoulder_lift would be far beyond its travel"),
        ({"wrist_roll": (-186.0, 0.0), "shoulder_lift": (0.0, 120.0)}, set(), "wrist_roll would"),
        ({"wrist_roll": (0.0, 2048.0)}, set(), "beyond"),
        (
            {"shoulder_pan": (-1.0, 1.0), "elbow_flex": (-1.0, 0.9)},
            set(),
            "normalised already",
        ),
    ],
)
def test_an_arm(joints: dict, units: set[Unit], words: str) -> None:
    verdict = judge_arm(extent(**joints), COLUMNS)
    assert verdict.units == units
    assert words in verdict.reason
    assert verdict.only is (next(iter(units)) if len(units) == 1 else None)


@pytest.mark.parametrize(
    ("joint", "farthest"),
    [
        ("shoulder_pan", 142.0),
        ("shoulder_lift", 135.0),
        ("elbow_flex", 122.0),
        ("wrist_flex", 129.0),
        ("wrist_roll", 185.0),
    ],
)
def test_every_joint_has_its_own_end(joint: str, farthest: float) -> None:
    for sign in (1.0, -1.0):
        within, beyond = sign * (farthest - 0.1), sign * (farthest + 0.1)
        assert possible_units(extent(**{joint: (within, within)}), COLUMNS) == {Unit.DEG}
        assert possible_units(extent(**{joint: (beyond, beyond)}), COLUMNS) == set()


@pytest.mark.parametrize(
    ("joints", "units"),
    [
        ({"wrist_roll": (0.0, 3.22)}, {Unit.RAD}),
        ({"wrist_roll": (0.0, 3.29)}, set()),
        ({"wrist_roll": (0.0, 3.31)}, {Unit.DEG, Unit.RANGE_100}),
        ({"wrist_roll": (0.0, 100.5)}, {Unit.DEG, Unit.RANGE_100}),
        ({"wrist_roll": (0.0, 100.6)}, {Unit.DEG}),
        # Two joints at ±100 are clipped only if none went further, and likewise at ±1.
        (
            {"shoulder_pan": (-100.0, 0.0), "elbow_flex": (0.0, 100.0), "wrist_flex": (0, 100.3)},
            {Unit.DEG, Unit.RANGE_100},
        ),
        (
            {"shoulder_pan": (-1.0, 0.0), "elbow_flex": (0.0, 1.0), "wrist_flex": (0, 1.2)},
            {Unit.RAD},
        ),
    ],
)
def test_the_ends_themselves(joints: dict, units: set[Unit]) -> None:
    assert possible_units(extent(**joints), COLUMNS) == units


def test_signs_and_offsets_are_undone_first() -> None:
    """The same arm as an older calibration saw it."""
    old = extent(shoulder_lift=(-10.0, 188.0), elbow_flex=(-95.0, 98.0))
    channels = tuple(
        Channel(c.name, c.unit, -1, 90.0) if c.name == "shoulder_lift" else c for c in COLUMNS
    )
    assert possible_units(old, COLUMNS) == set()
    assert possible_units(old, channels) == {Unit.DEG, Unit.RANGE_100}


@pytest.mark.parametrize(
    ("mean", "std", "units"),
    [
        (0.1, 0.6, {Unit.RAD}),
        (20.0, 30.0, {Unit.DEG, Unit.RANGE_100}),
        # Three deviations from the mean are beyond ±100, but nothing says that the data were.
        (0.0, 60.0, {Unit.DEG, Unit.RANGE_100}),
        (-98.0, 40.0, {Unit.DEG}),
    ],
)
def test_mean_and_deviation_tell_less(mean: float, std: float, units: set[Unit]) -> None:
    statistics = Statistics(mean=(mean,) * 6, std=(std,) * 6)
    lift = (COLUMNS[1],)
    own = Statistics(mean=statistics.mean[:1], std=statistics.std[:1])
    assert judge_arm(own, lift).units == units


def test_the_mean_of_a_gripper_has_sign_and_offset_too() -> None:
    turned = (Channel("gripper", Unit.PLAIN, -1, 100.0),)
    statistics = Statistics(mean=(20.0,), std=(9.0,))
    assert "80 to 80" in judge_gripper(statistics, turned, Unit.DEG).reason
    for half in (Statistics(mean=(20.0,)), Statistics(std=(9.0,))):
        assert judge_gripper(half, turned, Unit.DEG).units is None


def test_without_statistics_nothing_is_said() -> None:
    assert judge_arm(Statistics(), COLUMNS).units is None
    assert judge_gripper(Statistics(), COLUMNS, Unit.DEG).units is None
    only = (Channel("gripper", Unit.PLAIN),)
    assert judge_arm(Statistics(min=(0.0,), max=(1.0,)), only).units is None


@pytest.mark.parametrize(
    ("arm", "ends", "units"),
    [
        (Unit.DEG, (0.3, 98.0), {Unit.PERCENT}),
        (Unit.RANGE_100, (0.0, 1.5), {Unit.PERCENT}),
        (Unit.DEG, (-9.0, 99.0), set()),
        (Unit.DEG, (0.0, 130.0), set()),
        (Unit.DEG, (-0.5, 100.5), {Unit.PERCENT}),
        (Unit.DEG, (-0.6, 50.0), set()),
        (Unit.DEG, (0.0, 100.6), set()),
        (Unit.RAD, (-0.5, 2.1), {Unit.RAD}),
        (Unit.RAD, (-0.6, 1.5), set()),
        (Unit.RAD, (0.0, 2.2), {Unit.PERCENT}),
        (Unit.RAD, (-0.02, 1.05), set()),
        (Unit.RAD, (0.0, 98.0), {Unit.PERCENT}),
        (Unit.RAD, (-0.17, 0.9), {Unit.RAD}),
        (Unit.RAD, (0.0, 1.6), {Unit.RAD}),
        (Unit.RAD, (0.0, 1.0), set()),
    ],
)
def test_a_gripper(arm: Unit, ends: tuple[float, float], units: set[Unit]) -> None:
    verdict = judge_gripper(extent(gripper=ends), COLUMNS, arm)
    assert verdict.units == units
    assert f"{ends[0]:.4g} to {ends[1]:.4g}" in verdict.reason


@given(
    st.lists(st.floats(-1.0, 1.0), min_size=10, max_size=10),
    st.sampled_from([Unit.RAD, Unit.DEG, Unit.RANGE_100]),
)
def test_the_true_unit_is_never_excluded(shares: list[float], unit: Unit) -> None:
    """Whatever part of its travel an arm used, as long as it moved at all."""
    low, high = np.sort(np.reshape(shares, (2, 5)), axis=0) * TRAVEL
    high[1] = max(high[1], 10.0)
    if unit is Unit.RAD:
        low, high = np.radians(low), np.radians(high)
        low, high = np.clip(low, -0.9, 0.9), np.clip(high, -0.9, 0.9)
    elif unit is Unit.RANGE_100:
        low, high = 100.0 * low / TRAVEL, 100.0 * high / TRAVEL
    statistics = Statistics(min=(*low.tolist(), 0.0), max=(*high.tolist(), 100.0))
    units = possible_units(statistics, COLUMNS)
    # Degrees that end at 100 at two joints are taken for clipped ones.
    at_100 = np.abs(np.abs([*low, *high]) - 100.0) < 1e-3
    assert unit in units or (unit is Unit.DEG and at_100.sum() > 1)
