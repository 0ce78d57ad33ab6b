"""What the scripted backends share: a contract without cameras, in radians."""

from __future__ import annotations

from so101_driver.joints import JOINT_NAMES

from wallx_policy.backends.base import BackendDescription
from wallx_policy.contract import ActionKind, ActionSpace, Channel, Contract, Unit

HORIZON = 25
PERIOD_S = 0.04
LATENCY_S = 0.1
"""Observation to chunk; what a small model needs, so that scripted backends are no easier."""


def scripted_contract() -> Contract:
    """Return the contract of a backend that sees joint states and speaks goals in radians."""
    channels = tuple(Channel(name, Unit.RAD) for name in JOINT_NAMES)
    return Contract(
        embodiment="so101",
        action_space=ActionSpace.JOINT,
        cameras=(),
        state=channels,
        action=channels,
        period_s=PERIOD_S,
        horizon=HORIZON,
        action_kind=ActionKind.GOAL,
    )


def scripted_description(summary: str) -> BackendDescription:
    """Return the description of a backend that loads nothing."""
    return BackendDescription(device="cpu", checkpoint="", summary=summary)
