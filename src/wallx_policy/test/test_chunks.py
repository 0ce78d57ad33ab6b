"""Nothing that a policy may predict, NaN least of all, may become a chunk unless it is sound."""

import math

import numpy as np
import pytest
from wallx_policy.backends.base import BackendSettings, CameraImage, Observation, Prediction
from wallx_policy.backends.hold import HoldBackend
from wallx_policy.backends.scripted import scripted_contract
from wallx_policy.backends.sine import SineBackend
from wallx_policy.chunks import BadPrediction, ChunkOrigin, make_chunk

ORIGIN = ChunkOrigin("test", 7)
IMAGE = CameraImage(np.zeros((2, 2, 3), np.uint8), 90)


def observation(stamp_ns=100, state_rad=(0.0, -0.5, 0.5, 0.2, 0.0, 0.3)):
    return Observation(stamp_ns, {"face": IMAGE}, np.array(state_rad), 95, "put it down")


def chunk(prediction):
    return make_chunk(prediction, observation(), scripted_contract(), ORIGIN, 3, 0.02)


def test_a_chunk_carries_stamps_and_contract_unchanged():
    actions = np.arange(12.0).reshape(2, 6)
    got = chunk(Prediction(actions, 0.04, noise_seed=11, committed_steps=1, subtask="reach"))
    contract = scripted_contract()
    assert (got.stamp_ns, got.state_stamp_ns, got.camera_stamps_ns) == (100, 95, (90,))
    assert (got.source, got.session, got.sequence) == ("test", 7, 3)
    assert got.contract_hash == contract.hash
    assert got.action_kind is contract.action_kind
    assert (got.noise_seed, got.committed_steps, got.subtask) == (11, 1, "reach")
    assert np.array_equal(got.positions_rad, actions)
    assert len(got.observation_sha256) == 64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_prediction_is_refused_naming_the_joint(value):
    actions = np.zeros((25, 6))
    actions[24, 5] = value
    with pytest.raises(BadPrediction, match="gripper of point 24"):
        chunk(Prediction(actions, 0.04))


@pytest.mark.parametrize("shape", [(6,), (0, 6), (25, 5), (1, 25, 6)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(BadPrediction, match="shape"):
        chunk(Prediction(np.zeros(shape), 0.04))


@pytest.mark.parametrize("period_s", [0.0, -0.04, math.nan, math.inf])
def test_an_impossible_period_is_refused(period_s):
    with pytest.raises(BadPrediction, match="period"):
        chunk(Prediction(np.zeros((2, 6)), period_s))


def test_more_committed_points_than_points_are_refused():
    with pytest.raises(BadPrediction, match="commits"):
        chunk(Prediction(np.zeros((2, 6)), 0.04, committed_steps=3))


def test_hold_keeps_the_first_pose_and_does_not_follow_a_sagging_arm():
    backend = HoldBackend(BackendSettings())
    first = backend.predict(observation()).actions_rad
    sagged = backend.predict(observation(200, (0.0, -0.4, 0.5, 0.2, 0.0, 0.3))).actions_rad
    assert np.array_equal(first, sagged)
    assert np.array_equal(first[0], observation().state_rad)
    backend.reset()
    assert backend.predict(observation(300, (0.1,) * 6)).actions_rad[0, 0] == 0.1


def test_sine_starts_at_the_pose_is_slow_and_successive_chunks_agree():
    backend = SineBackend(BackendSettings())
    first = backend.predict(observation(0)).actions_rad
    assert np.array_equal(first[0], observation().state_rad)
    for k in range(1, 60):
        later = backend.predict(observation(k * 80_000_000)).actions_rad
        assert np.allclose(first[2:], later[:-2])
        assert np.abs(np.diff(later, axis=0)).max() / 0.04 < 0.3
        assert np.abs(later - observation().state_rad).max() <= 0.15
        first = later
