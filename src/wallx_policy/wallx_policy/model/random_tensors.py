"""Random tensors, drawn piece by piece wherever they are needed: on a disk or on a device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.lerobot_files import read_json
from wallx_policy.model.tensors import EMBEDDING, HEAD, OUTPUT

FILE_NAME = "model.random.json"
"""Stands in for ``model.safetensors`` where weights are drawn as they are loaded."""
_PIECE_NUMBERS = 1 << 23
_LAYERS_OF_UNIT_SCALE = 3
_PULL = 8.0
"""How strongly the velocity points against the noise."""
_READ_OUT = 2.0
"""How much the actions follow what the layers make of images and words."""
_CONSTANT = 8.0
"""Large enough that silu is a line around it."""
_INTO_STREAM = re.compile(
    r"model\.layers\.\d+\.(self_attn\.o_proj(_experts\.\d)?|moe\.experts\.\d\.down_proj)\.weight"
)
_INTO_ACTIONS = re.compile(
    r"model\.layers\.\d+\.(self_attn\.o_proj(_experts\.1)?|moe\.experts\.1\.down_proj)\.weight"
)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """What random weights depend on, besides a tensor's name and shape.

    Attributes:
        seed: The same seed gives the same weights on every machine, but not on every kind of
            device.
        layers: Of the decoder. Deep ones add less per layer, so that the sum stays the same.
        led: Leading action columns that are led past the layers, so that velocities point against
            the noise, as they do in a trained flow; with 0 nothing is set by hand.
    """

    seed: int
    layers: int
    led: int = 0

    def pieces(self, name: str, shape: Shape, device: str = "cpu") -> Iterator[Tensor]:
        """Yield a tensor in pieces of whole rows, f32.

        Args:
            name: Without a layout's prefix.
            shape: Of the whole tensor.
            device: Where the numbers are drawn and stay.
        """
        generator = torch.Generator(device).manual_seed(crc32(f"{self.seed} {name}".encode()))
        columns = prod(shape[1:])
        step = shape[0] if self._is_led(name) else max(1, _PIECE_NUMBERS // max(columns, 1))
        for start in range(0, shape[0], step):
            rows = (min(step, shape[0] - start), *shape[1:])
            values = torch.randn(rows, generator=generator, device=device)
            if len(shape) > 1:
                values = values * self._scale(name, columns)
            else:
                values = values * 0.1 + (0.0 if name.endswith("bias") else 1.0)
            if self._is_led(name):
                self._lead(name, values)
            yield values

    def _scale(self, name: str, fan_in: int) -> float:
        if name == EMBEDDING:
            return 0.5
        if _INTO_STREAM.fullmatch(name):
            return float((_LAYERS_OF_UNIT_SCALE / (fan_in * max(self.layers, 1))) ** 0.5)
        return float(fan_in**-0.5)

    def _is_led(self, name: str) -> bool:
        if not self.led:
            return False
        head = name.startswith(HEAD) and not name.endswith("propri_proj.weight")
        return head or _INTO_ACTIONS.fullmatch(name) is not None

    def _lead(self, name: str, values: Tensor) -> None:
        """Lead the noisy action past the layers, so that the velocity can point against it.

        The first columns of the residual stream carry the action and nothing else: it enters
        through a large constant, where silu is a line, and no layer writes there.
        """
        led = self.led
        carried = slice(0, led)
        eye = torch.eye(led, device=values.device)
        match name.removeprefix(HEAD).removesuffix(".weight"):
            case "w1":
                values[:, led : values.shape[1] // 2] = 0.0  # the noise of unused columns
                values[carried] = 0.0
                values[carried, :led] = eye
            case "w2":
                last = values.shape[0] - 1
                values[carried] = 0.0
                values[carried, :led] = eye
                values[last] = 0.0
                # The slowest cosine of the time embedding is 1 at all times.
                values[carried, -1] = values[last, -1] = _CONSTANT
            case "w3":
                last = values.shape[0] - 1
                values[:, carried] = values[:, last : last + 1] = 0.0
                values[carried] = 0.0
                values[carried, :led] = eye
                values[carried, last] = -1.0
            case "action_proj_back":
                values *= _READ_OUT
                values[:, carried] = 0.0
                values[carried, carried] = -_PULL * eye
            case _:
                values[carried] = 0.0


@dataclass(slots=True)
class RandomTensors:
    """Random weights in place of a checkpoint's files; see `tensor_files.TensorFiles`.

    Attributes:
        path: The file that errors name.
        draw: How they are drawn.
        sizes: Shape by name, all of them split.
        prefix: What the layout puts before every name.
        values: Numbers of the tensors that are not drawn, by name: statistics.
        not_finite: Names of tensors that are not finite; there are none.
    """

    path: Path
    draw: Draw
    sizes: Mapping[str, Shape]
    prefix: str = ""
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor by its name in the layout."""
        sizes = {self.prefix + name: shape for name, shape in self.sizes.items()}
        return sizes | {self.prefix + n: (len(numbers),) for n, numbers in self.values.items()}

    def dtypes(self) -> dict[str, str]:
        """Return the tensors of a type that is not read: none."""
        return {}

    def read(self, name: str, dtype: torch.dtype, device: str) -> Tensor:
        """Return a tensor of its own memory."""
        tensor = torch.empty(self.shapes()[name], dtype=dtype, device=device)
        self.fill(tensor, name)
        return tensor

    def fill(self, target: Tensor, name: str, first: int = 0) -> None:
        """Draw a tensor, or its rows from ``first`` on, into ``target``."""
        plain = name.removeprefix(self.prefix)
        if plain in self.values:
            target.copy_(torch.tensor(self.values[plain], dtype=torch.float64)[first:])
            return
        at = -first
        for piece in self.draw.pieces(drawn_name(plain), self.sizes[plain], str(target.device)):
            low, high = max(at, 0), min(at + len(piece), len(target))
            if low < high:
                target[low:high].copy_(piece[low - at : high - at])
            at += len(piece)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape hold the same numbers."""
        return drawn_name(one.removeprefix(self.prefix)) == drawn_name(
            other.removeprefix(self.prefix)
        )


def drawn_name(name: str) -> str:
    """Return the name that a tensor is drawn by: the embedding has two."""
    return EMBEDDING if name == OUTPUT else name


def save_drawn(tensors: RandomTensors) -> str:
    """Return what stands in the file from which the same tensors are drawn."""
    content = {
        "weights": "random",
        **asdict(tensors.draw),
        "prefix": tensors.prefix,
        "tensors": {name: list(shape) for name, shape in tensors.sizes.items()},
        "values": {name: list(numbers) for name, numbers in tensors.values.items()},
    }
    return json.dumps(content)


def read_drawn(path: Path) -> RandomTensors:
    """Read what `save_drawn` wrote.

    Raises:
        UserError: naming the file and the key that is missing or garbled.
    """
    content = read_json(path)
    try:
        return RandomTensors(
            path=path,
            draw=Draw(*(_whole(content, key) for key in ("seed", "layers", "led"))),
            sizes={str(n): _shape(n, shape) for n, shape in content["tensors"].items()},
            prefix=str(content["prefix"]),
            values={str(n): [float(x) for x in v] for n, v in content["values"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: make it again") from error


def _whole(content: Mapping[str, Any], key: str) -> int:
    if isinstance(content[key], bool) or not isinstance(content[key], int):
        raise ValueError(key)
    return content[key]


def _shape(name: str, shape: Any) -> Shape:
    if not shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(name)
    return tuple(shape)
