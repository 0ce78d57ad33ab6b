"""Nothing is overwritten, left half-done or held whole; what stands in for weights is checked."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from so101_driver.errors import UserError
from wallx_policy.model import load_policy
from wallx_policy.model.random_tensors import FILE_NAME, Draw
from wallx_policy.random_checkpoints import Recipe, write_checkpoint


class TestWriting:
    """Nothing is overwritten, and nothing is left half-done."""

    def test_a_folder_that_is_not_empty(self, tmp_path: Path) -> None:
        trained = tmp_path / "model.safetensors"
        trained.write_text("months of work")
        with pytest.raises(UserError, match="not empty"):
            write_checkpoint(tmp_path, Recipe())
        assert trained.read_text() == "months of work"
        with pytest.raises(UserError, match="is a file"):
            write_checkpoint(trained, Recipe())

    def test_a_disk_without_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")(20 * 10**9, 10 * 10**9, 10 * 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
        with pytest.raises(UserError, match=r"needs 16\.9 GB, its disk has 10\.0 GB free"):
            write_checkpoint(tmp_path / "new", Recipe(size="full", robot="base"))
        assert not (tmp_path / "new").exists()
        write_checkpoint(tmp_path / "drawn", Recipe(size="full", robot="base"), drawn=True)

    def test_an_interruption_leaves_the_folder_empty(self, tmp_path: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path / "new", Recipe(layout="lerobot"), progress=interrupt)
        assert list((tmp_path / "new").iterdir()) == []
        write_checkpoint(tmp_path / "new", Recipe(layout="lerobot"))

    def test_no_tensor_is_ever_held_whole(self) -> None:
        """The embedding of the full size would take 1.2 GB."""
        sizes = [piece.numel() for piece in Draw(0, 36, 0).pieces("a.weight", (9000, 2048))]
        assert sum(sizes) == 9000 * 2048
        assert max(sizes) <= 1 << 23

    def test_pieces_do_not_change_with_their_number(self) -> None:
        """A tensor is one stream of numbers: its first rows do not depend on how many follow."""
        short = next(Draw(0, 36, 0).pieces("a.weight", (4096, 2048)))
        first = next(Draw(0, 36, 0).pieces("a.weight", (9000, 2048)))
        assert torch.equal(short, first)


class TestDrawn:
    """The file that stands in for weights is checked like weights."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_checkpoint(tmp_path / "checkpoint", Recipe(), drawn=True)

    def refused(self, folder: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_policy(folder)
        assert FILE_NAME in str(caught.value)

    def test_not_beside_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").touch()
        self.refused(folder, "lies beside model.safetensors")

    def test_other_shapes_than_the_configuration(self, folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(
            path.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
        )
        self.refused(folder, r"missing: model\.layers\.3\.")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"seed": "none"}, "garbles seed"),
            ({"led": True}, "garbles led"),
            ({"tensors": {"model.norm.weight": [-1]}}, "garbles model.norm.weight"),
            ({"tensors": []}, "garbles"),
            ({"values": {"a": ["x"]}}, "garbles"),
        ],
    )
    def test_anything_else_in_it(self, folder: Path, changes: dict, words: str) -> None:
        path = folder / FILE_NAME
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        self.refused(folder, words)
