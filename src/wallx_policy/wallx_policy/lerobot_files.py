"""Reads the JSON and statistics files of LeRobot policy folders; needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from so101_driver.errors import UserError

from wallx_policy.checkpoint_kinds import PROCESSOR
from wallx_policy.json_shapes import check

STATE_FEATURE = "observation.state"
ACTION_FEATURE = "action"
IMAGE_PREFIX = "observation.images."
CAMERAS_05 = {
    f"{IMAGE_PREFIX}face_view": "face_view",
    f"{IMAGE_PREFIX}right_wrist_view": "right_wrist_view",
}
"""View by name of the image of a ``wall_oss_05`` policy that does not say otherwise."""
_PRE_STEPS = (
    "rename_observations_processor",
    "to_batch_processor",
    "wall_x_task_processor",
    "normalizer_processor",
    "device_processor",
)
_CLAMP_STEP = "wall_oss_05_clamp_normalized"
_TOKENIZER_STEP = "wall_oss_05_tokenizer"
_PRE_STEPS_05 = (
    "rename_observations_processor",
    "to_batch_processor",
    "wall_oss_05_task_passthrough",
    "wall_oss_05_pad_state",
    "wall_oss_05_pad_action",
    "normalizer_processor",
    _CLAMP_STEP,
    _TOKENIZER_STEP,
    "device_processor",
)
_ORDER_05 = ("wall_oss_05_pad_state", "normalizer_processor", _CLAMP_STEP)
"""Steps that would do something else in another order."""
_POST_STEPS = ("unnormalizer_processor", "device_processor")
_POST_STEPS_05 = ("unnormalizer_processor", "wall_oss_05_crop_action", "device_processor")


class NormMode(Enum):
    """How a feature was normalised."""

    IDENTITY = "IDENTITY"
    MEAN_STD = "MEAN_STD"
    MIN_MAX = "MIN_MAX"
    QUANTILES = "QUANTILES"


_NEEDED = {
    NormMode.IDENTITY: (),
    NormMode.MEAN_STD: ("mean", "std"),
    NormMode.MIN_MAX: ("min", "max"),
    NormMode.QUANTILES: ("q01", "q99"),
}


@dataclass(frozen=True, slots=True)
class FeatureNorm:
    """Normalisation of one feature.

    Attributes:
        mode: Formula.
        statistics: By name (``mean``, ``q01`` ...), each [columns], in data set units.
        eps: Added to a standard deviation; replaces a range of zero.
    """

    mode: NormMode
    statistics: dict[str, NDArray[np.float32]]
    eps: float


@dataclass(frozen=True, slots=True)
class Processors:
    """What LeRobot's processor files say.

    Attributes:
        state: Normalisation of the state.
        action: Inverse normalisation of the action.
        rename: New name by old name of an observation.
        clamp: Whether normalised values are limited to [−1, 1].
        views: View by name of an image in prompt order, where a step says so.
    """

    state: FeatureNorm
    action: FeatureNorm
    rename: dict[str, str]
    clamp: bool = False
    views: dict[str, str] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; UserError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy the whole checkpoint folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content


def read_processors(folder: Path, kind: str = "wall_x") -> Processors:
    """Read the pre- and post-processor of a policy folder.

    Args:
        folder: The policy.
        kind: Its type, ``wall_x`` or ``wall_oss_05``.

    Raises:
        UserError: for a missing file, a step that we do not know, or missing statistics; LeRobot
            itself lets a feature without statistics through unchanged.
    """
    new = kind == "wall_oss_05"
    pre = _steps(folder / "policy_preprocessor.json", _PRE_STEPS_05 if new else _PRE_STEPS)
    post = _steps(folder / "policy_postprocessor.json", _POST_STEPS_05 if new else _POST_STEPS)
    if new and _CLAMP_STEP not in pre:
        raise UserError(f"{folder}: its processors lack the step {_CLAMP_STEP}")
    order = [step for step in pre if step in _ORDER_05]
    if order != [step for step in _ORDER_05 if step in pre]:
        raise UserError(
            f"{folder / 'policy_preprocessor.json'} runs {', '.join(order)} in this order, only "
            f"{', '.join(_ORDER_05)} is implemented"
        )
    rename = pre.get("rename_observations_processor", {}).get("config", {}).get("rename_map")
    tokenizer = pre.get(_TOKENIZER_STEP, {}).get("config", {})
    views = tokenizer.get("camera_key_mapping")
    return Processors(
        state=_norm(folder, pre, "normalizer_processor", STATE_FEATURE, "STATE"),
        action=_norm(folder, post, "unnormalizer_processor", ACTION_FEATURE, "ACTION"),
        rename=dict(rename or {}),
        clamp=new,
        views=None if views is None else dict(views),
    )


def with_mode(norm: FeatureNorm, mode: NormMode) -> FeatureNorm:
    """Return a normalisation by another formula on the same statistics.

    Raises:
        UserError: naming the statistics that the formula needs and the files lack.
    """
    missing = [name for name in _NEEDED[mode] if name not in norm.statistics]
    if missing:
        raise UserError(f"normalization {mode.value} needs {', '.join(missing)} of every feature")
    return replace(norm, mode=mode)


def _steps(path: Path, known: tuple[str, ...]) -> dict[str, Any]:
    steps = {}
    content = read_json(path)
    check(path, content, PROCESSOR)
    for step in content["steps"]:
        name = step["registry_name"]
        if name in steps:
            raise UserError(f"{path}: processor step {name!r} stands there twice")
        if name not in known:
            raise UserError(f"{path}: processor step {name!r} is not implemented")
        steps[name] = {**step, "config": step.get("config") or {}}
    return steps


def _norm(
    folder: Path, steps: dict[str, Any], step_name: str, feature: str, kind: str
) -> FeatureNorm:
    step = steps.get(step_name)
    if step is None:
        raise UserError(f"{folder}: its processors lack the step {step_name}")
    config = step["config"]
    text = (config.get("norm_map") or {}).get(kind)
    if text is None:
        # LeRobot would pass the feature through as it is.
        raise UserError(f"{folder}: norm_map of the step {step_name} says nothing of {kind}")
    try:
        mode = NormMode(text)
    except ValueError:
        raise UserError(f"{folder}: normalisation {text!r} of {feature} is unknown") from None
    statistics, path = {}, folder
    if step.get("state_file") is not None:
        path = folder / step["state_file"]
        if path.parent != folder:
            raise UserError(f"{folder}: state_file {step['state_file']!r} must lie in the folder")
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        prefix = feature + "."
        statistics = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    _check_statistics(path, feature, mode, statistics)
    eps = config.get("eps")
    return FeatureNorm(mode, statistics, 1e-8 if eps is None else float(eps))


def _check_statistics(
    path: Path, feature: str, mode: NormMode, statistics: dict[str, NDArray[np.float32]]
) -> None:
    """Refuse statistics that a formula cannot be used with, naming the file and the number."""
    needed = _NEEDED[mode]
    for name in needed:
        if name not in statistics:
            raise UserError(f"{path}: {feature} is {mode.value} but its {name} is missing")
        values = statistics[name]
        if values.ndim != 1 or values.shape != statistics[needed[0]].shape:
            raise UserError(
                f"{path}: {feature}.{name} is {list(values.shape)}, not one number by column as "
                f"{feature}.{needed[0]}"
            )
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {feature}.{name} is not finite")
    if mode is NormMode.MEAN_STD:
        # What never moved divides by next to nothing; on the way out it is only a constant.
        least = np.finfo(np.float32).tiny if feature == STATE_FEATURE else 0.0
        _refuse(path, f"{feature}.std", "is 0 or less", statistics["std"] < least)
    elif needed:
        low, high = needed
        turned = statistics[high] < statistics[low]
        _refuse(path, f"{feature}.{high}", f"is below {feature}.{low}", turned)


def _refuse(path: Path, key: str, words: str, wrong: NDArray[np.bool_]) -> None:
    if wrong.any():
        raise UserError(f"{path}: {key} {words} in column {int(wrong.argmax())}: no data is so")
