"""WALL-OSS inference on torch: flow, FAST tokens and text."""

from wallx_policy.model.chunking import ActionPrefix, PrefixMode
from wallx_policy.model.fast_codec import FastFailure
from wallx_policy.model.generation import GenerationFailure
from wallx_policy.model.loading import load_policy
from wallx_policy.model.policy import ActionPrediction, Observation, Policy

__all__ = [
    "ActionPrediction",
    "ActionPrefix",
    "FastFailure",
    "GenerationFailure",
    "Observation",
    "Policy",
    "PrefixMode",
    "load_policy",
]
