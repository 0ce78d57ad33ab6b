"""The random checkpoint is honest, reproducible, fast enough, and keeps the arm near its pose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from wallx_policy.backends.base import BackendSettings, CameraImage, Observation
from wallx_policy.backends.wall_oss import WallOssBackend
from wallx_policy.contract import Contract, GraphDescription, Weights
from wallx_policy.model import load_policy
from wallx_policy.random_checkpoints import write_random_checkpoint

HOME_RAD = np.array([0.0, -1.2, 0.6, 1.2, 0.0, 0.14])
SIZES = {"face_view": (320, 240), "wrist_view": (240, 240)}


def observation(seed: int = 0, state_rad: np.ndarray = HOME_RAD) -> Observation:
    random = np.random.default_rng(seed)
    images = {
        view: CameraImage(random.integers(0, 256, (height, width, 3), dtype=np.uint8), 1)
        for view, (width, height) in SIZES.items()
    }
    return Observation(1, images, state_rad, 1, "pick up the red cube")


@pytest.fixture(scope="module")
def backend(random_checkpoint: Path) -> WallOssBackend:
    return WallOssBackend(BackendSettings(checkpoint=str(random_checkpoint)))


def test_the_same_seed_writes_the_same_files(random_checkpoint: Path, tmp_path: Path) -> None:
    again = write_random_checkpoint(tmp_path / "again", seed=3)
    other = write_random_checkpoint(tmp_path / "other", seed=4)
    names = sorted(path.name for path in random_checkpoint.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (again / name).read_bytes() == (random_checkpoint / name).read_bytes(), name
    weights = "model.safetensors"
    assert (other / weights).read_bytes() != (again / weights).read_bytes()


def test_it_says_that_it_is_random(random_checkpoint: Path, backend: WallOssBackend) -> None:
    assert Contract.load(random_checkpoint).weights is Weights.RANDOM
    assert "weights: random" in (random_checkpoint / "README.md").read_text()
    assert "RANDOM" in backend.description.summary


def test_the_log_says_which_units_were_taken_and_why(backend: WallOssBackend) -> None:
    for words in (
        "state: arm joints in degrees, as contract.yaml says",
        "its statistics fit degrees (wrist_roll reaches 162.8, beyond ±100)",
        "action: arm joints in degrees",
    ):
        assert words in backend.description.summary


def test_it_fits_the_simulated_arm(backend: WallOssBackend) -> None:
    graph = GraphDescription(SIZES, JOINT_NAMES, tuple(HOME_RAD))
    assert backend.contract.differences(graph) == ()


@pytest.mark.parametrize("seed", range(4))
def test_its_actions_stay_above_the_table(tmp_path: Path, seed: int) -> None:
    """Whatever the weights: inside the joints' limits and some 5 cm clear, from any state."""
    folder = write_random_checkpoint(tmp_path, seed=seed)
    backend = WallOssBackend(BackendSettings(checkpoint=str(folder)))
    arm = Kinematics.from_urdf(data_path("so101.urdf"))
    low, high = arm.position_limits_rad.T
    for i in range(6):
        state_rad = np.random.default_rng(i).uniform(low, high)
        actions = backend.predict_with_seed(observation(i, state_rad), i).actions_rad
        assert (actions >= low).all() and (actions <= high).all()
        assert arm.forward(actions)[:, 2, 3].min() > 0.05


def test_its_chunks_are_smooth(backend: WallOssBackend) -> None:
    """The noise that they start from, ±1 of the statistics, must not reach the joints."""
    noise_rad = np.radians(14.0)
    steps = np.diff(backend.predict_with_seed(observation(), 1).actions_rad, axis=0)
    assert 0.0 < np.abs(steps).max() < 0.3 * noise_rad


def test_a_chunk_is_reproduced_from_its_seed(backend: WallOssBackend) -> None:
    prediction = backend.predict(observation())
    again = backend.predict_with_seed(observation(), prediction.noise_seed)
    np.testing.assert_array_equal(prediction.actions_rad, again.actions_rad)
    assert backend.predict(observation()).noise_seed != prediction.noise_seed
    assert prediction.actions_rad.shape == (25, 6)
    assert prediction.period_s == backend.contract.period_s
    stages = prediction.timings_s
    assert all(stages[name] > 0.0 for name in ("preprocess", "vision", "prefill", "flow"))


def test_an_inference_is_far_below_its_period(backend: WallOssBackend) -> None:
    """50 ms on one thread; the best of some, as other work may hold the core."""
    seen = observation()

    def seconds() -> float:
        start = perf_counter()
        backend.predict(seen)
        return perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.05


def test_radians_become_degrees_and_back(
    backend: WallOssBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy must see degrees and percent; a factor lost here would move the real arm."""
    seen: list[dict] = []
    policy = backend._policy

    def predict(given: dict, *how: object, **further: object) -> object:
        seen.append(given)
        return type(policy).predict(policy, given, *how, **further)

    monkeypatch.setattr(backend, "_policy", _Spy(policy, predict))
    prediction = backend.predict_with_seed(observation(), 7)
    np.testing.assert_allclose(seen[0]["state"][:5], np.degrees(HOME_RAD[:5]))
    assert seen[0]["state"][5] == pytest.approx(100 * (0.14 + 0.174533) / 1.919863)
    actions = policy.predict(seen[0], policy.noise(7)).actions
    np.testing.assert_allclose(np.degrees(prediction.actions_rad[:, :5]), actions[:, :5])


class _Spy:
    def __init__(self, policy: object, predict: Callable) -> None:
        self._policy = policy
        self.predict = predict

    def __getattr__(self, name: str) -> object:
        return getattr(self._policy, name)


def test_a_checkpoint_must_be_given() -> None:
    with pytest.raises(UserError, match="checkpoint"):
        WallOssBackend(BackendSettings())


def test_a_checkpoint_without_statistics_drives_nothing(
    changed_checkpoint: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    path = changed_checkpoint / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "normalizer" not in k}, path)
    assert "stay normalised" in load_policy(changed_checkpoint).description
    with pytest.raises(UserError, match="statistics"):
        WallOssBackend(BackendSettings(checkpoint=str(changed_checkpoint)))


def test_a_released_base_checkpoint_is_refused_on_this_arm(references: Path) -> None:
    with pytest.raises(UserError, match="end-effector"):
        WallOssBackend(BackendSettings(checkpoint=str(references / "tiny_wallx")))
