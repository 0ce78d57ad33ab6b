"""`wallx make-checkpoint` writes what it says, calls it random, and refuses in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from wallx_bringup.cli import main

from wallx_bringup import checkpoint_command

pytest.importorskip("torch")


def test_help_offers_exactly_what_can_be_written() -> None:
    import wallx_policy.random_checkpoints as random_checkpoint

    assert tuple(random_checkpoint.LAYOUTS) == checkpoint_command.LAYOUTS
    assert tuple(random_checkpoint.SIZES) == checkpoint_command.SIZES
    assert random_checkpoint.ROBOTS == checkpoint_command.ROBOTS
    assert tuple(random_checkpoint.DTYPES) == checkpoint_command.DTYPES


def test_without_options_it_is_the_checkpoint_of_the_demo(tmp_path: Path, capsys) -> None:
    from wallx_policy.random_checkpoints import write_random_checkpoint

    demo = write_random_checkpoint(tmp_path / "demo")
    made = tmp_path / "made"
    assert main(["make-checkpoint", str(made)]) == 0
    text = capsys.readouterr().out
    assert "RANDOM" in text
    assert f"wallx up backend:=wall_oss checkpoint:={made}" in text
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        path.name: path.read_bytes() for path in demo.iterdir()
    }


def test_every_option_reaches_the_folder(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "made"
    options = "--layout wall05 --robot base --dtype float32 --seed 4 --pth --shard-gb 0.001"
    assert main(["make-checkpoint", str(folder), *options.split()]) == 0
    assert "end-effector" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert {"model-00001-of-00002.safetensors", "normalizer_action.pth", "config.yml"} <= names
    assert "contract.yaml" not in names
    readme = (folder / "README.md").read_text()
    assert "seed 4" in readme
    assert "wall05" in readme
    fused = tmp_path / "fused"
    assert main(["make-checkpoint", str(fused), "--fused"]) == 0
    assert b"qkv_proj" in (fused / "model.safetensors").read_bytes()[:30_000]


def test_the_largest_may_be_drawn_at_load(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "made"
    assert main(["make-checkpoint", str(folder), "--size", "full", "--drawn"]) == 0
    assert "drawn at every load" in capsys.readouterr().out
    assert (folder / "model.random.json").is_file()
    assert not (folder / "model.safetensors").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys) -> None:
    assert main(["make-checkpoint", str(tmp_path / "made"), "--size", "mid", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "would write" in text
    assert "59,0" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--layout lerobot --fused", "layout lerobot is never fused"),
        ("--pth", "layout flow has no .pth files"),
        ("--shard-gb 0", "--shard-gb must be above 0"),
        ("--shard-gb 1 --drawn", "--drawn writes no weights"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: str, sentence: str, tmp_path, capsys) -> None:
    assert main(["make-checkpoint", str(tmp_path / "made"), *options.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wallx: {sentence}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "model.safetensors").write_text("months of work")
    assert main(["make-checkpoint", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
