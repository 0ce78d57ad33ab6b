"""The wallx command tells in one sentence what is wrong, and works where `ros2` does not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from wallx_bringup.arguments import ARGUMENTS
from wallx_bringup.cli import main
from wallx_bringup.message_text import fill_message, message_text
from wallx_bringup.session import RunningGraph

SetBool = pytest.importorskip("std_srvs.srv", reason="needs ROS 2").SetBool
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "wallx"


def test_show_args_tells_every_argument(capsys) -> None:
    assert main(["up", "--show-args"]) == 0
    text = capsys.readouterr().out
    assert all(f"{argument.name}:=" in text for argument in ARGUMENTS)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["up", "bakend:=hold"], "there is no argument 'bakend' (did you mean 'backend'?)"),
        (["up", "sim:=false"], "there is no calibration in "),
        (["up", "checkpoint:=/no/such"], "argument 'checkpoint': /no/such cannot be read"),
        (["run", "so101_driver", "no_node"], "executable 'no_node' of package 'so101_driver'"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(
    command, sentence: str, capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wallx: {sentence}")
    assert error.count("\n") == 1


def test_only_what_joins_a_graph_must_be_told_which_of_several(monkeypatch, capsys) -> None:
    graphs = [RunningGraph(pid, 40 + pid, True, "/", "/tmp", "") for pid in (1, 2)]
    monkeypatch.setattr("wallx_bringup.cli.running_graphs", lambda _environment: graphs)

    def become(path: Path, *_args: object) -> None:
        raise SystemExit(path.name)

    monkeypatch.setattr("os.execve", become)
    for program in ("virtual_bus", "calibrate"):
        with pytest.raises(SystemExit, match=program):
            main(["run", "so101_driver", program])
    assert main(["run", "so101_driver", "safety_node"]) == 1
    assert "several graphs are running, name one: --graph 1" in capsys.readouterr().err


def test_the_script_runs_in_the_environment_it_lies_in_though_not_activated(tmp_path: Path) -> None:
    (tmp_path / "wallx").symlink_to(SCRIPT)
    beside = tmp_path / "python3"
    beside.write_text("#!/bin/sh\necho beside: $*\n")
    beside.chmod(0o755)
    command = [sys.executable, "-SE", str(tmp_path / "wallx"), "topics"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"beside: {tmp_path / 'wallx'} topics\n"


def test_the_script_says_what_to_do_where_nothing_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-SE", str(SCRIPT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert result.returncode == 1
    assert "run `make setup`" in result.stderr


def test_requests_take_text_numbers_and_names_of_constants() -> None:
    from wallx_msgs.msg import SafetyStatus
    from wallx_msgs.srv import RecorderControl, SetMode

    mode = SetMode.Request()
    fill_message(mode, {"mode": "scaled", "scale": "0.2"}, (SafetyStatus,))
    assert (mode.mode, mode.scale) == (SafetyStatus.MODE_SCALED, 0.2)
    recorder = RecorderControl.Request()
    fill_message(recorder, {"command": "start", "task": "no"}, ())
    assert (recorder.command, recorder.task) == (RecorderControl.Request.COMMAND_START, "no")
    torque = SetBool.Request()
    fill_message(torque, {"data": "true"}, ())
    assert torque.data is True


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dta": "true"}, "there is no field 'dta'; the fields are: data"),
        ({"data": "maybe"}, "field 'data' must be of type boolean, not 'maybe'"),
    ],
)
def test_a_field_that_does_not_fit_is_named(given, sentence: str) -> None:
    from so101_driver.errors import UserError

    with pytest.raises(UserError, match=sentence):
        fill_message(SetBool.Request(), given, ())


def test_messages_are_yaml_and_long_arrays_are_shortened() -> None:
    import yaml
    from sensor_msgs.msg import CompressedImage, JointState

    joints = JointState(name=["a", "no"], position=[0.5, -1.0])
    assert yaml.safe_load(message_text(joints))["name"] == ["a", "no"]
    assert yaml.safe_load(message_text(joints))["position"] == [0.5, -1.0]
    image = CompressedImage(data=bytes(1000))
    assert yaml.safe_load(message_text(image))["data"][-1] == "... 936 more"


def test_calibrate_proposes_itself(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    assert main(["calibrate", "--port", "/dev/absent", "--check"]) == 2
    assert "(wallx calibrate --kind follower" in capsys.readouterr().err
