"""The policy node must refuse a graph it was not trained for and never restamp or publish garbage.

Every test runs the real node as a process, with a policy plugged in from a package of its own, and
plays the cameras and joint states itself.
"""

import select
import signal
import time

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
from policy_robot import PolicyProcesses, Robot, ros_context
from rclpy.action import ActionClient
from so101_driver.joints import JOINT_NAMES
from std_msgs.msg import String

from wallx_msgs.action import RunInstruction
from wallx_msgs.msg import ActionChunk, PolicyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(90)]

PLUGIN = '''
import numpy as np
from dataclasses import replace
from wallx_policy.backends.base import Backend, BackendNeeds, Prediction
from wallx_policy.backends.scripted import scripted_contract, scripted_description
from wallx_policy.contract import Camera

class Plugin(Backend):
    """Holds 0.1 rad; the instruction 'nan' or 'raise' makes it fail."""
    def __init__(self, settings):
        cameras = (Camera("face_view", 32, 24), Camera("wrist_view", 24, 24))
        self.name = "seeing"
        self.contract = replace(scripted_contract(), cameras=cameras)
        self.description = scripted_description("test policy")
        self.needs = BackendNeeds(images=True)

    def predict(self, observation):
        if observation.instruction == "raise":
            raise RuntimeError("out of memory")
        actions = np.full((25, 6), 0.1)
        if observation.instruction == "nan":
            actions[3, 2] = np.nan
        mean = observation.images["face_view"].rgb.reshape(-1, 3).mean(axis=0)
        return Prediction(actions, 0.04, subtask=f"red {mean[0]:.0f} blue {mean[2]:.0f}")
'''

SLOW = (
    PLUGIN
    + """
    def predict(self, observation):
        import torch
        print("inferring", flush=True)
        matrix = torch.ones(3000, 3000)
        for _ in range(40):
            matrix @ matrix
"""
)
"""Its inference takes many seconds, in calls that take most of a second each."""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """ROS context; an installed package with the plugged-in policies."""
    with ros_context(tmp_path_factory.mktemp("plugin"), seeing=PLUGIN, slow=SLOW) as context:
        yield context


@pytest.fixture
def robot(context):
    robot = Robot(context)
    yield robot
    robot.executor.shutdown()
    robot.node.destroy_node()


@pytest.fixture
def policy():
    """Starts the node with the given parameters; ends the one started before."""
    with PolicyProcesses(backend="seeing") as processes:
        yield processes.start


def stamp(message):
    return message.sec, message.nanosec


@pytest.mark.parametrize("transport", ["compressed", "raw"])
def test_chunks_carry_the_stamps_of_their_inputs(robot, policy, transport):
    process = policy(image_transport=transport, instruction="put it down")
    robot.wait_for("10 chunks", lambda: len(robot.chunks) >= 10, process)
    assert len({chunk.session for chunk in robot.chunks}) == 1
    sequences = [chunk.sequence for chunk in robot.chunks]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    for chunk in robot.chunks:
        assert list(chunk.camera_names) == ["face_view", "wrist_view"]
        for view, camera_stamp in zip(chunk.camera_names, chunk.camera_stamps, strict=True):
            assert stamp(camera_stamp) in robot.stamps[view]
        newest = max(stamp(camera_stamp) for camera_stamp in chunk.camera_stamps)
        assert stamp(chunk.header.stamp) == stamp(chunk.trajectory.header.stamp) == newest
        assert stamp(chunk.state_stamp) <= newest
        assert chunk.instruction == "put it down"
        assert chunk.action_kind == ActionChunk.ACTION_KIND_GOAL
        assert list(chunk.trajectory.joint_names) == list(JOINT_NAMES)
        assert 0.0 < chunk.observation_to_publish_s < 5.0
        # Red and blue are not exchanged on the way.
        red, blue = (int(word) for word in chunk.subtask.split()[1::2])
        assert red > 150 > 50 > blue
        last = chunk.trajectory.points[-1].time_from_start
        assert (last.sec, last.nanosec) == (0, 960_000_000)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"face_view": (64, 48), "wrist_view": (24, 24)}, ("face_view", "64x48", "32x24")),
        ({"face_view": (24, 24), "wrist_view": (32, 24)}, ("swapped", "face_view", "wrist_view")),
        ({"face_view": (32, 24)}, ("camera/wrist_view", "topic")),
    ],
)
def test_cameras_that_do_not_fit_are_refused_by_name(robot, policy, sizes, words):
    robot.sizes = sizes
    process = policy(graph_timeout_s=4.0)
    said = robot.wait_for_exit(process)
    assert process.returncode == 1
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert not robot.chunks


