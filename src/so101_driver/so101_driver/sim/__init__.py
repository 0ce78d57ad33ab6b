"""The virtual arm: servos on a pseudo-terminal, a MuJoCo world, rendered cameras.

``VirtualBus`` needs neither mujoco nor rclpy; the world lives in ``arm_simulation``.
"""

from so101_driver.sim.chains import FactoryServos, IdealArm, ServoChain
from so101_driver.sim.faults import Fault, FaultKind, FaultScript
from so101_driver.sim.hands import Hand, RecordedHand, SineHand, StillHand
from so101_driver.sim.leader_arm import LeaderArm
from so101_driver.sim.realtime import RealTimeRunner
from so101_driver.sim.virtual_bus import GoalWrite, VirtualBus

__all__ = [
    "FactoryServos",
    "Fault",
    "FaultKind",
    "FaultScript",
    "GoalWrite",
    "Hand",
    "IdealArm",
    "LeaderArm",
    "RealTimeRunner",
    "RecordedHand",
    "ServoChain",
    "SineHand",
    "StillHand",
    "VirtualBus",
]
