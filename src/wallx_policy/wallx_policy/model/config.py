"""What a checkpoint's ``config.json`` says, checked against what is implemented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.lerobot_files import IMAGE_PREFIX, read_json

LEROBOT_STEPS = 10
"""LeRobot integrates in ten steps whatever the configuration says."""
DEFAULT_RESOLUTION = 256
"""Long side of a view after the first resize, unless the checkpoint says otherwise."""
DEFAULT_HORIZON = 32


class Layout(Enum):
    """Who wrote the checkpoint."""

    ORIGINAL = "original"
    LEROBOT = "lerobot"


class Mixture(Enum):
    """What of a decoder layer depends on the token's type."""

    MLP = "mlp"
    """The feed-forward part."""
    TRANSFORMER = "transformer"
    """Everything."""


class ActionAttention(Enum):
    """What an action token sees of the other action tokens."""

    ISLAND = "island"
    """All of them."""
    CAUSAL = "causal"
    """The earlier ones."""


# Flags that change the mathematics, with the one value that is implemented.
_FLAGS: Mapping[str, Any] = {
    "num_experts": 2,
    "mlp_moe": True,
    "attention_moe": False,
    "norm_moe": False,
    "mot_opt": False,
    "use_adarms": False,
    "use_x_pred": False,
    "proj_with_mask": True,
    "use_sliding_window": False,
    "hidden_act": "silu",
}
_BASE_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
_WALL_05_MARKS = ("attention_moe", "norm_moe", "mot_opt", "action_hidden_size")


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """One expert: the width of the tokens that it takes, and of its feed-forward part."""

    width: int
    inner: int


@dataclass(frozen=True, slots=True)
class StepGrid:
    """Points in time that the flow is integrated over, evenly from 0 (noise) to ``end``."""

    steps: int
    end: float = 1.0

    def times(self) -> Tensor:
        """Return the ``steps + 1`` points, f32."""
        return torch.linspace(0.0, 1.0, self.steps + 1) * self.end


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the network.

    Attributes:
        hidden_size: Width of the residual stream, and of the first expert.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        experts: By token type.
        mixture: What the experts do not share.
        rms_eps: Of every norm of the decoder.
        rope_theta: Base of the rotary frequencies.
        mrope_section: Frequencies that belong to time, height and width.
        vision: ``vision_config`` as the file has it.
        dof: Columns by group, in order.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: tuple[ExpertShape, ExpertShape]
    mixture: Mixture
    rms_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    vision: Mapping[str, Any]
    dof: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Everything that a checkpoint's own configuration decides.

    Attributes:
        layout: Who wrote it.
        model: Shape of the network.
        base: Folder of tokenizer and image processor.
        grid: Euler steps that the layout runs by default.
        action_attention: The layout's default.
        resize: ``pil`` or ``torchvision``, the layout's default.
        cameras: Views in prompt order; None where the configuration does not say.
        resolution: Long side by view; −1 leaves a view as it is.
        horizon: Actions in a chunk.
        action_dim: Leading action columns in use; None means all.
        state_dim: State columns; None where the configuration does not say.
    """

    layout: Layout
    model: ModelConfig
    base: Path
    grid: StepGrid
    action_attention: ActionAttention
    resize: str
    cameras: tuple[str, ...] | None
    resolution: Mapping[str, int]
    horizon: int
    action_dim: int | None
    state_dim: int | None


def read_config(folder: Path, base: Path | None) -> CheckpointConfig:
    """Read a checkpoint's configuration.

    Args:
        folder: The checkpoint.
        base: Where tokenizer, image processor and network configuration of a LeRobot policy lie.

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
    if kind is not None:
        raise UserError(f"{path}: policy type {kind!r} is not implemented, only 'wall_x' is")
    model = _model(path, config)
    if base is not None:
        raise UserError(f"{folder} brings its own tokenizer: leave base out")
    scheduler = config.get("noise_scheduler", {})
    return CheckpointConfig(
        layout=Layout.ORIGINAL,
        model=model,
        base=folder,
        # The original takes that many *points* of a grid, hence one step fewer.
        grid=StepGrid(int(scheduler.get("num_inference_timesteps", 10)) - 1),
        action_attention=_original_attention(config),
        resize="pil",
        cameras=None,
        resolution={str(k): int(v) for k, v in config.get("resolution", {}).items()},
        horizon=DEFAULT_HORIZON,
        action_dim=None,
        state_dim=None,
    )


