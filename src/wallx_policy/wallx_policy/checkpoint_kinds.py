"""What kind of value each key of a checkpoint's files must have; which keys are known is elsewhere.

A value of another kind is refused by its key before anything is made of it.
"""

from __future__ import annotations

from typing import Any

from wallx_policy.json_shapes import Kind, each, flag, number, record, table, text, whole


def _long_side(value: Any) -> tuple[str, str] | None:
    good = value == -1 or whole()(value) is None
    return None if good else ("", f"must be pixels, or -1 for as it is, not {value!r}")


_ROPE = record(
    {
        "type": text,
        "rope_type": text,
        "mrope_section": each(whole(), length=3),
        "rope_theta": number(0.0),
    },
    needed=("mrope_section",),
)
_EXPERT = record(
    {"hidden_size": whole(), "intermediate_size": whole(), "hidden_act": text},
    needed=("hidden_size", "intermediate_size"),
)
_VISION_SIZES = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
)
_VISION = record(
    {
        **dict.fromkeys((*_VISION_SIZES, "in_chans", "in_channels"), whole()),
        "fullatt_block_indexes": each(whole(0)),
        "hidden_act": text,
    },
    needed=(*_VISION_SIZES, "fullatt_block_indexes"),
)
_SCHEDULER = record({"num_inference_timesteps": whole(), "time_shift": number(0.0)})
_TRAINED = {
    "dof_config": table(whole(0)),
    "agent_pos_config": table(whole(0)),
    "noise_scheduler": _SCHEDULER,
    "resolution": table(_long_side),
    "state_bins": whole(),
    "action_horizon": whole(),
    "action_horizon_flow": whole(),
    "use_state_string_representation": flag,
}
TRAINING: Kind = record({**_TRAINED, "use_embodied_system_prompt_ratio": number()})
"""``config.yml``: what it says to the keys that are read."""
CAMERAS: Kind = record({"camera": table(text)})
"""``key_mappings`` of ``config.yml``."""
_NETWORK_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
NETWORK: Kind = record(
    {
        **_TRAINED,
        "model_type": text,
        **dict.fromkeys(("attention_moe", "norm_moe", "mot_opt", "mlp_moe"), flag),
        **dict.fromkeys(
            (*_NETWORK_SIZES, "head_dim", "action_hidden_size", "state_hidden_size"), whole()
        ),
        "rms_norm_eps": number(0.0),
        "rope_theta": number(0.0),
        "rope_scaling": _ROPE,
        "rope_parameters": _ROPE,
        "experts": each(_EXPERT, length=2),
        "dim_inputs": each(whole(), length=2),
        "causal_action_attention_mask": flag,
        "vision_config": _VISION,
        **dict.fromkeys(
            (
                "image_token_id",
                "video_token_id",
                "vision_token_id",
                "vision_start_token_id",
                "vision_end_token_id",
            ),
            whole(0),
        ),
    },
    needed=(*_NETWORK_SIZES, "rms_norm_eps", "experts", "vision_config"),
)
"""``config.json`` of a network."""
_FEATURES = table(record({"type": text, "shape": each(whole())}, needed=("type", "shape")))
POLICY: Kind = record(
    {
        "input_features": _FEATURES,
        "output_features": _FEATURES,
        "normalization_mapping": table(text),
        "camera_key_mapping": table(text),
        "prediction_mode": text,
        "attn_implementation": text,
        "vision_attn_implementation": text,
        "action_branch": text,
        "pretrained_name_or_path": text,
        "action_tokenizer_path": text,
        **dict.fromkeys(
            (
                "n_obs_steps",
                "chunk_size",
                "max_action_dim",
                "max_state_dim",
                "num_inference_timesteps",
                "state_bins",
                "postprocess_action_dim",
            ),
            whole(),
        ),
    },
    needed=("input_features", "output_features"),
)
"""``config.json`` of a LeRobot policy."""
PROCESSOR: Kind = record(
    {
        "steps": each(
            record(
                {
                    "registry_name": text,
                    "state_file": text,
                    "config": record(
                        {
                            "rename_map": table(text),
                            "norm_map": table(text),
                            "camera_key_mapping": table(text),
                            "eps": number(0.0),
                        }
                    ),
                },
                needed=("registry_name",),
            )
        )
    },
    needed=("steps",),
)
"""``policy_preprocessor.json`` and ``policy_postprocessor.json``."""
IMAGES: Kind = record(
    {
        **dict.fromkeys(
            ("min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"),
            whole(),
        ),
        "size": record({"shortest_edge": whole(), "longest_edge": whole()}),
        "image_mean": each(number(), length=3),
        "image_std": each(number(0.0), length=3),
        "rescale_factor": number(0.0),
    },
    needed=("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"),
)
"""``preprocessor_config.json``."""
