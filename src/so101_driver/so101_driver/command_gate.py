"""Which commands may move the arm: fresh, in order, sane, from one source, near the last goal."""

from __future__ import annotations

import math

import numpy as np

from so101_driver.driver_types import Array, Command, DriverConfig, Refusal, TorquePhase
from so101_driver.estop_latch import EstopLatch
from so101_driver.joints import JOINT_NAMES


class CommandGate:
    """Judges commands; not thread-safe.

    Attributes:
        estop: The emergency stop's latch.
        several_sources: Whether the newest acceptable message had company on the topic.
        desync: Whether commands are refused for being too far from the goal.
    """

    def __init__(self, config: DriverConfig) -> None:
        self.estop = EstopLatch(config.estop_acknowledge_s)
        self.several_sources = False
        self.desync = False
        self._config = config
        self._needs_resync = False
        self._last_stamp_ns: int | None = None
        self._fresh_command_ns: int | None = None

    def start(self) -> None:
        """Begin with an arm whose goal has just been read: no command needs to be near it yet."""
        self._needs_resync = self.desync = False

    def demand_resync(self) -> None:
        """Let commands begin at the goal before they are followed again."""
        self._needs_resync = True

    def silent(self, now_ns: int) -> bool:
        """Return whether no fresh command has come for ``command_timeout_s``."""
        since_ns = self._fresh_command_ns
        return since_ns is None or now_ns - since_ns > self._config.command_timeout_s * 1e9

    def frozen(self, now_ns: int) -> bool:
        """Return whether an emergency stop keeps the arm where it is."""
        return self.estop.frozen(now_ns, self.silent(now_ns))

    def refusal(
        self,
        command: Command,
        ros_now_ns: int,
        now_ns: int,
        sources: int,
        *,
        fault: bool,
        torque: TorquePhase,
        goal_rad: Array,
    ) -> Refusal | None:
        """Return why a command must not be carried out, and remember what it means for holding."""
        if command.names != JOINT_NAMES or len(command.position_rad) != len(JOINT_NAMES):
            return Refusal.JOINTS
        if not all(map(math.isfinite, (*command.position_rad, *command.velocity_rad_s))):
            return Refusal.NON_FINITE
        age_s = (ros_now_ns - command.stamp_ns) * 1e-9
        if age_s > self._config.command_max_age_s:
            return Refusal.STALE
        if age_s < -self._config.command_max_future_s:
            return Refusal.FUTURE
        silent = self.silent(now_ns)
        # After a silence order starts anew, else a clock set back would lock the arm for good.
        last_ns = None if silent else self._last_stamp_ns
        if last_ns is not None and command.stamp_ns <= last_ns:
            return Refusal.ORDER
        self._last_stamp_ns = command.stamp_ns
        frozen = self.estop.frozen(now_ns, silent)
        self._fresh_command_ns = now_ns
        self.several_sources = sources > 1
        if self.several_sources:
            self._needs_resync = True
            return Refusal.MULTIPLE_SOURCES
        if fault:
            return Refusal.FAULT
        if frozen:
            self._needs_resync = True
            return Refusal.ESTOP
        if torque is not TorquePhase.ON:
            return Refusal.TORQUE
        distance = float(np.max(np.abs(np.array(command.position_rad) - goal_rad)))
        # Written so that an unknown goal (NaN) counts as far away.
        if not distance <= self._config.desync_rad:
            self._needs_resync = True
        elif distance <= self._config.resync_rad:
            self._needs_resync = False
        self.desync = self._needs_resync
        return Refusal.DESYNC if self._needs_resync else None
