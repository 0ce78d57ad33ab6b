"""Backend that sways the wrist gently around the start pose: a first motion for a new arm."""

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

AMPLITUDE_RAD = np.array([0.08, 0.0, 0.0, 0.08, 0.15, 0.0])
"""Per joint; lift and elbow stay, so that the tip keeps its height within about 2 cm."""
CYCLE_S = 4.0
RAMP_S = 2.0
"""The amplitude grows over this time, so that the motion starts from rest."""


class SineBackend(Backend):
    """Moves along a slow sine around the pose of the first observation; at most 0.3 rad/s."""

    def __init__(self, settings: BackendSettings) -> None:
        self.name = "sine"
        self.contract = scripted_contract()
        self.description = scripted_description("sways pan and wrist slowly around the start pose")
        self.needs = BackendNeeds(images=False)
        self.latency_s = LATENCY_S
        self._start: tuple[int, NDArray[np.float64]] | None = None

    def reset(self) -> None:
        """Start again from the next observation's pose."""
        self._start = None

    def predict(self, observation: Observation) -> Prediction:
        """Return the next second of the motion."""
        if self._start is None:
            self._start = (observation.stamp_ns, np.array(observation.state_rad))
        start_ns, pose_rad = self._start
        time_s = (observation.stamp_ns - start_ns) * 1e-9 + PERIOD_S * np.arange(HORIZON)
        share = np.clip(time_s / RAMP_S, 0.0, 1.0)
        envelope = share**3 * (10.0 - 15.0 * share + 6.0 * share**2)
        sway = envelope * np.sin(2.0 * np.pi * time_s / CYCLE_S)
        return Prediction(pose_rad + sway[:, None] * AMPLITUDE_RAD, PERIOD_S, subtask="sway")
