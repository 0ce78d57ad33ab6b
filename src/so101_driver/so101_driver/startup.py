"""Starts a node's program, and says in one sentence what to do when an import is missing.

On a ROS installation torch, mujoco and a few more come from a virtual environment that is easily
not active; a traceback of imports helps nobody then.
"""

from __future__ import annotations

import importlib
import sys

from so101_driver.errors import UserError


def missing_module_sentence(program: str, module: str) -> str:
    """Return what to tell a user whose Python lacks a module."""
    if module.split(".")[0] in ("so101_driver", "wallx_msgs", "wallx_policy", "wallx_bringup"):
        fix = "build the workspace (`make build`, or colcon build) and source it"
    else:
        fix = (
            "run `make setup`; on a ROS installation run `make ros-env`, then "
            "`source .ros-env/bin/activate`"
        )
    return f"{program}: the Python module '{module}' is missing: {fix}."


def start(module: str, program: str = "") -> None:
    """Import a node's module and run its ``main``.

    Args:
        module: Full name of the module.
        program: What messages call it; the module's own name if empty.

    Raises:
        SystemExit: With status 1 and one sentence when something that it imports is missing.
    """
    program = program or module.rsplit(".", 1)[-1]
    try:
        node = importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(missing_module_sentence(program, error.name or str(error)))
    except UserError as error:
        sys.exit(f"{program}: {error}")
    node.main()


def driver_node() -> None:
    """Entry point of ``ros2 run so101_driver driver_node``."""
    start("so101_driver.nodes.driver_node")


def safety_node() -> None:
    """Entry point of ``ros2 run so101_driver safety_node``."""
    start("so101_driver.nodes.safety_node")


def sim_node() -> None:
    """Entry point of ``ros2 run so101_driver sim_node``."""
    start("so101_driver.nodes.sim_node")


def camera_node() -> None:
    """Entry point of ``ros2 run so101_driver camera_node``."""
    start("so101_driver.nodes.camera_node")


def teleop_node() -> None:
    """Entry point of ``ros2 run so101_driver teleop_node``."""
    start("so101_driver.nodes.teleop_node")


def calibrate() -> None:
    """Entry point of ``ros2 run so101_driver calibrate``."""
    start("so101_driver.calibrate")


def virtual_bus() -> None:
    """Entry point of ``ros2 run so101_driver virtual_bus``."""
    start("so101_driver.sim.program", "virtual_bus")
