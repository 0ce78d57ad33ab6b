"""Keys of configurations: what may stand there without changing what the model computes.

A key that is neither read, nor listed here, nor switched off is refused: it may be a flag that
changes the mathematics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What `network_config` reads or checks.
NETWORK_READ = _names(
    "model_type hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "rms_norm_eps rope_theta rope_scaling rope_parameters vision_config num_experts experts "
    "dim_inputs dof_config agent_pos_config noise_scheduler causal_action_attention_mask "
    "action_hidden_size state_hidden_size use_state_string_representation state_bins resolution "
    "action_horizon_flow action_horizon"
)
TOKEN_IDS: Mapping[str, str] = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_token_id": "<|vision_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""Tokens by the key of their id, which the tokenizer has to confirm."""
# Training and storage.
NETWORK_HARMLESS = _names(
    "architectures attention_dropout bos_token_id eos_token_id pad_token_id initializer_range "
    "intermediate_size max_position_embeddings max_window_layers sliding_window torch_dtype dtype "
    "transformers_version use_cache vocab_size layer_types ar_loss_weight flow_loss_weight "
    "use_x_loss attn_deterministic ar_dof_config weights auto_map chunk_size_feed_forward "
    "return_dict id2label label2id problem_type"
)
VISION_KNOWN = _names(
    "depth hidden_size intermediate_size num_heads out_hidden_size patch_size spatial_merge_size "
    "temporal_patch_size window_size fullatt_block_indexes hidden_act in_chans in_channels "
    "spatial_patch_size tokens_per_second model_type initializer_range torch_dtype dtype "
    "attn_deterministic transformers_version"
)
SCHEDULER_KNOWN = _names("beta_alpha beta_beta s t_eps num_inference_timesteps time_shift")
_LEROBOT_COMMON = _names(
    "type n_obs_steps input_features output_features device use_amp use_peft push_to_hub repo_id "
    "private tags license pretrained_path pretrained_revision chunk_size n_action_steps "
    "max_action_dim max_state_dim normalization_mapping pretrained_name_or_path "
    "optimizer_lr optimizer_betas optimizer_eps optimizer_weight_decay optimizer_grad_clip_norm "
    "scheduler_warmup_steps scheduler_decay_steps scheduler_decay_lr"
)
LEROBOT_KNOWN = _LEROBOT_COMMON | _names(
    "action_tokenizer_path prediction_mode attn_implementation vision_attn_implementation"
)
LEROBOT05_KNOWN = _LEROBOT_COMMON | _names(
    "vlm_config num_inference_timesteps action_branch camera_key_mapping state_bins "
    "tokenizer_max_length text_loss_weight flow_loss_weight postprocess_action_dim "
    "use_language_recipe recipe_path recipe"
)


def unknown_keys(content: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the keys that might change the model: not known, not private, not switched off."""
    return [
        key if isinstance(value, (dict, list)) else f"{key} = {value!r}"
        for key, value in content.items()
        if key not in known
        and not key.startswith("_")
        and value not in (None, False, 0, "", [], {})
    ]
