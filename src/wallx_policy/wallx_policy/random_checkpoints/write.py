"""Writes what a recipe says, or draws it straight on a device."""

from __future__ import annotations

from pathlib import Path

import torch
from so101_driver.errors import UserError

from wallx_policy.model.checkpoint import ModelWeights, arranged
from wallx_policy.model.config_types import Layout, ModelConfig
from wallx_policy.model.random_tensors import (
    FILE_NAME,
    Draw,
    RandomTensors,
    save_drawn,
)
from wallx_policy.model.tensors import tensor_shapes
from wallx_policy.random_checkpoints.files import (
    ACTION_TOKENIZER,
    image_settings,
    normalizers,
    policy_config,
    write_action_tokenizer,
    write_json,
    write_pickles,
    write_processors,
    write_train_config,
)
from wallx_policy.random_checkpoints.recipes import Plan, Recipe, plan
from wallx_policy.random_checkpoints.tensor_writer import Progress, write_tensors

_README = """# A random checkpoint

weights: random (seed {seed})

Nobody trained this. It has the layout of {layout} and the size {size} ({numbers:,} weights), and
serves to run the whole inference path. What an arm does with it means nothing.
"""
_README_DRAWN = """
It holds no weights: they are drawn anew from `model.random.json` whenever it is loaded, on the
device that runs them.
"""


def write_checkpoint(
    folder: str | Path,
    recipe: Recipe,
    *,
    drawn: bool = False,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a random checkpoint, tensor by tensor, and return its path.

    Args:
        folder: Made if needed; must be empty.
        recipe: What to write.
        drawn: Whether the weights are left out and drawn when it is loaded, straight to the device.
        shard_bytes: Size of a file of weights, None for one file.
        progress: Told after every piece.

    Raises:
        UserError: when the folder is not empty, or its disk has no room or cannot be written.
    """
    path = Path(folder)
    made = plan(recipe)
    _check_target(path)
    if not drawn:
        made.check_room(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        written = False
        try:
            _write_small_files(path, made)
            if drawn:
                text = save_drawn(made.parts.tensors)
                (path / FILE_NAME).write_text(text + "\n", encoding="utf-8")
            else:
                write_tensors(path, made.entries, _metadata(recipe), shard_bytes, progress)
            _write_readme(path, made, drawn)
            written = True
        finally:
            if not written:
                _empty(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def write_random_checkpoint(folder: str | Path, seed: int = 0) -> Path:
    """Write the tiny checkpoint of the demo into a folder and return its path."""
    return write_checkpoint(folder, Recipe(seed=seed))


def random_weights(
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    *,
    rows: int,
    columns: int,
    state_columns: int | None = None,
    seed: int = 0,
) -> ModelWeights:
    """Draw the weights of a network on a device; neither a disk nor other memory is used.

    Args:
        config: Shape of the network.
        device: As torch names it.
        dtype: Of the matrices; norms and action head are f32.
        rows: Of the embedding.
        columns: Of the action.
        state_columns: Of the state; as many as of the action unless said.
        seed: Of the weights.
    """
    shapes = tensor_shapes(config, rows, columns, state_columns=state_columns)
    tensors = RandomTensors(Path("random weights"), Draw(seed, config.layers), shapes)
    # What the layouts differ in besides, prefixes and fusions, does not exist here.
    return arranged(tensors, Layout.ORIGINAL, config, device, dtype, columns, state_columns)


def _metadata(recipe: Recipe) -> dict[str, str]:
    alias = {"model.model.embed_tokens.weight": "model.lm_head.weight"}
    more = alias if recipe.kind is Layout.LEROBOT else {}
    return {"format": "pt", "weights": "random", **more}


def _check_target(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name a folder")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: name another folder, or remove what lies there")


def _write_small_files(path: Path, made: Plan) -> None:
    parts, kind = made.parts, made.recipe.kind
    home = path
    if kind is Layout.LEROBOT:
        # Such a policy holds no tokenizer and no network; its base model's files do.
        home = path / "base"
        home.mkdir()
    parts.tokenizer.save(str(home / "tokenizer.json"))
    write_json(home / "preprocessor_config.json", image_settings())
    if kind.of_lerobot:
        name = "wall_x" if kind is Layout.LEROBOT else "wall_oss_05"
        if kind is Layout.LEROBOT:
            write_json(home / "config.json", parts.network)
        horizon = parts.size.horizon
        policy = policy_config(name, parts.robot, parts.columns, horizon, parts.network)
        write_json(path / "config.json", policy)
        # Such a policy's statistics are its robot's; the port of 0.5 pads state and action first.
        padded = parts.robot.columns if kind is Layout.LEROBOT else parts.columns
        write_processors(path, name, parts.robot, padded)
    else:
        write_json(path / "config.json", parts.network)
        if kind is Layout.WALL05 or parts.robot.contract is None:
            write_train_config(
                path,
                parts.robot,
                parts.columns,
                parts.size.horizon,
                parts.size.resolution,
                state_text=kind is Layout.WALL05,
            )
        if made.recipe.pickled:
            write_pickles(path, normalizers(parts.robot, parts.columns))
    if made.recipe.layout == "fast":
        tokens = parts.size.action_tokens
        start = parts.tokenizer.token_to_id("<|action_token_0|>")
        content = {"action_token_start_index": start, "action_token_vocab_size": tokens}
        write_json(path / "tokenizer_config.json", content)
        write_action_tokenizer(path / ACTION_TOKENIZER, tokens)
    if parts.robot.contract is not None:
        parts.robot.contract.save(path)


def _write_readme(path: Path, made: Plan, drawn: bool) -> None:
    recipe = made.recipe
    text = _README.format(
        seed=recipe.seed, layout=recipe.layout, size=recipe.size, numbers=made.numbers
    )
    (path / "README.md").write_text(text + (_README_DRAWN if drawn else ""), encoding="utf-8")


def _empty(path: Path) -> None:
    """Remove what was half written into a folder that was empty."""
    for file in sorted(path.rglob("*"), reverse=True):
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
