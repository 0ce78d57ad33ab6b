"""Imports what needs mujoco only when it is needed, and says what to do when it is missing."""

from __future__ import annotations

import os
from typing import Any

from so101_driver.errors import UserError


def import_physics() -> Any:
    """Return the module ``arm_simulation``.

    This process never draws, so it needs no OpenGL library.

    Raises:
        UserError: A package is missing.
    """
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        from so101_driver.sim import arm_simulation
    except ImportError as error:
        raise UserError(
            f"the simulator needs a Python package that is missing ({error}): 'make setup' brings "
            "it, or 'make ros-env' beside a ROS installation."
        ) from error
    return arm_simulation
