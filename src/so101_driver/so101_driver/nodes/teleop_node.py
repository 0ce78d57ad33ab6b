"""Teleoperation as a ROS node: reads a leader arm, sends targets to the safety layer."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from typing import Any

# Matrices are tiny here: BLAS threads would only disturb the loop. Must precede numpy's import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.nodes.loop import ControlLoop
from so101_driver.nodes.node_base import FAILED_STATUS, NodeBase, latched, reliable, run_node
from so101_driver.nodes.safety_messages import stamp_message
from so101_driver.nodes.teleop_inputs import TeleopInputs
from so101_driver.nodes.teleop_requests import TeleopRequests
from so101_driver.teleop import Teleop
from so101_driver.teleop_leader import LeaderReader
from so101_driver.teleop_parameters import PARAMETERS
from so101_driver.teleop_types import (
    Answer,
    ClutchMode,
    LeaderSample,
    Step,
    TeleopSettings,
    TeleopState,
)
from wallx_msgs.msg import ActionChunk
from wallx_msgs.srv import SelectSource

_GIL_INTERVAL_S = 0.0005
_RECONNECT_NS = 500_000_000
_ENGAGE_TIMEOUT_S = 6.0
"""More than the core takes for an answer."""
_STOP_TIMEOUT_S = 10.0
"""Looking for a leader that answers badly takes seconds."""


class TeleopNode(NodeBase):
    """A thread reads the leader and publishes; services pass their requests to it."""

    PARAMETERS = PARAMETERS
    EXECUTOR_THREADS = 3
    """teleop/engage, which waits for the safety layer; letting go meanwhile; everything else."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._core: Teleop | None = None
        self._bus: ServoBus | None = None
        self._leader: LeaderReader | None = None
        self._lost = ""
        self._retry_ns = 0
        self._loop: ControlLoop | None = None
        self._next_tick = 0
        self._requests = TeleopRequests(_ENGAGE_TIMEOUT_S)
        self._session = (0, 0)
        self._sequence = 0
        self._shown = ""
        self._inputs = TeleopInputs(self)
        self._chunks = self.create_publisher(ActionChunk, "action_chunk", reliable())
        self._state = self.create_publisher(String, "teleop/state", latched())
        self._select = self.create_client(SelectSource, "safety/select_source")
        self.create_service(
            SetBool, "teleop/engage", self._on_engage, callback_group=ReentrantCallbackGroup()
        )

    # Lifecycle.

    def configure(self) -> None:
        """Read the calibrations."""
        p = self.p
        self._calibration = Calibration.load(p.calibration)
        self._follower = (
            Calibration.load(p.follower_calibration) if p.follower_calibration else None
        )
        if self._follower is not None and self._follower.joints == self._calibration.joints:
            self.get_logger().warning(
                "leader and follower have the same calibration: swapped ports cannot be told"
            )
        settings = TeleopSettings(p.source, p.align_rad, p.fade_rad_s, p.not_followed_s)
        self._core = Teleop(settings)
        # A new core counts its sessions from the beginning.
        self._session = (0, 0)

    def activate(self) -> None:
        """Open the leader's port and start to read it."""
        self._connect()
        self._inputs.forget()
        self._requests.open()
        self._next_tick = 0
        self._loop = ControlLoop(1.0 / self.p.rate_hz, self._cycle, self._on_failure)
        self._loop.start()

    def deactivate(self) -> None:
        """Stop sending and close the port."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop(_STOP_TIMEOUT_S)
        self._requests.close()
        if self._core is not None:
            # Whoever activates the node again has to engage again.
            self._core.disengage()
            self._show(self._core)
        self._disconnect()

    def cleanup(self) -> None:
        """Forget the core."""
        self._core = None

    # The leader's thread.

    def _cycle(self, tick: int, _steady_ns: int) -> None:
        core = self._core
        if core is None:
            return
        self.count("missed_cycles", tick - self._next_tick)
        self._next_tick = tick + 1
        sample = self._read()
        self._take_requests(core)
        now_ns = time.monotonic_ns()
        step = core.step(now_ns, sample, self._leader_problem(now_ns), self._inputs.follower())
        if step.select_source:
            self._select.call_async(SelectSource.Request(source=self.p.source))
        if step.target_rad is not None and sample is not None:
            self._publish(step, sample)
        if step.answer is not None:
            if step.answer.code is not None:
                self.count(step.answer.code.value)
            self._requests.answer(step.answer)
        self._show(core)

    def _take_requests(self, core: Teleop) -> None:
        for request in self._requests.take():
            if request.engage:
                self.count("engage_requests")
                core.engage(ClutchMode(self.p.clutch))
            else:
                core.disengage()
                request.answer.set_result(Answer(True, "disengaged: safety brakes and holds"))

    def _on_failure(self, error: Exception) -> None:
        """A bug: the node ends instead of looking alive, and the follower holds."""
        self.get_logger().fatal(f"the loop failed: {type(error).__name__}: {error}")
        self._requests.close()
        self.finish(FAILED_STATUS)

    def _publish(self, step: Step, sample: LeaderSample) -> None:
        if step.session != self._session[0]:
            # One session per engagement: recordings show each, and none continues another.
            self._session = (step.session, secrets.randbits(63))
            self._sequence = 0
        age_ns = time.monotonic_ns() - sample.stamp_ns
        stamp = stamp_message(self.ros_now_ns() - age_ns)
        header = Header(stamp=stamp, frame_id=self.p.frame_id)
        message = ActionChunk(
            header=header,
            source=self.p.source,
            session=int(self._session[1]),
            sequence=int(self._sequence),
            state_stamp=stamp,
            state=[float(value) for value in sample.position_rad],
            observation_to_publish_s=float(age_ns * 1e-9),
            action_kind=ActionChunk.ACTION_KIND_GOAL,
        )
        point = JointTrajectoryPoint(positions=[float(value) for value in step.target_rad])
        message.trajectory = JointTrajectory(
            header=header, joint_names=list(JOINT_NAMES), points=[point]
        )
        self._chunks.publish(message)
        self._sequence += 1
        self.count("targets")

    def _show(self, core: Teleop) -> None:
        text = f"{core.state.value}: {core.sentence}"
        if text == self._shown:
            return
        self._shown = text
        self._state.publish(String(data=text))
        if core.state is TeleopState.NO_LEADER:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)

    # The leader.

    def _connect(self) -> None:
        bus = ServoBus(self.p.port)
        try:
            self._leader = LeaderReader(bus, self._calibration, self._follower)
        except BaseException:
            bus.close()
            raise
        self._bus = bus
        self._lost = ""

    def _disconnect(self) -> None:
        self._leader = None
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def _read(self) -> LeaderSample | None:
        """Read the leader; look for it now and then while it is gone."""
        if self._leader is None:
            now_ns = time.monotonic_ns()
            if now_ns < self._retry_ns:
                return None
            self._retry_ns = now_ns + _RECONNECT_NS
            try:
                self._connect()
            except (UserError, BusError) as error:
                self._lost = f"the leader is gone, the follower holds: {error}".removesuffix(".")
                return None
            self.count("reconnects")
        try:
            return self._leader.read()
        except BusError as error:
            self.count("leader_lost")
            self._lost = f"the leader is gone, the follower holds: {error}"
            self._disconnect()
            return None

    def _leader_problem(self, now_ns: int) -> str:
        leader = self._leader
        if leader is None:
            return self._lost
        silent = leader.silent(now_ns, self.p.leader_timeout_s)
        if silent:
            return f"the leader is silent ({silent}), the follower holds: check its cable and power"
        jumped = leader.take_jump()
        if jumped:
            return (
                f"the leader's {jumped} jumped, as an encoder does past its end: turn it back to "
                "the middle of its range"
            )
        return ""

    # The executor's threads.

    def _on_engage(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        answer = self._requests.ask(bool(request.data))
        response.success, response.message = bool(answer.success), answer.sentence
        return response

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Return the state, the age of each servo's reading and the bus's counters."""
        core, leader, bus = self._core, self._leader, self._bus
        if core is None or not self.active:
            return DiagnosticStatus.OK, "inactive", {}
        values: dict[str, Any] = {"state": core.state.value, "clutch": self.p.clutch}
        faulty = []
        if leader is not None and bus is not None:
            now_ns = time.monotonic_ns()
            for name, servo_id in zip(JOINT_NAMES, SERVO_IDS, strict=True):
                values[f"age {name} [s]"] = f"{leader.age_s(servo_id, now_ns):.3f}"
                error = leader.errors.get(servo_id)
                if error:
                    faulty.append(f"the leader's {name} reports {error.name}")
            values |= {"incomplete_readings": leader.incomplete, "jumps": leader.jumps}
            values |= {f"bus_{name}": count for name, count in dict(bus.counters).items()}
        if core.state is TeleopState.NO_LEADER:
            return DiagnosticStatus.ERROR, core.sentence, values
        if faulty:
            return DiagnosticStatus.WARN, "; ".join(faulty), values
        return DiagnosticStatus.OK, core.sentence, values


def main() -> None:
    """Run the node."""
    # The leader's thread must not wait for a callback's turn to end (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    sys.exit(run_node(TeleopNode))


if __name__ == "__main__":
    main()
