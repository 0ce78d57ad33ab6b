"""Checkpoints with random weights, of every layout and size; nobody trained them.

They exercise the whole path from camera image to joint command. For the SO-101 one path through the
weights is set by hand, so that the arm does not tremble; see `Draw`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from so101_driver.errors import UserError
from tokenizers import Tokenizer
from torch import Tensor

from wallx_policy.contract import PredictionMode
from wallx_policy.model.checkpoint import ModelWeights, arranged
from wallx_policy.model.config_keys import TOKEN_IDS
from wallx_policy.model.config_types import Layout, ModelConfig
from wallx_policy.model.network_config import read_network
from wallx_policy.model.random_files import (
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
from wallx_policy.model.random_networks import SIZES, Size, network_config
from wallx_policy.model.random_robots import ROBOTS, Robot, base, so101
from wallx_policy.model.random_tensors import (
    FILE_NAME,
    Draw,
    RandomTensors,
    Shape,
    drawn_name,
    save_drawn,
)
from wallx_policy.model.tensor_writer import Entry, Progress, check_room, write_tensors
from wallx_policy.model.tensors import EMBEDDING, HEAD, OUTPUT, fused_name, tensor_shapes
from wallx_policy.model.tiny_tokenizer import build_tokenizer

LAYOUTS: Mapping[str, Layout] = {
    "flow": Layout.ORIGINAL,
    "fast": Layout.ORIGINAL,
    "lerobot": Layout.LEROBOT,
    "wall05": Layout.WALL05,
    "lerobot05": Layout.LEROBOT05,
}
"""By the name of a model, as its makers write it."""
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_COLUMNS = {Layout.LEROBOT: 20, Layout.WALL05: 26, Layout.LEROBOT05: 26}
"""Of state and action; a wall-x fine-tune of flow or fast has its robot's."""
_NORM = ("norm.weight", "layernorm.weight")
_README = """# A random checkpoint

weights: random (seed {seed})

Nobody trained this. It has the layout of {layout} and the size {size} ({numbers:,} weights), and
serves to run the whole inference path. What an arm does with it means nothing.
"""
_README_DRAWN = """
It holds no weights: they are drawn anew from `model.random.json` whenever it is loaded, on the
device that runs them.
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make.

    Attributes:
        layout: One of `LAYOUTS`.
        size: One of `SIZES`.
        robot: ``so101``, in joint space and with a contract, or ``base``, the end-effector columns
            of the released models.
        seed: Of the weights.
        dtype: Of the matrices, norms of the decoder and action head stay f32; None for the usual:
            float32 in flow and fast, bfloat16 in the others.
        fused: Whether q, k, v and gate, up are joined, as in newer saves of wall-x.
        pickled: Whether statistics go into ``.pth`` files, as wall-oss-0.5 has them.
    """

    layout: str = "flow"
    size: str = "tiny"
    robot: str = "so101"
    seed: int = 0
    dtype: str | None = None
    fused: bool = False
    pickled: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not exist; UserError names it."""
        for name, choices in (
            ("layout", LAYOUTS),
            ("size", SIZES),
            ("robot", ROBOTS),
            ("dtype", (None, *DTYPES)),
        ):
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise UserError(f"{name} must be one of {known}, not {value!r}")
        if self.fused and self.kind.of_lerobot:
            raise UserError(f"layout {self.layout} is never fused: LeRobot writes no such files")
        if self.pickled and self.kind is not Layout.WALL05:
            raise UserError(f"layout {self.layout} has no .pth files, only wall05 has")

    @property
    def kind(self) -> Layout:
        """Who would have written it."""
        return LAYOUTS[self.layout]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checkpoint that is decided but not written.

    Attributes:
        recipe: What it was made from.
        entries: Tensors of its file.
        numbers: Weights, statistics not counted.
        size: Bytes of all tensors.
    """

    recipe: Recipe
    entries: tuple[Entry, ...]
    numbers: int
    size: int
    _parts: _Parts = field(repr=False)

    @property
    def prefix(self) -> str:
        """What the layout puts before every name."""
        return self._parts.tensors.prefix

    def check_room(self, folder: Path) -> None:
        """Refuse a disk that has no room for it; UserError says how much is missing."""
        check_room(folder, self.size)


