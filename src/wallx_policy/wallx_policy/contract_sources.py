"""Builds a contract from a checkpoint's own files where those say enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

from wallx_policy.contract_checks import possible_units
from wallx_policy.contract_types import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    PredictionMode,
    Statistics,
    Unit,
)
from wallx_policy.lerobot_files import (
    ACTION_FEATURE,
    IMAGE_PREFIX,
    STATE_FEATURE,
    FeatureNorm,
    read_json,
    read_processors,
)

_SO101_ROBOTS = ("so101_follower", "so_follower", "so100_follower")
_LEROBOT_IMAGE_AGE_S = 0.04
"""In LeRobot recordings an image is about this old when it is paired with a state."""
_WRITE_ONE = "or write a contract.yaml"


def from_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the arguments of a contract for a checkpoint folder without ``contract.yaml``.

    LeRobot's policy files hold cameras, sizes, horizon and statistics; joint names, rate and robot
    stand in the data set's ``info.json``, which has to lie in the folder (or in ``meta/``).

    Raises:
        UserError: saying what is missing; nothing is guessed.
    """
    config = read_json(folder / "config.json")
    if config.get("type") == "wall_x":
        return _from_lerobot(folder, config)
    if any("_ee_" in name for name in config.get("dof_config", {})):
        raise UserError(
            f"{folder} predicts end-effector poses (its dof_config says so), which this arm's "
            "joint commands cannot carry: use a checkpoint fine-tuned in joint space"
        )
    raise UserError(
        f"{folder} has no contract.yaml, and its config.json says nothing about cameras, joints, "
        "units and rate: write one"
    )


def _from_lerobot(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    paths = [path for path in (folder / "info.json", folder / "meta/info.json") if path.exists()]
    if not paths:
        raise UserError(
            f"{folder} has no contract.yaml, and a LeRobot policy does not record joint names and "
            f"frame rate: copy meta/info.json of its training data into the folder, {_WRITE_ONE}"
        )
    info = read_json(paths[0])
    robot = info.get("robot_type")
    if robot not in _SO101_ROBOTS:
        raise UserError(
            f"{paths[0]} names robot_type {robot!r}, known are {', '.join(_SO101_ROBOTS)}: take "
            f"the file of the right data set, {_WRITE_ONE}"
        )
    if not info.get("fps", 0) > 0:
        raise UserError(f"{paths[0]} lacks a positive fps: add it, {_WRITE_ONE}")
    processors = read_processors(folder)
    modes = {"diffusion": PredictionMode.FLOW, "fast": PredictionMode.FAST}
    mode = config.get("prediction_mode", "diffusion")
    if mode not in modes:
        raise UserError(f"{folder / 'config.json'}: prediction_mode {mode!r} is unknown")
    return {
        "embodiment": "so101",
        "action_space": ActionSpace.JOINT,
        "cameras": _cameras(config),
        "state": _channels(paths[0], info, STATE_FEATURE, processors.state),
        "action": _channels(paths[0], info, ACTION_FEATURE, processors.action),
        "period_s": 1.0 / info["fps"],
        "horizon": int(config.get("chunk_size", 32)),
        # LeRobot records the goal that the leader arm gave.
        "action_kind": ActionKind.GOAL,
        "image_age_s": _LEROBOT_IMAGE_AGE_S,
        "state_statistics": _statistics(processors.state),
        "action_statistics": _statistics(processors.action),
        "prediction_mode": modes[mode],
    }


def _cameras(config: dict[str, Any]) -> tuple[Camera, ...]:
    cameras = []
    for name, feature in config.get("input_features", {}).items():
        if feature.get("type") == "VISUAL":
            _, height, width = feature["shape"]
            cameras.append(Camera(name.removeprefix(IMAGE_PREFIX), int(width), int(height)))
    return tuple(cameras)


def _channels(
    path: Path, info: dict[str, Any], feature: str, norm: FeatureNorm
) -> tuple[Channel, ...]:
    names = info.get("features", {}).get(feature, {}).get("names")
    if isinstance(names, dict):  # older data sets nest them: {"motors": [...]}
        names = next(iter(names.values()), None)
    if not names:
        raise UserError(f"{path} lacks the names of {feature}: add them, {_WRITE_ONE}")
    joints = [str(name).removesuffix(".pos").removeprefix("main_") for name in names]
    unknown = [joint for joint in joints if joint not in JOINT_NAMES]
    if unknown:
        raise UserError(f"{path}: {feature} names {unknown[0]!r}, which is no joint of this arm")
    unit = _unit(path, feature, tuple(Channel(joint, Unit.RAD) for joint in joints), norm)
    return tuple(Channel(joint, Unit.PERCENT if joint == "gripper" else unit) for joint in joints)


def _unit(path: Path, feature: str, channels: tuple[Channel, ...], norm: FeatureNorm) -> Unit:
    fitting = possible_units(_statistics(norm), channels)
    if fitting is not None and len(fitting) == 1:
        return next(iter(fitting))
    choices = " or ".join(sorted(unit.value for unit in fitting)) if fitting else "no known unit"
    raise UserError(
        f"{path.parent}: the statistics of {feature} fit {choices}, which must not be guessed: "
        "write a contract.yaml with the units"
    )


def _statistics(norm: FeatureNorm) -> Statistics:
    def numbers(name: str) -> tuple[float, ...] | None:
        values = norm.statistics.get(name)
        return None if values is None else tuple(float(v) for v in np.ravel(values))

    return Statistics(*(numbers(name) for name in ("mean", "std", "min", "max", "q01", "q99")))
