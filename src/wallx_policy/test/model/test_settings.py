"""Every switch has an argument, a word in the log and a row in the documentation."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_policy.contract_types import PredictionMode
from wallx_policy.model import load_policy
from wallx_policy.model.config import (
    ActionAttention,
    InactiveColumns,
    Layout,
    StateEncoding,
    read_config,
)
from wallx_policy.model.images import Resize
from wallx_policy.model.network_config import _FLAGS
from wallx_policy.model.normalization import NormalizationMode
from wallx_policy.model.settings import PolicySettings, as_graphs, compiled

PAGE = Path(__file__).resolve().parents[4] / "docs/checkpoints.md"


def test_every_argument_and_value_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = [name for name in inspect.signature(load_policy).parameters if name != "path"]
    for kind in (ActionAttention, InactiveColumns, Layout, StateEncoding, Resize):
        words += [member.value for member in kind]
    words += [member.value for member in NormalizationMode]
    assert [word for word in words if f"`{word}" not in text and f"{word}=" not in text] == []
    assert "`use_adarms`" in text
    assert "use_adarms" in _FLAGS


def defaults(folder: Path, base: Path | None = None) -> tuple:
    config = read_config(folder, base)
    encoding = config.state_encoding and config.state_encoding.value
    return (
        config.layout.value,
        config.action_attention.value,
        (config.grid.steps, config.grid.end),
        config.resize,
        (encoding, config.state_bins),
        (config.inactive.value, config.all_columns_active),
        config.long_side,
        config.horizon,
    )


def test_the_defaults_are_those_of_the_table(
    references: Path, wall05: Path, lerobot05: Path, tmp_path: Path
) -> None:
    original = references / "tiny_wallx"  # which names 5 points in time
    as_token = ("token", None)
    assert defaults(original) == (
        *("original", "causal", (4, 1.0), "pil", as_token, ("model", False), 256, 32),
    )
    lerobot = references / "lerobot_wall_x"
    assert defaults(lerobot, original) == (
        *("lerobot", "island", (10, 1.0), "pil", as_token, ("model", False), 256, 32),
    )
    assert defaults(wall05) == (
        *("wall05", "causal", (10, 0.999), "pil", ("text", None), ("zero", False), 448, 32),
    )
    assert defaults(lerobot05) == (
        *("lerobot05", "causal", (10, 0.999), "mixed", ("text", 512), ("model", True), 448, 32),
    )
    newer = Path(shutil.copytree(lerobot, tmp_path / "newer"))
    path = newer / "config.json"
    path.chmod(0o644)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "vision_attn_implementation": "auto", "chunk_size": 16}))
    assert defaults(newer, original)[3] == "torchvision"
    assert defaults(newer, original)[-1] == 16


@pytest.mark.parametrize(("said", "mode"), [(True, "fast"), (False, None)])
def test_training_says_whether_actions_are_tokens(
    references: Path, wall05: Path, tmp_path: Path, said: bool, mode: str | None
) -> None:
    (tmp_path / "config.json").symlink_to(references / "tiny_wallx/config.json")
    for folder, wanted in ((tmp_path, mode), (wall05, None)):
        (folder / "config.yml").write_text(f"data: {{use_fast_tokenizer: {said}}}")
        found = read_config(folder, None).prediction
        assert (found and found.value) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"), [(False, "island"), (True, "causal"), (None, "causal")]
)
def test_the_attention_that_the_configuration_names_wins(
    wall05: Path, said: bool | None, wanted: str
) -> None:
    path = wall05 / "config.json"
    config = {**json.loads(path.read_text()), "causal_action_attention_mask": said}
    path.write_text(json.dumps(config))
    assert defaults(wall05)[1] == wanted


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ({}, ("original layout", "flow prediction", "face_view, wrist_view", "25 actions of 6")),
        ({}, ("9 Euler steps to 1,", "island attention", "pil resize", "exact rotary")),
        ({}, ("state as token", "normalization: min and delta of so101_sim", "float32 on cpu")),
        ({"num_steps": 4, "end_time": 0.5}, ("4 Euler steps to 0.5,",)),
        ({"action_attention": "causal"}, ("causal attention",)),
        ({"resize": "torchvision"}, ("torchvision resize",)),
        ({"rotary": "bf16"}, ("bf16 rotary",)),
        ({"normalization": "identity"}, ("normalization: none",)),
        ({"state_encoding": "text", "state_bins": 99}, ("state as text in 99 bins",)),
        ({"action_dim": 5}, ("25 actions of 5", "5 active columns", "inactive ones as model")),
        ({"inactive_columns": "zero"}, ("inactive ones as zero",)),
        ({"compile_layers": True}, ("on cpu, compiled layers",)),
    ],
)
def test_one_line_says_what_was_taken(
    random_checkpoint: Path, switch: dict, words: tuple[str, ...]
) -> None:
    line = load_policy(random_checkpoint, **switch).description
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_no_setting_is_left_out_of_the_line(random_checkpoint: Path) -> None:
    settings = load_policy(random_checkpoint).settings
    assert isinstance(settings, PolicySettings)
    source = inspect.getsource(PolicySettings.line)
    assert [field.name for field in fields(settings) if f"self.{field.name}" not in source] == []


def test_flow_on_a_gpu_runs_as_graphs_unless_told_otherwise(random_checkpoint: Path) -> None:
    flow, fast = PredictionMode.FLOW, PredictionMode.FAST
    assert as_graphs("cuda:1", flow, None)
    assert not as_graphs("cuda", flow, False)
    assert not as_graphs("cuda", fast, None)
    assert not as_graphs("cpu", flow, None)
    with pytest.raises(UserError, match="fast on cuda"):
        as_graphs("cuda", fast, True)
    with pytest.raises(UserError, match="flow on a GPU, not for flow on cpu"):
        load_policy(random_checkpoint, cuda_graphs=True)


def test_only_flow_is_compiled() -> None:
    assert compiled(PredictionMode.FLOW, True)
    assert not compiled(PredictionMode.FAST, False)
    with pytest.raises(UserError, match="compile_layers is for flow"):
        compiled(PredictionMode.FAST, True)
