"""The virtual arm as a ROS node: servos on a pseudo-terminal, cameras, the objects' poses."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.time import Time
from rclpy.timer import Timer
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from so101_driver.calibration import Calibration
from so101_driver.camera_calibration import Intrinsics
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from so101_driver.nodes.camera_publisher import CameraPublisher
from so101_driver.nodes.node_base import NodeBase, reliable, run_node
from so101_driver.sim import Fault, FaultScript, GoalWrite, RealTimeRunner, VirtualBus
from so101_driver.sim.cameras import VIEWS, Frame
from so101_driver.sim.loading import import_physics
from so101_driver.sim.renderer import RenderProcess
from so101_driver.sim.terminal import PSEUDO_TERMINALS
from so101_driver.sim_parameters import PARAMETERS
from wallx_msgs.msg import WireLog
from wallx_msgs.srv import ResetScene

_OBJECTS_RATE_HZ = 20.0
_RENDERER_START_S = 30.0
_GIL_INTERVAL_S = 0.0005


class SimNode(NodeBase):
    """Real time, a pseudo-terminal for the driver, cameras, objects; ends after the driver."""

    PARAMETERS = PARAMETERS

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(**node_arguments)
        self._arm: Any = None
        self._runner: RealTimeRunner | None = None
        self._bus: VirtualBus | None = None
        self._faults = FaultScript()
        self._renderer: RenderProcess | None = None
        self._own_timers: list[Timer] = []
        self._ending: threading.Thread | None = None
        self._render_s = 0.0
        self._link = Path(self.p.port_link)
        self._wire_log = self.create_publisher(WireLog, "sim/wire_log", reliable(200))
        self._objects = self.create_publisher(MarkerArray, "sim/objects", reliable())
        self._cameras: dict[str, CameraPublisher] = {}
        self.create_service(ResetScene, "sim/reset", self._on_reset)
        self.create_subscription(String, "sim/fault", self._on_fault, reliable(10))

    def configure(self) -> None:
        """Load the calibration and the world."""
        with contextlib.suppress(OSError):
            if os.readlink(self._link).startswith(PSEUDO_TERMINALS):
                # Of a killed simulator: the driver must not take it for ours.
                self._link.unlink()
        self._faults = FaultScript.from_file(self.p.faults) if self.p.faults else FaultScript()
        calibration = Calibration.load(self.p.calibration or data_path("sim_calibration.json"))
        self._arm = import_physics().ArmSimulation(
            self.p.seed,
            calibration=calibration,
            goal_write_enables_torque=self.p.goal_write_enables_torque,
        )
        if self.p.cameras and not self._cameras:
            model = self._arm.world.model
            for view in VIEWS:
                optics = Intrinsics.pinhole(
                    *view.intrinsics(float(model.camera(view.name).fovy[0]))
                )
                self._cameras[view.name] = CameraPublisher(
                    self, view.name, view.width, view.height, self.p.frame_prefix, optics
                )

    def activate(self) -> None:
        """Start the cameras, let time run, answer on the pseudo-terminal, then link to it."""
        try:
            self._start()
        except UserError:
            self.deactivate()
            raise
        self.get_logger().info(f"servos answer on {self._bus.port}, link {self._link}")

    def _start(self) -> None:
        if self.p.cameras:
            self._renderer = RenderProcess(
                self._publish_frame, self._on_renderer_death, self.p.jpeg_quality
            )
            # Before the driver comes: compiling shaders keeps a core busy for a second.
            self._renderer.start()
            self._renderer.wait_until_ready(_RENDERER_START_S)
        self._bus = VirtualBus(
            self._arm,
            on_goal_write=self._publish_goal_write,
            clock_ns=self.ros_now_ns,
            faults=self._faults,
            link=self._link,
        )
        self._runner = RealTimeRunner(self._arm)
        self._runner.start()
        self._bus.start()
        self._own_timers.append(self.create_timer(1.0 / _OBJECTS_RATE_HZ, self._publish_objects))
        if self.p.cameras:
            self._own_timers.append(self.create_timer(1.0 / self.p.camera_rate_hz, self._expose))

    def deactivate(self) -> None:
        """Stop everything that ``activate`` started."""
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._own_timers = []
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._bus is not None:
            self._bus.close()
            self._bus = None
        if self._runner is not None:
            self._runner.stop()
            self._runner = None

    def cleanup(self) -> None:
        """Forget the world."""
        self._arm = None

    def request_stop(self, signal_count: int) -> None:
        """Answer until the driver has closed the port, then finish; a third signal ends at once.

        Terminals and launch files signal every process at once, and then again: the arm has to
        stay alive while it is being parked.
        """
        if self._runner is None or signal_count >= 3:
            self.finish()
        elif self._ending is None:
            self._ending = threading.Thread(target=self._end, name="ending", daemon=True)
            self._ending.start()

    def diagnostics(self) -> tuple[bytes, str, Mapping[str, Any]]:
        """Real-time factor first: below 1 the arm is slower than it should be."""
        if not self.active:
            return DiagnosticStatus.OK, "inactive", {}
        factor = self._runner.real_time_factor()
        values = {
            "real_time_factor": f"{factor:.3f}",
            "slipped_s": f"{self._runner.slipped_s:.3f}",
            "goal_writes": self._bus.goal_writes,
            "faults": ", ".join(fault.kind.value for fault in self._bus.active_faults) or "none",
            "bus_garbage_bytes": self._bus.garbage_bytes,
        }
        if self._renderer is not None:
            values["render_ms"] = f"{1e3 * self._render_s:.1f}"
            values["frames_skipped"] = self._renderer.skipped
        if factor < 0.95:
            return DiagnosticStatus.WARN, "slower than real time", values
        return DiagnosticStatus.OK, "real time", values

    def _end(self) -> None:
        if not self._bus.wait_until_released(self.p.ending_timeout_s):
            self.get_logger().warning("the driver still has the port open; ending without it")
        self.finish()

    def _state_stamp_ns(self) -> int:
        """ROS time of the arm's present state; the arm's lock is held."""
        return self.ros_now_ns() - int(1e9 * self._runner.state_age_s())

    def _expose(self) -> None:
        with self._arm.lock:
            state, stamp_ns = self._arm.world.state(), self._state_stamp_ns()
        raw = {name for name, camera in self._cameras.items() if camera.raw_wanted}
        self._renderer.request(stamp_ns, state, raw)

    def _publish_frame(self, frame: Frame) -> None:
        self._render_s = frame.render_s
        self.count(f"frames {frame.view.name}")
        self._cameras[frame.view.name].publish(frame.stamp_ns, frame.jpeg, frame.rgb)

    def _on_renderer_death(self, sentence: str) -> None:
        print(f"{self.get_fully_qualified_name()}: {sentence}", file=sys.stderr, flush=True)
        self.finish(1)

    def _publish_goal_write(self, write: GoalWrite) -> None:
        message = WireLog(
            servo_ids=list(write.servo_ids),
            goal_ticks=list(write.goal_ticks),
            goal_position=list(write.goal_rad),
        )
        message.header.stamp = Time(nanoseconds=write.stamp_ns).to_msg()
        self._wire_log.publish(message)

    def _publish_objects(self) -> None:
        with self._arm.lock:
            objects, stamp_ns = self._arm.objects(), self._state_stamp_ns()
        message = MarkerArray()
        stamp = Time(nanoseconds=stamp_ns).to_msg()
        for thing in objects:
            marker = Marker(ns=thing.name, type=Marker.CUBE, action=Marker.ADD)
            marker.header.frame_id = f"{self.p.frame_prefix}base_link"
            marker.header.stamp = stamp
            pose = marker.pose
            pose.position.x, pose.position.y, pose.position.z = thing.position_m
            rotation = pose.orientation
            rotation.w, rotation.x, rotation.y, rotation.z = thing.quaternion_wxyz
            marker.scale.x, marker.scale.y, marker.scale.z = thing.size_m
            marker.color.r, marker.color.g, marker.color.b, marker.color.a = thing.rgba
            message.markers.append(marker)
        self._objects.publish(message)

    def _on_fault(self, message: String) -> None:
        """Let something go wrong now, or end all faults; wrong text is an entry in the log."""
        if not self.active:
            self.get_logger().warning("sim/fault: the simulator is not active")
        elif message.data.strip() == "clear":
            self._bus.clear()
            self.get_logger().info("faults cleared")
        else:
            try:
                fault = Fault.from_text(message.data)
                self._bus.inject(fault)
            except UserError as error:
                self.get_logger().warning(f"sim/fault: {error}")
            else:
                self.get_logger().info(f"fault {fault.kind.value} injected")

    def _on_reset(
        self, request: ResetScene.Request, response: ResetScene.Response
    ) -> ResetScene.Response:
        if not self.active:
            response.success, response.message = False, "the simulator is not active"
            return response
        try:
            with self._arm.lock:
                self._arm.reset(request.seed)
        except RuntimeError as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, f"cubes placed, seed {request.seed}"
        return response


def main() -> None:
    """Run the node."""
    # The servo bus must answer while another thread builds messages (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    sys.exit(run_node(SimNode))


if __name__ == "__main__":
    main()
