"""Helps tests to break checkpoints of every layout, and to see that they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from so101_driver.errors import UserError
from wallx_policy.model import load_policy
from wallx_policy.random_checkpoints import Recipe

RECIPES = {
    "flow": Recipe("flow"),
    "flow-fused": Recipe("flow", fused=True),
    "flow-base": Recipe("flow", robot="base"),
    "fast": Recipe("fast"),
    "lerobot": Recipe("lerobot"),
    "wall05": Recipe("wall05"),
    "wall05-pth": Recipe("wall05", pickled=True),
    "lerobot05": Recipe("lerobot05"),
}
LAYOUTS = ("flow", "fast", "lerobot", "wall05", "lerobot05")
"""One kind of each layout, where it does not matter how tensors are stored."""
WALLX = ("flow", "flow-fused", "flow-base", "fast", "wall05")
LEROBOT = ("lerobot", "lerobot05")
SAME_TENSORS = {
    ("flow", "flow"),
    ("flow-fused", "flow"),
    ("lerobot", "lerobot"),
    ("wall05", "wall05"),
    ("wall05-pth", "wall05"),
    ("lerobot05", "wall05"),
}
WEIGHTS = "model.safetensors"
EMBEDDINGS = ("model.embed_tokens.weight", "model.lm_head.weight")
GROUPS = {
    "embedding": EMBEDDINGS,
    "attention": ("self_attn.q_proj.", "self_attn.qkv_proj"),
    "norm": ("layers.1.input_layernorm",),
    "text expert": ("layers.2.moe.experts.0.down_proj",),
    "action expert": ("layers.0.moe.experts.1.down_proj",),
    "action head": ("action_preprocessor.w2",),
    "vision": ("visual.blocks.3.attn.proj.bias",),
    "patches": ("visual.patch_embed",),
}

Change = Callable[[dict[str, torch.Tensor], str], object]


def only(*kinds: str) -> pytest.MarkDecorator:
    """Try a test on these kinds alone."""
    return pytest.mark.parametrize("folder", kinds, indirect=True)


def refused(folder: Path, *words: str, **arguments: object) -> str:
    """Loading fails with one line that holds all words; anything but a UserError fails the test."""
    with pytest.raises(UserError) as caught:
        load_policy(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message, message
    return message


def home(folder: Path) -> Path:
    """Where tokenizer, image settings and network configuration lie."""
    return folder / "base" if (folder / "base").is_dir() else folder


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a file into memory; a mapped one may not be written over."""
    return load(path.read_bytes())


def one_of(tensors: dict[str, torch.Tensor], parts: tuple[str, ...]) -> str:
    """Return the first tensor with one of these parts in its name."""
    return next(name for name in sorted(tensors) for part in parts if part in name)


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a checkpoint's tensors."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def plain(folder: Path, name: str) -> str:
    """Return a tensor's name as errors give it."""
    return name.removeprefix("model.") if folder.name == "lerobot" else name


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the object in a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
