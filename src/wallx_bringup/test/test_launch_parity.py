"""`ros2 launch` and `wallx up` must start the same processes.

Both start the real thing here, on an installation whose executables report how they were started.
Runs where launch_ros exists (it is not on PyPI).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from so101_driver.errors import UserError
from wallx_bringup.arguments import ARGUMENTS, parse_words, resolve
from wallx_bringup.domain import PROFILE_VARIABLES, isolated_environment
from wallx_bringup.session import open_graph

pytest.importorskip("launch_ros")

import launch
from launch.launch_description_sources import (
    get_launch_description_from_python_launch_file,
)

PACKAGE = Path(__file__).resolve().parents[1]
LAUNCH_FILE = PACKAGE / "launch" / "so101.launch.py"
EXECUTABLES = (
    *(("so101_driver", name) for name in ("sim_node", "driver_node", "safety_node")),
    *(("wallx_policy", name) for name in ("policy_node", "trace_node", "recorder_node")),
)
OPTIONAL = tuple(("so101_driver", name) for name in ("camera_node", "teleop_node"))
# Reports, waits until all have (the end of the first would interrupt the others), ends. If one of
# them is to refuse, it ends with status 1, and the others wait to be interrupted.
REPORTER = f"""#!{sys.executable} -SE
import json, os, signal, sys, time
folder = os.environ["REPORTS"]
path = os.path.join(folder, os.path.basename(sys.argv[0]))
refuses = os.environ.get("REFUSES")
def on_interrupt(*_):
    if refuses:
        open(path + ".interrupted", "w")
        sys.exit(0)
signal.signal(signal.SIGINT, on_interrupt)
files = [b for a, b in zip(sys.argv, sys.argv[1:]) if a == "--params-file"]
report = dict(argv=sys.argv, environment=dict(os.environ), niceness=os.nice(0),
              files=[open(file).read() for file in files])
json.dump(report, open(path + ".part", "w"))
os.rename(path + ".part", path + ".json")
while sum(name.endswith(".json") for name in os.listdir(folder)) < int(os.environ["COUNT"]):
    time.sleep(0.01)
if refuses == os.path.basename(path):
    sys.exit(1)
if refuses:
    time.sleep(30)
