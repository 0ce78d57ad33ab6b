"""The files of a random checkpoint besides its tensors, as each layout has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from wallx_policy.lerobot_files import ACTION_FEATURE, IMAGE_PREFIX, STATE_FEATURE
from wallx_policy.random_checkpoints.robots import Robot
from wallx_policy.random_checkpoints.vocabularies import (
    CODE_SCALE,
    MIN_CODE,
    build_action_tokenizer,
)

ACTION_TOKENIZER = "action_tokenizer"
"""Folder of the FAST tokenizer in a checkpoint that has one."""
STATE_BINS = 256
_STEPS = {
    "wall_x": (
        "rename_observations_processor",
        "to_batch_processor",
        "wall_x_task_processor",
        "normalizer_processor",
        "device_processor",
    ),
    "wall_oss_05": (
        "rename_observations_processor",
        "to_batch_processor",
        "wall_oss_05_task_passthrough",
        "wall_oss_05_pad_state",
        "wall_oss_05_pad_action",
        "normalizer_processor",
        "wall_oss_05_clamp_normalized",
        "device_processor",
    ),
}
_LAST_STEPS = {
    "wall_x": ("unnormalizer_processor", "device_processor"),
    "wall_oss_05": ("unnormalizer_processor", "wall_oss_05_crop_action", "device_processor"),
}
_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "rename_observations_processor": {"rename_map": {}},
    "device_processor": {"device": "cpu", "float_dtype": None},
}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def image_settings() -> dict[str, Any]:
    """Return ``preprocessor_config.json``, the same in every layout."""
    return {
        "min_pixels": 56 * 56,
        "max_pixels": 16384 * 28 * 28,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def write_train_config(
    folder: Path,
    robot: Robot,
    columns: int,
    horizon: int,
    resolution: Mapping[str, int] | None,
    *,
    state_text: bool,
) -> None:
    """Write ``config.yml``, which wall-x keeps beside ``config.json``."""
    groups = robot.padded_groups(columns)
    content = {
        "dof_config": groups,
        "agent_pos_config": groups,
        "action_horizon_flow": horizon,
        "data": {
            "key_mappings": {"camera": _views(robot)},
            **({"state_bins": STATE_BINS} if state_text else {}),
            **({"resolution": dict(resolution)} if resolution else {}),
        },
    }
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / "config.yml").write_text(text, encoding="utf-8")


def normalizers(robot: Robot, columns: int) -> dict[str, list[float]]:
    """Return wall-x's statistics by tensor name, as many as the model has columns."""
    found = {}
    for feature, extent in (("propri", robot.state), ("action", robot.action)):
        low, high = (_filled(values, columns) for values in extent)
        name = f"action_preprocessor.normalizer_{feature}"
        found[f"{name}.min.{robot.statistics_name}"] = low.tolist()
        found[f"{name}.delta.{robot.statistics_name}"] = (high - low).tolist()
    return found


def write_pickles(folder: Path, values: Mapping[str, list[float]]) -> None:
    """Write wall-x's statistics as ``normalizer_action.pth`` and ``normalizer_propri.pth``."""
    for feature in ("action", "propri"):
        prefix = f"action_preprocessor.normalizer_{feature}."
        tensors = {
            name.removeprefix(prefix): torch.tensor(numbers)
            for name, numbers in values.items()
            if name.startswith(prefix)
        }
        torch.save(tensors, folder / f"normalizer_{feature}.pth")


def policy_config(
    kind: str, robot: Robot, columns: int, horizon: int, network: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``config.json`` of a LeRobot policy.

    Args:
        kind: ``wall_x`` or ``wall_oss_05``.
        robot: What it drives.
        columns: Of the model, for state and action.
        horizon: Actions in a chunk.
        network: Configuration of the network, which only ``wall_oss_05`` holds itself.
    """
    mode = "QUANTILES" if kind == "wall_oss_05" else "MEAN_STD"
    images = {
        f"{IMAGE_PREFIX}{camera.view}": {
            "type": "VISUAL",
            "shape": [3, camera.height, camera.width],
        }
        for camera in robot.cameras
    }
    content = {
        "type": kind,
        "n_obs_steps": 1,
        "input_features": {
            **images,
            STATE_FEATURE: {"type": "STATE", "shape": [robot.columns]},
        },
        "output_features": {ACTION_FEATURE: {"type": "ACTION", "shape": [robot.columns]}},
        "device": "cpu",
        "tags": ["random-weights"],
        "chunk_size": horizon,
        "n_action_steps": horizon,
        "max_action_dim": columns,
        "max_state_dim": columns,
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
    }
    if kind == "wall_x":
        return {
            **content,
            "pretrained_name_or_path": "base",
            "action_tokenizer_path": None,
            "prediction_mode": "diffusion",
            "attn_implementation": "eager",
            "vision_attn_implementation": "auto",
        }
    return {
        **content,
        "vlm_config": dict(network),
        "num_inference_timesteps": 10,
        "action_branch": "flow",
        "state_bins": STATE_BINS,
        "camera_key_mapping": _views(robot),
        "tokenizer_max_length": 1000,
    }


def write_processors(folder: Path, kind: str, robot: Robot, columns: int) -> None:
    """Write a LeRobot policy's processor files.

    Args:
        folder: The checkpoint.
        kind: ``wall_x`` or ``wall_oss_05``.
        robot: What it drives.
        columns: Of the statistics; those of ``wall_oss_05`` are padded.
    """
    mode = "QUANTILES" if kind == "wall_oss_05" else "MEAN_STD"
    norm = {"eps": 1e-8, "norm_map": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}}
    statistics = _lerobot_statistics(robot, columns)
    for name, steps in (("pre", _STEPS[kind]), ("post", _LAST_STEPS[kind])):
        listed = []
        for number, step in enumerate(steps):
            entry = {"registry_name": step, "config": dict(_CONFIGS.get(step, {}))}
            if "normalizer" in step:
                file = f"policy_{name}processor_step_{number}_{step}.safetensors"
                save_file(statistics, folder / file)
                entry |= {"config": norm, "state_file": file}
            listed.append(entry)
        content = {"name": f"policy_{name}processor", "steps": listed}
        write_json(folder / f"policy_{name}processor.json", content)


def write_action_tokenizer(folder: Path, size: int) -> None:
    """Write a FAST tokenizer of our own, in the files that released ones have."""
    folder.mkdir()
    build_action_tokenizer(size).save(str(folder / "tokenizer.json"))
    settings = {
        "scale": CODE_SCALE,
        "min_token": MIN_CODE,
        "vocab_size": size,
        "time_horizon": None,
        "action_dim": None,
    }
    write_json(folder / "processor_config.json", settings)


def _views(robot: Robot) -> dict[str, str]:
    return {f"{IMAGE_PREFIX}{camera.view}": camera.view for camera in robot.cameras}


def _lerobot_statistics(robot: Robot, columns: int) -> dict[str, NDArray[np.float32]]:
    found = {}
    for feature, extent in ((STATE_FEATURE, robot.state), (ACTION_FEATURE, robot.action)):
        low, high = (_filled(values, columns) for values in extent)
        numbers = {"min": low, "max": high, "q01": low, "q99": high, "mean": (low + high) / 2}
        # Half the range, so that ±1 means the same in every mode; 1 where nothing ever moved.
        numbers["std"] = np.where(high > low, (high - low) / 2, 1.0)
        found |= {f"{feature}.{name}": v.astype(np.float32) for name, v in numbers.items()}
    return found


def _filled(values: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    return np.concatenate([values, np.zeros(columns - len(values))])
