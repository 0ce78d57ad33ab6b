"""Weights are the same in one file or several, joined or not, for flow and for FAST."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.contract import PredictionMode
from wallx_policy.model import load_policy
from wallx_policy.model.checkpoint import ModelWeights, read_weights
from wallx_policy.model.config import Layout, read_config
from wallx_policy.model.tensors import fused_name

Observe = Callable[..., dict]


def sharded(folder: Path) -> dict[str, str]:
    """Split a folder's one file in two; return what the index says."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, mapping = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        mapping |= dict.fromkeys(part, file)
    write_index(folder, mapping)
    return mapping


def write_index(folder: Path, mapping: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))


def test_shards_are_one_model(
    changed_checkpoint: Path, random_checkpoint: Path, observe: Observe
) -> None:
    whole = load_policy(random_checkpoint)
    sharded(changed_checkpoint)
    parts = load_policy(changed_checkpoint)
    noise = whole.noise(1)
    np.testing.assert_array_equal(
        whole.predict(observe(), noise).actions, parts.predict(observe(), noise).actions
    )


def test_shards_that_do_not_match_their_index(changed_checkpoint: Path) -> None:
    mapping = sharded(changed_checkpoint)
    name = "model.norm.weight"
    other = next(file for file in mapping.values() if file != mapping[name])
    for wrong, words in (
        ({**mapping, name: other}, name),
        ({**mapping, "extra": other}, "extra"),
        ({**mapping, name: "../elsewhere.safetensors"}, "beside it"),
        ({**mapping, name: "model.bin"}, "model.bin"),
        ({**mapping, name: "model-3.safetensors"}, "model-3.safetensors is missing"),
        ({}, "weight_map"),
    ):
        write_index(changed_checkpoint, wrong)
        with pytest.raises(UserError, match=words):
            load_policy(changed_checkpoint)


def test_a_tensor_that_is_not_finite_in_its_last_piece(changed_checkpoint: Path) -> None:
    path = changed_checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat((tensors[name], torch.zeros(40_000, 64)))
    tensors[name][-1, -1] = -torch.inf
    save_file(tensors, path)
    with pytest.raises(UserError, match=f"not finite: {name}"):
        load_policy(changed_checkpoint)


def test_both_experts_share_what_the_file_has_once(random_checkpoint: Path) -> None:
    config = read_config(random_checkpoint, None)
    weights = read_weights(random_checkpoint, config.layout, config.model, "cpu", torch.float32)
    for first, second in weights.layers:
        for name in ("input_norm", "qkv", "qkv_bias", "out", "post_norm"):
            assert getattr(first, name) is getattr(second, name)
        assert first.gate_up is not second.gate_up


def test_state_and_action_may_differ_in_columns(changed_checkpoint: Path, observe: Observe) -> None:
    path = changed_checkpoint / "config.json"
    groups = {"arm": 5, "gripper": 1, "current": 2}
    path.write_text(json.dumps({**json.loads(path.read_text()), "agent_pos_config": groups}))
    with pytest.raises(UserError, match=r"propri_proj.weight is \[64, 12\], not \[64, 16\]"):
        load_policy(changed_checkpoint)
    tensors = load_file(changed_checkpoint / "model.safetensors")
    tensors["action_preprocessor.propri_proj.weight"] = torch.randn(64, 16)
    save_file(tensors, changed_checkpoint / "model.safetensors")
    policy = load_policy(changed_checkpoint)
    inputs = policy.inputs(observe())
    assert inputs.state.shape == (1, 8)
    assert inputs.state_mask[0].tolist() == [1.0] * 6 + [0.0] * 2
    assert policy.predict(observe(), policy.noise(0)).actions.shape == (25, 6)


class TestFast:
    """wall-oss-fast: the layout of flow, more tokens, and no word on it in the configuration."""

    @pytest.fixture
    def folder(self, references: Path, tmp_path: Path) -> Path:
        copy = Path(shutil.copytree(references / "tiny_wallx", tmp_path / "fast"))
        copy.chmod(0o755)
        for file in copy.iterdir():
            file.chmod(0o644)
        return copy

    def weights(self, folder: Path) -> ModelWeights:
        config = read_config(folder, None)
        assert config.layout is Layout.ORIGINAL
        return read_weights(folder, config.layout, config.model, "cpu", torch.float32)

    def test_split_and_fused_keys_are_the_same(self, folder: Path) -> None:
        split = self.weights(folder)
        path = folder / "model.safetensors"
        tensors, parts = load_file(path), {}
        for layer in ("q", "k", "v", "gate", "up", ""):
            for name in sorted(tensors):
                fused = fused_name(name)
                if f".{layer}_proj." in name and fused != name:
                    parts.setdefault(fused, []).append(tensors[name])
                elif not layer and fused == name:
                    parts[name] = [tensors[name]]
        save_file({name: torch.cat(ts) for name, ts in parts.items()}, path)
        fused = self.weights(folder)
        assert torch.equal(split.layers[2][1].gate_up, fused.layers[2][1].gate_up)
        assert torch.equal(split.layers[1][0].qkv_bias, fused.layers[1][0].qkv_bias)
        for name, tensor in split.vision.items():
            assert torch.equal(tensor, fused.vision[name]), name

    def test_a_fused_tensor_that_is_missing_is_called_by_its_name(self, folder: Path) -> None:
        self.test_split_and_fused_keys_are_the_same(folder)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = "model.layers.1.self_attn.qkv_proj.weight"
        del tensors[name]
        save_file(tensors, path)
        with pytest.raises(UserError, match=f"missing: {name}$"):
            self.weights(folder)

    def test_the_rows_are_those_of_the_file(self, folder: Path) -> None:
        rows = len(load_file(folder / "model.safetensors")["model.embed_tokens.weight"])
        weights = self.weights(folder)
        assert weights.embedding.shape[0] == rows
        assert weights.columns == weights.state_columns == 20

    def test_a_lerobot_policy_says_so_itself(self, references: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(references / "lerobot_wall_x", tmp_path / "policy"))
        path = folder / "config.json"
        path.chmod(0o644)
        path.write_text(path.read_text().replace('"diffusion"', '"fast"'))
        config = read_config(folder, references / "tiny_wallx")
        assert config.prediction is PredictionMode.FAST
        weights = read_weights(folder, config.layout, config.model, "cpu", torch.float32)
        assert weights.columns == 20
