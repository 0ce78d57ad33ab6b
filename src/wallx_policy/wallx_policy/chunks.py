"""Turns a prediction into the values of an ActionChunk message, or refuses it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES

from wallx_policy.backends.base import Observation, Prediction
from wallx_policy.contract import ActionKind, Contract
from wallx_policy.observation import observation_sha256


class BadPrediction(Exception):
    """A prediction that must not reach the arm; the text says why."""


@dataclass(frozen=True, slots=True)
class ChunkOrigin:
    """What stays the same for all chunks of one activation.

    Attributes:
        source: Who publishes; safety follows one source at a time.
        session: Random number of this activation.
    """

    source: str
    session: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The values of one ActionChunk; names and meanings are the message's, stamps in ROS time."""

    stamp_ns: int
    source: str
    session: int
    sequence: int
    instruction: str
    subtask: str
    contract_hash: str
    camera_names: tuple[str, ...]
    camera_stamps_ns: tuple[int, ...]
    state_stamp_ns: int
    state_rad: NDArray[np.float64]
    noise_seed: int
    observation_sha256: str
    inference_s: float
    image_age_s: float
    action_kind: ActionKind
    committed_steps: int
    positions_rad: NDArray[np.float64]
    period_s: float


def make_chunk(
    prediction: Prediction,
    observation: Observation,
    contract: Contract,
    origin: ChunkOrigin,
    sequence: int,
    inference_s: float,
) -> Chunk:
    """Combine a prediction with the observation it was made from.

    Raises:
        BadPrediction: for a wrong shape, non-finite numbers or an impossible period.
    """
    actions = np.asarray(prediction.actions_rad, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[0] < 1 or actions.shape[1] != len(JOINT_NAMES):
        raise BadPrediction(
            f"the prediction has shape {actions.shape}, not [horizon, {len(JOINT_NAMES)}]"
        )
    finite = np.isfinite(actions)
    if not finite.all():
        step, joint = np.argwhere(~finite)[0]
        raise BadPrediction(
            f"the prediction is not finite: joint {JOINT_NAMES[joint]} of point {step} "
            f"is {actions[step, joint]} ({np.count_nonzero(~finite)} such values)"
        )
    if not (math.isfinite(prediction.period_s) and prediction.period_s > 0.0):
        raise BadPrediction(f"the prediction's period is {prediction.period_s} s")
    if not 0 <= prediction.committed_steps <= len(actions):
        raise BadPrediction(
            f"the prediction commits {prediction.committed_steps} of {len(actions)} points"
        )
    views = tuple(observation.images)
    return Chunk(
        stamp_ns=observation.stamp_ns,
        source=origin.source,
        session=origin.session,
        sequence=sequence,
        instruction=observation.instruction,
        subtask=prediction.subtask,
        contract_hash=contract.hash,
        camera_names=views,
        camera_stamps_ns=tuple(observation.images[view].stamp_ns for view in views),
        state_stamp_ns=observation.state_stamp_ns,
        state_rad=observation.state_rad,
        noise_seed=prediction.noise_seed,
        observation_sha256=observation_sha256(observation),
        inference_s=inference_s,
        image_age_s=contract.image_age_s,
        action_kind=contract.action_kind,
        committed_steps=prediction.committed_steps,
        positions_rad=actions,
        period_s=prediction.period_s,
    )
