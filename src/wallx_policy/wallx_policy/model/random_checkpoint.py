"""Writes a tiny checkpoint with random weights for the simulated SO-101.

It exercises the whole path from camera image to joint command and knows nothing: it was never
trained. One path through it is set by hand, so that the arm does not tremble: velocities point
against the noise, as they do in a trained flow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from torch import Tensor

from wallx_policy.contract import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    Contract,
    Statistics,
    Unit,
    Weights,
)
from wallx_policy.model.config import read_config
from wallx_policy.model.tensors import EMBEDDING, tensor_shapes
from wallx_policy.model.tiny_tokenizer import build_tokenizer

STATISTICS_NAME = "so101_sim"
_COLUMNS = len(JOINT_NAMES)
_HIDDEN = 64
_POSE = (0.0, -60.0, 34.0, 60.0, 0.0, 20.0)
"""Degrees, gripper in percent: raised in front of the base, clear of the table."""
_SWING = (14.0, 8.0, 8.0, 10.0, 14.0, 15.0)
"""What an action of ±1 adds to the pose."""
_PULL = 8.0
"""How strongly the velocity points against the noise."""
_READ_OUT = 2.0
"""How much the actions follow what the layers make of images and words."""
_README = """# A random checkpoint

weights: random (seed {seed})

Nobody trained this. It has the layout of wall-oss-flow and a shape of its own, and serves to run
the whole inference path on a small machine. What the arm does with it means nothing.
"""


def write_random_checkpoint(folder: str | Path, seed: int = 0) -> Path:
    """Write the checkpoint into a folder, which is made if needed, and return its path.

    The same seed gives the same weights on every machine.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    config = _config(tokenizer.get_vocab_size())
    _write_json(path / "config.json", config)
    _write_json(path / "preprocessor_config.json", _image_settings())
    (path / "README.md").write_text(_README.format(seed=seed), encoding="utf-8")
    contract = _contract()
    contract.save(path)
    model = read_config(path, None).model
    shapes = tensor_shapes(model, tokenizer.get_vocab_size(), _COLUMNS)
    tensors = {name: _random(name, shape, seed) for name, shape in shapes.items()}
    _pull_noise_in(tensors, model.layers)
    tensors |= _normalizers(contract)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "weights": "random",
        "hidden_size": _HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
        "num_experts": 2,
        "experts": [
            {"hidden_size": _HIDDEN, "intermediate_size": 128, "hidden_act": "silu"},
            {"hidden_size": _HIDDEN, "intermediate_size": 64, "hidden_act": "silu"},
        ],
        "dim_inputs": [_HIDDEN, _HIDDEN],
        "attention_moe": False,
        "mlp_moe": True,
        "causal_action_attention_mask": False,
        "dof_config": {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1},
        "agent_pos_config": {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1},
        "noise_scheduler": {
            "beta_alpha": 1.5,
            "beta_beta": 1.0,
            "s": 0.999,
            "num_inference_timesteps": 10,
        },
        "resolution": {"face_view": 112, "wrist_view": 84},
        "vision_config": {
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": _HIDDEN,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
            "hidden_act": "silu",
        },
    }


def _image_settings() -> dict[str, Any]:
    return {
        "min_pixels": 56 * 56,
        "max_pixels": 16384 * 28 * 28,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def _contract() -> Contract:
    pose, swing = np.asarray(_POSE), np.asarray(_SWING)
    arm = Kinematics.from_urdf(data_path("so101.urdf"))
    limits = np.degrees(arm.position_limits_rad)
    limits[-1] = (0.0, 100.0)
    channels = tuple(
        Channel(name, Unit.PERCENT if name == "gripper" else Unit.DEG) for name in JOINT_NAMES
    )
    return Contract(
        embodiment="so101",
        action_space=ActionSpace.JOINT,
        cameras=(Camera("face_view", 320, 240), Camera("wrist_view", 240, 240)),
        state=channels,
        action=channels,
        period_s=0.04,
        horizon=25,
        action_kind=ActionKind.GOAL,
        image_age_s=0.0,
        state_statistics=_extent(limits[:, 0], limits[:, 1]),
        action_statistics=_extent(pose - swing, pose + swing),
        weights=Weights.RANDOM,
    )


def _extent(low: np.ndarray, high: np.ndarray) -> Statistics:
    return Statistics(min=tuple(low.round(3).tolist()), max=tuple(high.round(3).tolist()))


def _normalizers(contract: Contract) -> dict[str, Tensor]:
    tensors = {}
    for feature, statistics in (
        ("propri", contract.state_statistics),
        ("action", contract.action_statistics),
    ):
        low, high = torch.tensor(statistics.min), torch.tensor(statistics.max)
        name = f"action_preprocessor.normalizer_{feature}"
        tensors[f"{name}.min.{STATISTICS_NAME}"] = low
        tensors[f"{name}.delta.{STATISTICS_NAME}"] = high - low
    return tensors


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return a normal tensor that depends on its name and the seed only."""
    generator = torch.Generator().manual_seed(crc32(f"{seed} {name}".encode()))
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        fan_in = values[0].numel()
        return values * (0.5 if name == EMBEDDING else fan_in**-0.5)
    return values * 0.1 + (0.0 if name.endswith("bias") else 1.0)


def _pull_noise_in(tensors: dict[str, Tensor], layers: int) -> None:
    """Lead the noisy action past the layers, so that the velocity can point against it.

    The first columns of the residual stream carry the action and nothing else: it enters through a
    large constant, where silu is a line, and no layer writes there.
    """
    carried = slice(0, _COLUMNS)
    eye = torch.eye(_COLUMNS)
    last, constant = _HIDDEN - 1, 8.0
    w1, w2, w3 = (tensors[f"action_preprocessor.w{i}.weight"] for i in (1, 2, 3))
    w1[carried] = 0.0
    w1[carried, :_COLUMNS] = eye
    w2[carried] = 0.0
    w2[carried, :_COLUMNS] = eye
    w2[last] = 0.0
    # The slowest cosine of the time embedding is 1 at all times.
    w2[carried, -1] = w2[last, -1] = constant
    w3[:, carried] = w3[:, last : last + 1] = 0.0
    w3[carried] = 0.0
    w3[carried, :_COLUMNS] = eye
    w3[carried, last] = -1.0
    for n in range(layers):
        tensors[f"model.layers.{n}.self_attn.o_proj.weight"][carried] = 0.0
        tensors[f"model.layers.{n}.moe.experts.1.down_proj.weight"][carried] = 0.0
    back = tensors["action_preprocessor.action_proj_back.weight"]
    back *= _READ_OUT
    back[:, carried] = -_PULL * eye


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