"""


@pytest.fixture
def installation(tmp_path: Path, monkeypatch) -> Path:
    """A prefix in which every executable of the graph is a reporter that ends at once."""
    prefix = tmp_path / "prefix"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, executable in (*EXECUTABLES, *OPTIONAL, ("wallx_bringup", "unused")):
        (index / package).touch()
        path = prefix / "lib" / package / executable
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(REPORTER)
        path.chmod(0o755)
    (prefix / "share" / "wallx_bringup").symlink_to(PACKAGE)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    monkeypatch.setenv("COUNT", str(len(EXECUTABLES)))
    # wallx confines a simulated graph to this machine; with launch that is up to the user.
    for name, value in isolated_environment(os.environ, 45).items():
        monkeypatch.setenv(name, value)
    return prefix


def start_with_launch(words: list[str], monkeypatch) -> int:
    """Do what `ros2 launch` does with these words."""
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "wallx_bringup", LAUNCH_FILE.name, *words])
    service = launch.LaunchService(argv=words, noninteractive=True)
    source = launch.actions.IncludeLaunchDescription(
        launch.launch_description_sources.PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
        launch_arguments=parse_words(words).items(),
    )
    service.include_launch_description(launch.LaunchDescription([source]))
    return service.run()


def start_with_wallx(words: list[str], log_dir: Path) -> None:
    arguments = resolve(parse_words(words))
    with open_graph(arguments, os.environ, log_dir, lambda *_: None) as (runner, _):
        runner.start()
        while runner.poll():
            time.sleep(0.01)
        assert not runner.failures


def reports(folder: Path) -> dict[str, dict]:
    return {path.stem: comparable(json.loads(path.read_text())) for path in folder.iterdir()}


def comparable(report: dict) -> dict:
    """Bring a report to what must be equal: where files lie and how they are keyed may differ."""
    arguments = report["argv"][1:]
    pairs = list(itertools.pairwise(arguments))
    parameters: dict[str, object] = {}
    for text in report["files"]:
        for content in yaml.safe_load(text).values():
            parameters.update(content["ros__parameters"])
    for name in ("port", "port_link"):
        if name in parameters:
            parameters[name] = Path(str(parameters[name])).name
    ours = ("THREADS", "PYTHONUNBUFFERED", "PROFILES_FILE", "TRANSPORTS")
    return {
        "executable": report["argv"][0],
        "remappings": sorted(b for a, b in pairs if a == "-r"),
        "parameters": {name: (type(v).__name__, v) for name, v in parameters.items()},
        "niceness": report["niceness"],
        "environment": {k: v for k, v in report["environment"].items() if k.endswith(ours)},
    }


WORDS = [
    [],
    ["namespace:=left", "estop_topic:=/estop", "wrist_topic:=/cam1/image", "scale:=0.2"],
    ["mode:=scaled", "instruction:=no", "geometry:=off"],
    ["instruction:=12"],
    ["instruction:=put: cube"],
    ["instruction:=''"],
    ['instruction:=$(env HOME) it\'s "quoted" grün'],
]


def start_both(words: list[str], tmp_path: Path, monkeypatch) -> dict[str, dict]:
    """Start with both runners and compare; returns the reports."""
    (tmp_path / "my limits.yaml").touch()
    words = [*words, f"record:={tmp_path}/a bag", f"limits_file:={tmp_path}/my limits.yaml"]
    by_runner = {}
    for runner in ("launch", "wallx"):
        folder = tmp_path / runner
        folder.mkdir()
        monkeypatch.setenv("REPORTS", str(folder))
        if runner == "launch":
            start_with_launch(words, monkeypatch)
        else:
            start_with_wallx(words, tmp_path / "log")
        by_runner[runner] = reports(folder)
    assert by_runner["launch"].keys() == by_runner["wallx"].keys()
    for name, report in by_runner["wallx"].items():
        assert by_runner["launch"][name] == report
    return by_runner["wallx"]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_both_runners_start_the_same_processes(
    words: list[str], installation: Path, tmp_path: Path, monkeypatch
) -> None:
    assert len(start_both(words, tmp_path, monkeypatch)) == len(EXECUTABLES)


def test_both_runners_start_the_same_processes_for_a_real_arm(
    installation: Path, tmp_path: Path, monkeypatch
) -> None:
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COUNT", str(len(EXECUTABLES) - 1))
    (tmp_path / "arm.json").touch()
    words = ["sim:=false", f"calibration:={tmp_path}/arm.json", "port:=/dev/my arm"]
    found = start_both(words, tmp_path, monkeypatch)
    assert found.keys() == {name for _, name in EXECUTABLES} - {"sim_node"}
    assert found["driver_node"]["environment"]["FASTDDS_BUILTIN_TRANSPORTS"] == "UDPv4"


def test_both_runners_start_the_same_cameras_and_teleoperation(
    installation: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("COUNT", str(len(EXECUTABLES) + len(OPTIONAL) - 1))
    (tmp_path / "a leader.json").touch()
    words = ["face_camera:=/dev/video7", "teleop:=true", "leader_port:=/dev/my leader"]
    words.append(f"leader_calibration:={tmp_path}/a leader.json")
    found = start_both(words, tmp_path, monkeypatch)
    assert found.keys() == {name for _, name in (*EXECUTABLES, *OPTIONAL)} - {"policy_node"}
    assert found["camera_node"]["parameters"]["view"] == ("str", "face_view")
    assert any("sim/camera/face_view" in name for name in found["sim_node"]["remappings"])


def test_a_node_that_refuses_to_start_ends_everything_with_status_1(
    installation: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "limits.yaml").touch()
    (tmp_path / "reports").mkdir()
    monkeypatch.setenv("REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("REFUSES", "policy_node")
    words = [f"limits_file:={tmp_path}/limits.yaml", f"record:={tmp_path}/bag"]
    assert start_with_launch(words, monkeypatch) == 1
    interrupted = {path.stem for path in (tmp_path / "reports").glob("*.interrupted")}
    assert interrupted == {name for _, name in EXECUTABLES} - {"policy_node"}


def test_an_unknown_argument_is_refused(installation, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("REPORTS", str(tmp_path))
    assert start_with_launch(["bakend:=hold"], monkeypatch) == 1
    with pytest.raises(UserError) as refusal:
        resolve({"bakend": "hold"})
    assert str(refusal.value) in caplog.text


def test_show_args_lists_every_argument_with_its_description(installation) -> None:
    description = get_launch_description_from_python_launch_file(str(LAUNCH_FILE))
    listed = {a.name: a.description for a in description.get_launch_arguments()}
    assert list(listed) == [a.name for a in ARGUMENTS]
    for argument in ARGUMENTS:
        assert listed[argument.name].startswith(argument.help)
