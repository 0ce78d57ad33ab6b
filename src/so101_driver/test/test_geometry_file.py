"""The geometry file is edited by users: whatever is wrong with it is named in one sentence."""

import numpy as np
import pytest
import yaml
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import load_geometry

SHIPPED = data_path("so101_geometry.yaml")
ARM = Kinematics.from_urdf(data_path("so101.urdf"))
SHELF = {"centre_m": [0, 0, 0], "size_m": [1, 1, 1], "rpy_rad": [0, 0, 0]}


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return load_geometry(path, ARM, JOINT_NAMES)

    return load


def with_value(place, value):
    content = yaml.safe_load(SHIPPED.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["table"], None, "lacks table"),
        (["tabel"], {}, "unknown keys: tabel"),
        (["recoverable_m"], -0.01, "recoverable_m .* at least 0"),
        (["recoverable_m"], float("nan"), "recoverable_m .* finite"),
        (["recoverable_m"], float("-inf"), "recoverable_m .* finite"),
        (["recoverable_m"], 10**400, "recoverable_m .* finite"),
        (["recoverable_m"], 0.1, "no thicker than recoverable_m"),
        (["table", "normal"], [0, 0, 0], "table: normal"),
        (["table", "normal"], [0.3, 0, 1], "within 15 degrees"),
        (["table", "normal"], [0, 0, -1], "table: normal"),
        (["table", "point_m"], [0, 0], r"table: point_m .* \[x, y, z\]"),
        (["table", "table_command_depth_m"], "1 cm", "table_command_depth_m"),
        (["table", "parts"], ["forearm", "nose"], "names nose; the parts are: base"),
        (["table", "parts"], "forearm", "list names of parts"),
        (["workspace", "upper_m"], [-1, 1, 1], "lower_m must be below upper_m"),
        (["workspace", "lower_m"], [0, 0, True], "workspace: lower_m"),
        (["boxes", "list"], {"shelf": {"centre_m": [0, 0, 0]}}, "boxes: shelf .* lacks size_m"),
        (["boxes", "list"], {"shelf": SHELF | {"size_m": [1, 0, 1]}}, "shelf: size_m .* positive"),
        (["boxes", "list"], ["shelf"], "boxes: list .* by name"),
        (["fingertips", "fixed finger", "link"], "hand", "no link hand"),
        (["fingertips", "fixed finger", "points_m"], [], "points_m"),
        (["parts", "jaw", "link"], "hand", "no link hand"),
        (["parts", "jaw", "capsules"], [], "list of capsules"),
        (["parts", "jaw", "capsules", 0, "radius_m"], 0, "capsule 1: radius_m .* positive"),
        (["parts", "jaw", "capsules", 0, "to_m"], None, "capsule 1 .* lacks to_m"),
        (["self_collision"], {}, "list of pairs"),
        (["self_collision", 0, "parts"], ["jaw", "jaw"], "two different parts"),
        (["self_collision", 0, "parts"], ["jaw"], "two different parts"),
        (["self_collision", 0, "margin_m"], float("inf"), "margin_m .* finite"),
    ],
)
def test_mistakes_are_named(load, place, value, message):
    with pytest.raises(UserError, match=message) as caught:
        load(with_value(place, value))
    assert "mine.yaml" in str(caught.value)


def test_a_box_that_was_copied_and_not_renamed_is_not_lost(load):
    content = SHIPPED.read_text()
    shelf = "centre_m: [0.1, 0.4, 0.2], size_m: [0.3, 0.1, 0.4], rpy_rad: [0, 0, 0]"
    boxes = f"  list:\n    shelf: {{{shelf}}}\n    post: {{{shelf}}}\n"
    assert "  list: {}\n" in content
    assert load(content.replace("  list: {}\n", boxes)).shapes.boxes[1].name == "post"
    twice = r"mine\.yaml .*: shelf stands twice, in line \d+ and in line \d+\.$"
    with pytest.raises(UserError, match=twice):
        load(content.replace("  list: {}\n", boxes.replace("post", "shelf")))
    in_one_line = f"  list: {{shelf: {{{shelf}}}, shelf: {{{shelf}}}}}\n"
    with pytest.raises(UserError, match=twice):
        load(content.replace("  list: {}\n", in_one_line))


@pytest.mark.parametrize("text", ["", "[]", "table: [", "3", "\t", "table: 2026-13-45", "[" * 2000])
def test_other_files_are_refused(load, text):
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load(text)


def test_a_missing_file_and_another_arm_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_geometry(tmp_path / "absent.yaml", ARM, JOINT_NAMES)
    with pytest.raises(UserError, match="same arm"):
        load_geometry(SHIPPED, ARM, JOINT_NAMES[:5])


def test_everything_optional_may_be_left_out(load):
    content = yaml.safe_load(SHIPPED.read_text())
    content.update(table=None, workspace=None, self_collision=[], fingertips=None)
    content["boxes"]["list"] = None
    geometry = load(yaml.safe_dump(content))
    assert geometry.names == ()
    assert geometry.clearances(np.zeros((3, 6))).shape == (3, 0)
    clearances, gradients = geometry.clearances_and_gradients(np.zeros(6))
    assert clearances.shape == (0,)
    assert gradients.shape == (0, 6)
    content["workspace"] = {"lower_m": [0, 0, 0], "upper_m": [1, 1, 1]}
    content["fingertips"] = {}
    assert len(load(yaml.safe_dump(content)).names) == 6
