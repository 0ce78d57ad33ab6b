"""Compares contracts with themselves, with their statistics and with a running graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from so101_driver.joints import JOINT_NAMES

from wallx_policy.contract_types import (
    EE_ADVICE,
    ActionSpace,
    Camera,
    Channel,
    Statistics,
    Unit,
)
from wallx_policy.units import WORDS, judge_arm, judge_gripper

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from so101_driver.calibration import Calibration

    from wallx_policy.contract import Contract

_POSE_UNITS = (Unit.METRE, Unit.PLAIN)
"""Of no joint."""
_SLACK_RAD = 0.35
"""How far outside the trained range a joint may start: 20°, wider than poses differ by chance."""


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """What was heard on the graph while configuring.

    Attributes:
        cameras: (width, height) of an image by view; a view that sent nothing is absent.
        joint_names: Of ``joint_states``, in the order of the message; empty if none came.
        state_rad: Measured positions in the order of ``joint_names``; empty if none came.
        calibration: Of the arm; needed to judge ±100 channels only.
        camera_topics: What was listened to for each view, as the user would see it.
    """

    cameras: Mapping[str, tuple[int, int]]
    joint_names: tuple[str, ...]
    state_rad: tuple[float, ...]
    calibration: Calibration | None = None
    camera_topics: Mapping[str, str] = field(default_factory=dict)


def problems(contract: Contract) -> list[str]:
    """Return what is wrong with a contract in itself."""
    found = []
    if not (math.isfinite(contract.period_s) and contract.period_s > 0):
        found.append(f"period_s must be positive, not {contract.period_s}")
    if contract.horizon < 1:
        found.append(f"horizon must be at least 1, not {contract.horizon}")
    if not (math.isfinite(contract.image_age_s) and contract.image_age_s >= 0):
        found.append(f"image_age_s must be 0 or more, not {contract.image_age_s}")
    if "{instruction}" not in contract.instruction_template:
        found.append("instruction_template must contain {instruction}")
    found += _camera_problems(contract.cameras)
    for key in ("state", "action"):
        channels = getattr(contract, key)
        found += _statistics_problems(getattr(contract, f"{key}_statistics"), len(channels), key)
        found += _channel_problems(channels, key)
        if contract.action_space is ActionSpace.JOINT:
            found += _joint_problems(channels, key)
    return found


def differences(contract: Contract, graph: GraphDescription) -> tuple[str, ...]:
    """Return one sentence for every way in which a graph does not fit; empty if it does."""
    if contract.action_space is not ActionSpace.JOINT:
        return (f"the checkpoint predicts end-effector poses: {EE_ADVICE}",)
    return (
        *_camera_differences(contract, graph),
        *_unit_differences(contract),
        *_state_differences(contract, graph),
    )


def _camera_problems(cameras: Sequence[Camera]) -> list[str]:
    found = [
        f"camera {camera.view!r} must have a name and a size, not {camera.width}x{camera.height}"
        for camera in cameras
        if not camera.view or camera.width < 1 or camera.height < 1
    ]
    views = [camera.view for camera in cameras]
    found += [f"camera {view} stands twice" for view in sorted(set(views)) if views.count(view) > 1]
    return found


def _channel_problems(channels: Sequence[Channel], key: str) -> list[str]:
    found = [] if channels else [f"{key} has no columns"]
    for channel in channels:
        if channel.sign not in (1, -1):
            found.append(f"sign of {key} {channel.name} must be 1 or -1, not {channel.sign}")
        if not math.isfinite(channel.offset):
            found.append(f"offset of {key} {channel.name} must be finite")
        if channel.unit is Unit.PERCENT and channel.name != "gripper":
            found.append(f"{key} {channel.name} cannot be in percent: only the gripper is")
    return found


def _joint_problems(channels: Sequence[Channel], key: str) -> list[str]:
    names = [channel.name for channel in channels]
    found = [f"{key} {name} is no joint of the arm" for name in names if name not in JOINT_NAMES]
    found += [
        f"{key} {channel.name} cannot be in {WORDS[channel.unit]}: a joint turns"
        for channel in channels
        if channel.unit in _POSE_UNITS
    ]
    found += [f"{key} {name} stands twice" for name in sorted(set(names)) if names.count(name) > 1]
    if key == "action":
        found += [f"action lacks joint {name}" for name in JOINT_NAMES if name not in names]
    return found


def _statistics_problems(statistics: Statistics, columns: int, key: str) -> list[str]:
    found = []
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        numbers = getattr(statistics, name)
        if numbers is None:
            continue
        if len(numbers) != columns:
            found.append(f"{key} has {columns} columns but {len(numbers)} values of {name}")
        if not all(math.isfinite(number) for number in numbers):
            found.append(f"{name} of {key} is not finite")
    return found


def _camera_differences(contract: Contract, graph: GraphDescription) -> list[str]:
    found = []
    wrong: list[Camera] = []
    for camera in contract.cameras:
        size = graph.cameras.get(camera.view)
        if size is None:
            topic = graph.camera_topics.get(camera.view, camera.topic)
            found.append(f"no image came on {topic} for view {camera.view}: check the topic")
        elif size != (camera.width, camera.height):
            wrong.append(camera)
            found.append(
                f"camera {camera.view} sends {size[0]}x{size[1]}, the policy was trained on "
                f"{camera.width}x{camera.height}"
            )
    swapped = [
        (a.view, b.view)
        for i, a in enumerate(wrong)
        for b in wrong[i + 1 :]
        if graph.cameras[a.view] == (b.width, b.height)
        and graph.cameras[b.view] == (a.width, a.height)
    ]
    found += [f"cameras {a} and {b} look swapped: exchange their topics" for a, b in swapped]
    return found


def _unit_differences(contract: Contract) -> list[str]:
    found = []
    for key in ("state", "action"):
        channels, statistics = getattr(contract, key), getattr(contract, f"{key}_statistics")
        declared = {channel.unit for channel in channels if channel.name != "gripper"}
        verdict = judge_arm(statistics, channels)
        if verdict.units is not None and not declared <= verdict.units:
            said = " and ".join(WORDS[unit] for unit in sorted(declared, key=lambda u: u.value))
            found.append(
                f"the contract gives the {key} in {said}, its statistics fit {verdict.words()} "
                f"({verdict.reason})"
            )
        gripper = [channel.unit for channel in channels if channel.name == "gripper"]
        arm = next(iter(declared)) if len(declared) == 1 else None
        own = judge_gripper(statistics, channels, arm)
        judged = Unit.PERCENT in gripper or (Unit.RAD in gripper and arm is Unit.RAD)
        if judged and own.only is not None and own.only not in gripper:
            found.append(
                f"the contract gives the gripper of the {key} in {WORDS[gripper[0]]}, its "
                f"statistics fit {own.words()} ({own.reason})"
            )
    return found


def _state_differences(contract: Contract, graph: GraphDescription) -> list[str]:
    if not graph.joint_names:
        return ["no joint_states came: start the driver, or check its topic"]
    missing = [c.name for c in contract.state if c.name not in graph.joint_names]
    if missing:
        names = ", ".join(graph.joint_names)
        return [f"joint_states lacks {', '.join(missing)}; it names {names}"]
    if graph.joint_names != JOINT_NAMES:
        return [
            f"joint_states names {', '.join(graph.joint_names)}; this arm's order is "
            f"{', '.join(JOINT_NAMES)}"
        ]
    return _outside(contract, graph.state_rad, graph.calibration)


def _outside(
    contract: Contract, state_rad: ArrayLike, calibration: Calibration | None
) -> list[str]:
    """Say which joints stand where the training data never was."""
    extent = contract.state_statistics.extent()
    if extent is None:
        return []
    if calibration is None and any(channel.unit is Unit.RANGE_100 for channel in contract.state):
        return ["the state is in ±100 of the calibrated range: give the arm's calibration file"]
    value = contract.from_radians(state_rad, calibration)
    step = contract.from_radians(np.asarray(state_rad) + _SLACK_RAD, calibration)
    slack = np.abs(step - value)
    found = []
    for i, channel in enumerate(contract.state):
        low, high = extent[0][i], extent[1][i]
        # Written so that NaN, a joint without a fresh reading, is a difference too.
        if not low - slack[i] <= value[i] <= high + slack[i]:
            found.append(
                f"{channel.name} stands at {value[i]:.4g} {channel.unit.value}, the training data "
                f"lies in {low:.4g} to {high:.4g}: wrong unit, zero or sign, or an unusual pose"
            )
    return found
