"""The parts of one observation must belong together, or a false picture drives the arm."""

import math

import numpy as np
import pytest
from wallx_policy.observation import (
    AssemblerSettings,
    Gap,
    NoObservation,
    ObservationAssembler,
    observation_sha256,
)

MS = 1_000_000
SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def make(views=("face", "wrist"), image_age_s=0.0, needs_objects=False) -> ObservationAssembler:
    def decode(payload):
        if payload == "broken":
            raise ValueError("not a JPEG")
        return np.full((2, 3, 3), payload, dtype=np.uint8)

    settings = AssemblerSettings(views, needs_objects, image_age_s, max_skew_s=0.1, max_age_s=0.5)
    return ObservationAssembler(settings, decode)


def fill_states(assembler, until_ns, count=20):
    """100 Hz joint states; joint 0 moves at 1 rad/s from 0 at T0."""
    for k in reversed(range(count)):
        stamp = until_ns - k * 10 * MS
        assembler.add_state(stamp, np.array([(stamp - T0) * 1e-9, 0, 0, 0, 0, 0.5]))


def test_state_is_interpolated_at_the_newest_image():
    assembler = make()
    fill_states(assembler, T0 + 100 * MS)
    assembler.add_image("face", T0 + 43 * MS, 1)
    assembler.add_image("wrist", T0 + 20 * MS, 2)
    got = assembler.assemble(T0 + 105 * MS, "go")
    assert got.stamp_ns == T0 + 43 * MS
    assert got.state_stamp_ns == T0 + 43 * MS
    assert got.state_rad[0] == pytest.approx(0.043, abs=1e-6)
    assert got.images["wrist"].stamp_ns == T0 + 20 * MS
    assert got.images["wrist"].rgb[0, 0, 0] == 2
    assert got.instruction == "go"


def test_image_age_moves_the_state_but_never_beyond_the_newest_measurement():
    assembler = make(image_age_s=0.04)
    fill_states(assembler, T0 + 100 * MS)
    assembler.add_image("face", T0 + 30 * MS, 1)
    assembler.add_image("wrist", T0 + 30 * MS, 1)
    got = assembler.assemble(T0 + 105 * MS, "")
    assert got.state_stamp_ns == T0 + 70 * MS
    assert got.state_rad[0] == pytest.approx(0.070, abs=1e-6)
    assembler.add_image("face", T0 + 90 * MS, 1)
    got = assembler.assemble(T0 + 105 * MS, "")
    assert got.state_stamp_ns == T0 + 100 * MS


def test_without_cameras_the_newest_joint_state_gives_the_stamp():
    assembler = make(views=())
    fill_states(assembler, T0 + 100 * MS)
    got = assembler.assemble(T0 + 101 * MS, "")
    assert got.stamp_ns == got.state_stamp_ns == T0 + 100 * MS


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"face"}, "wrist"),
        ({"face", "wrist"}, "joint_states"),
        ({"face", "wrist", "states"}, "sim/objects"),
    ],
)
def test_a_missing_input_is_named(given, word):
    assembler = make(needs_objects=True)
    for view in given & {"face", "wrist"}:
        assembler.add_image(view, T0, 1)
    if "states" in given:
        fill_states(assembler, T0)
    got = assembler.assemble(T0, "")
    assert isinstance(got, NoObservation)
    assert got.gap is Gap.MISSING
    assert word in got.reason


def test_skew_at_the_bound_is_accepted_and_beyond_it_is_late():
    for skew_ms, accepted in ((100, True), (101, False)):
        assembler = make()
        fill_states(assembler, T0 + 200 * MS, count=50)
        assembler.add_image("face", T0 + 200 * MS, 1)
        assembler.add_image("wrist", T0 + (200 - skew_ms) * MS, 1)
        got = assembler.assemble(T0 + 200 * MS, "")
        assert isinstance(got, NoObservation) is not accepted
        if not accepted:
            assert got.gap is Gap.LATE
            assert "wrist" in got.reason


def test_a_camera_that_stopped_stops_the_observations():
    assembler = make()
    assembler.add_image("face", T0, 1)
    assembler.add_image("wrist", T0, 1)
    fill_states(assembler, T0 + 10 * MS)
    assert not isinstance(assembler.assemble(T0 + 10 * MS, ""), NoObservation)
    again = assembler.assemble(T0 + 80 * MS, "")
    assert again.gap is Gap.UNCHANGED
    fill_states(assembler, T0 + 600 * MS)
    assert assembler.assemble(T0 + 600 * MS, "").gap is Gap.LATE


def test_a_joint_without_reading_gives_no_observation():
    assembler = make(views=())
    fill_states(assembler, T0)
    assembler.add_state(T0 + 10 * MS, np.array([0, 0, math.nan, 0, 0, 0]))
    got = assembler.assemble(T0 + 10 * MS, "")
    assert got.gap is Gap.INVALID
    assert "elbow_flex" in got.reason
    assembler.add_state(T0 + 20 * MS, np.zeros(6))
    assert not isinstance(assembler.assemble(T0 + 20 * MS, ""), NoObservation)


def test_a_broken_image_gives_no_observation():
    assembler = make(views=("face",))
    fill_states(assembler, T0)
    assembler.add_image("face", T0, "broken")
    got = assembler.assemble(T0, "")
    assert got.gap is Gap.INVALID
    assert "not a JPEG" in got.reason


def test_older_messages_are_ignored_until_the_clock_was_set_back():
    assembler = make(views=())
    assembler.add_state(T0, np.zeros(6))
    assembler.add_state(T0 - 10 * MS, np.ones(6))
    assert assembler.assemble(T0, "").state_rad[0] == 0
    assembler.add_state(T0 - 10 * SECOND, np.full(6, 0.25))
    got = assembler.assemble(T0 - 10 * SECOND, "")
    assert got.stamp_ns == T0 - 10 * SECOND
    assert got.state_rad[0] == 0.25


def test_only_fifty_states_are_kept_and_an_image_before_them_is_late():
    assembler = make(views=("face",))
    assembler.add_image("face", T0, 1)
    fill_states(assembler, T0 + 495 * MS, count=50)
    assert assembler.assemble(T0 + 495 * MS, "").gap is Gap.LATE


def test_only_a_backend_that_needs_the_objects_sees_them():
    for needs in (True, False):
        assembler = make(views=(), needs_objects=needs)
        fill_states(assembler, T0)
        assembler.set_objects(T0, {"red_cube": "pose"})
        assert bool(assembler.assemble(T0, "").objects) is needs


def test_the_hash_sees_every_input_and_no_stamp():
    def hash_of(pixel=1, joint=0.0, text="go", stamp=T0):
        assembler = make(views=("face",))
        assembler.add_state(stamp, np.full(6, joint))
        assembler.add_image("face", stamp, pixel)
        return observation_sha256(assembler.assemble(stamp, text))

    assert hash_of() == hash_of(stamp=T0 + SECOND)
    assert len({hash_of(), hash_of(pixel=2), hash_of(joint=0.1), hash_of(text="stop")}) == 4
