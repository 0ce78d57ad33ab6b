"""The running policy node with a model: questions, steps, and chunks that continue each other.

The model is a tiny one whose weights are random, or made to answer with known words.
"""

import shutil

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from fast_files import make_it_write
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from policy_robot import PolicyProcesses, Robot, ros_context
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tokenizers import Tokenizer
from wallx_policy.contract import Contract
from wallx_policy.random_checkpoints import write_random_checkpoint

from wallx_msgs.action import Ask, RunInstruction
from wallx_msgs.msg import PolicyStatus, SafetyStatus

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

SIZES = {"face_view": (320, 240), "wrist_view": (240, 240)}
SAYS = "open hand"

TALKER = '''
import time
import numpy as np
from dataclasses import replace
from wallx_policy.backends.base import Backend, BackendNeeds, BadText, Prediction
from wallx_policy.backends.scripted import scripted_contract, scripted_description
from wallx_policy.contract import Camera

class Plugin(Backend):
    """Says a word every 20 ms: three, or with the question 'forever' until it is cancelled."""
    writes_text = True

    def __init__(self, settings):
        self.name = "talker"
        self.contract = replace(scripted_contract(), cameras=(Camera("face_view", 320, 240),))
        self.description = scripted_description("test policy")
        self.needs = BackendNeeds(images=True)

    def predict(self, observation):
        return Prediction(np.full((25, 6), 0.1), 0.04)

    def ask(self, images, question, writing):
        words = []
        while not writing.cancelled() and (len(words) < 3 or question == "forever"):
            words.append(f"word{len(words)}")
            writing.on_text(" ".join(words))
            time.sleep(0.02)
        return " ".join(words)

    def subtask(self, observation, writing):
        if observation.instruction == "nonsense":
            raise BadText("the sentence is empty")
        return f"begin to {observation.instruction}"
'''


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """ROS context; an installed package with the plugged-in policy."""
    with ros_context(tmp_path_factory.mktemp("plugin"), talker=TALKER) as context:
        yield context


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random_checkpoint(tmp_path_factory.mktemp("random"))


class Arm(Robot):
    """Follows the newest chunk exactly, and says of itself what safety would."""

    def __init__(self, context, checkpoint):
        super().__init__(context)
        self.sizes = dict(SIZES)
        contract = Contract.load(checkpoint)
        statistics = contract.action_statistics
        pose_rad = contract.to_radians(np.add(statistics.min, statistics.max) / 2)
        self.position_rad = pose_rad.tolist()
        self.mode = SafetyStatus.MODE_FULL
        self.diagnostics = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.safety = self.node.create_publisher(SafetyStatus, "safety/status", latched)
        self.node.create_timer(0.01, self._follow)
        self.node.create_timer(0.1, self._say)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _follow(self):
        now = self._now()
        if self.chunks:
            chunk = self.chunks[-1]
            since_s = (now.sec - chunk.header.stamp.sec) + 1e-9 * (
                now.nanosec - chunk.header.stamp.nanosec
            )
            command = JointState(name=self.joint_names, position=at(chunk, since_s).tolist())
            command.header.stamp = now
            self.publish("joint_commands", command)

    def _say(self):
        status = SafetyStatus(state=SafetyStatus.STATE_TRACKING, mode=self.mode)
        status.header.stamp = self._now()
        self.safety.publish(status)

    def _on_diagnostics(self, message):
        for status in message.status:
            if status.name == "/policy":
                self.diagnostics = {value.key: value.value for value in status.values}


def at(chunk, since_s):
    """Where a chunk is so long after its observation."""
    points = chunk.trajectory.points
    times_s = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in points]
    rows = np.array([p.positions for p in points])
    return np.array([np.interp(since_s, times_s, joint) for joint in rows.T])


@pytest.fixture
def robot(context, checkpoint):
    robot = Arm(context, checkpoint)
    yield robot
    robot.executor.shutdown()
    robot.node.destroy_node()


@pytest.fixture
def policy():
    """Starts the node with the given parameters; ends the one started before."""
    with PolicyProcesses() as processes:
        yield processes.start


class Asking:
    """Asks questions by policy/ask."""

    def __init__(self, robot, process):
        self.robot, self.process, self.heard = robot, process, []
        self.client = ActionClient(robot.node, Ask, "policy/ask")
        robot.wait_for("the action", self.client.server_is_ready, process)

    def send(self, question, views=()):
        goal = Ask.Goal(question=question, views=list(views))
        sent = self.client.send_goal_async(
            goal, feedback_callback=lambda message: self.heard.append(message.feedback.text)
        )
        self.robot.wait_for("acceptance", sent.done, self.process)
        assert sent.result().accepted
        return sent.result()

    def result(self, goal):
        done = goal.get_result_async()
        self.robot.wait_for("the result", done.done, self.process)
        return done.result().status, done.result().result.answer

    def ask(self, question, views=()):
        return self.result(self.send(question, views))


