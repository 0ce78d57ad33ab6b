"""Reads the geometry file; docs/geometry.md explains its keys."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so101_driver.errors import UserError
from so101_driver.kinematics import Kinematics, rotation_of
from so101_driver.safety.geometry import Geometry
from so101_driver.safety.geometry_shapes import (
    Box,
    Capsule,
    Fingertip,
    Pair,
    Part,
    Shapes,
    Table,
    Workspace,
)
from so101_driver.yaml_fields import mapping, number, read_yaml

Array = NDArray[np.float64]

MAX_TILT_RAD = math.radians(15.0)
"""A table that is steeper than this against the arm's base was measured or written wrongly."""

_TOP_KEYS = (
    "recoverable_m",
    "table",
    "workspace",
    "boxes",
    "fingertips",
    "parts",
    "self_collision",
)


def load_geometry(path: str | Path, kinematics: Kinematics, joint_names: Iterable[str]) -> Geometry:
    """Read a geometry file for one arm.

    Args:
        path: Of the YAML file.
        kinematics: Of the arm; the file names its links.
        joint_names: Order of the joint arrays of the result.

    Raises:
        UserError: Anything is wrong with the file, or the joints are not the arm's.
    """
    names = tuple(joint_names)
    if sorted(names) != sorted(kinematics.joint_names):
        raise UserError(
            f"the limits file has the joints {', '.join(names)} but the URDF "
            f"{', '.join(kinematics.joint_names)}: geometry needs both to describe the same arm."
        )
    return Geometry(load_shapes(path, kinematics.link_names), kinematics, names)


def load_shapes(path: str | Path, link_names: tuple[str, ...]) -> Shapes:
    """Read a geometry file for an arm with these links.

    Raises:
        UserError: Anything is wrong with the file.
    """
    return shapes_of(read_content(path), link_names, str(path))


def read_content(path: str | Path) -> Any:
    """Return a YAML file's content, unchecked.

    Raises:
        UserError: It cannot be read or is not YAML.
    """
    return read_yaml(path, "geometry file", "so101_geometry.yaml")


def shapes_of(content: Any, link_names: tuple[str, ...], source: str) -> Shapes:
    """Check a geometry file's content and return what it describes.

    Raises:
        UserError: Anything is wrong with it.
    """
    top = mapping(content, _TOP_KEYS, "", source)
    parts = tuple(
        _part(name, entry, link_names, source)
        for name, entry in _named(top["parts"], "parts", source)
    )
    part_names = tuple(part.name for part in parts)
    fingertips = tuple(
        _fingertip(name, entry, link_names, source)
        for name, entry in _named(top["fingertips"], "fingertips", source)
    )
    boxes = mapping(top["boxes"], ("margin_m", "list"), "boxes", source)
    shapes = Shapes(
        recoverable_m=number(top["recoverable_m"], "recoverable_m", source, minimum=0.0),
        parts=parts,
        fingertips=fingertips,
        table=_table(top["table"], part_names, source),
        workspace=_workspace(top["workspace"], source),
        boxes=tuple(
            _box(name, entry, source)
            for name, entry in _named(boxes["list"], "boxes: list", source)
        ),
        boxes_margin_m=number(boxes["margin_m"], "boxes: margin_m", source, minimum=0.0),
        pairs=_pairs(top["self_collision"], part_names, source),
        source=source,
    )
    _check_thickness(shapes)
    return shapes


def _part(name: str, entry: Any, link_names: tuple[str, ...], source: str) -> Part:
    where = f"parts: {name}"
    fields = mapping(entry, ("link", "capsules"), where, source)
    if not isinstance(fields["capsules"], list) or not fields["capsules"]:
        raise UserError(f"{where}: capsules in {source} must be a list of capsules.")
    capsules = []
    for index, capsule in enumerate(fields["capsules"], 1):
        place = f"{where}: capsule {index}"
        keys = mapping(capsule, ("from_m", "to_m", "radius_m"), place, source)
        radius = number(keys["radius_m"], f"{place}: radius_m", source, minimum=0.0)
        if radius == 0.0:
            raise UserError(f"{place}: radius_m in {source} must be positive.")
        start, end = (_vector(keys[key], f"{place}: {key}", source) for key in ("from_m", "to_m"))
        capsules.append(Capsule(start, end, radius))
    return Part(name, _link(fields["link"], link_names, where, source), tuple(capsules))


def _fingertip(name: str, entry: Any, link_names: tuple[str, ...], source: str) -> Fingertip:
    where = f"fingertips: {name}"
    fields = mapping(entry, ("link", "points_m"), where, source)
    if not isinstance(fields["points_m"], list) or not fields["points_m"]:
        raise UserError(f"{where}: points_m in {source} must be a list of points.")
    points = np.array([_vector(p, f"{where}: points_m", source) for p in fields["points_m"]])
    return Fingertip(name, _link(fields["link"], link_names, where, source), points)


