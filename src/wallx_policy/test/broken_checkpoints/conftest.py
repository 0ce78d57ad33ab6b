"""Checkpoints of every layout that a test may break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from breaking import RECIPES
from wallx_policy.random_checkpoints import write_checkpoint


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An unbroken checkpoint of every kind; do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: write_checkpoint(folder / name, recipe) for name, recipe in RECIPES.items()}


@pytest.fixture
def copied(whole: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of one that a test may break; its name is the kind's."""
    return lambda kind: Path(shutil.copytree(whole[kind], tmp_path / kind))


@pytest.fixture(params=RECIPES)
def folder(request: pytest.FixtureRequest, copied: Callable[[str], Path]) -> Path:
    """A copy of each kind in turn."""
    return copied(request.param)
