"""WALL-OSS inference on torch: flow, FAST tokens and text."""

from wallx_policy.model.chunking import ActionPrefix, PrefixMode
from wallx_policy.model.loading import load_policy
from wallx_policy.model.policy import ActionPrediction, Observation, Policy

__all__ = ["ActionPrediction", "ActionPrefix", "Observation", "Policy", "PrefixMode", "load_policy"]
