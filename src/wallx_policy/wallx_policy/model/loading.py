"""Loads checkpoints: every switch from its argument, the checkpoint, or its layout's default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.contract import FILE_NAME as CONTRACT_FILE
from wallx_policy.contract import ActionSpace, Contract, PredictionMode
from wallx_policy.lerobot_files import Processors, read_processors
from wallx_policy.model import switches
from wallx_policy.model.checkpoint import read_weights
from wallx_policy.model.config import read_config
from wallx_policy.model.config_types import (
    ActionAttention,
    CheckpointConfig,
    InactiveColumns,
    Layout,
    StateEncoding,
    StepGrid,
)
from wallx_policy.model.fast import FastModel, read_fast
from wallx_policy.model.fixed_flow import FixedFlow
from wallx_policy.model.flow import FlowModel
from wallx_policy.model.generation import Generator
from wallx_policy.model.graphs import CudaGraphs
from wallx_policy.model.images import ImagePreprocessor, Resize, read_image_settings
from wallx_policy.model.inputs import InputBuilder
from wallx_policy.model.network import Network
from wallx_policy.model.normalization import (
    Normalization,
    NormalizationMode,
    from_processors,
    label,
)
from wallx_policy.model.policy import Policy
from wallx_policy.model.poses import pose_groups
from wallx_policy.model.prompt import PromptTokenizer
from wallx_policy.model.settings import (
    PolicySettings,
    Rotary,
    as_graphs,
    choice,
    compiled,
    first,
    optional_choice,
    positive,
)
from wallx_policy.model.state import StateEncoder
from wallx_policy.model.text import TextWriter
from wallx_policy.model.turns import FairLock
from wallx_policy.model.wallx_normalization import read_normalization
from wallx_policy.model.weights import ModelWeights

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    *,
    base: str | Path | None = None,
    prediction_mode: str | None = None,
    action_attention: str | None = None,
    num_steps: int | None = None,
    end_time: float | None = None,
    inactive_columns: str | None = None,
    resize: str | None = None,
    rotary: str | None = None,
    normalization: str | None = None,
    norm_key: str | None = None,
    state_encoding: str | None = None,
    state_bins: int | None = None,
    cameras: Sequence[str] | None = None,
    horizon: int | None = None,
    action_dim: int | None = None,
    action_tokenizer: str | Path | None = None,
    fast_max_new_tokens: int | None = None,
    fast_retries: int | None = None,
    cuda_graphs: bool | None = None,
    compile_layers: bool = False,
) -> Policy:
    """Load a WALL-OSS checkpoint; None takes its own setting, or its layout's default.

    ``docs/checkpoints.md`` has the table of defaults by layout.

    Args:
        path: Folder of wall-oss-flow, wall-oss-0.5, or of LeRobot's ``wall_x`` or ``wall_oss_05``.
        device: As torch names it.
        dtype: ``float32``, or ``bfloat16`` with norms and action head in f32.
        base: Folder with network configuration, tokenizer and image processor, for ``wall_x``.
        prediction_mode: ``flow`` or ``fast``.
        action_attention: ``island`` or ``causal``.
        num_steps: Euler steps.
        end_time: Flow time where the last step ends, above 0 and up to 1.
        inactive_columns: How unused action columns move: as the ``model`` says, or to ``zero``.
        resize: ``pil``, ``torchvision``, or ``mixed``, first the one, then the other.
        rotary: ``exact`` (default) or ``bf16``, LeRobot's rounding of the frequencies.
        normalization: ``min_delta`` (wall-x), ``mean_std``, ``min_max``, ``quantiles`` (LeRobot) or
            ``identity``.
        norm_key: Name of the statistics in a checkpoint of wall-x that holds several.
        state_encoding: ``token`` or ``text``.
        state_bins: Bins of a state that is text.
        cameras: Views in prompt order.
        horizon: Actions in a chunk.
        action_dim: Leading action columns that are given out.
        action_tokenizer: Folder of the tokenizer of FAST.
        fast_max_new_tokens: Most tokens of a FAST answer.
        fast_retries: Further FAST attempts, drawn at temperature 0.7, when an answer is no chunk.
        cuda_graphs: Whether flow runs as CUDA graphs over fixed shapes; so it does on a GPU.
        compile_layers: Whether torch compiles the layers of vision tower and decoder.

    Raises:
        UserError: naming the file, key or argument at fault.
    """
    folder = Path(path)
    config = read_config(folder, Path(base) if base is not None else None)
    if dtype not in _DTYPES:
        raise UserError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device!r} is not available here: use cpu, or check the driver")
    contract = _own_contract(folder, config)
    processors = _processors(folder, config)
    key = (contract.norm_key or None) if norm_key is None and contract is not None else norm_key
    if processors is not None and key is not None:
        raise UserError(f"{folder} is a LeRobot policy with one set of statistics: drop norm_key")
    prediction = switches.prediction_mode(folder, config, contract, prediction_mode)

    image_settings = read_image_settings(config.base)
    image_settings.check_against(config.base, config.model.vision)
    weights = read_weights(
        folder,
        config.layout,
        config.model,
        device,
        _DTYPES[dtype],
        columns=config.columns,
        state_columns=config.state_columns,
    )
    new = config.layout in (Layout.WALL05, Layout.LEROBOT05)
    tokenizer = PromptTokenizer(
        config.base, len(weights.embedding), add_tokens=new, ids=config.model.token_ids
    )
    mode = optional_choice(NormalizationMode, "normalization", normalization)
    if processors is not None:
        norm: Normalization | None = from_processors(processors, mode)
    else:
        groups = (config.model.dof, config.model.agent_pos)
        norm = read_normalization(folder, weights.normalizers, *groups, key, mode)
    encoding = switches.state_encoding(folder, config, weights, state_encoding)
    given_dim = switches.action_width(config, contract, action_dim, weights.columns)
    actions = positive("horizon", first(horizon, contract and contract.horizon, config.horizon))
    fast = None
    if prediction is PredictionMode.FAST:
        own = contract.action_tokenizer if contract is not None else ""
        named = (action_tokenizer, folder / own if own else None, config.action_tokenizer)
        shape = (actions, given_dim)
        fast = read_fast(folder, named, tokenizer, shape, fast_max_new_tokens, fast_retries)
    elif (action_tokenizer, fast_max_new_tokens, fast_retries) != (None, None, None):
        raise UserError(
            f"{folder} predicts by flow: leave out action_tokenizer, fast_max_new_tokens and "
            "fast_retries, or give prediction_mode='fast'"
        )
    poses = pose_groups(config, given_dim)
    if poses is not None and contract is not None and contract.action_space is ActionSpace.JOINT:
        raise UserError(
            f"{folder}: contract.yaml says joint, but dof_config names the poses of "
            f"{', '.join(poses.end_effectors)}: correct the one that is wrong"
        )
    if norm is None:
        poses = None
    settings = PolicySettings(
        layout=config.layout,
        prediction=prediction,
        fast=None if fast is None else fast.settings,
        cameras=switches.camera_order(folder, config, contract, cameras),
        horizon=actions,
        action_dim=given_dim,
        end_effectors=() if poses is None else tuple(poses.end_effectors),
        active_columns=weights.columns if config.all_columns_active else given_dim,
        steps=positive("num_steps", first(num_steps, config.grid.steps)),
        end_time=switches.checked_end_time(config.grid.end if end_time is None else end_time),
        action_attention=choice(
            ActionAttention, "action_attention", action_attention, config.action_attention
        ),
        inactive=choice(InactiveColumns, "inactive_columns", inactive_columns, config.inactive),
        resize=choice(Resize, "resize", resize, Resize(config.resize)),
        rotary=choice(Rotary, "rotary", rotary, Rotary.EXACT),
        state_encoding=encoding,
        state_bins=switches.bins_of_state(folder, config, encoding, state_bins),
        statistics=label(norm),
        device=device,
        dtype=dtype,
        cuda_graphs=as_graphs(device, prediction, cuda_graphs),
        compile_layers=compiled(prediction, compile_layers),
    )
    columns = weights.state_columns or config.state_columns or weights.columns
    width = first(contract and len(contract.state), config.state_dim, columns)
    _check_statistics(
        folder,
        norm,
        state=columns if config.all_columns_active else width,
        action=settings.active_columns,
    )
    network = Network(
        config.model, weights, tokenizer.special, bf16_rotary=settings.rotary is Rotary.BF16
    )
    if settings.compile_layers:
        network.compile()
    model = _flow_model(
        network,
        weights,
        settings,
        switches.inactive_target(folder, settings, weights.columns, norm),
    )
    images = ImagePreprocessor(image_settings, settings.resize, config.resolution, config.long_side)
    state = StateEncoder(
        encoding=encoding,
        bins=settings.state_bins,
        columns=columns,
        width=width,
        pad=config.all_columns_active,
        normalization=norm,
    )
    views = switches.view_names(config.views, processors.rename if processors is not None else {})
    # Qwen's chat prompt takes images through the image processor alone.
    chat_images = ImagePreprocessor(image_settings, Resize.MIXED, {}, -1)
    inputs = InputBuilder(settings, weights.columns, tokenizer, images, chat_images, state, views)
    turns = FairLock()
    generate = Generator(network, tokenizer.special.end, turns)
    return Policy(
        settings,
        model,
        inputs,
        norm,
        TextWriter(generate, tokenizer),
        None if fast is None else FastModel(generate, fast, actions, given_dim),
        turns,
        poses,
    )


def _flow_model(
    network: Network, weights: ModelWeights, settings: PolicySettings, target: Tensor | None
) -> FlowModel:
    given: dict[str, Any] = {
        "action_attention": settings.action_attention,
        "grid": StepGrid(settings.steps, settings.end_time),
        "inactive_target": target,
    }
    if settings.cuda_graphs:
        return FixedFlow(network, weights.head, **given, recorder=CudaGraphs(network.device))
    return FlowModel(network, weights.head, **given)


def _own_contract(folder: Path, config: CheckpointConfig) -> Contract | None:
    """Return the contract that lies in the folder, if one does and it agrees with the rest."""
    if not (folder / CONTRACT_FILE).is_file():
        return None
    contract = Contract.load(folder)
    # A robot may use the first columns of wall-x's own layouts; text leaves no column out.
    whole_action = config.layout.of_lerobot
    whole_state = config.layout.of_lerobot or config.state_encoding is StateEncoding.TEXT
    own = {
        "cameras": (tuple(camera.view for camera in contract.cameras), config.cameras),
        "action columns": (len(contract.action), config.action_dim if whole_action else None),
        "state columns": (len(contract.state), config.state_dim if whole_state else None),
        "prediction_mode": (
            contract.prediction_mode.value,
            config.prediction and config.prediction.value,
        ),
    }
    for what, (said, configured) in own.items():
        if configured is not None and said != configured:
            raise UserError(
                f"{folder}: contract.yaml and config.json disagree on {what}: {said}, {configured}"
            )
    return contract


def _processors(folder: Path, config: CheckpointConfig) -> Processors | None:
    if not config.layout.of_lerobot:
        return None
    if config.layout is Layout.LEROBOT:
        return read_processors(folder)
    processors = read_processors(folder, "wall_oss_05")
    if processors.views is not None and list(processors.views.items()) != list(
        config.views.items()
    ):
        raise UserError(
            f"{folder}: config.json and policy_preprocessor.json disagree on camera_key_mapping"
        )
    return processors


def _check_statistics(folder: Path, norm: Normalization | None, *, state: int, action: int) -> None:
    """Refuse statistics of fewer columns than there are to normalise."""
    lines = {} if norm is None else {"state": (norm.state, state), "action": (norm.action, action)}
    for feature, (line, needed) in lines.items():
        if line is not None and line.columns < needed:
            raise UserError(
                f"{folder}: the statistics of the {feature} have {line.columns} columns, "
                f"{needed} are in use"
            )
