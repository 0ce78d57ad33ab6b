"""Loads checkpoints: every switch from its argument, the checkpoint, or its layout's default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

import torch
from so101_driver.errors import UserError

from wallx_policy.contract import FILE_NAME as CONTRACT_FILE
from wallx_policy.contract import Contract, PredictionMode
from wallx_policy.lerobot_files import IMAGE_PREFIX, Processors, read_processors
from wallx_policy.model.checkpoint import read_weights
from wallx_policy.model.config import (
    DEFAULT_RESOLUTION,
    ActionAttention,
    CheckpointConfig,
    Layout,
    StepGrid,
    read_config,
)
from wallx_policy.model.flow import FlowModel
from wallx_policy.model.images import ImagePreprocessor, Resize, read_image_settings
from wallx_policy.model.network import Network
from wallx_policy.model.normalization import Normalization, from_normalizers, from_processors
from wallx_policy.model.policy import Policy, PolicySettings, Rotary
from wallx_policy.model.prompt import PromptTokenizer

T = TypeVar("T", bound=Enum)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    *,
    base: str | Path | None = None,
    action_attention: str | None = None,
    num_steps: int | None = None,
    resize: str | None = None,
    rotary: str | None = None,
    norm_key: str | None = None,
    state_bins: int | None = None,
    cameras: Sequence[str] | None = None,
    horizon: int | None = None,
    action_dim: int | None = None,
) -> Policy:
    """Load a WALL-OSS flow checkpoint; None takes its own setting, or its layout's default.

    Args:
        path: Folder in the original layout or in LeRobot's.
        device: As torch names it.
        dtype: ``float32``, or ``bfloat16`` with norms and action head in f32.
        base: Folder with network configuration, tokenizer and image processor, for LeRobot's.
        action_attention: ``island`` (LeRobot's default) or ``causal`` (the original's).
        num_steps: Euler steps; LeRobot runs 10, the original one less than its configured points.
        resize: ``pil`` or ``torchvision``.
        rotary: ``exact`` (default) or ``bf16``, LeRobot's rounding of the frequencies.
        norm_key: Name of the statistics in an original checkpoint that holds several.
        state_bins: For checkpoints that take the state as text; none of these layouts does.
        cameras: Views in prompt order.
        horizon: Actions in a chunk.
        action_dim: Leading action columns in use.

    Raises:
        UserError: naming the file, key or argument at fault.
    """
    folder = Path(path)
    config = read_config(folder, Path(base) if base is not None else None)
    if state_bins is not None:
        raise UserError(f"{folder} takes the state as numbers: leave state_bins out")
    if dtype not in _DTYPES:
        raise UserError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device!r} is not available here: use cpu, or check the driver")
    contract = _own_contract(folder, config)
    processors = read_processors(folder) if config.layout is Layout.LEROBOT else None
    if processors is not None and norm_key is not None:
        raise UserError(f"{folder} is a LeRobot policy with one set of statistics: drop norm_key")

    image_settings = read_image_settings(config.base)
    weights = read_weights(folder, config.layout, config.model, device, _DTYPES[dtype])
    tokenizer = PromptTokenizer(config.base, len(weights.embedding))
    normalization = _normalization(processors, weights.normalizers, norm_key)
    settings = PolicySettings(
        layout=config.layout,
        cameras=_cameras(folder, config, contract, cameras),
        horizon=_positive(
            "horizon", _first(horizon, contract and contract.horizon, config.horizon)
        ),
        action_dim=_action_dim(config, contract, action_dim, weights.columns),
        steps=_positive("num_steps", config.grid.steps if num_steps is None else num_steps),
        end_time=config.grid.end,
        action_attention=_choice(
            ActionAttention, "action_attention", action_attention, config.action_attention
        ),
        resize=_choice(Resize, "resize", resize, Resize(config.resize)),
        rotary=_choice(Rotary, "rotary", rotary, Rotary.EXACT),
        statistics=normalization.label if normalization else "none, values stay normalised",
        device=device,
        dtype=dtype,
    )
    network = Network(
        config.model, weights, tokenizer.special, bf16_rotary=settings.rotary is Rotary.BF16
    )
    model = FlowModel(
        network,
        weights.head,
        action_attention=settings.action_attention,
        grid=StepGrid(settings.steps, settings.end_time),
    )
    images = ImagePreprocessor(
        image_settings, settings.resize, config.resolution, DEFAULT_RESOLUTION
    )
    rename = processors.rename if processors is not None else {}
    return Policy(settings, model, tokenizer, images, normalization, rename)


def _own_contract(folder: Path, config: CheckpointConfig) -> Contract | None:
    """Return the contract that lies in the folder, if one does and it agrees with the rest."""
    if not (folder / CONTRACT_FILE).is_file():
        return None
    contract = Contract.load(folder)
    if contract.prediction_mode is not PredictionMode.FLOW:
        raise UserError(f"{folder / CONTRACT_FILE}: only prediction_mode flow is implemented")
    own = {
        "cameras": (tuple(camera.view for camera in contract.cameras), config.cameras),
        "action columns": (len(contract.action), config.action_dim),
        "state columns": (len(contract.state), config.state_dim),
    }
    for what, (said, configured) in own.items():
        if configured is not None and said != configured:
            raise UserError(
                f"{folder}: contract.yaml and config.json disagree on {what}: {said}, {configured}"
            )
    return contract


def _normalization(
    processors: Processors | None, normalizers: Mapping, norm_key: str | None
) -> Normalization | None:
    if processors is not None:
        return from_processors(processors)
    return from_normalizers(normalizers, norm_key)


def _cameras(
    folder: Path,
    config: CheckpointConfig,
    contract: Contract | None,
    given: Sequence[str] | None,
) -> tuple[str, ...]:
    views: Sequence[str] | None = given
    if views is None and contract is not None:
        views = [camera.view for camera in contract.cameras]
    if views is None:
        views = config.cameras
    if not views:
        raise UserError(f"{folder} does not say which views it takes: give cameras, in order")
    names = tuple(view.removeprefix(IMAGE_PREFIX) for view in views)
    if len(set(names)) != len(names):
        raise UserError(f"cameras names a view twice: {', '.join(names)}")
    return names


def _action_dim(
    config: CheckpointConfig, contract: Contract | None, given: int | None, columns: int
) -> int:
    own = len(contract.action) if contract is not None else config.action_dim
    number = _positive("action_dim", _first(given, own, columns))
    if number > columns:
        raise UserError(f"action_dim {number} exceeds the checkpoint's {columns} columns")
    return number


def _first(*values: int | None) -> int:
    """Return the first value that somebody gave."""
    return next(value for value in values if value is not None)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
    return value


def _choice(kind: type[T], name: str, given: str | None, default: T) -> T:
    if given is None:
        return default
    try:
        return kind(given)
    except ValueError:
        choices = ", ".join(str(member.value) for member in kind)
        raise UserError(f"{name} must be one of {choices}, not {given!r}") from None
