"""Shapes of random checkpoints: from one that a test writes in a blink to the released ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a network.

    Attributes:
        hidden: Width of the residual stream.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        inner: Feed-forward width of the expert of text and images.
        action_inner: Of the action expert.
        vision_depth: Blocks of the vision tower.
        vision_hidden: Its width.
        vision_inner: Its feed-forward width.
        vision_heads: Its heads.
        mrope: Rotary frequencies of time, height and width.
        action_tokens: Of FAST.
        horizon: Actions in a chunk.
        resolution: Long side by view, where it is not the layout's.
        rows: Embedding rows by layout; None for one by token.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    action_inner: int
    vision_depth: int
    vision_hidden: int
    vision_inner: int
    vision_heads: int
    mrope: tuple[int, int, int]
    action_tokens: int
    horizon: int = 32
    resolution: Mapping[str, int] | None = None
    rows: Mapping[str, int] | None = None


SIZES: Mapping[str, Size] = {
    # Half a million numbers; a second of motion at 25 Hz.
    "tiny": Size(
        hidden=64,
        layers=3,
        heads=4,
        kv_heads=2,
        inner=128,
        action_inner=64,
        vision_depth=4,
        vision_hidden=64,
        vision_inner=96,
        vision_heads=4,
        mrope=(2, 3, 3),
        action_tokens=512,
        horizon=25,
        resolution={"face_view": 112, "wrist_view": 84},
    ),
    # 59 million: what one measures on a CPU.
    "mid": Size(
        hidden=512,
        layers=8,
        heads=4,
        kv_heads=1,
        inner=2752,
        action_inner=512,
        vision_depth=8,
        vision_hidden=320,
        vision_inner=855,
        vision_heads=4,
        mrope=(16, 24, 24),
        action_tokens=2048,
    ),
    # Half a billion: for a small GPU.
    "large": Size(
        hidden=1024,
        layers=18,
        heads=8,
        kv_heads=2,
        inner=5504,
        action_inner=1024,
        vision_depth=16,
        vision_hidden=640,
        vision_inner=1710,
        vision_heads=8,
        mrope=(16, 24, 24),
        action_tokens=2048,
    ),
    # The released models.
    "full": Size(
        hidden=2048,
        layers=36,
        heads=16,
        kv_heads=2,
        inner=11008,
        action_inner=2048,
        vision_depth=32,
        vision_hidden=1280,
        vision_inner=3420,
        vision_heads=16,
        mrope=(16, 24, 24),
        action_tokens=2048,
        rows={
            "flow": 151936,
            "fast": 153715,
            "lerobot": 151667,
            "wall05": 155765,
            "lerobot05": 155765,
        },
    ),
}


def network_config(
    size: Size,
    *,
    transformer: bool,
    vocabulary: int,
    token_ids: Mapping[str, int],
    dof: Mapping[str, int],
) -> dict[str, Any]:
    """Return ``config.json`` of a network.

    Args:
        size: Its shape.
        transformer: Whether its experts share nothing, as in wall-oss-0.5.
        vocabulary: Tokens that it claims.
        token_ids: By the keys of the configuration.
        dof: Columns of state and action by group; empty where ``config.yml`` has them.
    """
    width = size.hidden // 2 if transformer else size.hidden
    groups = {"dof_config": dict(dof), "agent_pos_config": dict(dof)} if dof else {}
    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "weights": "random",
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": list(size.mrope)},
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
        **token_ids,
        "num_experts": 2,
        "experts": [
            {"hidden_size": size.hidden, "intermediate_size": size.inner, "hidden_act": "silu"},
            {"hidden_size": width, "intermediate_size": size.action_inner, "hidden_act": "silu"},
        ],
        "dim_inputs": [size.hidden, width],
        "mlp_moe": True,
        **(_transformer_flags(size, width) if transformer else _FLAGS),
        **groups,
        "noise_scheduler": {
            "beta_alpha": 1.5,
            "beta_beta": 1.0,
            "s": 0.999,
            "num_inference_timesteps": 10,
        },
        **({} if transformer or not size.resolution else {"resolution": dict(size.resolution)}),
        "vision_config": _vision(size),
    }


_FLAGS = {"attention_moe": False, "causal_action_attention_mask": False}


def _transformer_flags(size: Size, width: int) -> dict[str, Any]:
    return {
        "attention_moe": True,
        "norm_moe": True,
        "mot_opt": True,
        "action_hidden_size": width,
        "state_hidden_size": size.hidden,
        "causal_action_attention_mask": True,
        "use_adarms": False,
        "use_x_pred": False,
        "use_x_loss": True,
        "proj_with_mask": True,
        "use_state_string_representation": True,
        "action_horizon_flow": size.horizon,
    }


def _vision(size: Size) -> dict[str, Any]:
    quarter = max(1, size.vision_depth // 4)
    every = max(2, quarter)
    return {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_inner,
        "num_heads": size.vision_heads,
        "in_chans": 3,
        "out_hidden_size": size.hidden,
        "patch_size": 14,
        "spatial_patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": list(range(every - 1, size.vision_depth, every)),
        "tokens_per_second": 2,
        "hidden_act": "silu",
    }
