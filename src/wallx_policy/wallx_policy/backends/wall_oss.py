"""Backend that runs a WALL-OSS checkpoint."""

from __future__ import annotations

import secrets
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
    CameraImage,
    Observation,
    Prediction,
)
from wallx_policy.contract import ActionSpace, Contract, Weights
from wallx_policy.model import load_policy


class WallOssBackend(Backend):
    """A checkpoint in the original layout or in LeRobot's; units change at its contract."""

    def __init__(self, settings: BackendSettings) -> None:
        if not settings.checkpoint:
            raise UserError("backend wall_oss needs a checkpoint: give the folder of one")
        folder = Path(settings.checkpoint)
        self.name = "wall_oss"
        self.contract = Contract.load(folder)
        if self.contract.action_space is not ActionSpace.JOINT:
            raise UserError(
                f"{folder} predicts end-effector poses, which this arm's joint commands cannot "
                "carry: use a checkpoint fine-tuned in joint space"
            )
        self._calibration = Calibration.load(settings.calibration) if settings.calibration else None
        # Fails now, not at the first chunk, when a unit needs a calibration that was not given.
        self.contract.to_radians(np.zeros(len(self.contract.action)), self._calibration)
        self.contract.from_radians(np.zeros(len(JOINT_NAMES)), self._calibration)
        self._policy = load_policy(folder, settings.device, settings.dtype)
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
        self.needs = BackendNeeds(images=True)
        untrained = self.contract.weights is Weights.RANDOM
        mark = "RANDOM weights, the motion means nothing; " if untrained else ""
        self.description = BackendDescription(
            device=settings.device,
            checkpoint=str(folder),
            summary=mark + self._policy.description,
        )
        self._warm_up()

    def predict(self, observation: Observation) -> Prediction:
        """Return one chunk; its noise comes from a fresh seed, which is reported."""
        seed = secrets.randbits(63)
        return self.predict_with_seed(observation, seed)

    def predict_with_seed(self, observation: Observation, seed: int) -> Prediction:
        """Return the chunk that ``predict`` made, or would make, of this seed."""
        state = self.contract.from_radians(observation.state_rad, self._calibration)
        template = self.contract.instruction_template
        result = self._policy.predict(
            {
                "images": {view: image.rgb for view, image in observation.images.items()},
                "state": state,
                "instruction": template.replace("{instruction}", observation.instruction),
            },
            noise=self._policy.noise(seed),
        )
        stages = dict(result.timings_s)
        preprocess_s = stages.pop("preprocess")
        return Prediction(
            actions_rad=self.contract.to_radians(result.actions, self._calibration),
            period_s=self.contract.period_s,
            timings_s={"preprocess": preprocess_s, "infer": sum(stages.values()), **stages},
            noise_seed=seed,
        )

    def _warm_up(self) -> None:
        """Run once, so that the first chunk does not pay for what a library does only once."""
        images = {
            camera.view: CameraImage(np.zeros((camera.height, camera.width, 3), np.uint8), 0)
            for camera in self.contract.cameras
        }
        self.predict_with_seed(Observation(0, images, np.zeros(len(JOINT_NAMES)), 0, ""), 0)
