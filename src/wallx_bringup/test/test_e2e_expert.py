"""The expert moves the cube in the real graph, and the recorded commands stay within the limits.

The bag is judged by plain finite differences and a plain reading of the limits file, so that an
error in the safety code cannot hide itself.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SEEDS = (1, 2, 3, 4, 5)
PERIOD_S = 0.01
STEP_TOLERANCE_RAD = 1e-9
"""Commands travel as float64; only rounding in the additions may differ."""


def scene(graph):
    """Return positions and sizes of the simulated objects by name."""
    return {
        marker.ns: (
            np.array([getattr(marker.pose.position, axis) for axis in "xyz"]),
            np.array([getattr(marker.scale, axis) for axis in "xyz"]),
        )
        for marker in graph.latest["sim/objects"].markers
    }


def red_cube_rests_in_tray(objects):
    """Tell it by the geometry alone: over the tray's floor, and not held above its rim."""
    (cube, cube_size), (tray, tray_size) = objects["red_cube"], objects["tray"]
    inside = np.all(np.abs(cube[:2] - tray[:2]) < tray_size[:2] / 2)
    return bool(inside and cube[2] < tray[2] + tray_size[2] / 2 + cube_size[2] / 2)


def listen(graph):
    from visualization_msgs.msg import MarkerArray

    graph.listen("sim/objects", MarkerArray, keep=True)
    graph.wait("sim/objects", lambda: "sim/objects" in graph.latest, 60.0)


def height_history(graph):
    return [
        marker.pose.position.z
        for message in graph.history["sim/objects"]
        for marker in message.markers
        if marker.ns == "red_cube"
    ]


def reset_scene(graph, seed):
    from wallx_msgs.srv import ResetScene

    answer = graph.call("sim/reset", ResetScene, ResetScene.Request(seed=seed))
    assert answer.success, answer.message
    graph.history["sim/objects"].clear()
    graph.wait(
        "the cube on the table",
        lambda: "sim/objects" in graph.latest and not red_cube_rests_in_tray(scene(graph)),
    )


def test_expert_places_the_cube_from_five_seeds_within_the_limits(live_graph, tmp_path):
    from std_msgs.msg import String

    bag = tmp_path / "bag"
    with live_graph("backend:=expert", "arm:=auto", f"record:={bag}") as graph:
        listen(graph)
        speak = graph.node.create_publisher(String, "instruction", 10)
        graph.wait("the policy on instruction", lambda: speak.get_subscription_count() >= 1)
        for seed in SEEDS:
            reset_scene(graph, seed)
            speak.publish(String(data=f"put the red cube into the tray (round {seed})"))
            graph.wait(
                f"the red cube in the tray, seed {seed}",
                lambda: red_cube_rests_in_tray(scene(graph)),
                90.0,
            )
            heights = height_history(graph)
            assert max(heights) - heights[0] > 0.04, "it got there without being lifted"
    check_limits(bag)


def test_expert_with_open_gripper_is_not_called_a_success(live_graph, tmp_path):
    from wallx_msgs.msg import ActionChunk

    parameters = tmp_path / "open gripper.yaml"
    content = {"/**/policy": {"ros__parameters": {"expert_keep_gripper_open": True}}}
    parameters.write_text(yaml.safe_dump(content))
    with live_graph("backend:=expert", f"params_file:={parameters}") as graph:
        listen(graph)
        graph.listen("action_chunk", ActionChunk, keep=True)

        def attempts():
            steps = [chunk.subtask for chunk in graph.history["action_chunk"]]
            closing = [step.startswith("close the gripper") for step in steps]
            return sum(now and not before for before, now in itertools.pairwise(closing))

        graph.wait("two attempts to grasp", lambda: attempts() >= 2, 90.0)
        heights = height_history(graph)
        assert max(heights) - min(heights) < 0.02
        assert not red_cube_rests_in_tray(scene(graph))


def check_limits(bag: Path) -> None:
    """Check each run of consecutive recorded commands against the limits file."""
    from rosbags.highlevel import AnyReader
    from so101_driver.joints import data_path

    content = yaml.safe_load(data_path("so101_limits.yaml").read_text())
    stamps_ns, positions = [], []
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic == "/joint_commands"]
        assert connections, "the bag has no joint_commands"
        for connection, _, raw in reader.messages(connections=connections):
            message = reader.deserialize(raw, connection.msgtype)
            stamps_ns.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
            positions.append(message.position)
    stamps_ns, positions = np.array(stamps_ns), np.array(positions)
    assert np.isfinite(positions).all()
    assert np.all(np.diff(stamps_ns) > 0), "commands out of order"
    # A gap is a disarmed stretch (or a lost message): the next segment starts anew.
    breaks = np.flatnonzero(np.diff(stamps_ns) > 1.5 * PERIOD_S * 1e9) + 1
    segments = [s for s in np.split(positions, breaks) if len(s) > 4]
    assert sum(len(s) for s in segments) > 1000, "too few commands to judge"
    limits = per_joint_limits(content, "demo")
    for segment in segments:
        for order, bound in limits.items():
            steps = np.abs(np.diff(segment, n=order, axis=0)).max(axis=0)
            allowed = np.array(bound) * PERIOD_S**order + STEP_TOLERANCE_RAD
            assert np.all(steps <= allowed), (order, steps / allowed)


def per_joint_limits(content, profile):
    """Read velocity, acceleration and jerk limits by order of difference."""
    values = content["profiles"][profile]
    names = list(content["position_rad"])
    keys = {1: "velocity_rad_s", 2: "acceleration_rad_s2", 3: "jerk_rad_s3"}
    return {order: [values[key][name] for name in names] for order, key in keys.items()}
