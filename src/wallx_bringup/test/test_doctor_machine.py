"""The doctor's look at clock, ROS, disk, real time, cameras and a running graph."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from so101_driver.camera_devices import CameraDevice, Mode
from so101_driver.camera_health import Finding
from so101_driver.camera_preview import Preview
from so101_driver.camera_source import Description, SourceKind
from so101_driver.errors import UserError
from wallx_bringup.doctor.camera_checks import check_cameras
from wallx_bringup.doctor.graph_checks import (
    DriverStatus,
    GraphReading,
    SafetyStatus,
    check_graph,
)
from wallx_bringup.doctor.host import Host
from wallx_bringup.doctor.machine_checks import (
    check_clock,
    check_disk,
    check_realtime,
    check_ros,
)
from wallx_bringup.doctor.report import (
    Check,
    Level,
    as_json,
    as_text,
    failed,
    ok,
    passed,
    skipped,
    summary,
    warned,
)


class Machine(Host):
    """A machine whose commands, limits and disk are given."""

    def __init__(
        self,
        commands: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        free: float = 1e12,
        priority: int = 99,
    ) -> None:
        super().__init__(Path("/nowhere"), environ or {})
        for name, value in (("commands", commands or {}), ("free", free), ("priority", priority)):
            object.__setattr__(self, name, value)

    def command(self, words):
        return self.commands.get(words[0])

    def free_bytes(self, folder: Path) -> int:
        if not folder.is_dir():
            raise FileNotFoundError(2, "No such file or directory")
        return int(self.free)

    def realtime_limit(self) -> int:
        return self.priority


CHRONY = "System time     : {} seconds fast of NTP time\nLeap status     : {}\n"


@pytest.mark.parametrize(
    ("commands", "level"),
    [
        ({}, Level.SKIP),
        ({"timedatectl": "NTP=yes\nNTPSynchronized=yes\n"}, Level.PASS),
        ({"timedatectl": "NTP=no\nNTPSynchronized=no\n"}, Level.WARN),
        ({"chronyc": CHRONY.format("0.000012", "Normal")}, Level.PASS),
        ({"chronyc": CHRONY.format("0.150000", "Normal")}, Level.WARN),
        ({"chronyc": CHRONY.format("0.000000", "Not synchronised")}, Level.WARN),
    ],
)
def test_the_clock_is_judged_by_who_keeps_it(commands, level: Level) -> None:
    assert check_clock(Machine(commands)).level is level


def ros(environ: Mapping[str, str], missing: str = "", built: bool = True) -> dict[str, Check]:
    def find(package: str, executable: str) -> None:
        if not built:
            raise UserError(f"executable '{executable}' of package '{package}' is not installed.")

    checks = check_ros(Machine(environ=environ), find, lambda name: name != missing)
    return {check.name: check for check in checks}


def test_ros_must_be_installed_and_built() -> None:
    assert ros({})["ROS packages"].level is Level.PASS
    assert "wallx_msgs" in ros({}, missing="wallx_msgs")["ROS packages"].text
    assert ros({}, missing="rclpy")["ROS packages"].level is Level.FAIL
    unbuilt = ros({}, built=False)["ROS packages"]
    assert unbuilt.level is Level.FAIL
    assert "make build" in unbuilt.fix


def test_a_middleware_that_is_not_there_fails() -> None:
    assert ros({})["ROS middleware"].level is Level.PASS
    zenoh = {"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}
    assert ros(zenoh)["ROS middleware"].level is Level.PASS
    assert ros(zenoh, missing="rmw_zenoh_cpp")["ROS middleware"].level is Level.FAIL


@pytest.mark.parametrize("name", ["rmw.zenoh", "no_such/rmw", "rmw_none_cpp", "."])
def test_a_middleware_of_any_name_is_looked_for(name: str) -> None:
    checks = check_ros(Machine(environ={"RMW_IMPLEMENTATION": name}), lambda *_names: None)
    assert checks[1].level is Level.FAIL
    assert name in checks[1].text


@pytest.mark.parametrize(
    ("environ", "level", "said"),
    [
        ({}, Level.WARN, "every machine of the network"),
        ({"ROS_DOMAIN_ID": "42"}, Level.PASS, "42; reaches every machine"),
        ({"ROS_DOMAIN_ID": "42", "ROS_LOCALHOST_ONLY": "1"}, Level.PASS, "this machine only"),
        ({"ROS_DOMAIN_ID": "x"}, Level.FAIL, "'x', which is no domain"),
        ({"ROS_DOMAIN_ID": "102"}, Level.FAIL, "no domain"),
        ({"ROS_DOMAIN_ID": "4²"}, Level.FAIL, "'4²', which is no domain"),
    ],
)
def test_the_domain_is_explained(environ, level: Level, said: str) -> None:
    check = ros(environ)["ROS domain"]
    assert check.level is level
    assert said in check.text


@pytest.mark.parametrize(
    ("free", "level"), [(0.9e9, Level.FAIL), (1.1e9, Level.WARN), (12e9, Level.PASS)]
)
def test_room_for_recordings_is_told_in_hours(tmp_path: Path, free: float, level: Level) -> None:
    check = check_disk(Machine(free=free), tmp_path)
    assert check.level is level
    assert f"{free / 11e9:.1f} h" in check.text


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    assert check_disk(Machine(), tmp_path / "no").level is Level.FAIL


def test_real_time_rights_come_with_the_lines_to_add() -> None:
    assert check_realtime(Machine(priority=99)).level is Level.PASS
    check = check_realtime(Machine(priority=0))
    assert check.level is Level.WARN
    assert "rtprio 50" in check.fix
    assert "/etc/security/limits.conf" in check.fix


# Cameras.

MJPG = (Mode("MJPG", 640, 480, (30.0,)),)
DEVICE = CameraDevice("/dev/video0", "HD Webcam", "usb-1", (), MJPG)


def seen(finding: Finding = Finding.GOOD, rate_hz: float = 30.0, problem: str = ""):
    description = Description(SourceKind.DEVICE, "/dev/video0", 640, 480, 30.0, "MJPG")
    picture = np.zeros((2, 2, 3), np.uint8)
    return lambda name: Preview(name, description, picture, finding, rate_hz, problem)


@pytest.mark.parametrize(
    ("look", "level", "said"),
    [
        (seen(), Level.PASS, "the picture is good"),
        (seen(Finding.BLACK), Level.FAIL, "the picture is black"),
        (seen(Finding.FROZEN), Level.FAIL, "the picture is frozen"),
        (seen(Finding.DARK), Level.WARN, "the picture is too dark"),
        (seen(rate_hz=14.0), Level.WARN, "only 14.0 pictures per second"),
        (seen(problem="camera /dev/video0 sends nothing."), Level.FAIL, "sends nothing"),
    ],
)
def test_a_camera_is_looked_through(look, level: Level, said: str, tmp_path: Path) -> None:
    (check,) = check_cameras((DEVICE,), (), look, tmp_path)
    assert check.level is level
    assert said in check.text


def test_cameras_that_cannot_be_asked_or_have_no_mjpg_are_told(tmp_path: Path) -> None:
    forbidden = CameraDevice("/dev/video2", problem="/dev/video2 may not be opened by you")
    raw = CameraDevice("/dev/video4", "Old", modes=(Mode("YUYV", 640, 480, (30.0,)),))
    first, second = check_cameras((forbidden, raw), (), seen(), tmp_path)
    assert (first.level, second.level) == (Level.FAIL, Level.WARN)
    assert "does not offer MJPG" in second.text


def test_a_camera_in_use_is_not_opened(tmp_path: Path) -> None:
    process = tmp_path / "77"
    (process / "fd").mkdir(parents=True)
    (process / "cmdline").write_bytes(b"/lib/so101_driver/camera_node\0")
    (process / "fd" / "9").symlink_to("/dev/video0")

    def look(_name: str) -> Preview:
        raise AssertionError("opened")

    (check,) = check_cameras((DEVICE,), (), look, tmp_path)
    assert check.level is Level.SKIP
    assert "camera_node (process 77)" in check.text


def test_no_camera_fails_nothing(tmp_path: Path) -> None:
    assert check_cameras((), (), seen(), tmp_path)[0].level is Level.SKIP


def test_a_source_that_does_not_exist_fails(tmp_path: Path) -> None:
    def look(name: str) -> Preview:
        raise UserError(f"camera {name}: No such file")

    (check,) = check_cameras((DEVICE,), ("gone.mp4",), look, tmp_path)
    assert check.level is Level.FAIL
    assert check.text == "gone.mp4: No such file"


# A running graph.

DRIVER = DriverStatus("ACTIVE", "", (30.0,) * 6, (12.1,) * 6, (0,) * 6)
SAFETY = SafetyStatus("TRACKING", "", 0.001)


def graph(driver: DriverStatus | None = DRIVER, safety: SafetyStatus | None = SAFETY):
    return {check.name: check for check in check_graph(GraphReading(driver, safety), False)}


def test_a_healthy_graph_passes() -> None:
    assert {check.level for check in graph().values()} == {Level.PASS}


@pytest.mark.parametrize(
    ("driver", "name", "level", "said"),
    [
        (None, "graph driver", Level.FAIL, "says nothing"),
        (DriverStatus("FAULT", "servo 3 is silent"), "graph driver", Level.FAIL, "servo 3"),
        (
            DriverStatus("ACTIVE", "", (30.0,) * 6, (12.1,) * 6, (0, 0, 32, 0, 0, 0)),
            "graph servos",
            Level.FAIL,
            "elbow_flex: overload",
        ),
        (
            DriverStatus("ACTIVE", "", (30.0,) * 5 + (64.0,), (12.1,) * 6, (0,) * 6),
            "graph servos",
            Level.WARN,
            "gripper is hot",
        ),
        (
            DriverStatus("ACTIVE", "", (math.nan,) * 6, (math.nan,) * 6, (0,) * 6),
            "graph servos",
            Level.SKIP,
            "no temperatures",
        ),
    ],
)
def test_what_the_driver_says_is_taken_up(driver, name: str, level: Level, said: str) -> None:
    check = graph(driver)[name]
    assert check.level is level
    assert said in check.text


@pytest.mark.parametrize(
    ("skew_s", "level"),
    [
        (math.nan, Level.SKIP),
        (0.019, Level.PASS),
        (0.021, Level.WARN),
        (-0.021, Level.WARN),
        (0.6, Level.FAIL),
    ],
)
def test_clocks_that_differ_are_told(skew_s: float, level: Level) -> None:
    check = graph(safety=SafetyStatus("HOLD", "", skew_s))["graph clocks"]
    assert check.level is level
    assert "chrony" in check.fix or level in (Level.PASS, Level.SKIP)


def test_a_latched_safety_node_is_told() -> None:
    assert graph(safety=SafetyStatus("ESTOP", "pressed"))["graph safety"].level is Level.WARN
    assert graph(safety=None)["graph safety"].level is Level.FAIL


# The report.


def test_only_a_failure_fails_and_json_holds_everything() -> None:
    checks = [passed("a", "good."), warned("b", "so so.", "do it."), skipped("c", "unknown.")]
    assert ok(checks)
    assert not ok([*checks, failed("d", "bad.", "repair it.")])
    assert summary(checks) == "1 passed, 1 to look at, 0 failed, 1 not checked"
    content = json.loads(as_json(checks))
    assert content["ok"] is True
    assert content["checks"][1] == {"name": "b", "level": "warn", "text": "so so.", "fix": "do it."}


def test_commands_to_copy_stay_whole() -> None:
    command = "sudo tee /etc/x <<'END' " + "x" * 120
    text = as_text(failed("a", "word " * 40, f"do this:\n{command}"))
    assert command in text
    assert all(len(line) <= 98 for line in text.splitlines() if "xxx" not in line)