def _table(entry: Any, part_names: tuple[str, ...], source: str) -> Table | None:
    if entry is None:
        return None
    fields = mapping(
        entry,
        ("point_m", "normal", "table_command_depth_m", "margin_m", "parts"),
        "table",
        source,
    )
    normal = _vector(fields["normal"], "table: normal", source)
    length = float(np.linalg.norm(normal))
    if length < 1e-6 or normal[2] < length * math.cos(MAX_TILT_RAD):
        raise UserError(
            f"table: normal in {source} must point up within {math.degrees(MAX_TILT_RAD):.0f} "
            "degrees of the base's z axis: measure the table again."
        )
    depth = number(
        fields["table_command_depth_m"], "table: table_command_depth_m", source, minimum=0.0
    )
    return Table(
        point_m=_vector(fields["point_m"], "table: point_m", source),
        normal=normal / length,
        command_depth_m=depth,
        margin_m=number(fields["margin_m"], "table: margin_m", source, minimum=0.0),
        parts=_known_parts(fields["parts"], part_names, "table: parts", source),
    )


def _workspace(entry: Any, source: str) -> Workspace | None:
    if entry is None:
        return None
    fields = mapping(entry, ("lower_m", "upper_m"), "workspace", source)
    lower, upper = (
        _vector(fields[key], f"workspace: {key}", source) for key in ("lower_m", "upper_m")
    )
    if not (lower < upper).all():
        raise UserError(f"workspace in {source}: lower_m must be below upper_m in x, y and z.")
    return Workspace(lower, upper)


def _box(name: str, entry: Any, source: str) -> Box:
    where = f"boxes: {name}"
    fields = mapping(entry, ("centre_m", "size_m", "rpy_rad"), where, source)
    size = _vector(fields["size_m"], f"{where}: size_m", source)
    if not (size > 0.0).all():
        raise UserError(f"{where}: size_m in {source} must be positive in x, y and z.")
    return Box(
        name=name,
        centre_m=_vector(fields["centre_m"], f"{where}: centre_m", source),
        rotation=rotation_of(*_vector(fields["rpy_rad"], f"{where}: rpy_rad", source)),
        half_m=0.5 * size,
    )


def _pairs(entry: Any, part_names: tuple[str, ...], source: str) -> tuple[Pair, ...]:
    where = "self_collision"
    if not isinstance(entry, list):
        raise UserError(f"{where} in {source} must be a list of pairs of parts, maybe empty: [].")
    pairs = []
    for item in entry:
        fields = mapping(item, ("parts", "margin_m"), where, source)
        names = _known_parts(fields["parts"], part_names, where, source)
        if len(names) != 2 or names[0] == names[1]:
            raise UserError(f"{where} in {source}: {list(names)} must be two different parts.")
        margin = number(fields["margin_m"], f"{where}: margin_m", source)
        pairs.append(Pair(names[0], names[1], margin))
    return tuple(pairs)


def _check_thickness(shapes: Shapes) -> None:
    """Two axes that have passed each other look apart again: a start that deep must be refused."""
    thinnest = {part.name: min(c.radius_m for c in part.capsules) for part in shapes.parts}
    for pair in shapes.pairs:
        depth = thinnest[pair.first] + thinnest[pair.second] + pair.margin_m
        if depth <= shapes.recoverable_m:
            raise UserError(
                f"self_collision in {shapes.source}: {pair.first} and {pair.second} are together "
                "no thicker than recoverable_m: make recoverable_m smaller or their capsules "
                "thicker."
            )


def _named(entry: Any, where: str, source: str) -> list[tuple[str, Any]]:
    if entry is None:
        return []
    if not isinstance(entry, dict):
        raise UserError(f"{where} in {source} must list entries by name.")
    return [(str(name), value) for name, value in entry.items()]


def _known_parts(
    entry: Any, part_names: tuple[str, ...], where: str, source: str
) -> tuple[str, ...]:
    if not isinstance(entry, list):
        raise UserError(f"{where} in {source} must list names of parts, not {entry!r}.")
    unknown = [str(name) for name in entry if name not in part_names]
    if unknown:
        raise UserError(
            f"{where} in {source} names {', '.join(unknown)}; the parts are: "
            f"{', '.join(part_names)}."
        )
    return tuple(entry)


def _link(entry: Any, link_names: tuple[str, ...], where: str, source: str) -> str:
    if entry not in link_names:
        raise UserError(
            f"{where} in {source}: the URDF has no link {entry}; it has {', '.join(link_names)}."
        )
    return str(entry)


def _vector(value: Any, where: str, source: str) -> Array:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f"{where} in {source} must be [x, y, z], not {value!r}.")
    return np.array([number(part, where, source) for part in value])
