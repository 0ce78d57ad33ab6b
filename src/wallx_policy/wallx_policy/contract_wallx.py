"""Contracts of checkpoints that wall-x itself wrote: wall-oss-flow, -fast and -0.5.

Their configuration names groups of columns (``dof_config``) and, in ``config.yml``, the views; the
joints behind the columns, the rate and the sizes of images stand in the data set's ``info.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError

from wallx_policy import train_config
from wallx_policy.contract_dataset import DataSet, find_data_set, read_data_set
from wallx_policy.contract_lerobot import IMAGE_AGE_S
from wallx_policy.contract_types import (
    EE_ADVICE,
    UNKNOWN_STATISTICS,
    ActionKind,
    ActionSpace,
    Built,
    Camera,
    Channel,
    PredictionMode,
    Statistics,
    Unit,
)
from wallx_policy.contract_units import Choices, Feature, joint_channels
from wallx_policy.dof_groups import PADDING_GROUP, is_end_effector
from wallx_policy.lerobot_files import ACTION_FEATURE, STATE_FEATURE
from wallx_policy.wallx_statistics import Named, leading, read_statistics

_HORIZON = 32
_GROUPS = {"state": "agent_pos_config", "action": "dof_config"}


def from_wallx(folder: Path, config: Mapping[str, Any], choices: Choices) -> Built:
    """Build the contract of a checkpoint in wall-x's own layouts.

    Raises:
        UserError: saying what is missing; nothing is guessed.
    """
    content = train_config.merged(folder, config)
    source = train_config.path_of(folder)
    said_by = source.name if source.is_file() else "config.json"
    groups = {key: _groups(folder, content, name) for key, name in _GROUPS.items()}
    poses = any(is_end_effector(name) for name in groups["action"])
    if poses and find_data_set(folder) is None:
        raise UserError(f"{folder} predicts end-effector poses ({said_by}): {EE_ADVICE}")
    data = read_data_set(folder)
    cameras, seen_as = _cameras(folder, data)
    named, name = _statistics(folder, groups, choices, needed=not poses)
    statistics = {key: _of(folder, named, key, groups[key]) for key in _GROUPS}
    if poses:
        channels = {key: _pose_channels(widths) for key, widths in groups.items()}
        notes = [f"actions: end-effector poses, as dof_config in {said_by} says: {EE_ADVICE}"]
    else:
        data.check_arm()
        features = {
            key: Feature(_joints(folder, data, key, groups[key], said_by), statistics[key])
            for key in _GROUPS
        }
        channels, notes = joint_channels(folder, features, data.zeros, choices)
        notes.append(f"columns: {said_by}; joint names: {data.where}")
    if named is not None:
        notes.append(f"statistics: {name} of {named.source}")
    horizon, horizon_key = _horizon(folder, content)
    fast = train_config.predicts_fast(folder) and not content.get("mot_opt")
    return Built(
        {
            "embodiment": data.robot if poses else "so101",
            "action_space": ActionSpace.EE if poses else ActionSpace.JOINT,
            "cameras": cameras,
            "state": channels["state"],
            "action": channels["action"],
            "period_s": 1.0 / data.fps,
            "horizon": horizon,
            "action_kind": ActionKind.GOAL,
            "image_age_s": IMAGE_AGE_S,
            "state_statistics": statistics["state"],
            "action_statistics": statistics["action"],
            "prediction_mode": PredictionMode.FAST if fast else PredictionMode.FLOW,
            "norm_key": name,
        },
        (
            f"views: {seen_as}, in the order of key_mappings.camera in {said_by}; sizes: "
            f"{data.where}",
            f"rate: {data.fps:g} actions a second, fps in {data.where}",
            f"horizon: {horizon} actions, {horizon_key}",
            *notes,
            "actions: goals, and images 0.04 s old, as LeRobot records them",
        ),
    )


def _groups(folder: Path, content: Mapping[str, Any], key: str) -> dict[str, int]:
    groups = content.get(key)
    if not isinstance(groups, Mapping) or not groups:
        raise UserError(
            f"{folder}: neither config.json nor {train_config.FILE_NAME} holds {key}: copy the "
            "training's configuration into the folder, or write a contract.yaml"
        )
    wrong = [name for name, width in groups.items() if type(width) is not int or width < 1]
    if wrong:
        raise UserError(f"{folder}: {key}.{wrong[0]} must be a number of columns")
    return {str(name): width for name, width in groups.items() if name != PADDING_GROUP}


def _cameras(folder: Path, data: DataSet) -> tuple[tuple[Camera, ...], str]:
    """Return the views in prompt order, and words on which image each is."""
    mapping = train_config.cameras(folder)
    if not mapping:
        raise UserError(
            f"{folder} does not say which views it takes: give key_mappings.camera in "
            f"{train_config.FILE_NAME}, by name of the data set's image, or write a contract.yaml"
        )
    cameras: dict[str, Camera] = {}
    words = []
    for name, view in mapping.items():
        if view not in cameras:
            width, height = data.image_size(name)
            cameras[view] = Camera(view, width, height)
            words.append(f"{view} {width}x{height} ({name})")
    return tuple(cameras.values()), ", ".join(words)


def _statistics(
    folder: Path, groups: Mapping[str, Mapping[str, int]], choices: Choices, *, needed: bool
) -> tuple[Named | None, str]:
    """Return the statistics that are meant and their name."""
    found = read_statistics(folder, groups["action"], groups["state"])
    name = choices.norm_key
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name is not None and name in found:
        return found[name], name
    listed = ", ".join(f"{key} ({named.source})" for key, named in sorted(found.items()))
    if name is not None:
        raise UserError(f"{folder}: norm_key {name!r} is not there; there are: {listed or 'none'}")
    if not needed:
        return None, ""
    if not found:
        raise UserError(
            f"{folder} holds no statistics: copy norm_stats.json of its training into the folder"
        )
    raise UserError(
        f"{folder} holds several statistics: {listed}: say which with `wallx contract {folder} "
        "--norm-key NAME --save`"
    )


def _of(folder: Path, named: Named | None, key: str, groups: Mapping[str, int]) -> Statistics:
    if named is None:
        return UNKNOWN_STATISTICS
    statistics = named.state if key == "state" else named.action
    where = f"{folder / named.source}: the statistics of the {key}"
    return leading(statistics, sum(groups.values()), where)


def _joints(
    folder: Path, data: DataSet, key: str, groups: Mapping[str, int], said_by: str
) -> tuple[str, ...]:
    """Return the joint of every column; the groups have to agree with the data set's order."""
    feature = STATE_FEATURE if key == "state" else ACTION_FEATURE
    joints = data.joints(feature)
    where = f"{folder}: {_GROUPS[key]} in {said_by}"
    if sum(groups.values()) != len(joints):
        raise UserError(
            f"{where} has {sum(groups.values())} columns in use, {data.path} names {len(joints)}"
        )
    start = 0
    for group, width in groups.items():
        own = joints[start : start + width]
        start += width
        fits = set(own) == {"gripper"} if "gripper" in group else "gripper" not in own
        if not fits or (group in joints and own != (group,)):
            raise UserError(
                f"{where} has {group} where {data.path} has {', '.join(own)}: the columns of the "
                "data set are not in this order, write a contract.yaml"
            )
    return joints


def _pose_channels(groups: Mapping[str, int]) -> tuple[Channel, ...]:
    return tuple(
        Channel(f"{name}[{i}]", _pose_unit(name))
        for name, width in groups.items()
        for i in range(width)
    )


def _pose_unit(name: str) -> Unit:
    if "cartesian_pos" in name or name == "height":
        return Unit.METRE
    return Unit.RAD if "rotation" in name and "6D" not in name else Unit.PLAIN


def _horizon(folder: Path, content: Mapping[str, Any]) -> tuple[int, str]:
    for key in ("action_horizon_flow", "action_horizon"):
        value = content.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise UserError(f"{folder}: {key} must be a whole number, not {value!r}")
            return value, f"{key} of the configuration"
    return _HORIZON, "as nothing else is said"
