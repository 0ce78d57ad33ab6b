"""What a user writes must reach the nodes as it was meant, or be refused with a useful sentence.

`ros2 launch` reads values as YAML and ignores unknown names; both have moved robots by accident.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from wallx_bringup.arguments import ARGUMENTS, Arguments, as_text, parse_words, resolve

ISSUE_NAMES = (
    *("sim", "port", "calibration", "checkpoint", "device", "backend", "mode", "scale", "arm"),
    *("instruction", "record", "rviz", "namespace", "estop_topic", "use_sim_time"),
)


def test_table_and_values_have_the_same_names() -> None:
    names = [argument.name for argument in ARGUMENTS]
    assert [f.name for f in fields(Arguments) if f.name != "given"] == names
    assert set(ISSUE_NAMES) <= set(names)


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda a: a.name)
def test_every_default_is_a_legal_value_of_its_own_argument(argument) -> None:
    for default in (argument.sim, argument.real):
        assert argument.parse(as_text(default)) == default
        assert type(default) is type(argument.sim)
    assert argument.description.endswith(".")


@pytest.mark.parametrize(
    "text", ["no", "12", "put: cube", "", "1e3", "true", "[a]", "grün 🟢", '"']
)
def test_text_stays_text(text: str) -> None:
    assert resolve(parse_words([f"instruction:={text}"])).instruction == text


def test_two_quotes_mean_empty_because_ros2_launch_has_no_other_way() -> None:
    assert resolve({"instruction": "''"}).instruction == ""


def test_a_value_may_contain_the_separator_and_the_last_word_wins() -> None:
    assert parse_words(["instruction:=a:=b", "instruction:=c:=d"]) == {"instruction": "c:=d"}


def test_paths_become_absolute_and_keep_their_spaces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    a = resolve({"checkpoint": "my model", "record": "~/a bag"})
    assert a.checkpoint == str(tmp_path / "my model")
    assert a.record == str(tmp_path / "home" / "a bag")


def test_simulation_is_the_default() -> None:
    a = resolve({})
    assert (a.sim, a.backend, a.mode, a.arm, a.limits_profile) == (
        True,
        "expert",
        "full",
        "auto",
        "demo",
    )
    assert a.calibration == str(data_path("sim_calibration.json"))


def test_teleoperation_starts_no_policy_unless_one_is_named() -> None:
    leader = {"teleop": "true", "leader_port": "/dev/ttyACM1", "leader_calibration": "/l.json"}
    assert resolve(leader).backend == "none"
    assert resolve({**leader, "backend": "expert"}).backend == "expert"
    assert resolve({"teleop": "false"}).backend == "expert"


@pytest.mark.parametrize(
    ("given", "one", "other"),
    [
        (
            {"sim": "false", "calibration": "/a", "teleop": "true", "leader_calibration": "/l"},
            "port",
            "leader_port",
        ),
        ({}, "face_camera", "wrist_camera"),
    ],
)
def test_a_link_is_no_second_device(tmp_path: Path, given, one: str, other: str) -> None:
    device, link = tmp_path / "ttyACM0", tmp_path / "by-id"
    device.touch()
    link.symlink_to(device)
    with pytest.raises(UserError, match=f"'{one}' and '{other}' are both {link}"):
        resolve({**given, one: str(device), other: str(link)})


def test_cameras_are_paths_or_devices(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    a = resolve({"face_camera": "/dev/v4l/by-id/usb-Cam-index0", "wrist_camera": "my clip.mp4"})
    assert a.face_camera == "/dev/v4l/by-id/usb-Cam-index0"
    assert a.wrist_camera == str(tmp_path / "my clip.mp4")


def test_a_real_arm_starts_in_shadow_mode_and_unarmed() -> None:
    a = resolve({"sim": "false", "calibration": "/arm.json"})
    assert (a.backend, a.mode, a.arm, a.limits_profile) == (
        "wall_oss",
        "shadow",
        "manual",
        "cautious",
    )
    assert (a.port, a.calibration) == ("/dev/ttyACM0", "/arm.json")


@pytest.fixture
def lerobot(tmp_path: Path, monkeypatch):
    """Puts calibrations where LeRobot keeps those of followers."""
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    folder = tmp_path / "robots" / "so_follower"
    folder.mkdir(parents=True)

    def put(name: str) -> str:
        (folder / f"{name}.json").write_text("{}")
        return str(folder / f"{name}.json")

    return put


def test_a_real_arm_takes_the_calibration_that_lerobot_has(lerobot) -> None:
    kitchen = lerobot("kitchen")
    assert resolve({"sim": "false"}).calibration == kitchen
    assert resolve({"sim": "false", "calibration": "/my.json"}).calibration == "/my.json"
    assert resolve({}).calibration == str(data_path("sim_calibration.json"))
    garage = lerobot("garage")
    assert resolve({"sim": "false", "robot_id": "garage"}).calibration == garage
    with pytest.raises(UserError, match=r"several .* robot_id"):
        resolve({"sim": "false"})


def test_a_real_arm_without_any_calibration_is_refused(lerobot) -> None:
    with pytest.raises(UserError, match=r"calibrate the arm .* give the file as calibration"):
        resolve({"sim": "false"})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"instuction": "x"}, "did you mean 'instruction'"),
        ({"zzz": "x"}, "there is no argument 'zzz'; the arguments are: sim, port"),
        ({"sim": "maybe"}, "'sim' must be true or false, not 'maybe'"),
        ({"mode": "ful"}, r"one of shadow, scaled, full, not 'ful' \(did you mean 'full'"),
        ({"scale": "fast"}, "'scale' must be a number from 0.1 to 0.2, not 'fast'"),
        ({"scale": "nan"}, "'scale' must be a number"),
        ({"scale": "0.21"}, "'scale' must be a number"),
        ({"seed": "1.5"}, "'seed' must be a whole number from 0 to"),
        ({"namespace": "arm 1"}, "'namespace' must be a ROS name"),
        ({"face_topic": "cam//x"}, "'face_topic' must be a ROS name"),
        ({"face_topic": ""}, "'face_topic' is empty"),
        ({"estop_topic": ""}, "'estop_topic' is empty"),
        ({"port": "/dev/ttyACM0"}, "add sim:=false"),
        ({"robot_id": "kitchen"}, "'robot_id' is 'kitchen' but the arm is simulated"),
        (
            {"sim": "false", "robot_id": "kitchen", "calibration": "/a"},
            "'robot_id' is 'kitchen' but a calibration is given too",
        ),
        ({"sim": "false", "calibration": "/a", "arm": "auto"}, "cannot be auto with sim:=false"),
        ({"sim": "false", "calibration": "/a", "use_sim_time": "true"}, "'use_sim_time' cannot"),
        ({"teleop": "true"}, "needs leader_port and leader_calibration"),
        (
            {"teleop": "true", "leader_port": "/dev/ttyACM1"},
            "teleop:=true needs leader_calibration",
        ),
        ({"leader_port": "/dev/ttyACM1"}, "'leader_port' is given but nothing uses it"),
        ({"clutch": "offset"}, "'clutch' is given but nothing uses it"),
        (
            {
                **{"sim": "false", "calibration": "/a", "port": "/dev/arm", "teleop": "true"},
                **{"leader_port": "/dev/arm", "leader_calibration": "/l"},
            },
            "'port' and 'leader_port' are both /dev/arm",
        ),
        (
            {"face_camera": "/dev/video0", "wrist_camera": "/dev/video0"},
            "both /dev/video0: one camera cannot be opened twice",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(given, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        resolve(given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("word", ["sim", "sim=true", ":=x"])
def test_words_of_another_form_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="not of the form name:=value"):
        parse_words([word])
