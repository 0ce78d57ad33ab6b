"""Backend that runs a WALL-OSS checkpoint."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES

from wallx_policy.backends.base import (
    Backend,
    BackendDescription,
    BackendNeeds,
    BackendSettings,
    BadText,
    CameraImage,
    Observation,
    Prediction,
    PrefixMode,
    Writing,
)
from wallx_policy.backends.model_settings import PARAMETER, parse_settings
from wallx_policy.chunk_prefix import JointPrefix
from wallx_policy.chunks import BadPrediction
from wallx_policy.contract import ActionSpace, PredictionMode, Weights, read_contract
from wallx_policy.contract_types import EE_ADVICE
from wallx_policy.model import ActionPrefix, FastFailure, GenerationFailure, load_policy
from wallx_policy.model import Observation as ModelObservation
from wallx_policy.model import PrefixMode as ModelPrefixMode


class WallOssBackend(Backend):
    """A checkpoint in the original layout or in LeRobot's; units change at its contract."""

    def __init__(self, settings: BackendSettings) -> None:
        if not settings.checkpoint:
            raise UserError("backend wall_oss needs a checkpoint: give the folder of one")
        folder = Path(settings.checkpoint)
        self.name = "wall_oss"
        self.contract, notes = read_contract(folder)
        if self.contract.action_space is not ActionSpace.JOINT:
            raise UserError(f"{folder} predicts end-effector poses: {EE_ADVICE}")
        self._calibration = Calibration.load(settings.calibration) if settings.calibration else None
        # Fails now, not at the first chunk, when a unit needs a calibration that was not given.
        self.contract.to_radians(np.zeros(len(self.contract.action)), self._calibration)
        self.contract.from_radians(np.zeros(len(JOINT_NAMES)), self._calibration)
        overrides = parse_settings(str(settings.options.get(PARAMETER, "")), load_policy)
        self._policy = load_policy(folder, settings.device, settings.dtype, **overrides)
        if not self._policy.has_statistics:
            raise UserError(
                f"{folder} holds no statistics, so its actions cannot be turned into angles: copy "
                "the whole checkpoint, with its normalizer tensors"
            )
        if self._policy.settings.action_dim != len(self.contract.action):
            raise UserError(
                f"{folder} predicts {self._policy.settings.action_dim} columns, its contract names "
                f"{len(self.contract.action)}"
            )
        if self._policy.settings.horizon != self.contract.horizon:
            self.contract = replace(self.contract, horizon=self._policy.settings.horizon)
        self.needs = BackendNeeds(images=True)
        self._flow = self._policy.settings.prediction is PredictionMode.FLOW
        self.continues = self._flow
        self.writes_text = True
        untrained = self.contract.weights is Weights.RANDOM
        mark = "RANDOM weights, the motion means nothing; " if untrained else ""
        self.description = BackendDescription(
            device=settings.device,
            checkpoint=str(folder),
            summary=mark + "; ".join((self._policy.description, *notes)),
        )
        self._warm_up()

    def predict(self, observation: Observation) -> Prediction:
        """Return one chunk; its noise comes from a fresh seed, which is reported."""
        return self.predict_with_seed(observation, secrets.randbits(63))

    def predict_from(
        self, observation: Observation, prefix: JointPrefix, mode: PrefixMode
    ) -> Prediction:
        """Return a chunk that begins with a prefix."""
        actions = self.contract.actions_from_radians(prefix.positions_rad, self._calibration)
        given = ActionPrefix(actions, prefix.committed, ModelPrefixMode(mode.value))
        return self.predict_with_seed(observation, secrets.randbits(63), given)

    def predict_with_seed(
        self, observation: Observation, seed: int, prefix: ActionPrefix | None = None
    ) -> Prediction:
        """Return the chunk that ``predict`` made, or would make, of this seed.

        Raises:
            BadPrediction: when the model's tokens spell no chunk.
        """
        noise = self._policy.noise(seed) if self._flow else None
        try:
            result = self._policy.predict(self._seen(observation), noise, prefix, seed=seed)
        except FastFailure as error:
            raise BadPrediction(str(error)) from error
        return Prediction(
            actions_rad=self.contract.to_radians(result.actions, self._calibration),
            period_s=self.contract.period_s,
            timings_s=result.timings_s,
            noise_seed=seed,
            committed_steps=0 if prefix is None else prefix.committed,
        )

    def ask(self, images: Mapping[str, CameraImage], question: str, writing: Writing) -> str:
        """Return what the model answers, word for word."""
        pictures = {view: image.rgb for view, image in images.items()}
        try:
            return self._policy.ask(
                pictures, question, on_text=writing.on_text, cancelled=writing.cancelled
            )
        except GenerationFailure as error:
            raise BadText(str(error)) from error

    def subtask(self, observation: Observation, writing: Writing) -> str:
        """Return the next step in the model's words."""
        try:
            return self._policy.subtask(
                self._seen(observation), on_text=writing.on_text, cancelled=writing.cancelled
            )
        except GenerationFailure as error:
            raise BadText(str(error)) from error

    def _seen(self, observation: Observation) -> ModelObservation:
        template = self.contract.instruction_template
        return {
            "images": {view: image.rgb for view, image in observation.images.items()},
            "state": self.contract.from_radians(observation.state_rad, self._calibration),
            "instruction": template.replace("{instruction}", observation.instruction),
        }

    def _warm_up(self) -> None:
        """Run once, so that the first chunk does not pay for what a library does only once."""
        images = {
            camera.view: CameraImage(np.zeros((camera.height, camera.width, 3), np.uint8), 0)
            for camera in self.contract.cameras
        }
        black = Observation(0, images, np.zeros(len(JOINT_NAMES)), 0, "")
        with contextlib.suppress(BadPrediction):  # FAST has nothing to say of black images
            self.predict_with_seed(black, 0)
