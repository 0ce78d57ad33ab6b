"""What is taken for a switch: the argument, the checkpoint's own word, or its layout's default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.contract import Contract, PredictionMode
from wallx_policy.lerobot_files import IMAGE_PREFIX
from wallx_policy.model.config_types import (
    CheckpointConfig,
    InactiveColumns,
    Layout,
    StateEncoding,
)
from wallx_policy.model.normalization import Normalization
from wallx_policy.model.settings import PolicySettings, choice, first, positive
from wallx_policy.model.weights import ModelWeights


def prediction_mode(
    folder: Path, config: CheckpointConfig, contract: Contract | None, given: str | None
) -> PredictionMode:
    """Return how actions are predicted; UserError where that is not implemented."""
    own = contract.prediction_mode if contract is not None else config.prediction
    mode = choice(PredictionMode, "prediction_mode", given, own or PredictionMode.FLOW)
    if mode is PredictionMode.FAST and config.layout in (Layout.WALL05, Layout.LEROBOT05):
        raise UserError(
            f"{folder}: the discrete actions of wall-oss-0.5 are no FAST tokens and not "
            "implemented: prediction_mode must be 'flow'"
        )
    return mode


def camera_order(
    folder: Path,
    config: CheckpointConfig,
    contract: Contract | None,
    given: Sequence[str] | None,
) -> tuple[str, ...]:
    """Return the views in prompt order; UserError when nobody says, or one stands twice."""
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


def view_names(views: Mapping[str, str], rename: Mapping[str, str]) -> dict[str, str]:
    """Return the view by name of a given image, both without prefix."""
    mapped = {k.removeprefix(IMAGE_PREFIX): v for k, v in views.items()}
    found = dict(mapped)
    for old, new in rename.items():
        name = new.removeprefix(IMAGE_PREFIX)
        found[old.removeprefix(IMAGE_PREFIX)] = mapped.get(name, name)
    return found


def action_width(
    config: CheckpointConfig, contract: Contract | None, given: int | None, columns: int
) -> int:
    """Return how many leading action columns are given out."""
    own = len(contract.action) if contract is not None else config.action_dim
    number = positive("action_dim", first(given, own, columns))
    if number > columns:
        raise UserError(f"action_dim {number} exceeds the checkpoint's {columns} columns")
    return number


def state_encoding(
    folder: Path, config: CheckpointConfig, weights: ModelWeights, given: str | None
) -> StateEncoding:
    """Return how the state enters the prompt; UserError for a token without its weights."""
    has_token = weights.head.propri is not None
    own = config.state_encoding or (StateEncoding.TOKEN if has_token else StateEncoding.TEXT)
    encoding = choice(StateEncoding, "state_encoding", given, own)
    if encoding is StateEncoding.TOKEN and not has_token:
        raise UserError(f"{folder} has no propri_proj, so state_encoding must be text")
    return encoding


def bins_of_state(
    folder: Path, config: CheckpointConfig, encoding: StateEncoding, given: int | None
) -> int | None:
    """Return the bins of a state that is text, None of others; UserError when nobody says."""
    if encoding is StateEncoding.TOKEN:
        if given is not None:
            raise UserError(f"{folder} takes the state as numbers: leave state_bins out")
        return None
    bins = config.state_bins if given is None else given
    if bins is None:
        raise UserError(
            f"{folder} takes the state as text, and neither config.json nor config.yml says in how "
            "many bins: give state_bins as in its training (512 and 256 are in use)"
        )
    return positive("state_bins", bins)


def inactive_target(
    folder: Path, settings: PolicySettings, columns: int, norm: Normalization | None
) -> Tensor | None:
    """Return where unused columns travel to, [columns]; None leaves them to the model."""
    if settings.inactive is InactiveColumns.MODEL or settings.active_columns == columns:
        return None
    if norm is None:
        raise UserError(
            f"{folder} has no statistics, so nothing says what zero is in the model's units: give "
            "inactive_columns='model'"
        )
    return torch.from_numpy(norm.zero_action(columns))


def checked_end_time(value: float) -> float:
    """Return a flow time to end at; UserError outside (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise UserError(f"end_time must be above 0 and at most 1, not {value}")
    return float(value)
