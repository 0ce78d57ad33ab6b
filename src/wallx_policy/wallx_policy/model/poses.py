"""End-effector columns of a prediction as absolute poses.

The base models predict poses of two grippers. wall-oss-0.5 gives them relative to the state that
the prediction was made from, the same state for every step of the chunk; the earlier models
absolute, with Euler angles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError

from wallx_policy.dof_groups import BASE_05, PADDING_GROUP, is_end_effector
from wallx_policy.model.config_types import CheckpointConfig, Layout

Array = NDArray[np.float64]

_RELATIVE = "_relative"
_SIX = "_rotation_6D"
_EULER = "_rotation"
_POSITION = "_cartesian_pos"
_SMALLEST = 1e-6
"""Below this length a row of a rotation has no direction."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where one end-effector shall be at each step of a chunk.

    Attributes:
        position_m: [horizon, 3] in metres.
        rotation: [horizon, 3, 3]; columns are the axes of the end-effector.
    """

    position_m: Array
    rotation: Array


@dataclass(frozen=True, slots=True)
class AbsolutePoses:
    """A chunk of actions by what its columns mean.

    Attributes:
        end_effectors: By name, e.g. ``follow_left_ee``.
        others: [horizon, width] by name of the group, as predicted: grippers, height, head, base.
        undefined: Why an end-effector has no pose, by name: its columns are no rotation, as where
            the training data had only one arm, or the state is unknown.
    """

    end_effectors: Mapping[str, Pose]
    others: Mapping[str, Array]
    undefined: Mapping[str, str]


def rotation_from_six(values: ArrayLike) -> Array:
    """Return [..., 3, 3] of the first two rows of rotations, [..., 6].

    The rows may be off by what a network is off: the first keeps its direction, the second is made
    perpendicular to it (Gram–Schmidt), the third is their cross product.

    Raises:
        ValueError: where a row is too short, or the two point the same way.
    """
    rows = np.asarray(values, dtype=np.float64)
    first = _unit(rows[..., :3])
    second = rows[..., 3:6]
    second = _unit(second - (first * second).sum(axis=-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=-2)


def six_from_rotation(rotation: ArrayLike) -> Array:
    """Return the first two rows, [..., 6], of rotations [..., 3, 3]."""
    matrix = np.asarray(rotation, dtype=np.float64)
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def rotation_from_euler(angles_rad: ArrayLike) -> Array:
    """Return ``Rz · Ry · Rx`` [..., 3, 3] of angles about x, y and z, [..., 3] in radians."""
    angles = np.asarray(angles_rad, dtype=np.float64)
    (sx, sy, sz), (cx, cy, cz) = (
        (f(angles[..., 0]), f(angles[..., 1]), f(angles[..., 2])) for f in (np.sin, np.cos)
    )
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


@dataclass(frozen=True, slots=True)
class PoseGroups:
    """Which columns of action and state are what.

    Attributes:
        action: Columns by name of the group, in order, without padding.
        state: Likewise.
    """

    action: Mapping[str, slice]
    state: Mapping[str, slice]

    @classmethod
    def of(
        cls, dof: Mapping[str, int], agent_pos: Mapping[str, int], action_dim: int
    ) -> PoseGroups | None:
        """Return the groups of a checkpoint; None if it predicts no end-effector poses.

        Args:
            dof: ``dof_config``: widths of the action's groups by name, in order.
            agent_pos: ``agent_pos_config``, likewise of the state.
            action_dim: Leading action columns that are given out; groups beyond are left out.

        Raises:
            UserError: when a group cannot be understood, or the state lacks what one is relative
                to; naming the group.
        """
        action = _slices(dof)
        cut = {_end(n) for n, s in action.items() if is_end_effector(n) and s.stop > action_dim}
        given = {
            name: columns
            for name, columns in action.items()
            if columns.stop <= action_dim and not (is_end_effector(name) and _end(name) in cut)
        }
        groups = cls(given, _slices(agent_pos))
        for name in given:
            if name.endswith(_RELATIVE) and not is_end_effector(name):
                raise UserError(
                    f"dof_config: {name} is relative to the state, which is implemented for "
                    "end-effector poses only"
                )
        for name, columns in given.items():
            groups._check(name, columns.stop - columns.start)
        for end in groups.end_effectors:
            kinds = [_POSITION in name for name in groups._parts(end)]
            if kinds != [True, False]:
                raise UserError(f"dof_config must give {end} one position and one rotation")
        return groups if groups.end_effectors else None

    def absolute(self, actions: ArrayLike, state: ArrayLike) -> AbsolutePoses:
        """Return a chunk as absolute poses.

        Args:
            actions: [horizon, columns] in data set units.
            state: [columns] in data set units, that the prediction was made from.
        """
        chunk = np.asarray(actions, dtype=np.float64)
        now = np.asarray(state, dtype=np.float64)
        ends, undefined = {}, {}
        for end in self.end_effectors:
            position, rotation = self._parts(end)
            try:
                ends[end] = Pose(
                    self._positions(position, chunk, now), self._rotations(rotation, chunk, now)
                )
            except ValueError as error:
                undefined[end] = str(error)
        others = {
            name: chunk[:, columns]
            for name, columns in self.action.items()
            if not is_end_effector(name)
        }
        return AbsolutePoses(ends, others, undefined)

    def rebased(self, actions: ArrayLike, old: ArrayLike, new: ArrayLike) -> Array:
        """Return actions that mean the same poses, relative to another state.

        Args:
            actions: [rows, columns] in data set units, relative to ``old``.
            old: [columns] in data set units.
            new: Likewise.

        Raises:
            UserError: when a state is unknown, or columns are no rotation.
        """
        chunk = np.array(actions, dtype=np.float64)
        before, now = (np.asarray(state, dtype=np.float64) for state in (old, new))
        if before.shape != now.shape:
            raise UserError(
                f"the prefix is relative to a state of {before.size} columns, the new "
                f"one has {now.size}"
            )
        try:
            for end in self.end_effectors:
                position, rotation = self._parts(end)
                if position.endswith(_RELATIVE):
                    absolute = self._positions(position, chunk, before)
                    chunk[:, self.action[position]] = absolute - self._known(position, now)
                if rotation.endswith(_RELATIVE):
                    columns = self.action[rotation]
                    turned = self._rotations(rotation, chunk, before) @ np.swapaxes(
                        _rotation(self._known(rotation, now)), -1, -2
                    )
                    six = columns.stop - columns.start == 6
                    back = six_from_rotation if six else euler_from_rotation
                    chunk[:, columns] = back(turned)
        except ValueError as error:
            raise UserError(
                f"the prefix cannot be made relative to the new state: {error}"
            ) from None
        return chunk

    @property
    def relative(self) -> bool:
        """Whether the actions mean nothing without the state that they were predicted from."""
        return any(name.endswith(_RELATIVE) for name in self.action)

    def _positions(self, name: str, chunk: Array, now: Array) -> Array:
        values = chunk[:, self.action[name]]
        return values + self._known(name, now) if name.endswith(_RELATIVE) else values

    def _rotations(self, name: str, chunk: Array, now: Array) -> Array:
        rotation = _rotation(chunk[:, self.action[name]])
        return (
            rotation @ _rotation(self._known(name, now)) if name.endswith(_RELATIVE) else rotation
        )

    def _known(self, name: str, now: Array) -> Array:
        values = now[self.state[self._counterpart(name)]]
        if len(values) < 3 or not np.isfinite(values).all():
            raise ValueError(f"the state of {self._counterpart(name)} is unknown")
        return values

    def _counterpart(self, name: str) -> str:
        """Return the state's group that a relative group adds to."""
        bare = name.removesuffix(_RELATIVE)
        for candidate in (bare, name, bare.removesuffix("_6D")):
            if candidate in self.state:
                return candidate
        raise UserError(f"agent_pos_config has no {bare}, which {name} is relative to")

    def _check(self, name: str, width: int) -> None:
        if not is_end_effector(name):
            return
        kind = name.removesuffix(_RELATIVE)
        wanted = 6 if kind.endswith(_SIX) else 3
        if not kind.endswith((_SIX, _EULER, _POSITION)) or width != wanted:
            raise UserError(f"dof_config has {width} columns of {name}, which is not implemented")
        if name.endswith(_RELATIVE):
            other = self._counterpart(name)
            columns = self.state[other]
            if columns.stop - columns.start != (6 if other.count("_6D") else 3):
                raise UserError(f"agent_pos_config has an unexpected number of columns of {other}")

    @property
    def end_effectors(self) -> tuple[str, ...]:
        """Their names, in order."""
        ends = (_end(name) for name in self.action if is_end_effector(name))
        return tuple(dict.fromkeys(ends))

    def _parts(self, end: str) -> tuple[str, ...]:
        """Return the names of an end-effector's position and rotation."""
        own = [name for name in self.action if is_end_effector(name) and _end(name) == end]
        return tuple(sorted(own, key=lambda name: _POSITION not in name))


