"""Where the reference outputs lie, and what the tests of the model share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

VARIABLE = "WALLX_FIXTURES"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def references() -> Path:
    """The folder of reference outputs: $WALLX_FIXTURES, or beside the repository."""
    beside = Path(__file__).resolve().parents[4].parent / "shared/fixtures/wall_oss"
    folder = Path(os.environ.get(VARIABLE, beside))
    if not (folder / "tiny_wallx").is_dir():
        pytest.skip(f"no reference outputs of WALL-OSS in {folder}: set {VARIABLE} to their folder")
    return folder


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of our own; do not change it."""
    from wallx_policy.model.random_checkpoint import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("random"), seed=3)


@pytest.fixture
def changed_checkpoint(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def observe() -> Callable[..., dict]:
    """Return ``observe(seed, **changes)``: an observation that fits the random checkpoint."""

    def make(seed: int = 0, **changes: object) -> dict:
        random = np.random.default_rng(seed)
        observation = {
            "images": {
                "face_view": random.integers(0, 256, (240, 320, 3), dtype=np.uint8),
                "wrist_view": random.integers(0, 256, (240, 240, 3), dtype=np.uint8),
            },
            "state": np.array([0.0, -60.0, 30.0, 60.0, 0.0, 10.0]),
            "instruction": "pick up the red cube",
        }
        return {**observation, **changes}

    return make
