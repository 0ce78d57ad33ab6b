"""Files of tensors, and tensors, that are not what they should be are named."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from breaking import (
    EMBEDDINGS,
    GROUPS,
    RECIPES,
    SAME_TENSORS,
    WEIGHTS,
    Change,
    edit_tensors,
    load_file,
    one_of,
    plain,
    refused,
)
from wallx_policy.random_checkpoints import Recipe, write_checkpoint


class TestFiles:
    """The file of tensors itself."""

    @pytest.mark.parametrize("kept", [0, 5, 8, 100, "header", "half", "last"])
    def test_truncated(self, folder: Path, kept: int | str) -> None:
        path = folder / WEIGHTS
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        end = {"header": header, "half": (header + len(data)) // 2, "last": len(data) - 1}
        path.write_bytes(data[: end.get(kept, kept)])
        refused(folder, WEIGHTS, "cannot be read")

    def test_longer_than_it_says(self, folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(path.read_bytes() + b"\0")
        refused(folder, WEIGHTS, "cannot be read")

    @pytest.mark.parametrize("start", [b"\xff" * 8, b"\x10" + b"\0" * 7 + b"{not json at all}"])
    def test_a_header_that_is_none(self, folder: Path, start: bytes) -> None:
        path = folder / WEIGHTS
        path.write_bytes(start + path.read_bytes()[len(start) :])
        refused(folder, WEIGHTS, "cannot be read")

    def test_a_missing_file(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        refused(folder, WEIGHTS, "missing")

    def test_a_pickle_in_its_place(self, folder: Path, tmp_path: Path) -> None:
        trap = tmp_path / "ran"
        names = ("pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "weights.pth")
        name = names[list(RECIPES).index(folder.name) % len(names)]

        class Trap:
            def __reduce__(self) -> tuple:
                return (Path.touch, (trap,))

        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap()))
        refused(folder, name, "pickle")
        assert not trap.exists()

    def test_a_pickle_under_its_name(self, folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / WEIGHTS)
        refused(folder, WEIGHTS, "cannot be read")

    def test_a_folder_under_its_name(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).mkdir()
        refused(folder, WEIGHTS)

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("wall05"), shard_bytes=400_000)
        shard = sorted(folder.glob("model-*"))[1]
        shard.unlink()
        refused(folder, shard.name, "missing")

    def test_a_shard_of_another_checkpoint(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("wall05"), shard_bytes=400_000)
        one, other = sorted(folder.glob("model-*"))[:2]
        shutil.copy(one, other)
        refused(folder, "model.safetensors.index.json", "does not match")

    def test_a_damaged_index(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("flow"), shard_bytes=700_000)
        (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
        refused(folder, "model.safetensors.index.json", "weight_map")


class TestTensors:
    """Single tensors of every part of the network."""

    @pytest.mark.parametrize("group", GROUPS)
    def test_not_finite(self, folder: Path, group: str) -> None:
        names: list[str] = []
        value = (torch.nan, torch.inf, -torch.inf)[list(GROUPS).index(group) % 3]

        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            names.append(one_of(tensors, GROUPS[group]))
            tensors[names[0]].view(-1)[-1] = value

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, "not finite", plain(folder, names[0]))

    @pytest.mark.parametrize(
        ("title", "change"),
        [
            ("missing", lambda t, n: t.pop(n)),
            ("unexpected", lambda t, n: t.update({f"{n}.1": t[n].clone()})),
            ("missing", lambda t, n: t.update({f"{n}_old": t.pop(n)})),
            ("wrong shape", lambda t, n: t.update({n: t[n][..., :-1].clone()})),
            ("wrong shape", lambda t, n: t.update({n: t[n].unsqueeze(0)})),
            ("wrong shape", lambda t, n: t.update({n: t[n].flatten()[0].clone()})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.int8)})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.int64)})),
            ("not implemented", lambda t, n: t.update({n: t[n] > 0})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.float8_e4m3fn)})),
        ],
    )
    def test_not_what_the_configuration_says(
        self, folder: Path, title: str, change: Change
    ) -> None:
        names: list[str] = []

        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            for group in ("attention", "action expert", "vision", "action head"):
                names.append(one_of(tensors, GROUPS[group]))
                change(tensors, names[-1])

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, title, *(plain(folder, name) for name in names))

    def test_two_halves_of_the_tied_matrix_that_differ(self, folder: Path) -> None:
        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            name = one_of(tensors, EMBEDDINGS)
            prefix = "model." if folder.name == "lerobot" else ""
            for other in ("lm_head.weight", "model.embed_tokens.weight"):
                tensors[prefix + other] = tensors[name].clone()
            tensors[prefix + "lm_head.weight"][3, 3] += 1.0

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, "lm_head.weight", "differs")

    def test_names_of_another_layout(self, folder: Path) -> None:
        def rename(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                other = f"model.{name}" if folder.name != "lerobot" else plain(folder, name)
                tensors[other] = tensors.pop(name)

        edit_tensors(folder, rename)
        message = refused(folder, WEIGHTS, "missing", "unexpected")
        assert message.count("visual.blocks.0.norm1.weight") == 2

    @pytest.mark.parametrize("other", ["flow", "lerobot", "wall05"])
    def test_weights_of_another_layout(
        self, folder: Path, other: str, whole: dict[str, Path]
    ) -> None:
        if (folder.name, other) in SAME_TENSORS:
            pytest.skip("the same tensors")
        shutil.copy(whole[other] / WEIGHTS, folder / WEIGHTS)
        refused(folder)

    def test_fewer_embeddings_than_tokens(self, folder: Path) -> None:
        def cut(tensors: dict[str, torch.Tensor]) -> None:
            name = one_of(tensors, EMBEDDINGS)
            tensors[name] = tensors[name][:-1].clone()

        edit_tensors(folder, cut)
        refused(folder, "tokenizer.json", "embeddings")
