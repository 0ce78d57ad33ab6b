"""The servo driver as a ROS node."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from so101_driver.arm_driver import Answer, ArmDriver
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.calibration_choice import choose_calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_parameters import PARAMETERS
from so101_driver.driver_reasons import NOT_ACTIVE, NOT_CONFIGURED, Reason
from so101_driver.driver_types import (
    Command,
    DriverConfig,
    DriverSnapshot,
    DriverState,
    JointSample,
)
from so101_driver.errors import UserError
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.nodes.driver_messages import STATES, Servos, diagnose, idle_status, status_message
from so101_driver.nodes.node_base import NodeBase, best_effort, latched, reliable, run_node
from so101_driver.nodes.polled import PolledSubscription
from so101_driver.overload_guard import GuardConfig
from so101_driver.protocol import ServoError
from so101_driver.safety.limits import effective_limits
from wallx_msgs.msg import DriverStatus, SafetyStatus

_GIL_INTERVAL_S = 0.0005
_STATUS_EVERY = 10
_REQUEST_TIMEOUT_S = 5.0
_ENDING_TIMEOUT_S = 17.0
"""Less than the 20 s after which launch and the runner kill."""
_SHORTEST_RELEASE_S = 0.5

_PHASES = {
    SafetyStatus.STATE_DISARMED: SafetyPhase.DISARMED,
    SafetyStatus.STATE_HOLD: SafetyPhase.HOLD,
    SafetyStatus.STATE_TRACKING: SafetyPhase.MOVING,
    SafetyStatus.STATE_STOPPING: SafetyPhase.MOVING,
    SafetyStatus.STATE_PARKING: SafetyPhase.MOVING,
    SafetyStatus.STATE_ESTOP: SafetyPhase.STOPPED,
    SafetyStatus.STATE_FAULT: SafetyPhase.STOPPED,
}


class DriverNode(NodeBase):
    """Opens the arm's port, publishes what it measures, writes what it is commanded."""

    PARAMETERS = PARAMETERS

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._bus: ServoBus | None = None
        self._arm: ArmDriver | None = None
        self._ending = False
        self._cycles = 0
        self._last_state: tuple[int, Reason] | None = None
        self._errors: dict[int, ServoError] = {}
        self._safety_phase: SafetyPhase | None = None
        self._estop_pressed = False
        self._deaf_topics: set[str] = set()
        self._joint_states = self.create_publisher(JointState, "joint_states", reliable())
        self._status = self.create_publisher(DriverStatus, "driver/status", latched())
        self._commands_topic = self.resolve_topic_name("joint_commands")
        self._safety_topic = self.resolve_topic_name("safety/status")
        self.create_subscription(JointState, "joint_commands", self._on_command, best_effort(1))
        # Taken by the servo thread: it comes together with a command, which must not wait for it.
        self._safety = PolledSubscription(self, SafetyStatus, "safety/status", latched())
        self.subscribe_any_durability(Bool, "estop", self._on_estop, self._deaf_topics.add)
        self.create_service(Trigger, "driver/release", self._on_release)
        self.create_service(SetBool, "driver/set_torque", self._on_set_torque)
        self._publish_idle_status(DriverStatus.STATE_UNCONFIGURED, NOT_CONFIGURED)

    # Lifecycle.

    def configure(self) -> None:
        """Read the calibration and the limits."""
        p = self.p
        path = choose_calibration(p.calibration, p.robot_id)
        if path != p.calibration:
            self.get_logger().info(f"calibration {path}")
        self._calibration = Calibration.load(path)
        limits = effective_limits(
            p.limits_file, p.limits_profile, data_path("so101.urdf"), self._calibration
        )
        self._config = DriverConfig(
            position_limits_rad=np.stack([limits.lower_rad, limits.upper_rad], axis=-1),
            max_speed_rad_s=limits.velocity_rad_s,
            command_max_age_s=p.command_max_age_s,
            command_timeout_s=p.command_timeout_s,
            desync_rad=p.desync_rad,
            adopt_rad=p.adopt_rad,
            max_bad_cycles=p.max_bad_cycles,
            bus_silence_s=p.bus_silence_s,
            torque_ramp_s=p.torque_ramp_s,
            release_s=p.release_s,
            guard=GuardConfig().with_gripper(p.gripper_torque),
        )
        self._publish_idle_status(DriverStatus.STATE_INACTIVE, NOT_ACTIVE)

    def activate(self) -> None:
        """Open the port and take over the arm."""
        self._wait_for_port()
        self._bus = ServoBus(self.p.port)
        core = DriverCore(self._config, self._calibration)
        arm = ArmDriver(
            self._bus,
            core,
            self._calibration,
            self._on_cycle,
            self._on_failure,
            self.p.allow_mixed_firmware,
        )
        try:
            action = arm.start()
        except Exception as error:
            self.deactivate()
            if isinstance(error, BusError):
                raise UserError(str(error)) from error
            raise
        self._arm = arm
        if self._estop_pressed:
            arm.estop()
        self.get_logger().info(f"{self.p.port}: six servos answer, {action.value}")

    def deactivate(self) -> None:
        """Close the port; the arm keeps holding."""
        if self._arm is not None:
            self._arm.stop()
            self._estop_pressed = self._arm.estopped()
            self._arm = None
        if self._bus is not None:
            self._bus.close()
            self._bus = None
        self._last_state = None
        self._publish_idle_status(DriverStatus.STATE_INACTIVE, NOT_ACTIVE)

    def request_stop(self, signal_count: int) -> None:
        """Execute commands until they stop, then hold or let the arm down; twice: at once."""
        if signal_count > 1 or self._arm is None:
            self.finish()
        else:
            self._ending = True
            threading.Thread(target=self._end, args=(self._arm,), daemon=True).start()

    def _end(self, arm: ArmDriver) -> None:
        deadline_s = time.monotonic() + _ENDING_TIMEOUT_S
        _wait(arm.commands_stopped, deadline_s)
        if self.p.on_exit == "ramp_down":
            left_s = deadline_s - time.monotonic() - 1.0
            arm.release(min(self.p.release_s, max(left_s, _SHORTEST_RELEASE_S)), _REQUEST_TIMEOUT_S)
        # Never in the middle of a ramp: servos keep a torque limit until their supply is cut.
        _wait(arm.settled, deadline_s)
        self.finish()

    def _wait_for_port(self) -> None:
        port = self.p.port
        deadline_s = time.monotonic() + self.p.port_wait_s
        while not os.path.exists(port) and time.monotonic() < deadline_s:
            if self._finish_requested.is_set():
                raise UserError(f"ended while waiting for the port {port}.")
            time.sleep(0.05)
        simulated = os.path.realpath(port).startswith("/dev/pts/")
        if self.get_parameter("use_sim_time").value and os.path.exists(port) and not simulated:
            raise UserError(
                f"the port {port} is real and use_sim_time is set: a real arm must not follow a "
                "simulated clock; start without use_sim_time."
            )

    # The servo thread.

    def _on_cycle(self, sample: JointSample | None) -> None:
        arm = self._arm
        status = self._safety.newest()
        if status is not None:
            self._on_safety(status)
        if sample is not None:
            self._publish_joint_states(sample)
        self._cycles += 1
        if arm is None:
            return
        if self._ending and arm.port_lost:
            # The simulator ends last; a port that goes with it is no failure.
            self.finish()
        snapshot = arm.snapshot()
        state = (STATES[snapshot.state], snapshot.reason)
        if state == self._last_state and self._cycles % _STATUS_EVERY:
            return
        if self._last_state is None or state[0] != self._last_state[0] or self._is_new(state[1]):
            self._log(snapshot)
        self._last_state = state
        self._errors = arm.take_errors()
        self._status.publish(
            status_message(
                snapshot,
                self._servos(arm),
                {**arm.counters(), **dict(self.counters)},
                self.get_clock().now().to_msg(),
            )
        )

    def _is_new(self, reason: Reason) -> bool:
        return self._last_state is None or reason.code is not self._last_state[1].code

    def _log(self, snapshot: DriverSnapshot) -> None:
        """Tell of faults and of their ends."""
        if snapshot.state is DriverState.FAULT:
            self.get_logger().error(f"FAULT: {snapshot.reason.sentence}")
        elif self._last_state is not None and self._last_state[0] == DriverStatus.STATE_FAULT:
            self.get_logger().info(f"fault over: {snapshot.reason.sentence or 'following'}")

    def _on_failure(self, sentence: str) -> None:
        print(f"{self.get_fully_qualified_name()}: {sentence}.", file=sys.stderr, flush=True)
        self.finish(1)

    def _servos(self, arm: ArmDriver) -> Servos:
        return Servos(dict(arm.details), self._errors)

    def _publish_joint_states(self, sample: JointSample) -> None:
        age_ns = time.monotonic_ns() - sample.stamp_ns
        message = JointState(name=list(JOINT_NAMES))
        message.header.stamp = Time(nanoseconds=self.ros_now_ns() - age_ns).to_msg()
        message.position = sample.position_rad.tolist()
        message.velocity = sample.velocity_rad_s.tolist()
        self._joint_states.publish(message)

    def _publish_idle_status(self, state: int, reason: Reason) -> None:
        self._status.publish(idle_status(state, reason, self.get_clock().now().to_msg()))

    # Callbacks.

    def _on_command(self, message: JointState) -> None:
        arm = self._arm
        if arm is None:
            return
        stamp = message.header.stamp
        command = Command(
            names=tuple(message.name),
            stamp_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
            position_rad=tuple(message.position),
            velocity_rad_s=tuple(message.velocity),
        )
        sources = self.count_publishers(self._commands_topic)
        try:
            arm.command(command, self.ros_now_ns(), sources)
        except BusError:
            # The servo thread meets the same error and reports it.
            self.count("commands_not_written")

    def _on_safety(self, message: SafetyStatus) -> None:
        phase = _PHASES.get(message.state)
        if phase is None:
            return
        self._safety_phase = phase
        if self._arm is not None:
            self._arm.safety(phase)

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            # Remembered first: activating looks at it after the arm is there.
            self._estop_pressed = True
            arm = self._arm
            if arm is not None:
                arm.estop()

    def _on_release(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        return _respond(response, self._release(self.p.release_s))

    def _on_set_torque(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        if self._arm is None:
            answer = Answer(False, "the driver is not active")
        elif request.data:
            answer = self._arm.give_torque(_REQUEST_TIMEOUT_S)
        elif self._safety_phase is SafetyPhase.DISARMED or not self._safety_runs():
            answer = self._release(self.p.torque_ramp_s)
        else:
            answer = Answer(
                False,
                "the safety node is not DISARMED: call safety/disarm first, or driver/release",
            )
        return _respond(response, answer)

    def _safety_runs(self) -> bool:
        return self.count_publishers(self._safety_topic) > 0

    def _release(self, duration_s: float) -> Answer:
        if self._arm is None:
            return Answer(False, "the driver is not active")
        return self._arm.release(duration_s, _REQUEST_TIMEOUT_S)

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Return state, servo readings and counters."""
        arm = self._arm
        if arm is None:
            return DiagnosticStatus.OK, "inactive", {}
        level, message, values = diagnose(
            arm.snapshot(),
            self._servos(arm),
            arm.counters(),
            arm.cycle_times.quantiles_s(0.5, 0.99),
        )
        if self._deaf_topics:
            topics = ", ".join(sorted(self._deaf_topics))
            return DiagnosticStatus.ERROR, f"a publisher of {topics} cannot be heard", values
        return level, message, values


def _wait(done: Callable[[], bool], deadline_s: float) -> None:
    while time.monotonic() < deadline_s and not done():
        time.sleep(0.02)


def _respond(response: Any, answer: Answer) -> Any:
    response.success = bool(answer.success)
    response.message = answer.message
    return response


def main() -> None:
    """Run the node."""
    # A command must not wait for the servo thread's turn to end (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    sys.exit(run_node(DriverNode))


if __name__ == "__main__":
    main()
