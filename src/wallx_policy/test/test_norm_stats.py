"""norm_stats.json in each of its forms, or a sentence that names file and feature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_policy.norm_stats import read_norm_stats

OLDER = {
    "min": [-2.0, 0.0],
    "q01": [-1.0, 0.0],
    "q99": [1.0, 4.0],
    "max": [3.0, 5.0],
    "delta": [5.0, 5.0],
    "delta_q99_q01": [2.0, 4.0],
}
NEWER = {"mean": [0.0, 1.0], "std": [1.0, 1.0], "q01": [-1.0, 0.0], "q99": [1.0, 4.0]}
GROUPS = {"arm": 1, "gripper": 1, "action_padding": 3}


def read(folder: Path, content: object) -> dict:
    (folder / "norm_stats.json").write_text(json.dumps(content))
    return read_norm_stats(folder, GROUPS, GROUPS)


@pytest.mark.parametrize("form", [OLDER, NEWER])
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda f: {"state": f, "action": f}, "norm_stats"),
        (lambda f: {"norm_stats": {"observation.state": f, "action": f}}, "norm_stats"),
        (lambda f: {"my_arm": {"propri": f, "actions": f}}, "my_arm"),
    ],
)
def test_each_form(tmp_path: Path, form: dict, wrap: Callable, name: str) -> None:
    found = read(tmp_path, wrap(form))
    assert list(found) == [name]
    for feature in ("propri", "action"):
        statistics = found[name].features[feature]
        assert set(statistics) == set(form)
        assert statistics["q99"].tolist() == [1.0, 4.0]


def test_groups_follow_the_configuration_not_the_file(tmp_path: Path) -> None:
    groups = {
        "gripper": {"q01": [0.0], "q99": [4.0], "mean": [2.0], "std": [1.0]},
        "arm": {"q01": [-1.0], "q99": [1.0]},
    }
    found = read(tmp_path, {"state": groups, "action": NEWER})["norm_stats"].features["propri"]
    assert {key: values.tolist() for key, values in found.items()} == {
        "q01": [-1.0, 0.0],
        "q99": [1.0, 4.0],
    }
    del groups["arm"]
    with pytest.raises(UserError, match=r"norm_stats\.json: state .* statistics of arm"):
        read(tmp_path, {"state": groups, "action": NEWER})


def test_groups_that_nothing_names(tmp_path: Path) -> None:
    content = {"state": {"arm": NEWER}, "action": NEWER}
    (tmp_path / "norm_stats.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="by group, and nothing names the groups"):
        read_norm_stats(tmp_path, {}, {})


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert read_norm_stats(tmp_path, {}, {}) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state": NEWER}, "norm_stats holds no action or actions"),
        ({"x": {"action": NEWER}}, "x holds no state or observation.state"),
        ({"state": NEWER, "propri": NEWER, "action": NEWER}, "several of state"),
        ({"state": NEWER, "action": {"mean": [0.0], "std": [1.0]}}, "action of norm_stats lacks"),
        ({"state": NEWER, "action": {**NEWER, "q01": [0.0]}}, "differ in length"),
        ({"state": NEWER, "action": {**NEWER, "q01": ["a", "b"]}}, "q01 must be a list"),
        ({"state": NEWER, "action": {**NEWER, "q01": [float("nan")] * 2}}, "finite"),
        ({"state": NEWER, "action": {**NEWER, "q01": [9.0, 0.0]}}, "q99 is below q01"),
        ({"state": NEWER, "action": {**NEWER, "q01": [[0.0, 0.0]]}}, "q01 must be a list"),
        ({"state": NEWER, "action": {key: [] for key in NEWER}}, "must be a list of finite"),
        ({"state": NEWER, "action": {"arm": NEWER, "gripper": NEWER}}, "arm has 2 columns, not 1"),
        ({"state": NEWER, "action": 3}, "statistics by name"),
        ({"x": 3}, "x must hold"),
        ({"norm_stats": {}}, "no statistics"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, content: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, content)
    assert "norm_stats.json" in str(caught.value)
