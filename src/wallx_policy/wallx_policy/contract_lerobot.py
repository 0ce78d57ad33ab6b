"""Contracts of LeRobot's policies: their own files and their data set's ``info.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from so101_driver.errors import UserError

from wallx_policy.checkpoint_kinds import POLICY
from wallx_policy.contract_dataset import DataSet, read_data_set
from wallx_policy.contract_types import (
    EE_ADVICE,
    ActionKind,
    ActionSpace,
    Built,
    Camera,
    PredictionMode,
    Statistics,
)
from wallx_policy.contract_units import Choices, Feature, joint_channels
from wallx_policy.dof_groups import BASE_05, is_end_effector
from wallx_policy.json_shapes import check, record, table, whole
from wallx_policy.lerobot_files import (
    ACTION_FEATURE,
    CAMERAS_05,
    IMAGE_PREFIX,
    STATE_FEATURE,
    FeatureNorm,
    read_processors,
)
from wallx_policy.wallx_statistics import leading

IMAGE_AGE_S = 0.04
"""In LeRobot recordings an image is about this old when it is paired with a state."""
_MODES = {"diffusion": PredictionMode.FLOW, "fast": PredictionMode.FAST}


def from_lerobot(folder: Path, config: Mapping[str, Any], choices: Choices) -> Built:
    """Build the contract of a ``wall_x`` or ``wall_oss_05`` policy.

    Raises:
        UserError: saying what is missing; nothing is guessed.
    """
    path = folder / "config.json"
    kind = str(config["type"])
    new = kind == "wall_oss_05"
    if choices.norm_key is not None:
        raise UserError(f"{folder} is a LeRobot policy with one set of statistics: drop norm_key")
    check(path, config, POLICY)
    network = {"dof_config": table(whole(0))}
    check(path, config.get("vlm_config") or {}, record(network), "vlm_config")
    if new and _speaks_poses(path, config):
        raise UserError(f"{folder} predicts end-effector poses: {EE_ADVICE}")
    mode = config.get("prediction_mode", "diffusion")
    if mode not in _MODES:
        raise UserError(f"{path}: prediction_mode {mode!r} is unknown")
    data = read_data_set(folder)
    data.check_arm()
    processors = read_processors(folder, kind)
    features = {
        "state": _feature(folder, data, STATE_FEATURE, processors.state),
        "action": _feature(folder, data, ACTION_FEATURE, processors.action),
    }
    given = {"state": ("input_features", STATE_FEATURE), "action": ("output_features", "action")}
    for key, (group, name) in given.items():
        columns = _columns(path, config, group, name)
        if key == "action" and new:
            columns = config.get("postprocess_action_dim") or columns
        if columns != len(features[key].joints):
            raise UserError(
                f"{path} has {columns} columns of {name}, {data.path} names "
                f"{len(features[key].joints)}: take the file of the right data set"
            )
    channels, notes = joint_channels(folder, features, data.zeros, choices)
    cameras = _cameras_05(path, config) if new else _cameras(path, config)
    chunk = config.get("chunk_size") or 32
    source = "camera_key_mapping" if new else "input_features"
    return Built(
        {
            "embodiment": "so101",
            "action_space": ActionSpace.JOINT,
            "cameras": cameras,
            "state": channels["state"],
            "action": channels["action"],
            "period_s": 1.0 / data.fps,
            "horizon": chunk,
            # LeRobot records the goal that the leader arm gave.
            "action_kind": ActionKind.GOAL,
            "image_age_s": IMAGE_AGE_S,
            "state_statistics": features["state"].statistics,
            "action_statistics": features["action"].statistics,
            "prediction_mode": PredictionMode.FLOW if new else _MODES[mode],
        },
        (
            f"views: {_listed(cameras)}, in the order of {source} in config.json",
            f"rate: {data.fps:g} actions a second, fps in {data.where}",
            f"horizon: {chunk} actions, chunk_size "
            f"{'in config.json' if config.get('chunk_size') else 'where config.json says nothing'}",
            *notes,
            f"joint names: {data.where}; statistics: the processor files",
            "actions: goals that the leader gave, and images 0.04 s old, as LeRobot records them",
        ),
    )


def _listed(cameras: tuple[Camera, ...]) -> str:
    return ", ".join(f"{c.view} {c.width}x{c.height}" for c in cameras) or "none"


def _speaks_poses(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a policy has the columns of the base model of wall-oss-0.5."""
    groups = (config.get("vlm_config") or {}).get("dof_config") or {}
    if groups:
        return any(is_end_effector(name) for name in groups)
    columns = _columns(path, config, "output_features", ACTION_FEATURE)
    return not config.get("postprocess_action_dim") and columns == sum(BASE_05.values())


def _feature(folder: Path, data: DataSet, name: str, norm: FeatureNorm) -> Feature:
    joints = data.joints(name)
    where = f"{folder}: the statistics of {name}"
    return Feature(joints, leading(_statistics(norm), len(joints), where))


def _columns(path: Path, config: Mapping[str, Any], group: str, name: str) -> int:
    try:
        return int(config[group][name]["shape"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(f"{path} lacks {group}.{name}.shape") from None


def _cameras(path: Path, config: Mapping[str, Any]) -> tuple[Camera, ...]:
    return tuple(
        _camera(path, config, name, name.removeprefix(IMAGE_PREFIX))
        for name, feature in config["input_features"].items()
        if feature["type"] == "VISUAL"
    )


def _cameras_05(path: Path, config: Mapping[str, Any]) -> tuple[Camera, ...]:
    mapping = config.get("camera_key_mapping") or CAMERAS_05
    return tuple(_camera(path, config, str(name), str(view)) for name, view in mapping.items())


def _camera(path: Path, config: Mapping[str, Any], name: str, view: str) -> Camera:
    try:
        _, height, width = config["input_features"][name]["shape"]
        return Camera(view, int(width), int(height))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} lacks input_features.{name}.shape of three numbers") from None


def _statistics(norm: FeatureNorm) -> Statistics:
    names = ("mean", "std", "min", "max", "q01", "q99")
    values = {name: norm.statistics[name] for name in names if name in norm.statistics}
    return Statistics(
        **{name: tuple(float(v) for v in np.ravel(array)) for name, array in values.items()}
    )
