"""Decides what a random checkpoint holds: layout, shapes, and how its tensors are stored."""

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
from wallx_policy.model.config_keys import TOKEN_IDS
from wallx_policy.model.config_types import Layout
from wallx_policy.model.network_config import read_network
from wallx_policy.model.random_tensors import FILE_NAME, Draw, RandomTensors, Shape, drawn_name
from wallx_policy.model.tensors import EMBEDDING, HEAD, OUTPUT, fused_name, tensor_shapes
from wallx_policy.random_checkpoints.files import normalizers
from wallx_policy.random_checkpoints.networks import SIZES, Size, network_config
from wallx_policy.random_checkpoints.robots import ROBOTS, Robot, base, so101
from wallx_policy.random_checkpoints.tensor_writer import Entry, check_room
from wallx_policy.random_checkpoints.vocabularies import build_tokenizer

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
        parts: What its files are made of.
    """

    recipe: Recipe
    entries: tuple[Entry, ...]
    numbers: int
    size: int
    parts: Parts = field(repr=False)

    @property
    def prefix(self) -> str:
        """What the layout puts before every name."""
        return self.parts.tensors.prefix

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
        parts=parts,
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """What a recipe means.

    Attributes:
        size: Shape of the network.
        robot: What it drives.
        columns: Of state and action in the model.
        tokenizer: Of the prompt.
        network: Its ``config.json``.
        tensors: All of them, named and shaped, and how they are drawn.
    """

    size: Size
    robot: Robot
    columns: int
    tokenizer: Tokenizer
    network: dict[str, Any]
    tensors: RandomTensors


def _parts(recipe: Recipe) -> Parts:
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
    return Parts(size, robot, columns, tokenizer, network, tensors)


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