def plan(recipe: Recipe) -> Plan:
    """Decide a checkpoint; nothing is drawn or written."""
    parts = _parts(recipe)
    drawn = tuple(_entries(recipe, parts.tensors))
    stored = tuple(
        Entry(
            parts.tensors.prefix + name,
            (len(numbers),),
            torch.float32,
            partial(_given, numbers),
        )
        for name, numbers in parts.tensors.values.items()
    )
    return Plan(
        recipe=recipe,
        entries=drawn + stored,
        numbers=sum(prod(entry.shape) for entry in drawn),
        size=sum(entry.size for entry in drawn + stored),
        _parts=parts,
    )


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
                text = save_drawn(made._parts.tensors)
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


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a recipe means."""

    size: Size
    robot: Robot
    columns: int
    tokenizer: Tokenizer
    network: dict[str, Any]
    tensors: RandomTensors


def _parts(recipe: Recipe) -> _Parts:
    size, kind = SIZES[recipe.size], recipe.kind
    new = kind in (Layout.WALL05, Layout.LEROBOT05)
    fast = recipe.layout == "fast"
    robot = base(new=new)
    if recipe.robot == "so101":
        robot = so101(size.horizon, PredictionMode.FAST if fast else PredictionMode.FLOW)
    columns = _COLUMNS.get(kind, robot.columns)
    tokenizer = build_tokenizer(
        wall_tokens=not new, action_tokens=size.action_tokens if fast else 0
    )
    tokens = tokenizer.get_vocab_size() + (2 if new else 0)
    rows = (size.rows or {}).get(recipe.layout, tokens)
    network = network_config(
        size,
        transformer=new,
        vocabulary=rows,
        token_ids={key: tokenizer.token_to_id(token) for key, token in TOKEN_IDS.items()},
        # config.yml and the policy have the columns of the others.
        dof={} if new else robot.padded_groups(columns),
    )
    model = read_network(Path("config.json"), network)
    shapes = tensor_shapes(model, rows, columns)
    if kind is Layout.LEROBOT:
        shapes = {(OUTPUT if name == EMBEDDING else name): s for name, s in shapes.items()}
    values = {} if kind.of_lerobot or recipe.pickled else normalizers(robot, columns)
    led = robot.columns if robot.contract is not None else 0
    tensors = RandomTensors(
        path=Path(FILE_NAME),
        draw=Draw(recipe.seed, model.layers, led),
        sizes=shapes,
        prefix="model." if kind is Layout.LEROBOT else "",
        values=values,
    )
    return _Parts(size, robot, columns, tokenizer, network, tensors)


def _entries(recipe: Recipe, tensors: RandomTensors) -> Iterator[Entry]:
    """Yield the tensors as the layout stores them, parts of a fused one drawn by their own names.

    Split and fused checkpoints of one seed are hence the same model.
    """
    usual = "float32" if recipe.kind is Layout.ORIGINAL else "bfloat16"
    dtype = DTYPES[recipe.dtype or usual]
    groups: dict[str, list[tuple[str, Shape]]] = {}
    for name, shape in tensors.sizes.items():
        # wall-oss-0.5 has its decoder fused and its vision tower split.
        fused = recipe.fused or (recipe.kind is not Layout.ORIGINAL and ".experts." in name)
        fused = fused and recipe.kind is not Layout.LEROBOT
        groups.setdefault(fused_name(name) if fused else name, []).append((name, shape))
    for name, parts in groups.items():
        kept = name.startswith(HEAD) or (name.startswith("model.") and _is_norm(name))
        rows = sum(shape[0] for _, shape in parts)
        yield Entry(
            tensors.prefix + name,
            (rows, *parts[0][1][1:]),
            torch.float32 if kept else dtype,
            partial(_drawn, tensors.draw, parts),
        )


def _is_norm(name: str) -> bool:
    plain = name.replace(".0.weight", ".weight").replace(".1.weight", ".weight")
    return plain.replace("norms.", "norm.").endswith(_NORM)


def _drawn(draw: Draw, parts: list[tuple[str, Shape]]) -> Iterator[Tensor]:
    for name, shape in parts:
        yield from draw.pieces(drawn_name(name), shape)


def _given(numbers: list[float]) -> Iterator[Tensor]:
    yield torch.tensor(numbers)


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
    parts, kind = made._parts, made.recipe.kind
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
