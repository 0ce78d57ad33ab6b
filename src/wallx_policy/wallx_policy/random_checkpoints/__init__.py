"""Checkpoints with random weights, of every layout and size; nobody trained them.

They exercise the whole path from camera image to joint command. For the SO-101 one path through the
weights is set by hand, so that the arm does not tremble; see `wallx_policy.model.random_tensors`.
"""

from wallx_policy.random_checkpoints.networks import SIZES
from wallx_policy.random_checkpoints.recipes import DTYPES, LAYOUTS, Plan, Recipe, plan
from wallx_policy.random_checkpoints.robots import ROBOTS
from wallx_policy.random_checkpoints.write import (
    random_weights,
    write_checkpoint,
    write_random_checkpoint,
)

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "ROBOTS",
    "SIZES",
    "Plan",
    "Recipe",
    "plan",
    "random_weights",
    "write_checkpoint",
    "write_random_checkpoint",
]
