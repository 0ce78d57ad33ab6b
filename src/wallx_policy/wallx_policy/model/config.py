"""Reads what a checkpoint's files decide; a layout's defaults fill what they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError

from wallx_policy import train_config
from wallx_policy.checkpoint_kinds import POLICY
from wallx_policy.contract_types import PredictionMode
from wallx_policy.dof_groups import columns_in_use
from wallx_policy.json_shapes import check
from wallx_policy.lerobot_files import CAMERAS_05, IMAGE_PREFIX, read_json
from wallx_policy.model.config_keys import LEROBOT05_KNOWN, LEROBOT_KNOWN, unknown_keys
from wallx_policy.model.config_types import (
    ActionAttention,
    CheckpointConfig,
    InactiveColumns,
    Layout,
    Mixture,
    ModelConfig,
    StateEncoding,
    StepGrid,
)
from wallx_policy.model.network_config import read_network

__all__ = [
    "ActionAttention",
    "CheckpointConfig",
    "InactiveColumns",
    "Layout",
    "Mixture",
    "ModelConfig",
    "StateEncoding",
    "StepGrid",
    "read_config",
]

LONG_SIDE = 256
"""Of a view after the first resize, unless the checkpoint says otherwise."""
LONG_SIDE_05 = 448
HORIZON = 32
LEROBOT_STEPS = 10
"""LeRobot integrates in ten steps whatever the configuration says."""
END_TIME_05 = 0.999
LEROBOT_STATE_BINS = 512
"""LeRobot's port of wall-oss-0.5 knows no other number."""
_MODES = {"diffusion": PredictionMode.FLOW, "fast": PredictionMode.FAST}
_BASE_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")


def read_config(folder: Path, base: Path | None) -> CheckpointConfig:
    """Read a checkpoint's configuration.

    Args:
        folder: The checkpoint.
        base: Where tokenizer, image processor and network configuration of a ``wall_x`` policy lie.

    Raises:
        UserError: for a layout or a flag that is not implemented, naming it.
    """
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder} is not a folder: give the folder of a checkpoint")
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("type")
    if kind == "wall_x":
        return _lerobot(folder, config, base)
    if base is not None:
        raise UserError(f"{folder} brings its own tokenizer: leave base out")
    if kind == "wall_oss_05":
        return _lerobot05(folder, config)
    if kind is not None:
        raise UserError(
            f"{path}: policy type {kind!r} is not implemented, only 'wall_x' and 'wall_oss_05' are"
        )
    return _own(folder, config)


def _own(folder: Path, config: Mapping[str, Any]) -> CheckpointConfig:
    """Read a checkpoint that wall-x itself wrote."""
    path = folder / "config.json"
    content = train_config.merged(folder, config)
    model = read_network(path, content)
    new = model.mixture is Mixture.TRANSFORMER
    if not new and not model.dof:
        raise UserError(f"{path} lacks dof_config")
    views = train_config.cameras(folder)
    fast = not new and train_config.predicts_fast(folder)
    points = (content.get("noise_scheduler") or {}).get("num_inference_timesteps") or 10
    return CheckpointConfig(
        layout=Layout.WALL05 if new else Layout.ORIGINAL,
        model=model,
        base=folder,
        prediction=PredictionMode.FAST if fast else None,
        # The original takes that many *points* of a grid, hence one step fewer.
        grid=StepGrid(points, END_TIME_05) if new else StepGrid(points - 1),
        action_attention=_attention(content),
        resize="pil",
        state_encoding=_state_encoding(model),
        state_bins=_whole(path, content, "state_bins"),
        inactive=InactiveColumns.ZERO if new else InactiveColumns.MODEL,
        cameras=tuple(dict.fromkeys(views.values())) or None,
        views=views,
        resolution={str(k): int(v) for k, v in (content.get("resolution") or {}).items()},
        long_side=LONG_SIDE_05 if new else LONG_SIDE,
        horizon=_horizon(path, content),
        action_dim=columns_in_use(model.dof),
        all_columns_active=False,
        state_dim=columns_in_use(model.agent_pos),
        columns=sum(model.dof.values()) or None,
        state_columns=sum(model.agent_pos.values()) or None,
    )


def _lerobot(folder: Path, config: Mapping[str, Any], base: Path | None) -> CheckpointConfig:
    path = folder / "config.json"
    check(path, config, POLICY)
    _check_policy(path, config, LEROBOT_KNOWN)
    mode = config.get("prediction_mode", "diffusion")
    if mode not in _MODES:
        raise UserError(f"{path}: prediction_mode {mode!r} is not implemented")
    source = _base_folder(folder, config, base)
    model = read_network(source / "config.json", read_json(source / "config.json"))
    if model.mixture is not Mixture.MLP:
        raise UserError(f"{path}: a wall_x policy of a wall-oss-0.5 base is not implemented")
    return CheckpointConfig(
        layout=Layout.LEROBOT,
        model=model,
        base=source,
        prediction=_MODES[mode],
        grid=StepGrid(LEROBOT_STEPS),
        action_attention=ActionAttention.ISLAND,
        # The key came with LeRobot 0.6, as did resizing by torchvision.
        resize="torchvision" if "vision_attn_implementation" in config else "pil",
        state_encoding=_state_encoding(model),
        state_bins=None,
        inactive=InactiveColumns.MODEL,
        cameras=_visual(config),
        views={},
        resolution={},
        long_side=LONG_SIDE,
        horizon=_whole(path, config, "chunk_size") or HORIZON,
        action_dim=_columns(path, config, "output_features", "action"),
        all_columns_active=False,
        state_dim=_columns(path, config, "input_features", "observation.state"),
        columns=_whole(path, config, "max_action_dim"),
        state_columns=_whole(path, config, "max_state_dim"),
        action_tokenizer=_local(config.get("action_tokenizer_path")),
    )