def test_a_model_answers_and_names_its_steps_while_the_chunks_go_on(
    robot, policy, checkpoint, tmp_path
):
    folder = shutil.copytree(checkpoint, tmp_path / "writing")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    make_it_write(folder, tokenizer.encode(f" {SAYS}<|im_end|>", add_special_tokens=False).ids)
    process = policy(
        backend="wall_oss", checkpoint=folder, instruction="tidy up", subtask_period_s=0.5
    )
    robot.wait_for("a step", lambda: robot.chunks and robot.chunks[-1].subtask == SAYS, process)
    assert robot.chunks[-1].instruction == "tidy up"
    robot.wait_for("the step in the status", lambda: robot.statuses[-1].subtask == SAYS, process)
    assert robot.statuses[-1].state == PolicyStatus.STATE_RUNNING
    asking = Asking(robot, process)
    before = len(robot.chunks)
    assert asking.ask("what is there?", ["wrist_view"]) == (GoalStatus.STATUS_SUCCEEDED, SAYS)
    robot.wait_for("feedback", lambda: asking.heard and asking.heard[-1] == SAYS, process)
    status, why = asking.ask("what is there?", ["top_view"])
    assert status == GoalStatus.STATUS_ABORTED
    assert "there is no view 'top_view'" in why
    client = ActionClient(robot.node, RunInstruction, "run_instruction")
    robot.wait_for("run_instruction", client.server_is_ready, process)
    heard = []
    sent = client.send_goal_async(
        RunInstruction.Goal(instruction="wave", timeout_s=2.0),
        feedback_callback=lambda message: heard.append(message.feedback.subtask),
    )
    robot.wait_for("acceptance", sent.done, process)
    done = sent.result().get_result_async()
    robot.wait_for("the end of the run", done.done, process)
    assert done.result().result.outcome == RunInstruction.Result.OUTCOME_TIMEOUT
    assert SAYS in heard
    waved = [chunk for chunk in robot.chunks if chunk.instruction == "wave"]
    assert waved[-1].subtask == SAYS
    assert len(robot.chunks) > before
    robot.wait_for(
        "the count of answers",
        lambda: robot.diagnostics.get("questions_answered") == "1",
        process,
    )


def test_a_chunk_begins_as_the_one_under_way_goes_on_but_not_in_scaled(robot, policy, checkpoint):
    process = policy(
        backend="wall_oss", checkpoint=checkpoint, min_latency_s=0.12, chunk_conditioning="frozen"
    )
    robot.wait_for(
        "committed steps",
        lambda: robot.chunks and robot.chunks[-1].committed_steps > 0,
        process,
    )
    before, chunk = robot.chunks[-2:]
    # 0.12 s and a margin are 4 periods of 40 ms at most, and the one after.
    assert 4 <= chunk.committed_steps <= 8
    period_s = 0.04
    apart_s = (chunk.header.stamp.sec - before.header.stamp.sec) + 1e-9 * (
        chunk.header.stamp.nanosec - before.header.stamp.nanosec
    )
    last_s = (chunk.committed_steps - 1) * period_s
    committed = np.array(chunk.trajectory.points[chunk.committed_steps - 1].positions)
    free = np.abs(np.diff([p.positions for p in chunk.trajectory.points], axis=0)).max()
    assert np.abs(committed - at(before, apart_s + last_s)).max() < max(0.02, free)

    robot.mode = SafetyStatus.MODE_SCALED
    robot.wait_for("chunks of their own", lambda: robot.chunks[-1].committed_steps == 0, process)
    robot.wait_for(
        "the reason",
        lambda: (
            "chunks without prefix: NOT_FULL" in robot.diagnostics
            and "SCALED" in robot.diagnostics["chunk conditioning"]
        ),
        process,
    )
    robot.mode = SafetyStatus.MODE_FULL
    robot.wait_for("a prefix again", lambda: robot.chunks[-1].committed_steps > 0, process)


