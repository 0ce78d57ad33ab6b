"""The contract of a checkpoint: what it was trained to see and to say, in which units and times.

LeRobot's units (degrees, ±100, percent) exist only here; everything else speaks radians.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from so101_driver.calibration import GRIPPER_CLOSED_RAD, GRIPPER_OPEN_RAD, Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

from wallx_policy.contract_checks import GraphDescription, differences, problems
from wallx_policy.contract_files import from_mapping, to_mapping
from wallx_policy.contract_sources import from_checkpoint
from wallx_policy.contract_types import (
    EE_ADVICE,
    UNKNOWN_STATISTICS,
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    PredictionMode,
    Statistics,
    Unit,
    Weights,
    Zeros,
)
from wallx_policy.contract_units import Choices, judgement

__all__ = [
    "ActionKind",
    "ActionSpace",
    "Camera",
    "Channel",
    "Choices",
    "Contract",
    "GraphDescription",
    "PredictionMode",
    "Statistics",
    "Unit",
    "Weights",
    "Zeros",
    "read_contract",
]

FILE_NAME = "contract.yaml"


@dataclass(frozen=True, slots=True)
class Contract:
    """What a checkpoint was trained with.

    Attributes:
        embodiment: Robot, e.g. ``so101``.
        action_space: Joints or end-effector poses.
        cameras: Views in prompt order; empty for a backend without images.
        state: Columns of the state.
        action: Columns of the action.
        period_s: Time between two actions of a chunk.
        horizon: Actions in a chunk.
        action_kind: Commanded goals or reached positions.
        image_age_s: How old an image was when the data paired it with a state.
        state_statistics: Of the state columns.
        action_statistics: Of the action columns.
        prediction_mode: Flow matching or FAST tokens.
        instruction_template: With ``{instruction}`` where the user's words go.
        weights: Trained, or random for demonstrations and tests.
        norm_key: Name of the statistics in a checkpoint of wall-x; empty for the only ones.
        action_tokenizer: Folder of the FAST tokenizer, relative to the checkpoint; empty for the
            usual one.
    """

    embodiment: str
    action_space: ActionSpace
    cameras: tuple[Camera, ...]
    state: tuple[Channel, ...]
    action: tuple[Channel, ...]
    period_s: float
    horizon: int
    action_kind: ActionKind
    image_age_s: float = 0.0
    state_statistics: Statistics = UNKNOWN_STATISTICS
    action_statistics: Statistics = UNKNOWN_STATISTICS
    prediction_mode: PredictionMode = PredictionMode.FLOW
    instruction_template: str = "{instruction}"
    weights: Weights = Weights.TRAINED
    norm_key: str = ""
    action_tokenizer: str = ""

    def __post_init__(self) -> None:
        """Refuse what no checkpoint can mean."""
        found = problems(self)
        if found:
            raise UserError("the contract is not usable: " + "; ".join(found))

    @classmethod
    def load(cls, directory: str | Path) -> Contract:
        """Read ``contract.yaml``, or build the contract from the checkpoint's own files.

        Raises:
            UserError: naming the file, and what is missing or wrong.
        """
        return read_contract(directory)[0]

    def save(self, directory: str | Path, notes: Sequence[str] = ()) -> Path:
        """Write ``contract.yaml``, notes as comments on top, into a folder; return its path.

        Raises:
            UserError: when it cannot be written.
        """
        path = Path(directory) / FILE_NAME
        text = yaml.safe_dump(to_mapping(self), sort_keys=False, allow_unicode=True)
        comments = "".join(f"# {' '.join(note.split())}\n" for note in notes)
        try:
            path.write_text(comments + text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        return path

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the content, whatever the file's layout."""
        text = json.dumps(to_mapping(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_radians(
        self, values: ArrayLike, calibration: Calibration | None = None
    ) -> NDArray[np.float64]:
        """Convert actions to radians.

        Args:
            values: [..., columns of the action] in data set units.
            calibration: Of the arm; needed for ±100 channels only.

        Returns:
            [..., 6] in the order of ``JOINT_NAMES``.
        """
        data = np.asarray(values, dtype=np.float64)
        out = np.empty((*data.shape[:-1], len(JOINT_NAMES)))
        for column, channel in enumerate(self._joints(self.action, data.shape[-1])):
            value = channel.sign * (data[..., column] - channel.offset)
            zero, scale = _line(channel, calibration)
            out[..., JOINT_NAMES.index(channel.name)] = zero + scale * value
        return out

    def from_radians(
        self, positions_rad: ArrayLike, calibration: Calibration | None = None
    ) -> NDArray[np.float64]:
        """Convert joint positions [..., 6] in the order of ``JOINT_NAMES`` to state columns."""
        return self._columns(self.state, positions_rad, calibration)

    def actions_from_radians(
        self, positions_rad: ArrayLike, calibration: Calibration | None = None
    ) -> NDArray[np.float64]:
        """Convert joint positions [..., 6] to action columns: the inverse of `to_radians`."""
        return self._columns(self.action, positions_rad, calibration)

    def _columns(
        self,
        channels: Sequence[Channel],
        positions_rad: ArrayLike,
        calibration: Calibration | None,
    ) -> NDArray[np.float64]:
        joints = np.asarray(positions_rad, dtype=np.float64)
        columns = []
        for channel in self._joints(channels, len(channels)):
            zero, scale = _line(channel, calibration)
            value = (joints[..., JOINT_NAMES.index(channel.name)] - zero) / scale
            columns.append(channel.sign * value + channel.offset)
        return np.stack(columns, axis=-1)

    def differences(self, graph: GraphDescription) -> tuple[str, ...]:
        """Return one sentence for each way in which a running graph does not fit."""
        return differences(self, graph)

    def _joints(self, channels: Sequence[Channel], columns: int) -> Sequence[Channel]:
        if self.action_space is not ActionSpace.JOINT:
            raise UserError(f"this checkpoint predicts end-effector poses: {EE_ADVICE}")
        if columns != len(channels):
            raise ValueError(f"{columns} columns given, the contract has {len(channels)}")
        return channels


def read_contract(
    directory: str | Path, choices: Choices | None = None
) -> tuple[Contract, tuple[str, ...]]:
    """Read ``contract.yaml``, or build the contract from the checkpoint's own files.

    Args:
        directory: The checkpoint.
        choices: What the user says where the files leave it open; then, ``contract.yaml`` is left
            aside and the contract is built anew.

    Returns:
        The contract, and what was concluded from which file, a line each.

    Raises:
        UserError: naming the file, and what is missing or wrong.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder} is not a folder: give the folder of a checkpoint")
    path = folder / FILE_NAME
    if choices is not None or not path.exists():
        built = from_checkpoint(folder, choices or Choices())
        return Contract(**built.arguments), built.notes
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    try:
        contract = Contract(**from_mapping(content, Contract))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if contract.action_space is not ActionSpace.JOINT:
        return contract, (f"actions: end-effector poses, as {FILE_NAME} says: {EE_ADVICE}",)
    return contract, (
        judgement("state", contract.state, contract.state_statistics),
        judgement("action", contract.action, contract.action_statistics),
    )


def _line(channel: Channel, calibration: Calibration | None) -> tuple[float, float]:
    """Return (zero, scale) of ``rad = zero + scale · value``."""
    if channel.unit is Unit.RAD:
        return 0.0, 1.0
    if channel.unit is Unit.DEG:
        return 0.0, math.pi / 180.0
    if channel.unit is Unit.PERCENT:
        return GRIPPER_CLOSED_RAD, (GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD) / 100.0
    if calibration is None:
        raise UserError(
            f"{channel.name} is in ±100 of the calibrated range: a calibration file is needed "
            "to convert it"
        )
    joint = calibration.joints[channel.name]
    # ±100 are the ends of the range, whose middle is zero.
    half_travel_rad = math.radians(joint.ticks_to_degrees(joint.range_max))
    return 0.0, (-half_travel_rad if joint.drive_mode else half_travel_rad) / 100.0
