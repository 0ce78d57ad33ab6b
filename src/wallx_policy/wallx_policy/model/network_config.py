"""The network's own part of ``config.json``: its shape, and flags that change its mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError

from wallx_policy.checkpoint_kinds import NETWORK
from wallx_policy.json_shapes import check
from wallx_policy.model.config_keys import (
    NETWORK_HARMLESS,
    NETWORK_READ,
    SCHEDULER_KNOWN,
    TOKEN_IDS,
    VISION_KNOWN,
    unknown_keys,
)
from wallx_policy.model.config_types import ExpertShape, Mixture, ModelConfig

# Flags that change the mathematics, with the one value that is implemented.
_FLAGS: Mapping[str, Any] = {
    "num_experts": 2,
    "mlp_moe": True,
    "use_adarms": False,
    "use_x_pred": False,
    "use_flow_action_expert": True,
    "proj_with_mask": True,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
_TRANSFORMER_FLAGS = ("attention_moe", "norm_moe", "mot_opt")
"""All on in wall-oss-0.5, all off before."""


def is_wall(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of a WALL-OSS network."""
    return "num_experts" in config and ("dof_config" in config or "mlp_moe" in config)


def mixture(path: Path, config: Mapping[str, Any]) -> Mixture:
    """Return what the experts do not share.

    Raises:
        UserError: for a mixture in between, naming the flag.
    """
    on = [flag for flag in _TRANSFORMER_FLAGS if config.get(flag)]
    if on and len(on) < len(_TRANSFORMER_FLAGS):
        off = next(flag for flag in _TRANSFORMER_FLAGS if flag not in on)
        raise UserError(f"{path}: {on[0]} without {off} is not implemented, only all or none")
    return Mixture.TRANSFORMER if on else Mixture.MLP


def read_network(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    """Return the shape of the network.

    Raises:
        UserError: naming the file and the flag or key that is missing or not implemented.
    """
    model_type = str(config.get("model_type") or "")
    if model_type.startswith("qwen3"):
        raise UserError(f"{path}: model_type {model_type!r} is a WALL generation not implemented")
    if not is_wall(config):
        raise UserError(
            f"{path} is no WALL-OSS checkpoint: it lacks num_experts and dof_config "
            f"(model_type {model_type!r})"
        )
    for flag, value in _FLAGS.items():
        if config.get(flag, value) != value:
            raise UserError(f"{path}: {flag} = {config[flag]!r} is not implemented, only {value!r}")
    check(path, config, NETWORK)
    kind = mixture(path, config)
    scheduler = config.get("noise_scheduler") or {}
    shift = scheduler.get("time_shift", 1)
    if shift != 1:
        raise UserError(f"{path}: noise_scheduler.time_shift = {shift} is not implemented")
    known = {*NETWORK_READ, *NETWORK_HARMLESS, *TOKEN_IDS, *_FLAGS, *_TRANSFORMER_FLAGS}
    unknown = unknown_keys(config, known)
    unknown += [f"noise_scheduler.{key}" for key in unknown_keys(scheduler, SCHEDULER_KNOWN)]
    vision = config.get("vision_config") or {}
    unknown += [f"vision_config.{key}" for key in unknown_keys(vision, VISION_KNOWN)]
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)}: not implemented; remove what is no flag")
    try:
        return _shape(path, config, kind)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path} lacks or garbles {error}") from error


def _shape(path: Path, config: Mapping[str, Any], kind: Mixture) -> ModelConfig:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim = hidden // heads
    if config.get("head_dim", head_dim) != head_dim:
        raise UserError(f"{path}: head_dim = {config['head_dim']} is not implemented")
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if rope is None:
        raise UserError(f"{path}: rope_scaling is missing")
    if rope.get("type", rope.get("rope_type")) not in ("mrope", "default"):
        raise UserError(f"{path}: rope_scaling {rope} is not implemented, only mrope")
    section = tuple(int(n) for n in rope["mrope_section"])
    _check_vision(path, config["vision_config"])
    if sum(section) * 2 != head_dim:
        raise UserError(f"{path}: mrope_section {section} does not fill heads of {head_dim}")
    text = config.get("use_state_string_representation")
    state_token = None if text is None and kind is Mixture.TRANSFORMER else not text
    return ModelConfig(
        hidden_size=hidden,
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config["num_key_value_heads"]),
        head_dim=head_dim,
        experts=_experts(path, config, kind, hidden),
        mixture=kind,
        rms_eps=float(config["rms_norm_eps"]),
        rope_theta=float(config["rope_theta"] if "rope_theta" in config else rope["rope_theta"]),
        mrope_section=section,  # type: ignore[arg-type]
        vision=dict(config["vision_config"]),
        dof=_groups(config, "dof_config"),
        agent_pos=_groups(config, "agent_pos_config"),
        state_token=state_token,
        token_ids={
            token: int(config[key])
            for key, token in TOKEN_IDS.items()
            if config.get(key) is not None
        },
    )


def _experts(
    path: Path, config: Mapping[str, Any], kind: Mixture, hidden: int
) -> tuple[ExpertShape, ExpertShape]:
    shapes = []
    for expert in config["experts"]:
        if expert.get("hidden_act", "silu") != "silu":
            raise UserError(f"{path}: hidden_act of expert {expert} is not implemented")
        shapes.append(ExpertShape(int(expert["hidden_size"]), int(expert["intermediate_size"])))
    first, second = shapes
    widths = [first.width, second.width]
    narrow = kind is Mixture.TRANSFORMER
    if first.width != hidden or second.width > hidden or (second.width != hidden and not narrow):
        raise UserError(f"{path}: experts of widths {widths} are not implemented")
    said = {
        "dim_inputs": [int(width) for width in config.get("dim_inputs", widths)],
        "action_hidden_size": config.get("action_hidden_size", second.width),
        "state_hidden_size": config.get("state_hidden_size", hidden),
    }
    wanted = {
        "dim_inputs": widths,
        "action_hidden_size": second.width,
        "state_hidden_size": hidden,
    }
    for key, value in wanted.items():
        if said[key] != value:
            raise UserError(f"{path}: {key} = {said[key]} is not implemented, only {value}")
    return first, second


def _check_vision(path: Path, vision: Mapping[str, Any]) -> None:
    """Refuse what no shape of a tensor would show."""
    if vision.get("hidden_act", "silu") != "silu":
        raise UserError(
            f"{path}: vision_config.hidden_act = {vision['hidden_act']!r} is not implemented"
        )
    hidden, heads = vision["hidden_size"], vision["num_heads"]
    if hidden % (4 * heads):
        raise UserError(
            f"{path}: vision_config.num_heads = {heads} does not divide hidden_size {hidden} into "
            "heads of a multiple of 4"
        )
    beyond = [n for n in vision["fullatt_block_indexes"] if n >= vision["depth"]]
    if beyond:
        raise UserError(
            f"{path}: vision_config.fullatt_block_indexes names block {beyond[0]} of "
            f"{vision['depth']}"
        )
    window, token = vision["window_size"], vision["patch_size"] * vision["spatial_merge_size"]
    if window % token:
        raise UserError(
            f"{path}: vision_config.window_size = {window} is no multiple of a token's {token}"
        )


def _groups(config: Mapping[str, Any], key: str) -> dict[str, int]:
    return {str(name): int(width) for name, width in (config.get(key) or {}).items()}
