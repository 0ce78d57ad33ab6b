"""What a policy backend is: observations in, predictions out; radians, metres, nanoseconds.

A backend is a class registered under the entry point group ``wallx_policy.backends`` and built with
one argument, `BackendSettings`. It knows nothing of ROS. The node calls `predict` from one thread
of its own, one call at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from so101_driver.parameter_spec import ParameterValue

if TYPE_CHECKING:
    from wallx_policy.chunk_prefix import JointPrefix
    from wallx_policy.contract import Contract


class BadText(Exception):
    """Words that cannot be given out or followed; the text says why."""


class PrefixMode(Enum):
    """How a backend makes a chunk continue the one under way."""

    FROZEN = "frozen"
    """The committed rows are kept as they are."""
    GUIDED = "guided"
    """The whole chunk leans on the old one, less and less."""


@dataclass(frozen=True, slots=True)
class CameraImage:
    """One decoded camera image.

    Attributes:
        rgb: uint8 [height, width, 3], red first.
        stamp_ns: Exposure time, ROS time.
    """

    rgb: NDArray[np.uint8]
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class ObjectPose:
    """Where one object of the scene is (simulator only).

    Attributes:
        position_m: [3], its centre in ``base_link``.
        quaternion_xyzw: [4], its orientation in ``base_link``.
        size_m: [3], its extent along its own axes.
    """

    position_m: NDArray[np.float64]
    quaternion_xyzw: NDArray[np.float64]
    size_m: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """One consistent set of inputs.

    Attributes:
        stamp_ns: ROS time; exposure of the newest image, or the newest joint state for a backend
            without images. The chunk computed from this observation is aligned to it.
        images: One image for every view of the contract, by view name; empty for a backend
            without images.
        state_rad: [6], joint positions in the order of ``so101_driver.joints.JOINT_NAMES``.
        state_stamp_ns: Time that ``state_rad`` stands for; never later than the newest measurement.
        instruction: What the arm shall do, in plain words.
        objects: Poses by object name, for a backend that needs them; empty otherwise.
    """

    stamp_ns: int
    images: Mapping[str, CameraImage]
    state_rad: NDArray[np.float64]
    state_stamp_ns: int
    instruction: str
    objects: Mapping[str, ObjectPose] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a backend wants the joints to do.

    Attributes:
        actions_rad: [horizon, 6]; row i is due at ``observation.stamp_ns`` plus the contract's
            ``image_age_s`` plus ``i * period_s``.
        period_s: Time between two rows.
        timings_s: Seconds by stage of `predict`. ``preprocess`` and ``infer`` are reported in the
            policy's status; without ``infer`` the rest of the call counts as that. ``turn`` is the
            time for which a text that was being written had the device.
        noise_seed: Seed of the noise that the actions were drawn with; 0 where nothing is random.
        committed_steps: Leading rows that the backend promises not to change; 0: no promise.
        subtask: What the backend says it is doing now; empty when it does not say.
    """

    actions_rad: NDArray[np.float64]
    period_s: float
    timings_s: Mapping[str, float] = field(default_factory=dict)
    noise_seed: int = 0
    committed_steps: int = 0
    subtask: str = ""


@dataclass(frozen=True, slots=True)
class Writing:
    """How a text is written, beside what it is about.

    Attributes:
        on_text: Told the text so far whenever it has grown.
        cancelled: Asked before every token; True ends the text there.
    """

    on_text: Callable[[str], None]
    cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What the user asked for; a backend takes what it understands.

    Attributes:
        checkpoint: Folder of a trained policy; empty for scripted backends.
        device: As torch names it, e.g. ``cpu`` or ``cuda:0``.
        dtype: ``float32`` or ``bfloat16``.
        calibration: LeRobot calibration JSON of the arm; needed for contracts in ±100 only.
        options: Further parameters of the policy node by name, e.g. ``expert_keep_gripper_open``.
    """

    checkpoint: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    calibration: str = ""
    options: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackendDescription:
    """What a backend tells about itself once it is loaded.

    Attributes:
        device: Where it runs.
        checkpoint: Path it was loaded from; empty for scripted backends.
        summary: One line for the log: what was loaded and which settings were taken.
    """

    device: str
    checkpoint: str
    summary: str


@dataclass(frozen=True, slots=True)
class BackendNeeds:
    """Which inputs an observation must have, beside the joint state."""

    images: bool
    objects: bool = False


class Backend(ABC):
    """A policy. The constructor loads it and raises `UserError` for what the user can fix.

    `ask` and `subtask` are called from another thread than `predict`. A backend that writes text
    lets a waiting `predict` go first after every token.

    Attributes:
        name: As registered, e.g. ``wall_oss``; also the ``source`` of its chunks.
        contract: Cameras, joints, units, timing that it was made for.
        description: What was loaded.
        needs: Inputs an observation must have.
        latency_s: Least time from an observation's stamp to its chunk; the node waits this long
            before it publishes, so that a scripted backend meets the delays a model has.
        continues: Whether it has `predict_from`.
        writes_text: Whether it has `ask` and `subtask`.
    """

    name: str
    contract: Contract
    description: BackendDescription
    needs: BackendNeeds
    latency_s: float = 0.0
    continues: bool = False
    writes_text: bool = False

    @abstractmethod
    def __init__(self, settings: BackendSettings) -> None:
        """Load the policy; slow, called once while configuring."""

    @abstractmethod
    def predict(self, observation: Observation) -> Prediction:
        """Return what to do from this observation on."""

    def predict_from(
        self, observation: Observation, prefix: JointPrefix, mode: PrefixMode
    ) -> Prediction:
        """Return what to do from this observation on, continuing what is under way.

        Args:
            observation: As of `predict`.
            prefix: What the first rows will be whatever is returned, and what was planned next.
            mode: How to continue it.
        """
        raise NotImplementedError(f"backend {self.name} continues no chunk")

    def ask(self, images: Mapping[str, CameraImage], question: str, writing: Writing) -> str:
        """Return the answer to a question about images; the text so far once cancelled.

        Args:
            images: By view; some or all views of the contract.
            question: In plain words.
            writing: Whom to tell, whom to ask.

        Raises:
            BadText: when there is no answer; the sentence says why.
            UserError: for a question or images that it cannot take.
        """
        raise NotImplementedError(f"backend {self.name} writes no text")

    def subtask(self, observation: Observation, writing: Writing) -> str:
        """Return the next step towards the observation's instruction, as an instruction itself.

        Raises:
            BadText: when the text is none, was cancelled, or cannot be followed.
        """
        raise NotImplementedError(f"backend {self.name} writes no text")

    def reset(self) -> None:  # noqa: B027 -- most policies remember nothing
        """Forget earlier observations; called at every activation and for every new instruction."""

    def close(self) -> None:  # noqa: B027 -- few hold a device to free
        """Free what the constructor took."""
