"""The teleop node as a process between a virtual leader and a stand-in for the safety layer.

What it sends, what it refuses to start with, and what it does when the leader's cable is pulled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

import node_bench
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_bench import NodeBench
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import JointState
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.sim import FaultKind, VirtualBus
from so101_driver.sim.hands import StillHand
from so101_driver.sim.leader_arm import LeaderArm
from std_msgs.msg import String
from std_srvs.srv import SetBool

from wallx_msgs.msg import ActionChunk, SafetyStatus
from wallx_msgs.srv import SelectSource

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

POSE = (0.3, -0.5, 0.6, -0.4, 0.9, 0.8)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope="module")
def leader_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration that differs from the follower's, as that of any other arm does."""
    content = json.loads(data_path("sim_calibration.json").read_text())
    for entry in content.values():
        entry["homing_offset"] += 40
    path = tmp_path_factory.mktemp("leader") / "leader.json"
    path.write_text(json.dumps(content))
    return path


class Bench(NodeBench):
    """A virtual leader, the node, and a stand-in for safety that follows at once."""

    def __init__(self, folder: Path, context: rclpy.Context, leader_file: Path) -> None:
        super().__init__(folder, context)
        self.hand = StillHand(POSE)
        self.arm = LeaderArm(calibration=Calibration.load(leader_file), hand=self.hand)
        self.link = folder / "leader"
        self.bus = VirtualBus(self.arm, link=self.link)
        self.bus.start()
        self.leader_file = leader_file
        self.chunks: list[ActionChunk] = []
        self.states: list[str] = []
        self.source, self.state = "policy", SafetyStatus.STATE_HOLD
        self.selects = True
        self.pose = list(POSE)
        self.node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, 100)
        self.node.create_subscription(
            String, "teleop/state", lambda message: self.states.append(message.data), LATCHED
        )
        self.node.create_service(SelectSource, "safety/select_source", self._on_select)
        self.status = self.node.create_publisher(SafetyStatus, "safety/status", LATCHED)
        self.commands = self.node.create_publisher(JointState, "joint_commands", 10)
        self.node.create_timer(0.02, self._tell)

    def _on_chunk(self, chunk: ActionChunk) -> None:
        self.chunks.append(chunk)
        if self.state == SafetyStatus.STATE_HOLD and self.source == chunk.source:
            self.state = SafetyStatus.STATE_TRACKING

    def _on_select(self, request: Any, response: Any) -> Any:
        if self.selects:
            self.source = request.source
        response.success = self.selects
        return response

    def _tell(self) -> None:
        self.status.publish(SafetyStatus(state=self.state, source=self.source, reason="because"))
        self.commands.publish(JointState(name=list(JOINT_NAMES), position=self.pose))

    @property
    def situation(self) -> str:
        return f"states: {self.states}"

    def start(self, **changes: Any) -> None:
        values = {
            "port": self.link,
            "calibration": self.leader_file,
            "follower_calibration": data_path("sim_calibration.json"),
            "not_followed_s": 10.0,
            # A busy test machine may keep the virtual servos from answering in time.
            "leader_timeout_s": 1.0,
            **changes,
        }
        self.launch("so101_driver.nodes.teleop_node", values)

    def refused(self, **changes: Any) -> str:
        """Start a node that must end by itself; returns its last line."""
        self.start(**changes)
        self.wait(self.ended, "end")
        assert self.process is not None
        assert self.process.returncode == 1
        assert "Traceback" not in self.text(), self.text()
        return self.text().splitlines()[-1]

    def wait_for_state(self, word: str) -> str:
        self.wait(lambda: self.states and self.states[-1].startswith(word), word)
        return self.states[-1]

    def ask(self, engage: bool) -> Future:
        client = self.node.create_client(SetBool, "teleop/engage")
        self.wait(client.service_is_ready, "service")
        return client.call_async(SetBool.Request(data=engage))

    def engage(self, engage: bool = True) -> SetBool.Response:
        return self.call(SetBool, "teleop/engage", data=engage)

    def change(self, transition: int) -> None:
        wanted = Transition(id=transition)
        answer = self.call(ChangeState, "teleop/change_state", transition=wanted)
        assert answer.success, self.text()

    def close(self) -> None:
        super().close()
        self.bus.close()


@pytest.fixture
def bench(tmp_path: Path, leader_file: Path) -> Iterator[Bench]:
    with node_bench.bench(Bench, tmp_path, leader_file) as bench:
        yield bench


def nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def test_the_stream_is_honest_and_survives_a_pulled_cable(bench):
    bench.start()
    bench.wait_for_state("DISENGAGED")
    assert not bench.chunks

    answer = bench.engage()
    assert answer.success, answer.message
    assert bench.source == "teleop", "it led without asking for the source"
    bench.wait(lambda: len(bench.chunks) > 50, "targets")
    chunks = bench.chunks[:]
    assert {chunk.source for chunk in chunks} == {"teleop"}
    assert {chunk.action_kind for chunk in chunks} == {ActionChunk.ACTION_KIND_GOAL}
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert len({chunk.session for chunk in chunks}) == 1
    now_ns = bench.node.get_clock().now().nanoseconds
    stamps = np.array([nanoseconds(chunk.header.stamp) for chunk in chunks])
    assert (np.diff(stamps) > 0).all()
    assert 0 < now_ns - stamps[-1] < 5_000_000_000
    assert np.median(np.diff(stamps)) == pytest.approx(20e6, rel=0.5)
    for chunk in chunks:
        assert 0.0 < chunk.observation_to_publish_s < 1.0
        assert np.allclose(chunk.state, POSE, atol=5e-3), "the leader's own angles"
        assert np.allclose(chunk.trajectory.points[0].positions, bench.pose, atol=0.01)

    with bench.bus.fault(FaultKind.UNPLUG):
        sentence = bench.wait_for_state("NO_LEADER")
        assert "follower holds" in sentence
        sent = len(bench.chunks)
        answer = bench.engage()
        assert not answer.success
        assert "gone" in answer.message
    bench.wait_for_state("DISENGAGED")
    assert len(bench.chunks) - sent <= 1
    bench.state = SafetyStatus.STATE_HOLD
    assert bench.engage().success
    bench.wait(lambda: bench.chunks[-1].session != chunks[-1].session, "targets of a new session")
    session = bench.chunks[-1].session
    assert next(c.sequence for c in bench.chunks if c.session == session) == 0

    assert bench.engage(False).success
    let_go_ns = bench.node.get_clock().now().nanoseconds
    bench.wait_for_state("DISENGAGED")
    bench.spin(0.4)
    # What was on its way then may come after the answer.
    assert nanoseconds(bench.chunks[-1].header.stamp) < let_go_ns
    bench.end()


def test_a_silent_servo_is_named_and_the_clutch_can_change_at_run_time(bench):
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    bench.pose = [value + 0.5 for value in POSE]
    bench.start()
    bench.wait_for_state("DISENGAGED")
    answer = bench.engage()
    assert not answer.success
    assert "shoulder_pan 29° clockwise" in answer.message
    assert not bench.chunks

    for value, good in (("sideways", False), ("relative", True)):
        parameter = Parameter("clutch", value=value).to_parameter_msg()
        answer = bench.call(SetParameters, "teleop/set_parameters", parameters=[parameter])
        assert answer.results[0].successful is good
    answer = bench.engage()
    assert answer.success, answer.message
    bench.wait(lambda: len(bench.chunks) > 5, "targets")
    assert np.allclose(bench.chunks[0].trajectory.points[0].positions, bench.pose, atol=0.01)

    with bench.bus.fault(FaultKind.MUTE, servo=3):
        sentence = bench.wait_for_state("NO_LEADER")
        assert "servo 3 (elbow_flex)" in sentence
    bench.wait_for_state("DISENGAGED")


def test_letting_go_does_not_wait_for_a_takeover(bench):
    bench.selects = False
    bench.start()
    bench.wait_for_state("DISENGAGED")
    leads = bench.ask(True)
    bench.wait_for_state("TAKING_OVER")
    assert bench.engage(False).success
    bench.wait(leads.done, "answer")
    assert not leads.result().success
    assert "disengaged" in leads.result().message, "it was given up by itself, seconds later"
    assert not bench.chunks


def test_a_node_that_was_activated_anew_leads_only_when_asked_and_in_a_new_session(bench):
    bench.start(autostart=False)
    bench.change(Transition.TRANSITION_CONFIGURE)
    bench.change(Transition.TRANSITION_ACTIVATE)
    assert bench.engage().success
    bench.wait(lambda: len(bench.chunks) > 3, "targets")
    bench.change(Transition.TRANSITION_DEACTIVATE)
    bench.wait_for_state("DISENGAGED")
    assert "not active" in bench.engage().message
    bench.change(Transition.TRANSITION_CLEANUP)
    bench.change(Transition.TRANSITION_CONFIGURE)
    bench.change(Transition.TRANSITION_ACTIVATE)
    before, bench.state = bench.chunks[-1], SafetyStatus.STATE_HOLD
    bench.chunks.clear()
    assert bench.engage().success
    bench.wait(lambda: len(bench.chunks) > 3, "targets")
    assert {chunk.session for chunk in bench.chunks}.isdisjoint({before.session})
    assert [chunk.sequence for chunk in bench.chunks] == list(range(len(bench.chunks)))


def test_swapped_ports_are_refused(bench, tmp_path):
    line = bench.refused(
        calibration=_other(bench.leader_file, tmp_path), follower_calibration=bench.leader_file
    )
    assert "is the follower" in line
    assert "swap" in line


def test_a_port_that_is_missing_or_in_use_is_refused(bench):
    line = bench.refused(port="/dev/there_is_none")
    assert "/dev/there_is_none does not exist" in line
    with ServoBus(str(bench.link)):
        assert "in use" in bench.refused()


def _other(leader_file: Path, folder: Path) -> Path:
    content = json.loads(leader_file.read_text())
    for entry in content.values():
        entry["homing_offset"] += 7
    path = folder / "other.json"
    path.write_text(json.dumps(content))
    return path
