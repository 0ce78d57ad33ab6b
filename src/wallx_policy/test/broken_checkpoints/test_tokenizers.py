"""A tokenizer that is not the checkpoint's own is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from breaking import (
    LAYOUTS,
    edit_json,
    home,
    only,
    refused,
)


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, copied: Callable[[str], Path]) -> Path:
    """A copy of each layout in turn."""
    return copied(request.param)


class TestTokenizer:
    """The tokenizer, wherever the layout keeps it."""

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\0"])
    def test_damaged(self, folder: Path, content: str) -> None:
        (home(folder) / "tokenizer.json").write_text(content)
        refused(folder, "tokenizer.json", "cannot be read")

    def test_missing(self, folder: Path) -> None:
        (home(folder) / "tokenizer.json").unlink()
        refused(folder, "tokenizer.json")

    @pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    def test_without_a_special_token(self, folder: Path, token: str) -> None:
        path = home(folder) / "tokenizer.json"
        path.write_text(path.read_text().replace(token, token.replace("<|", "<|my_")))
        refused(folder, "tokenizer.json", token)

    @only("flow", "flow-fused", "fast", "lerobot")
    @pytest.mark.parametrize("token", ["<|propri|>", "<|action|>"])
    def test_without_a_token_of_wall(self, folder: Path, token: str) -> None:
        path = home(folder) / "tokenizer.json"
        path.write_text(path.read_text().replace(token, "<|other|>"))
        refused(folder, "tokenizer.json", token)

    @only("wall05", "lerobot05")
    def test_with_one_of_two_tokens(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace("<|video_pad|>", "<|action|>"))
        refused(folder, "tokenizer.json")

    def test_of_another_model(self, folder: Path) -> None:
        """The same words under other numbers: what the embeddings mean is lost."""
        path = home(folder) / "tokenizer.json"
        content = json.loads(path.read_text())
        ids = {token["content"]: token for token in content["added_tokens"]}
        one, other = ids["<|image_pad|>"], ids["<|vision_end|>"]
        one["content"], other["content"] = other["content"], one["content"]
        path.write_text(json.dumps(content))
        refused(folder, "tokenizer.json", "another model's")

    def test_with_more_tokens_than_embeddings(self, folder: Path) -> None:
        path = home(folder) / "tokenizer.json"
        content = json.loads(path.read_text())
        last = content["added_tokens"][-1]
        extra = [{**last, "content": f"<|x{i}|>", "id": last["id"] + i} for i in range(1, 9)]
        content["added_tokens"] += extra
        path.write_text(json.dumps(content))
        refused(folder, "tokenizer.json", "embeddings")

    @only("fast")
    def test_action_tokens_that_are_not_those_of_the_codec(self, folder: Path) -> None:
        path = folder / "action_tokenizer" / "processor_config.json"
        edit_json(path, lambda c: c.update(vocab_size=600))
        refused(folder, "512", "600")
        path.unlink()
        refused(folder, "action_tokenizer", "processor_config.json")
        shutil.rmtree(path.parent)
        refused(folder, "action_tokenizer", "missing")
