"""The configuration against the tensors, and against what is implemented."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from breaking import (
    LAYOUTS,
    LEROBOT,
    WEIGHTS,
    edit_json,
    home,
    only,
    refused,
)
from so101_driver.errors import UserError
from wallx_policy.model import load_policy


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, copied: Callable[[str], Path]) -> Path:
    """A copy of each layout in turn."""
    return copied(request.param)


def test_unbroken_ones_load(whole: dict[str, Path]) -> None:
    """Otherwise every refusal below would prove nothing."""
    for path in whole.values():
        load_policy(path)


class TestConfiguration:
    """The configuration against the tensors, and against what is implemented."""

    def network(self, folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the network's configuration, wherever the layout keeps it."""
        path = home(folder) / "config.json"
        edit_json(path, lambda c: change(c.get("vlm_config", c)))

    @pytest.mark.parametrize(
        "change",
        [
            {"num_hidden_layers": 2},
            {"num_hidden_layers": 4},
            {"num_key_value_heads": 4},
            {"dof": 3},
            {"inner": 1},
            {"depth": 3},
            {"vision": {"hidden_size": 32}},
            {"vision": {"out_hidden_size": 32}},
        ],
    )
    def test_another_shape(self, folder: Path, change: dict[str, Any]) -> None:
        def apply(content: dict[str, Any]) -> None:
            if "inner" in change:
                content["experts"][1]["intermediate_size"] += 1
            elif "depth" in change:
                content["vision_config"].update(depth=3, fullatt_block_indexes=[1])
            elif "vision" in change:
                content["vision_config"].update(change["vision"])
            elif "dof" not in change:
                content.update(change)

        self.network(folder, apply)
        if "dof" in change:
            if folder.name in LEROBOT:
                edit_json(folder / "config.json", lambda c: c.update(max_action_dim=19))
            elif (folder / "config.yml").is_file():
                (folder / "config.yml").write_text("dof_config: {arm: 6}\ndata: {state_bins: 256}")
            else:
                self.network(folder, lambda c: c["dof_config"].popitem())
        refused(folder, WEIGHTS, "does not match its configuration")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("num_experts", 3),
            ("use_adarms", True),
            ("use_x_pred", True),
            ("use_flow_action_expert", False),
            ("proj_with_mask", False),
            ("use_sliding_window", True),
            ("tie_word_embeddings", False),
            ("hidden_act", "gelu"),
            ("mlp_moe", False),
            ("gated_attention", True),
            ("adarms_cond_dim", 1024),
            ("model_type", "qwen3_5"),
            ("dim_inputs", [64, 16]),
            ("head_dim", 32),
        ],
    )
    def test_a_flag_of_the_network(self, folder: Path, flag: str, value: object) -> None:
        self.network(folder, lambda c: c.update({flag: value}))
        refused(folder, "config.json", flag, "not implemented")

    @only("flow", "lerobot", "wall05", "lerobot05")
    @pytest.mark.parametrize("flag", ["attention_moe", "norm_moe", "mot_opt"])
    def test_half_a_mixture(self, folder: Path, flag: str) -> None:
        new = "05" in folder.name
        self.network(folder, lambda c: c.update({flag: not new}))
        refused(folder, "config.json", flag, "not implemented")

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("depth", 0, "vision_config.depth must be a positive whole number"),
            ("num_heads", 3, "vision_config.num_heads = 3 does not divide"),
            ("fullatt_block_indexes", [9], "names block 9 of 4"),
            ("window_size", 100, "window_size = 100"),
            ("hidden_act", "relu", "hidden_act"),
            ("deepstack", [1], "vision_config.deepstack"),
            ("patch_size", 28, "preprocessor_config.json has patches of (14, 2, 2)"),
        ],
    )
    def test_the_vision_tower(self, folder: Path, key: str, value: object, words: str) -> None:
        self.network(folder, lambda c: c["vision_config"].update({key: value}))
        refused(folder, words)

    @only(*LEROBOT)
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("n_obs_steps", 2),
            ("use_peft", True),
            ("use_amp", True),
            ("attn_implementation", "flash_attention_2"),
            ("use_rtc", True),
            ("type", "pi05"),
        ],
    )
    def test_a_flag_of_the_policy(self, folder: Path, key: str, value: object) -> None:
        edit_json(folder / "config.json", lambda c: c.update({key: value}))
        refused(folder, "config.json", "not implemented")

    @pytest.mark.parametrize("other", ["flow", "lerobot", "wall05", "lerobot05"])
    def test_the_configuration_of_another_layout(
        self, folder: Path, other: str, whole: dict[str, Path]
    ) -> None:
        if folder.name.split("-")[0] in (other, other.replace("flow", "fast")):
            pytest.skip("its own")
        shutil.copy(whole[other] / "config.json", folder / "config.json")
        refused(folder)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    @pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"a": NaN'])
    def test_no_object(self, folder: Path, name: str, content: str) -> None:
        (home(folder) / name).write_text(content)
        refused(folder, name)

    def test_a_contract_of_another_checkpoint(self, folder: Path) -> None:
        path = folder / "contract.yaml"
        if not path.is_file():
            pytest.skip("it has none")
        path.write_text(path.read_text().replace("wrist_view", "top_view"))
        if folder.name in LEROBOT or "wall05" in folder.name:
            refused(folder, "contract.yaml", "config.json", "cameras")
        path.write_text("cameras: none")
        refused(folder, "contract.yaml")


def nodes(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to everything in a JSON object."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from nodes(value, (*path, key))


def test_odd_values_anywhere_load_or_are_refused(folder: Path) -> None:
    """Whatever stands in a JSON file, nothing but a UserError of one line comes out."""
    generator = random.Random(folder.name)
    files = [path for path in folder.rglob("*.json") if path.name != "tokenizer.json"]
    tried = {UserError: 0, None: 0}
    for _ in range(25):
        path = generator.choice(files)
        text = path.read_text()
        content = json.loads(text)
        *way, key = generator.choice(list(nodes(content)))
        inner = content
        for step in way:
            inner = inner[step]
        inner[key] = generator.choice([None, "x", -1, 0, 1.5, [], {}, True, [1], {"a": "b"}])
        path.write_text(json.dumps(content))
        try:
            load_policy(folder)
            tried[None] += 1
        except UserError as error:
            assert "\n" not in str(error)
            tried[UserError] += 1
        path.write_text(text)
    assert tried[UserError] > 2
