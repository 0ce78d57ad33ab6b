"""`wallx measure-table` writes what the arm will trust: it reads a resting arm or nothing."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import load_shapes
from so101_driver.table_plane import plane_of, touch_of
from wallx_bringup.cli import main
from wallx_bringup.domain import lock_free_domain

pytestmark = pytest.mark.ros

KINEMATICS = Kinematics.from_urdf(data_path("so101.urdf"))
SHIPPED = data_path("so101_geometry.yaml")
POSES = [
    np.array([pan, lift, elbow, 1.2 - 0.2 * lift, 0.0, -0.17])
    for pan, lift, elbow in ((-0.7, 0.1, 0.6), (0.1, 0.5, 0.0), (0.8, 0.1, 0.6))
]


@pytest.fixture
def arm(monkeypatch, tmp_path) -> Iterator[SimpleNamespace]:
    """Publishes joint states; ``pose`` is what it measures, ``speed`` moves it."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import JointState

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(lock_free_domain())
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain.id)
        node = rclpy.create_node("arm", context=context)
        publisher = node.create_publisher(JointState, "joint_states", 10)
        state = SimpleNamespace(pose=np.zeros(6), speed=0.0, late_s=0)

        def publish() -> None:
            state.pose = state.pose + 0.02 * state.speed
            message = JointState(name=list(reversed(JOINT_NAMES)))
            message.header.stamp = node.get_clock().now().to_msg()
            message.header.stamp.sec -= state.late_s
            message.position = [float(value) for value in state.pose[::-1]]
            publisher.publish(message)
            # Others may share the topic.
            publisher.publish(JointState(name=["left_wheel"], position=[1.0]))

        node.create_timer(0.02, publish)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        yield state
        executor.shutdown()
        thread.join()
        node.destroy_node()
        context.try_shutdown()


def test_three_touches_become_the_table_of_a_new_file(arm, tmp_path, monkeypatch, capsys) -> None:
    # Before the good touches: one while it moves, one with a silent joint, one that is old. After
    # the first: the same place again.
    plan = [
        SimpleNamespace(pose=POSES[0], speed=0.2, late_s=0),
        SimpleNamespace(pose=np.full(6, math.nan), speed=0.0, late_s=0),
        SimpleNamespace(pose=POSES[0], speed=0.0, late_s=3),
        SimpleNamespace(pose=POSES[0], speed=0.0, late_s=0),
        *(SimpleNamespace(pose=pose, speed=0.0, late_s=0) for pose in POSES),
    ]
    prompts = []

    def touch(prompt):
        prompts.append(prompt)
        for key, value in vars(plan.pop(0)).items():
            setattr(arm, key, value)
        return ""

    monkeypatch.setattr("builtins.input", touch)
    output = tmp_path / "mine.yaml"
    assert main(["measure-table", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not taken: ") == 4
    for problem in (
        "keep the arm still",
        "did not answer",
        "newest joint state is 3.",
        "only 0.0 cm",
    ):
        assert problem in shown
    assert [prompt.split(":")[0] for prompt in prompts] == [
        *["Point 1 of 3"] * 4,
        *["Point 2 of 3"] * 2,
        "Point 3 of 3",
    ]
    table = load_shapes(output, KINEMATICS.link_names).table
    fingertips = load_shapes(SHIPPED, KINEMATICS.link_names).fingertips
    plane = plane_of([touch_of(KINEMATICS, fingertips, pose) for pose in POSES])
    assert table.point_m == pytest.approx(plane.point_m, abs=1e-4)
    assert table.normal == pytest.approx(plane.normal, abs=1e-4)
    assert f"(was {0.0:+.1f} mm)" in shown
    assert f"{1e3 * table.point_m[2]:+.1f} mm" in shown
    assert output.read_text().startswith("# Written by `wallx measure-table` from ")


def test_an_end_of_input_writes_nothing(arm, tmp_path, monkeypatch, capsys) -> None:
    def end(_prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    output = tmp_path / "mine.yaml"
    assert main(["measure-table", "--output", str(output)]) == 1
    assert "after 0 of 3 points: nothing was written" in capsys.readouterr().err
    assert not output.exists()


def test_what_cannot_work_is_told_before_anything_is_measured(tmp_path, capsys) -> None:
    there = tmp_path / "there.yaml"
    there.write_text("mine")
    for words, sentence in (
        (["--output", str(there)], "exists: name another file, or overwrite with --force"),
        (["--output", str(tmp_path / "no" / "a.yaml")], "there is no folder"),
        (["--output", str(tmp_path / "a.yaml"), "--points", "2"], "--points must be at least 3"),
    ):
        assert main(["measure-table", *words]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert there.read_text() == "mine"


def test_without_an_arm_it_says_so(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("wallx_bringup.nodes.table_tool.DISCOVERY_S", 0.5)
    with lock_free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
        assert main(["measure-table", "--output", str(tmp_path / "a.yaml")]) == 1
    assert "nobody publishes this arm's joints on /joint_states" in capsys.readouterr().err
