"""What the geometry file describes, as values: shapes on the arm and around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Capsule:
    """All points within ``radius_m`` of a straight segment; a sphere when its ends coincide.

    Attributes:
        start_m: One end of the segment, in the part's link frame.
        end_m: The other.
        radius_m: Its radius.
    """

    start_m: Array
    end_m: Array
    radius_m: float


@dataclass(frozen=True, slots=True)
class Part:
    """Part of the arm.

    Attributes:
        name: For messages, e.g. ``forearm``.
        link: Link of the URDF that carries it.
        capsules: What it is covered with.
    """

    name: str
    link: str
    capsules: tuple[Capsule, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fingertip:
    """Points of a finger that touch the table first.

    Attributes:
        name: For messages.
        link: Link of the URDF that carries it.
        points_m: [points, 3] in that link's frame.
    """

    name: str
    link: str
    points_m: Array


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The plane on which the arm works; everything behind its normal is forbidden.

    Attributes:
        point_m: Any point of the surface, in the base's frame.
        normal: Unit vector away from the table.
        command_depth_m: How far below the surface a fingertip may be commanded.
        margin_m: Distance that the other parts keep from it.
        parts: Names of those parts.
    """

    point_m: Array
    normal: Array
    command_depth_m: float
    margin_m: float
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Workspace:
    """Box along the base's axes that the tip may not leave."""

    lower_m: Array
    upper_m: Array


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A thing to keep away from.

    Attributes:
        name: For messages.
        centre_m: In the base's frame.
        rotation: [3, 3], its axes as columns.
        half_m: Half of its edges' lengths.
    """

    name: str
    centre_m: Array
    rotation: Array
    half_m: Array


@dataclass(frozen=True, slots=True)
class Pair:
    """Two parts that keep apart.

    Attributes:
        first: Name of one part.
        second: Name of the other.
        margin_m: Distance that their capsules keep; negative allows them to overlap.
    """

    first: str
    second: str
    margin_m: float


@dataclass(frozen=True, slots=True)
class Shapes:
    """Content of a geometry file.

    Attributes:
        recoverable_m: A start that violates a constraint by more than this is refused.
        parts: Of the arm.
        fingertips: Of the gripper; empty for an arm without.
        table: None where there is none.
        workspace: None where the tip may go anywhere.
        boxes: To keep away from.
        boxes_margin_m: Distance that every moving part keeps from them.
        pairs: Parts that can hit each other.
        source: Where this came from, for messages.
    """

    recoverable_m: float
    parts: tuple[Part, ...]
    fingertips: tuple[Fingertip, ...]
    table: Table | None
    workspace: Workspace | None
    boxes: tuple[Box, ...]
    boxes_margin_m: float
    pairs: tuple[Pair, ...]
    source: str
