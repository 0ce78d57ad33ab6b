"""What a user sees who got something wrong: one sentence, a non-zero status, no motion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture
def wallx_up(tmp_path):
    """Run ``wallx up`` to its end; returns exit status and output."""

    def run(*words: str) -> tuple[int, str]:
        runtime = tmp_path / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "ROS_LOG_DIR": str(tmp_path / "ros_log"),
            # Of whoever runs this test no arm may be found.
            "HF_LEROBOT_CALIBRATION": str(tmp_path / "calibration"),
        }
        result = subprocess.run(
            [str(Path(sys.prefix) / "bin" / "wallx"), "up", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            env=environment,
        )
        return result.returncode, result.stdout

    return run


@pytest.fixture
def checkpoint(tmp_path):
    from wallx_policy.random_checkpoints import write_random_checkpoint

    folder = tmp_path / "tiny checkpoint"
    write_random_checkpoint(folder, seed=0)
    return folder


def assert_refused(result: tuple[int, str], *fragments: str) -> None:
    status, output = result
    assert status != 0, output
    assert "Traceback" not in output, output
    for fragment in fragments:
        assert fragment in output, f"'{fragment}' is not in:\n{output}"
    # Nothing armed, so nothing moved.
    assert "TRACKING" not in output


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("bakend:=hold",), ("bakend", "backend")),
        (("mode:=fast",), ("mode", "shadow, scaled, full")),
        (("backend:=wall_oss", "checkpoint:=/no/such/folder"), ("checkpoint", "/no/such/folder")),
        (("calibration:=/no/such/file.json",), ("calibration", "/no/such/file.json")),
        (("sim:=false", "arm:=auto"), ("arm", "manual")),
        (("sim:=false",), ("calibration",)),
        (("backend:=cleverest",), ("cleverest", "expert")),
        (("backend:=wall_oss",), ("checkpoint",)),
    ],
)
def test_arguments_that_cannot_work(wallx_up, words, fragments):
    assert_refused(wallx_up(*words), *fragments)


def test_missing_port_is_named_with_the_fix(wallx_up):
    from so101_driver.joints import data_path

    result = wallx_up(
        "sim:=false",
        "port:=/dev/ttyNOSUCHARM",
        f"calibration:={data_path('sim_calibration.json')}",
        "backend:=hold",
    )
    assert_refused(result, "/dev/ttyNOSUCHARM")


def test_calibration_of_other_joints_is_refused_by_name(wallx_up, tmp_path):
    from so101_driver.joints import data_path

    content = json.loads(data_path("sim_calibration.json").read_text())
    content["thumb"] = content.pop("gripper")
    other = tmp_path / "other arm.json"
    other.write_text(json.dumps(content))
    assert_refused(wallx_up(f"calibration:={other}"), "gripper", "thumb")


def test_truncated_checkpoint_is_refused_by_file(wallx_up, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = wallx_up("backend:=wall_oss", f"checkpoint:={checkpoint}")
    assert_refused(result, "model.safetensors")


def test_wrong_camera_topic_is_named(wallx_up, checkpoint, tmp_path):
    impatient = tmp_path / "impatient.yaml"
    impatient.write_text("/**/policy: {ros__parameters: {graph_timeout_s: 2.0}}")
    result = wallx_up(
        "backend:=wall_oss",
        f"checkpoint:={checkpoint}",
        "face_topic:=camera/nobody/image_raw",
        f"params_file:={impatient}",
    )
    assert_refused(result, "camera/nobody/image_raw")


def test_cameras_swapped_in_size_are_refused(wallx_up, checkpoint):
    result = wallx_up(
        "backend:=wall_oss",
        f"checkpoint:={checkpoint}",
        "face_topic:=camera/wrist_view/image_raw",
        "wrist_topic:=camera/face_view/image_raw",
    )
    assert_refused(result, "face_view", "320", "240")
