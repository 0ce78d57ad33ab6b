"""The vision tower: transformers' Qwen2.5-VL, built from our configuration and our tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from so101_driver.errors import UserError
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

_KEYS = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
    "fullatt_block_indexes",
)


def _empty_tower(vision: Mapping[str, Any]) -> Qwen2_5_VisionTransformerPretrainedModel:
    missing = [key for key in _KEYS if key not in vision]
    if missing:
        raise UserError(f"vision_config lacks {', '.join(missing)}")
    if vision.get("hidden_act", "silu") != "silu":
        raise UserError(f"vision_config: hidden_act {vision['hidden_act']!r} is not implemented")
    config = Qwen2_5_VLVisionConfig(
        **{key: vision[key] for key in _KEYS},
        hidden_act="silu",
        # The released files and transformers spell this key differently.
        in_channels=vision.get("in_chans", vision.get("in_channels", 3)),
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return Qwen2_5_VisionTransformerPretrainedModel(config)


def vision_shapes(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the tower by name."""
    tower = _empty_tower(vision)
    return {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}


class VisionTower:
    """Turns patches into one embedding for every 2×2 of them."""

    def __init__(self, vision: Mapping[str, Any], weights: dict[str, Tensor], bf16_rotary: bool):
        """Take the tensors as they are; ``bf16_rotary`` rounds the frequencies as LeRobot does."""
        self._tower = _empty_tower(vision)
        self._tower.load_state_dict(weights, strict=True, assign=True)
        self._device = next(iter(weights.values())).device
        # Frequencies are computed, not loaded, so they have to be made again off the meta device.
        rotary = type(self._tower.rotary_pos_emb)(self._tower.config)
        if bf16_rotary:
            rotary.inv_freq = rotary.inv_freq.to(torch.bfloat16)
        self._tower.rotary_pos_emb = rotary.to(self._device)
        self._tower.eval().requires_grad_(False)

    def __call__(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """Return embeddings [sum of patches / 4, out_hidden_size].

        Args:
            pixel_values: [patches, channels · temporal · patch²], f32.
            grid_thw: [images, 3], patches in time, height and width.
        """
        output = self._tower(
            pixel_values.to(self._device), grid_thw=grid_thw.to(self._device), return_dict=True
        )
        return output.pooler_output
