"""Every formula maps in and out as its reference does, and says when it lacks numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.lerobot_files import FeatureNorm, NormMode, Processors, read_processors
from wallx_policy.model import load_policy
from wallx_policy.model.normalization import NormalizationMode, from_normalizers, from_processors
from wallx_policy.model.state import state_text

STATISTICS = {
    "mean": [1.0, -2.0, 5.0],
    "std": [0.5, 3.0, 0.0],
    "min": [-1.0, -9.0, 5.0],
    "max": [3.0, 7.0, 5.0],
    "q01": [-0.5, -8.0, 5.0],
    "q99": [2.5, 6.0, 5.0],
}


def processors(mode: NormMode) -> Processors:
    numbers = {name: np.asarray(v, np.float32) for name, v in STATISTICS.items()}
    norm = FeatureNorm(mode, numbers, eps=1e-8)
    return Processors(norm, norm, rename={})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (NormMode.MEAN_STD, [2.0, 1.0, 0.0]),
        (NormMode.MIN_MAX, [0.5, 0.25, -1.0]),
        (NormMode.QUANTILES, [2.5 / 3.0 * 2 - 1, 9.0 / 14.0 * 2 - 1, -1.0]),
        (NormMode.IDENTITY, [2.0, 1.0, 5.0]),
    ],
)
def test_each_mode_of_lerobot(mode: NormMode, expected: list[float]) -> None:
    normalization = from_processors(processors(mode))
    state = np.array([2.0, 1.0, 5.0], np.float32)
    np.testing.assert_allclose(normalization.normalized_state(state), expected, rtol=1e-6)
    np.testing.assert_allclose(normalization.normalized_actions(state), expected, rtol=1e-6)
    back = normalization.actions(np.asarray(expected, np.float32))
    np.testing.assert_allclose(back, state, rtol=1e-6)
    assert mode.value in normalization.label


@given(
    st.sampled_from([m for m in NormMode if m is not NormMode.IDENTITY]),
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=2),
)
def test_actions_come_back_from_every_mode(mode: NormMode, values: list[float]) -> None:
    normalization = from_processors(processors(mode))
    actions = np.asarray(values, np.float32)
    there = normalization.normalized_actions(actions)
    np.testing.assert_allclose(normalization.actions(there), actions, atol=1e-4)


def test_another_formula_needs_its_statistics() -> None:
    given_ = processors(NormMode.MEAN_STD)
    other = from_processors(given_, NormalizationMode.QUANTILES)
    assert other.label.startswith("QUANTILES")
    del given_.state.statistics["q01"]
    with pytest.raises(UserError, match="QUANTILES needs q01"):
        from_processors(given_, NormalizationMode.QUANTILES)
    with pytest.raises(UserError, match="min_delta"):
        from_processors(given_, NormalizationMode.MIN_DELTA)


def test_a_column_that_never_moved_is_given_back_as_it_was() -> None:
    numbers = {
        (feature, kind): torch.tensor(value, dtype=torch.float64)
        for feature in ("action", "propri")
        for kind, value in (("min", [0.0, 4.0]), ("delta", [2.0, 0.0]))
    }
    normalization = from_normalizers({"robot": numbers}, None)
    actions = normalization.actions(np.array([[0.5, 0.7]], np.float32))
    np.testing.assert_allclose(actions, [[1.5, 4.0]])
    there = normalization.normalized_actions(np.array([[1.5, 4.0]], np.float32))
    np.testing.assert_allclose(there, [[0.5, -1.0]])
    # Beyond the columns of the statistics, zero stays zero.
    np.testing.assert_allclose(normalization.zero_action(3), [-1.0, -1.0, 0.0])
    assert from_normalizers({"robot": numbers}, None, NormalizationMode.IDENTITY) is None
    with pytest.raises(UserError, match="mean_std"):
        from_normalizers({"robot": numbers}, None, NormalizationMode.MEAN_STD)


def test_bins_cover_the_range() -> None:
    values = np.array([-1.0, -0.5001, -0.5, 0.0, 0.9999, 1.0], np.float32)
    assert state_text(values, 4) == "0 0 1 2 3 3"


class TestLeRobotFolder:
    @pytest.fixture
    def folder(self, references: Path, tmp_path: Path) -> Path:
        copy = Path(shutil.copytree(references / "lerobot_wall_x", tmp_path / "policy"))
        copy.chmod(0o755)
        for file in copy.iterdir():
            file.chmod(0o644)
        return copy

    def edit(self, folder: Path, which: str, change: Callable[[dict], object]) -> None:
        path = folder / f"policy_{which}processor.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def step(self, content: dict, name: str) -> dict:
        return next(s for s in content["steps"] if s["registry_name"] == name)["config"]

    def test_identity_needs_no_statistics(self, folder: Path, references: Path) -> None:
        for which, name in (("pre", "normalizer_processor"), ("post", "unnormalizer_processor")):
            self.edit(
                folder,
                which,
                lambda c, n=name: self.step(c, n)["norm_map"].update(
                    STATE="IDENTITY", ACTION="IDENTITY"
                ),
            )
        policy = load_policy(folder, base=references / "tiny_wallx")
        assert "IDENTITY" in policy.description
        state = np.arange(6, dtype=np.float32)
        np.testing.assert_array_equal(policy._inputs._state(state).values[0, :6], state)

    def test_an_unknown_mode(self, folder: Path) -> None:
        self.edit(
            folder,
            "pre",
            lambda c: self.step(c, "normalizer_processor")["norm_map"].update(STATE="QUANTILE10"),
        )
        with pytest.raises(UserError, match="QUANTILE10"):
            read_processors(folder)

    def test_images_are_renamed(self, folder: Path, references: Path) -> None:
        names = {"observation.images.cam0": "observation.images.front"}
        self.edit(
            folder,
            "pre",
            lambda c: self.step(c, "rename_observations_processor").update(rename_map=names),
        )
        policy = load_policy(folder, base=references / "tiny_wallx")
        picture, other = np.zeros((120, 160, 3), np.uint8), np.ones((100, 90, 3), np.uint8)
        seen = {"state": np.zeros(6), "instruction": "go"}
        renamed = policy.inputs({**seen, "images": {"cam0": picture, "left_wrist_view": other}})
        plain = policy.inputs({**seen, "images": {"front": picture, "left_wrist_view": other}})
        assert torch.equal(renamed.pixel_values, plain.pixel_values)
        with pytest.raises(UserError, match="two images of the view front"):
            policy.inputs({**seen, "images": {"cam0": picture, "front": picture}})

    def test_statistics_of_fewer_columns(self, folder: Path, references: Path) -> None:
        path = folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
        tensors = load_file(path)
        for name in ("action.mean", "action.std"):
            tensors[name] = tensors[name][:5].clone()
        save_file(tensors, path)
        with pytest.raises(UserError, match="the statistics of the action have 5 columns, 6"):
            load_policy(folder, base=references / "tiny_wallx")
