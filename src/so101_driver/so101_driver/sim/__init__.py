"""The virtual arm: servos on a pseudo-terminal, a MuJoCo world, rendered cameras.

``VirtualBus`` needs neither mujoco nor rclpy; the world lives in ``arm_simulation``.
"""

from so101_driver.sim.virtual_bus import GoalWrite, IdealArm, VirtualBus

__all__ = ["GoalWrite", "IdealArm", "VirtualBus"]
