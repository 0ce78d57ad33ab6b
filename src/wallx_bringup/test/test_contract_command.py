"""`wallx contract` says what a checkpoint expects and why, and writes it only when told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from so101_driver.joints import JOINT_NAMES
from wallx_bringup.cli import main

GROUPS = {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The files of a fine-tune in joint space whose statistics fit two units."""
    names = {"names": [f"{name}.pos" for name in JOINT_NAMES]}
    image = {"shape": [480, 640, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": names, "action": names, "observation.images.front": image}
    info = {"robot_type": "so101_follower", "fps": 30, "features": features}
    numbers = {"q01": [-60.0] * 5 + [0.0], "q99": [70.0] * 5 + [80.0]}
    training = {
        "dof_config": GROUPS,
        "agent_pos_config": GROUPS,
        "key_mappings": {"camera": {"observation.images.front": "face_view"}},
    }
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "config.yml").write_text(yaml.safe_dump(training, sort_keys=False))
    (tmp_path / "info.json").write_text(json.dumps(info))
    (tmp_path / "norm_stats.json").write_text(json.dumps({"state": numbers, "action": numbers}))
    return tmp_path


def test_what_stays_open_is_one_line_that_says_how_to_decide(checkpoint: Path, capsys) -> None:
    assert main(["contract", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("degrees or ±100", "use_degrees", "--unit deg or --unit range_100"):
        assert words in error


def test_it_is_shown_then_written_then_read(checkpoint: Path, capsys) -> None:
    given = ["contract", str(checkpoint), "--unit", "range_100"]
    assert main(given) == 0
    text = capsys.readouterr().out
    assert "1 view(s), 32 actions of 33.33 ms; built from its files" in text
    assert "as you say" in text
    assert "nothing was written" in text
    path = checkpoint / "contract.yaml"
    assert not path.exists()
    assert main([*given, "--save"]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert yaml.safe_load(path.read_text())["state"][0]["unit"] == "range_100"
    assert main(["contract", str(checkpoint)]) == 0
    text = capsys.readouterr().out
    assert "from contract.yaml" in text
    assert "as contract.yaml says" in text


def test_a_written_contract_is_not_overwritten_by_chance(checkpoint: Path, capsys) -> None:
    path = checkpoint / "contract.yaml"
    path.write_text("mine")
    save = ["contract", str(checkpoint), "--unit", "deg", "--gripper", "percent", "--save"]
    assert main(save) == 1
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main([*save, "--norm-key", "norm_stats", "--force"]) == 0
    assert yaml.safe_load(path.read_text())["norm_key"] == "norm_stats"


def test_zeros_of_the_stretched_arm(checkpoint: Path, capsys) -> None:
    numbers = {
        "q01": [-60.0, 40.0, 0.0, -60.0, -60.0, 0.0],
        "q99": [70.0, 170.0, 150.0] + [70.0] * 3,
    }
    path = checkpoint / "norm_stats.json"
    path.write_text(json.dumps({"state": numbers, "action": numbers}))
    assert main(["contract", str(checkpoint), "--zeros", "stretched", "--save"]) == 0
    assert "zeros of the stretched arm" in " ".join(capsys.readouterr().out.split())
    lift = yaml.safe_load((checkpoint / "contract.yaml").read_text())["state"][1]
    assert (lift["unit"], lift["sign"], lift["offset"]) == ("deg", -1, 90.0)


def test_a_folder_that_is_none(tmp_path: Path, capsys) -> None:
    assert main(["contract", str(tmp_path / "nowhere")]) == 1
    assert "is not a folder" in capsys.readouterr().err
