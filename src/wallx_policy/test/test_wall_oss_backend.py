"""The backend of WALL-OSS: prefixes, words and FAST between the model and the arm's radians."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from fast_files import make_it_write
from so101_driver.errors import UserError
from tokenizers import Tokenizer
from wallx_policy.backends.base import (
    BackendSettings,
    BadText,
    CameraImage,
    Observation,
    PrefixMode,
    Writing,
)
from wallx_policy.backends.wall_oss import WallOssBackend
from wallx_policy.chunk_prefix import JointPrefix
from wallx_policy.chunks import BadPrediction
from wallx_policy.contract import Contract
from wallx_policy.random_checkpoints import Recipe, write_checkpoint, write_random_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow, tiny; do not change it."""
    return write_random_checkpoint(tmp_path_factory.mktemp("flow"))


@pytest.fixture
def writing(checkpoint: Path, tmp_path: Path) -> Callable[[str], WallOssBackend]:
    """Return ``writing(text)``: a backend whose model answers with it, and ends there."""

    def make(text: str) -> WallOssBackend:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "writing"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        make_it_write(folder, tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False).ids)
        return backend(folder)

    return make


def backend(folder: Path, model_settings: str = "") -> WallOssBackend:
    return WallOssBackend(
        BackendSettings(checkpoint=str(folder), options={"model_settings": model_settings})
    )


def pose_rad(folder: Path) -> np.ndarray:
    """Where the actions of a random checkpoint are."""
    statistics = Contract.load(folder).action_statistics
    return Contract.load(folder).to_radians(np.add(statistics.min, statistics.max) / 2)


def seen(folder: Path) -> Observation:
    images = {
        "face_view": CameraImage(np.full((240, 320, 3), 90, np.uint8), 1),
        "wrist_view": CameraImage(np.full((240, 240, 3), 30, np.uint8), 1),
    }
    return Observation(1, images, pose_rad(folder), 1, "tidy up")


def told(heard: list[str]) -> Writing:
    return Writing(heard.append, lambda: False)


def test_a_chunk_continues_what_is_under_way(checkpoint: Path) -> None:
    made = backend(checkpoint)
    assert made.continues
    rows = pose_rad(checkpoint) + np.linspace(0.0, 0.05, 6)[:, None]
    observation = seen(checkpoint)
    frozen = made.predict_from(observation, JointPrefix(rows, 4), PrefixMode.FROZEN)
    assert frozen.committed_steps == 4
    np.testing.assert_allclose(frozen.actions_rad[:4], rows[:4], atol=1e-6)
    free = made.predict_with_seed(observation, frozen.noise_seed)
    assert free.committed_steps == 0
    assert np.abs(free.actions_rad[:4] - rows[:4]).max() > 0.01
    guided = made.predict_from(observation, JointPrefix(rows, 4), PrefixMode.GUIDED)
    free = made.predict_with_seed(observation, guided.noise_seed)
    off_rad = [np.abs(p.actions_rad[:4] - rows[:4]).mean() for p in (guided, free)]
    assert off_rad[0] < off_rad[1]


def test_words_go_from_the_model_to_whoever_asked(writing: Callable, checkpoint: Path) -> None:
    made, heard = writing(" open\thand"), []
    observation = seen(checkpoint)
    assert made.writes_text
    assert made.ask({"wrist_view": observation.images["wrist_view"]}, "what?", told(heard)) == (
        "open\thand"
    )
    assert heard[0] == "open"
    assert heard[-1] == "open\thand"
    assert made.subtask(observation, told([])) == "open hand"


def test_words_that_cannot_be_followed_are_bad_text(writing: Callable, checkpoint: Path) -> None:
    with pytest.raises(BadText, match="empty"):
        writing(" ").subtask(seen(checkpoint), told([]))


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokens spell nothing; do not change it."""
    return write_checkpoint(tmp_path_factory.mktemp("fast") / "made", Recipe(layout="fast"))


def test_tokens_that_spell_no_chunk_are_a_bad_prediction(fast: Path) -> None:
    made = backend(fast, "fast_max_new_tokens=4 fast_retries=0")
    assert not made.continues
    with pytest.raises(BadPrediction, match="4 tokens"):
        made.predict(seen(fast))


def test_settings_reach_the_model(checkpoint: Path) -> None:
    made = backend(checkpoint, "num_steps=3 horizon=16")
    assert "3 Euler steps" in made.description.summary
    assert made.contract.horizon == len(made.predict(seen(checkpoint)).actions_rad) == 16
    with pytest.raises(UserError, match="model_settings has 'steps=3'"):
        backend(checkpoint, "steps=3")