def test_a_long_answer_is_told_as_it_grows_and_ends_when_canceled(robot, policy):
    process = policy(backend="talker", instruction="tidy up")
    robot.wait_for("chunks", lambda: robot.chunks, process)
    asking = Asking(robot, process)
    assert asking.ask("what?") == (GoalStatus.STATUS_SUCCEEDED, "word0 word1 word2")
    asking.heard.clear()
    goal = asking.send("forever")
    waiting = [asking.send(f"question {i}") for i in range(3)]
    robot.wait_for("three pieces of the answer", lambda: len(asking.heard) >= 3, process)
    for shorter, longer in zip(asking.heard, asking.heard[1:], strict=False):
        assert longer.startswith(shorter)
        assert len(longer) > len(shorter)
    assert asking.ask("one more?") == (
        GoalStatus.STATUS_ABORTED,
        "4 questions are waiting already: ask again later",
    )
    count = len(robot.chunks)
    robot.wait_for("chunks meanwhile", lambda: len(robot.chunks) > count, process)
    goal.cancel_goal_async()
    status, answer = asking.result(goal)
    assert status == GoalStatus.STATUS_CANCELED
    assert answer.startswith("word0 word1 word2 word3")
    for other in waiting:
        assert asking.result(other)[0] == GoalStatus.STATUS_SUCCEEDED


def test_deactivating_ends_an_answer_at_once(robot, policy):
    process = policy(backend="talker", instruction="tidy up")
    asking = Asking(robot, process)
    robot.wait_for("chunks", lambda: robot.chunks, process)
    goals = [asking.send("forever"), asking.send("what?")]
    robot.wait_for("the answer's begin", lambda: asking.heard, process)
    client = robot.node.create_client(ChangeState, "policy/change_state")
    robot.wait_for("the service", client.service_is_ready, process)

    def change(transition_id):
        request = ChangeState.Request(transition=Transition(id=transition_id))
        done = client.call_async(request)
        robot.wait_for("the transition", done.done, process)
        assert done.result().success

    change(Transition.TRANSITION_DEACTIVATE)
    for goal in goals:
        assert asking.result(goal) == (GoalStatus.STATUS_ABORTED, "the policy was deactivated")
    assert asking.ask("what?") == (GoalStatus.STATUS_ABORTED, "the policy is not active")
    change(Transition.TRANSITION_ACTIVATE)
    count = len(robot.chunks)
    robot.wait_for("chunks again", lambda: len(robot.chunks) > count, process)
    assert asking.ask("what?") == (GoalStatus.STATUS_SUCCEEDED, "word0 word1 word2")


def test_a_step_is_written_on_request_and_a_failure_is_told(robot, policy):
    process = policy(backend="talker", instruction="tidy up")
    robot.wait_for("chunks", lambda: robot.chunks, process)
    client = robot.node.create_client(Trigger, "policy/renew_subtask")

    def renew():
        robot.wait_for("the service", client.service_is_ready, process)
        done = client.call_async(Trigger.Request())
        robot.wait_for("the reply", done.done, process)
        assert done.result().success, done.result().message

    assert robot.chunks[-1].subtask == ""
    renew()
    robot.wait_for("the step", lambda: robot.chunks[-1].subtask == "begin to tidy up", process)
    robot.instruction.publish(String(data="nonsense"))
    robot.wait_for("the words", lambda: robot.chunks[-1].instruction == "nonsense", process)
    assert robot.chunks[-1].subtask == ""
    renew()
    robot.wait_for(
        "the failure", lambda: "without a new step" in robot.statuses[-1].reason, process
    )
    assert robot.statuses[-1].last_error == "no next step: the sentence is empty"
    assert robot.statuses[-1].state == PolicyStatus.STATE_RUNNING


def test_what_a_backend_cannot_do_is_one_sentence(robot, policy):
    process = policy(backend="hold")
    robot.wait_for("chunks", lambda: robot.chunks, process)
    status, why = Asking(robot, process).ask("what is there?")
    assert status == GoalStatus.STATUS_ABORTED
    assert "backend hold writes no text: start the graph with backend:=wall_oss" in why
    for parameters, words in (
        ({"subtask_period_s": 5.0}, "subtask_period_s is 5, but backend hold writes no text"),
        ({"chunk_conditioning": "guided"}, "backend hold cannot continue a chunk"),
    ):
        process = policy(backend="hold", **parameters)
        said = robot.wait_for_exit(process)
        assert process.returncode == 1
        assert words in said
        assert "Traceback" not in said


def test_tokens_that_spell_no_chunk_publish_none(robot, policy, tmp_path):
    from wallx_policy.random_checkpoints import Recipe, write_checkpoint

    folder = write_checkpoint(tmp_path / "fast", Recipe(layout="fast"))
    process = policy(
        backend="wall_oss",
        checkpoint=folder,
        model_settings="fast_max_new_tokens=4 fast_retries=0",
    )
    robot.wait_for(
        "the fault",
        lambda: robot.statuses and robot.statuses[-1].state == PolicyStatus.STATE_FAULT,
        process,
    )
    assert "4 tokens" in robot.statuses[-1].last_error
    robot.wait_for("the count", lambda: "bad_predictions" in robot.diagnostics, process)
    assert not robot.chunks
    assert robot.statuses[-1].chunks_published == 0