def pose_groups(config: CheckpointConfig, action_dim: int) -> PoseGroups | None:
    """Return the groups of a checkpoint; None if it predicts no end-effector poses.

    Args:
        config: Of the checkpoint. LeRobot's ``wall_x`` has columns of its own, whatever its base
            says; wall-oss-0.5 has 26 known ones where nothing is said.
        action_dim: Leading action columns that are given out.
    """
    if config.layout is Layout.LEROBOT:
        return None
    dof, agent_pos = config.model.dof, config.model.agent_pos
    new = config.layout in (Layout.WALL05, Layout.LEROBOT05)
    if new and not dof and action_dim == sum(BASE_05.values()):
        dof = BASE_05
        agent_pos = {name.removesuffix(_RELATIVE): width for name, width in dof.items()}
    return PoseGroups.of(dof, agent_pos, action_dim)


def _slices(groups: Mapping[str, int]) -> dict[str, slice]:
    found, start = {}, 0
    for name, width in groups.items():
        if name != PADDING_GROUP:
            found[name] = slice(start, start + width)
        start += width
    return found


def _end(name: str) -> str:
    kind = name.removesuffix(_RELATIVE)
    for ending in (_SIX, _EULER, _POSITION):
        kind = kind.removesuffix(ending)
    return kind


def _rotation(values: Array) -> Array:
    return rotation_from_six(values) if values.shape[-1] == 6 else rotation_from_euler(values)


def euler_from_rotation(rotation: ArrayLike) -> Array:
    """Return angles about x, y and z [..., 3] in radians; inverse of `rotation_from_euler`."""
    matrix = np.asarray(rotation, dtype=np.float64)
    sine = np.clip(-matrix[..., 2, 0], -1.0, 1.0)
    about_x = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2])
    about_z = np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])
    return np.stack([about_x, np.arcsin(sine), about_z], axis=-1)


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Written so that NaN is refused too.
    if not (length > _SMALLEST).all():
        raise ValueError("six numbers are no two rows of a rotation")
    return vectors / length