def test_another_camera_topic_can_be_given_and_a_wrong_one_is_named(robot, policy):
    robot.sizes = {"face_view": (32, 24), "hand": (24, 24)}
    process = policy(camera_topics="wrist_view=camera/hand")
    robot.wait_for("a chunk", lambda: robot.chunks, process)
    process = policy(camera_topics="wrist=camera/hand")
    said = robot.wait_for_exit(process)
    assert process.returncode == 1
    assert "wrist=camera/hand" in said


def test_joints_in_another_order_are_refused(robot, policy):
    robot.joint_names = list(reversed(JOINT_NAMES))
    process = policy()
    said = robot.wait_for_exit(process)
    assert process.returncode == 1
    assert "joint_states names gripper" in said


def test_an_unknown_backend_is_one_sentence(robot, policy):
    process = policy(backend="wal_oss")
    said = robot.wait_for_exit(process)
    assert process.returncode == 1
    assert "no policy backend 'wal_oss'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("instruction", "words"), [("nan", "elbow_flex"), ("raise", "out of memory")]
)
def test_a_failing_inference_is_reported_and_nothing_is_published(
    robot, policy, instruction, words
):
    process = policy()
    robot.wait_for("chunks", lambda: robot.chunks, process)
    robot.instruction.publish(String(data=instruction))
    robot.wait_for(
        "the fault",
        lambda: robot.statuses[-1].state == PolicyStatus.STATE_FAULT,
        process,
    )
    assert words in robot.statuses[-1].last_error
    assert all(chunk.instruction == "" for chunk in robot.chunks)
    assert all(np.isfinite(p.positions).all() for c in robot.chunks for p in c.trajectory.points)
    robot.instruction.publish(String(data="go on"))
    robot.wait_for("recovery", lambda: robot.chunks[-1].instruction == "go on", process)


def test_a_camera_that_stops_ends_the_chunks_and_is_named(robot, policy):
    process = policy()
    robot.wait_for("chunks", lambda: robot.chunks, process)
    del robot.sizes["wrist_view"]
    robot.wait_for(
        "the reason",
        lambda: (
            robot.statuses[-1].state == PolicyStatus.STATE_WAITING
            and "wrist_view" in robot.statuses[-1].reason
        ),
        process,
    )
    count = len(robot.chunks)
    robot.wait_for("the next status", lambda: len(robot.statuses) > 3, process)
    assert len(robot.chunks) == count


def test_a_run_succeeds_only_by_its_check(robot, policy, context):
    process = policy(backend="hold", success_check="red_cube_in_tray")
    robot.wait_for("chunks", lambda: robot.chunks, process)
    client = ActionClient(robot.node, RunInstruction, "run_instruction")
    robot.wait_for("the action", client.server_is_ready, process)

    def run(timeout_s):
        goal = RunInstruction.Goal(instruction="tidy up", timeout_s=timeout_s)
        sent = client.send_goal_async(goal)
        robot.wait_for("acceptance", sent.done, process)
        assert sent.result().accepted
        return sent.result(), sent.result().get_result_async()

    def outcome(done):
        robot.wait_for("the result", done.done, process)
        return done.result().result

    _goal, done = run(1.0)
    assert outcome(done).outcome == RunInstruction.Result.OUTCOME_TIMEOUT
    robot.wait_for(
        "the pause", lambda: "waiting for an instruction" in robot.statuses[-1].reason, process
    )
    goal, done = run(30.0)
    goal.cancel_goal_async()
    assert outcome(done).outcome == RunInstruction.Result.OUTCOME_CANCELED
    _goal, done = run(30.0)
    robot.instruction.publish(String(data="something else"))
    assert outcome(done).outcome == RunInstruction.Result.OUTCOME_FAILED
    assert "something else" in done.result().result.reason
    robot.wait_for(
        "the other's chunks", lambda: robot.chunks[-1].instruction == "something else", process
    )
    _goal, done = run(30.0)
    robot.wait_for("chunks again", lambda: robot.chunks[-1].instruction == "tidy up", process)
    assert not done.done()
    robot.cube_xyz = (0.2, -0.2, 0.02)
    assert outcome(done).outcome == RunInstruction.Result.OUTCOME_SUCCEEDED
    assert "red_cube_in_tray" in done.result().result.reason


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(robot, policy, signal_number):
    process = policy()
    robot.wait_for("chunks", lambda: robot.chunks, process)
    process.send_signal(signal_number)
    begin_s = time.monotonic()
    robot.wait_for_exit(process)
    assert process.returncode == 0
    assert time.monotonic() - begin_s < 4.0


def test_a_signal_during_a_long_inference_ends_it_without_a_crash(robot, policy):
    process = policy(backend="slow")

    def infers() -> bool:
        ready = select.select([process.stdout], [], [], 0.0)[0]
        return bool(ready) and "inferring" in process.stdout.readline()

    robot.wait_for("an inference", infers, process)
    process.send_signal(signal.SIGINT)
    said = robot.wait_for_exit(process)
    assert (process.returncode, said.count("terminate")) == (0, 0), said
