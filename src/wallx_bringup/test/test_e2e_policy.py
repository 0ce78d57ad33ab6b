"""A model in the running graph: chunks continue each other, questions are answered beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PARAMETERS = """
/**/policy:
  ros__parameters:
    min_latency_s: 0.12
"""


def test_chunks_continue_each_other_and_questions_are_answered(live_graph, tmp_path: Path) -> None:
    from action_msgs.msg import GoalStatus
    from rclpy.action import ActionClient
    from wallx_policy.random_checkpoints import write_random_checkpoint

    from wallx_msgs.action import Ask, RunInstruction
    from wallx_msgs.msg import ActionChunk, SafetyStatus
    from wallx_msgs.srv import SetMode

    checkpoint = write_random_checkpoint(tmp_path / "checkpoint")
    parameters = tmp_path / "slow.yaml"
    parameters.write_text(PARAMETERS)
    words = ("backend:=wall_oss", f"checkpoint:={checkpoint}", f"params_file:={parameters}")
    with live_graph(*words) as graph:
        graph.listen("action_chunk", ActionChunk, keep=True)
        graph.listen("safety/status", SafetyStatus)
        chunks = graph.history["action_chunk"]
        graph.wait(
            "chunks that continue those before",
            lambda: [chunk.committed_steps > 0 for chunk in chunks].count(True) >= 10,
            90.0,
        )
        assert graph.latest["safety/status"].state == SafetyStatus.STATE_TRACKING

        def send(action_type: type, name: str, goal: object, heard: list) -> tuple[int, object]:
            client = ActionClient(graph.node, action_type, name)
            graph.wait(name, client.server_is_ready)
            sent = client.send_goal_async(
                goal, feedback_callback=lambda message: heard.append(message.feedback)
            )
            graph.wait("acceptance", sent.done)
            assert sent.result().accepted
            done = sent.result().get_result_async()
            graph.wait(f"the result of {name}", done.done)
            return done.result().status, done.result().result

        answered: list = []
        status, result = send(Ask, "policy/ask", Ask.Goal(question="what is there?"), answered)
        assert status == GoalStatus.STATUS_SUCCEEDED
        # Random weights have much to say, none of it true.
        assert result.answer
        assert answered[-1].text == result.answer
        steps: list = []
        goal = RunInstruction.Goal(instruction="wave", timeout_s=2.0)
        _, result = send(RunInstruction, "run_instruction", goal, steps)
        assert result.outcome == RunInstruction.Result.OUTCOME_TIMEOUT
        assert steps
        assert any(chunk.instruction == "wave" for chunk in chunks)

        answer = graph.call(
            "safety/set_mode", SetMode, SetMode.Request(mode=SafetyStatus.MODE_SCALED)
        )
        assert answer.success, answer.message
        chunks.clear()
        send(
            RunInstruction,
            "run_instruction",
            RunInstruction.Goal(instruction="go on", timeout_s=2.0),
            steps,
        )
        assert chunks
        assert chunks[-1].committed_steps == 0
