"""Parts of a contract: its enums, cameras, channels and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

EE_ADVICE = (
    "this arm's joint commands cannot carry them; use a checkpoint fine-tuned in joint space on "
    "data of this arm (the poses themselves are what predict(...).poses gives)"
)
"""What to do with a checkpoint that predicts end-effector poses."""


class ActionSpace(Enum):
    """What the numbers of an action mean."""

    JOINT = "joint"
    EE = "ee"


class ActionKind(Enum):
    """Whether the training data recorded where the arm was told to go, or where it went."""

    GOAL = "goal"
    STATE = "state"


class Unit(Enum):
    """Unit of one channel in the data set."""

    RAD = "rad"
    DEG = "deg"
    RANGE_100 = "range_100"
    """−100 and 100 at the ends of the calibrated range."""
    PERCENT = "percent"
    """0 with the gripper closed, 100 with it open."""
    METRE = "m"
    """Of a position, in ``ee`` contracts only."""
    PLAIN = "1"
    """Without unit, in ``ee`` contracts only."""


class Zeros(Enum):
    """Where LeRobot's calibration had the zero of each arm joint when data were recorded."""

    MID_RANGE = "mid_range"
    """In the middle of its range, since the spring of 2025 and here."""
    STRETCHED = "stretched"
    """With the arm stretched out level, before; shoulder_lift turned the other way then."""


class PredictionMode(Enum):
    """How the model makes actions."""

    FLOW = "flow"
    FAST = "fast"


class Weights(Enum):
    """Whether anybody trained the checkpoint."""

    TRAINED = "trained"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Camera:
    """One view, in the order of the prompt.

    Attributes:
        view: Name that the model knows it by, e.g. ``face_view``.
        width: Pixels.
        height: Pixels.
        topic: Base name of its topics, ``camera/<view>`` unless said.
    """

    view: str
    width: int
    height: int
    topic: str = ""

    def __post_init__(self) -> None:
        """Fill in the usual topic."""
        if not self.topic:
            object.__setattr__(self, "topic", f"camera/{self.view}")


@dataclass(frozen=True, slots=True)
class Channel:
    """One column of the state or of the action: ``data set = sign · value_in_unit + offset``.

    Attributes:
        name: A joint of ``JOINT_NAMES`` in a joint contract, anything in an ``ee`` contract.
        unit: Unit of the data set.
        sign: 1 or −1.
        offset: In ``unit``; older calibrations had other zeros.
    """

    name: str
    unit: Unit
    sign: int = 1
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per column of one feature, in data set units; None where the checkpoint does not say."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    min: tuple[float, ...] | None = None
    max: tuple[float, ...] | None = None
    q01: tuple[float, ...] | None = None
    q99: tuple[float, ...] | None = None

    def extent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return the lowest and highest values seen in training, or None if unknown."""
        for low, high in ((self.min, self.max), (self.q01, self.q99)):
            if low is not None and high is not None:
                return np.asarray(low, float), np.asarray(high, float)
        if self.mean is not None and self.std is not None:
            mean, std = np.asarray(self.mean, float), np.asarray(self.std, float)
            return mean - 3 * std, mean + 3 * std
        return None


UNKNOWN_STATISTICS = Statistics()
"""Statistics of a checkpoint that says nothing, and of scripted backends."""


@dataclass(frozen=True, slots=True)
class Built:
    """A contract made from a checkpoint's files.

    Attributes:
        arguments: Of `Contract`.
        notes: What was concluded and from which file, a line each.
    """

    arguments: Mapping[str, Any]
    notes: tuple[str, ...]
