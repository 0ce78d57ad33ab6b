"""WALL-OSS flow inference on torch and transformers' Qwen2.5-VL vision tower."""

from wallx_policy.model.chunking import ActionPrefix, PrefixMode
from wallx_policy.model.loading import load_policy
from wallx_policy.model.policy import ActionPrediction, Observation, Policy

__all__ = ["ActionPrediction", "ActionPrefix", "Observation", "Policy", "PrefixMode", "load_policy"]