def _original_attention(config: Mapping[str, Any]) -> ActionAttention:
    """Say what the released weights were trained with; the original's backends disagree."""
    causal = bool(config.get("causal_action_attention_mask", True))
    return ActionAttention.CAUSAL if causal else ActionAttention.ISLAND


def _lerobot(folder: Path, config: Mapping[str, Any], base: Path | None) -> CheckpointConfig:
    path = folder / "config.json"
    mode = config.get("prediction_mode", "diffusion")
    if mode != "diffusion":
        raise UserError(f"{path}: prediction_mode {mode!r} is not implemented, only 'diffusion' is")
    if config.get("n_obs_steps", 1) != 1:
        raise UserError(f"{path}: n_obs_steps {config['n_obs_steps']} is not implemented, only 1")
    visual_norm = config.get("normalization_mapping", {}).get("VISUAL", "IDENTITY")
    if visual_norm != "IDENTITY":
        raise UserError(f"{path}: normalisation {visual_norm!r} of images is not implemented")
    source = _base_folder(folder, config, base)
    cameras = tuple(
        name.removeprefix(IMAGE_PREFIX)
        for name, feature in config.get("input_features", {}).items()
        if feature.get("type") == "VISUAL"
    )
    return CheckpointConfig(
        layout=Layout.LEROBOT,
        model=_model(source / "config.json", read_json(source / "config.json")),
        base=source,
        grid=StepGrid(LEROBOT_STEPS),
        action_attention=ActionAttention.ISLAND,
        # The key came with LeRobot 0.6, as did resizing by torchvision.
        resize="torchvision" if "vision_attn_implementation" in config else "pil",
        cameras=cameras,
        resolution={},
        horizon=int(config.get("chunk_size", DEFAULT_HORIZON)),
        action_dim=_columns(path, config, "output_features", "action"),
        state_dim=_columns(path, config, "input_features", "observation.state"),
    )


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


def _model(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    model_type = str(config.get("model_type", ""))
    if model_type.startswith("qwen3"):
        raise UserError(f"{path}: model_type {model_type!r} is a WALL generation not implemented")
    marks = [mark for mark in _WALL_05_MARKS if config.get(mark)]
    if marks:
        raise UserError(f"{path} is a wall-oss-0.5 checkpoint ({marks[0]}), not implemented")
    if "num_experts" not in config or "dof_config" not in config:
        raise UserError(
            f"{path} is no WALL-OSS checkpoint: it lacks num_experts and dof_config "
            f"(model_type {model_type!r})"
        )
    for flag, value in _FLAGS.items():
        if config.get(flag, value) != value:
            raise UserError(f"{path}: {flag} = {config[flag]!r} is not implemented, only {value!r}")
    shift = config.get("noise_scheduler", {}).get("time_shift", 1)
    if shift != 1:
        raise UserError(f"{path}: noise_scheduler.time_shift = {shift} is not implemented")
    try:
        return _shape(path, config)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks or garbles {error}") from error


def _shape(path: Path, config: Mapping[str, Any]) -> ModelConfig:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    widths = [int(width) for width in config.get("dim_inputs", [hidden, hidden])]
    if widths != [hidden, hidden]:
        raise UserError(f"{path}: dim_inputs = {widths} is not implemented, only [{hidden}] * 2")
    experts = config["experts"]
    for expert in experts:
        if expert.get("hidden_act", "silu") != "silu" or expert["hidden_size"] != hidden:
            raise UserError(f"{path}: expert {expert} is not implemented")
    scaling = config["rope_scaling"]
    if scaling.get("type", scaling.get("rope_type")) not in ("mrope", "default"):
        raise UserError(f"{path}: rope_scaling {scaling} is not implemented, only mrope")
    section = tuple(int(n) for n in scaling["mrope_section"])
    head_dim = hidden // heads
    if len(section) != 3 or sum(section) * 2 != head_dim:
        raise UserError(f"{path}: mrope_section {section} does not fill heads of {head_dim}")
    return ModelConfig(
        hidden_size=hidden,
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config["num_key_value_heads"]),
        head_dim=head_dim,
        experts=(
            ExpertShape(hidden, int(experts[0]["intermediate_size"])),
            ExpertShape(hidden, int(experts[1]["intermediate_size"])),
        ),
        mixture=Mixture.MLP,
        rms_eps=float(config["rms_norm_eps"]),
        rope_theta=float(config["rope_theta"]),
        mrope_section=section,  # type: ignore[arg-type]
        vision=dict(config["vision_config"]),
        dof={str(k): int(v) for k, v in config["dof_config"].items()},
    )
