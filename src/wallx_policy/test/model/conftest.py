"""What the tests of the model share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of our own; do not change it."""
    from wallx_policy.random_checkpoints import write_random_checkpoint

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


@pytest.fixture
def wall05(references: Path, tmp_path: Path) -> Path:
    """A copy of the tiny wall-oss-0.5 checkpoint that a test may change."""
    return _copied(references / "tiny_wallx05", tmp_path / "wall05")


@pytest.fixture
def lerobot05(references: Path, tmp_path: Path) -> Path:
    """The same model as a LeRobot policy: 26 columns, statistics in the processor files."""
    folder = _copied(references / "tiny_wallx05", tmp_path / "lerobot05")
    for name in ("normalizer_action.pth", "normalizer_propri.pth", "chat_template.json"):
        (folder / name).unlink()
    network = json.loads((folder / "config.json").read_text())
    _write(folder / "config.json", _lerobot05_config(network))
    tensors = load_file(folder / "model.safetensors")
    statistics = {}
    for feature, ours in (("observation.state", "propri"), ("action", "action")):
        name = f"action_preprocessor.normalizer_{ours}"
        low = tensors.pop(f"{name}.min.x2_normal")
        statistics[f"{feature}.q01"] = low
        statistics[f"{feature}.q99"] = low + tensors.pop(f"{name}.delta.x2_normal")
    save_file(tensors, folder / "model.safetensors")
    save_file(statistics, folder / "statistics.safetensors")
    norm = {"STATE": "QUANTILES", "ACTION": "QUANTILES", "VISUAL": "IDENTITY"}
    for name, steps in (("pre", _PRE_05), ("post", _POST_05)):
        listed = [{"registry_name": step, "config": {}} for step in steps]
        for step in listed:
            if "normalizer" in step["registry_name"]:
                step["config"] = {"eps": 1e-8, "norm_map": norm}
                step["state_file"] = "statistics.safetensors"
        _write(folder / f"policy_{name}processor.json", {"steps": listed})
    return folder


_PRE_05 = (
    "rename_observations_processor",
    "to_batch_processor",
    "wall_oss_05_task_passthrough",
    "wall_oss_05_pad_state",
    "wall_oss_05_pad_action",
    "normalizer_processor",
    "wall_oss_05_clamp_normalized",
    "device_processor",
)
_POST_05 = ("unnormalizer_processor", "wall_oss_05_crop_action", "device_processor")


def _lerobot05_config(network: dict) -> dict:
    image = {"type": "VISUAL", "shape": [3, 120, 160]}
    return {
        "type": "wall_oss_05",
        "n_obs_steps": 1,
        "chunk_size": 32,
        "n_action_steps": 32,
        "max_action_dim": 26,
        "max_state_dim": 26,
        "num_inference_timesteps": 10,
        "action_branch": "flow",
        "tokenizer_max_length": 1000,
        "input_features": {
            "observation.images.front": image,
            "observation.images.wrist": image,
            "observation.state": {"type": "STATE", "shape": [26]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [26]}},
        "camera_key_mapping": {
            "observation.images.front": "face_view",
            "observation.images.wrist": "right_wrist_view",
        },
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "QUANTILES"},
        "vlm_config": network,
    }


def _copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    target.chmod(0o755)  # the references may be read-only
    for file in target.iterdir():
        file.chmod(0o644)
    return target


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
