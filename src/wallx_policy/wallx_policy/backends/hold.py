"""Backend that keeps the arm where it was at the first observation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wallx_policy.backends.base import (
    Backend,
    BackendNeeds,
    BackendSettings,
    Observation,
    Prediction,
)
from wallx_policy.backends.scripted import (
    HORIZON,
    LATENCY_S,
    PERIOD_S,
    scripted_contract,
    scripted_description,
)


class HoldBackend(Backend):
    """Holds the first pose it sees.

    Following the newest measurement instead would ratchet the arm down: a loaded joint hangs below
    its goal.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.name = "hold"
        self.contract = scripted_contract()
        self.description = scripted_description("holds the pose of the first observation")
        self.needs = BackendNeeds(images=False)
        self.latency_s = LATENCY_S
        self._pose_rad: NDArray[np.float64] | None = None

    def reset(self) -> None:
        """Take the next observation's pose."""
        self._pose_rad = None

    def predict(self, observation: Observation) -> Prediction:
        """Return the held pose for the whole horizon."""
        if self._pose_rad is None:
            self._pose_rad = np.array(observation.state_rad)
        return Prediction(np.tile(self._pose_rad, (HORIZON, 1)), PERIOD_S, subtask="hold")