def _lerobot05(folder: Path, config: Mapping[str, Any]) -> CheckpointConfig:
    path = folder / "config.json"
    network = config.get("vlm_config")
    if not isinstance(network, Mapping):
        raise UserError(f"{path} lacks vlm_config, the network's configuration")
    check(path, config, POLICY)
    _check_policy(path, config, LEROBOT05_KNOWN)
    if config.get("action_branch", "flow") != "flow":
        raise UserError(f"{path}: action_branch {config['action_branch']!r} is not implemented")
    steps = _whole(path, config, "num_inference_timesteps") or LEROBOT_STEPS
    if steps != LEROBOT_STEPS:
        raise UserError(f"{path}: num_inference_timesteps = {steps}: LeRobot runs exactly 10")
    model = read_network(path, network)
    if model.mixture is not Mixture.TRANSFORMER:
        raise UserError(f"{path}: a wall_oss_05 policy without mot_opt is not implemented")
    views = {str(k): str(v) for k, v in (config.get("camera_key_mapping") or CAMERAS_05).items()}
    images = _visual(config)
    absent = [name for name in views if name.removeprefix(IMAGE_PREFIX) not in images]
    if absent:
        raise UserError(
            f"{path}: camera_key_mapping names {', '.join(absent)}, input_features does not: "
            "correct one of them"
        )
    crop = _whole(path, config, "postprocess_action_dim")
    return CheckpointConfig(
        layout=Layout.LEROBOT05,
        model=model,
        base=folder,
        prediction=PredictionMode.FLOW,
        grid=StepGrid(steps, END_TIME_05),
        action_attention=_attention(network),
        resize="mixed",
        state_encoding=_state_encoding(model) or StateEncoding.TEXT,
        state_bins=_whole(path, config, "state_bins") or LEROBOT_STATE_BINS,
        inactive=InactiveColumns.MODEL,
        cameras=tuple(views.values()),
        views=views,
        resolution={},
        long_side=LONG_SIDE_05,
        horizon=_whole(path, config, "chunk_size") or HORIZON,
        action_dim=crop or _columns(path, config, "output_features", "action"),
        all_columns_active=True,
        state_dim=_columns(path, config, "input_features", "observation.state"),
        columns=_whole(path, config, "max_action_dim"),
        state_columns=_whole(path, config, "max_state_dim"),
    )


def _check_policy(path: Path, config: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse what no LeRobot policy of ours may say."""
    if config.get("n_obs_steps", 1) != 1:
        raise UserError(f"{path}: n_obs_steps {config['n_obs_steps']} is not implemented, only 1")
    visual_norm = (config.get("normalization_mapping") or {}).get("VISUAL", "IDENTITY")
    if visual_norm != "IDENTITY":
        raise UserError(f"{path}: normalisation {visual_norm!r} of images is not implemented")
    attention = config.get("attn_implementation")
    if attention not in (None, "eager"):
        raise UserError(
            f"{path}: attn_implementation {attention!r} is not implemented, only 'eager'"
        )
    for key in ("use_peft", "use_amp"):
        if config.get(key):
            raise UserError(f"{path}: {key} = {config[key]!r} is not implemented, only False")
    unknown = unknown_keys(config, known)
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)}: not implemented; remove what is no flag")


def _attention(config: Mapping[str, Any]) -> ActionAttention:
    """Say what the released weights were trained with; the original's backends disagree."""
    said = config.get("causal_action_attention_mask")
    # A key that is null counts as absent.
    return ActionAttention.CAUSAL if said is None or said else ActionAttention.ISLAND


def _state_encoding(model: ModelConfig) -> StateEncoding | None:
    if model.state_token is None:
        return None
    return StateEncoding.TOKEN if model.state_token else StateEncoding.TEXT


def _horizon(path: Path, config: Mapping[str, Any]) -> int:
    for key in ("action_horizon_flow", "action_horizon"):
        said = _whole(path, config, key)
        if said is not None:
            return said
    return HORIZON


def _whole(path: Path, config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{path}: {key} must be a positive whole number, not {value!r}")
    return value


def _visual(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        name.removeprefix(IMAGE_PREFIX)
        for name, feature in config.get("input_features", {}).items()
        if feature.get("type") == "VISUAL"
    )


def _local(name: Any) -> Path | None:
    """Return a folder that LeRobot names; None for a name on its hub."""
    return Path(name) if isinstance(name, str) and name and Path(name).is_dir() else None


def _columns(path: Path, config: Mapping[str, Any], features: str, name: str) -> int:
    try:
        return int(config[features][name]["shape"][0])
    except (KeyError, IndexError, TypeError):
        raise UserError(f"{path} lacks {features}.{name}.shape") from None


def _base_folder(folder: Path, config: Mapping[str, Any], base: Path | None) -> Path:
    """Return the first of: the argument, a folder ``base`` in the checkpoint, the named model."""
    named = str(config.get("pretrained_name_or_path") or "")
    source = base or folder / "base"
    if base is None and not source.is_dir() and Path(named).is_dir():
        source = Path(named)
    missing = [name for name in _BASE_FILES if not (source / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is a LeRobot policy, which holds no tokenizer and no network configuration: "
            f"copy {', '.join(_BASE_FILES)} of its base model ({named or 'wall-oss-flow'}) into "
            f"{folder / 'base'}, or name their folder as base ({source} lacks {', '.join(missing)})"
        )
    return source
