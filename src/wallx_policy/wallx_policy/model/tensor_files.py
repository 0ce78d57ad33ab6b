"""The safetensors files of a checkpoint as one set of tensors, read in pieces.

Tensors go straight to where they stay: nothing larger than a piece is ever held besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.lerobot_files import read_json
from wallx_policy.model.random_tensors import FILE_NAME as RANDOM_NAME
from wallx_policy.model.random_tensors import RandomTensors, read_drawn

FILE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = ("F64", "F32", "F16", "BF16")
_PIECE_BYTES = 8 << 20


class TensorFiles:
    """Opened files; made by `opened`."""

    def __init__(self, path: Path, files: dict[str, Any]) -> None:
        """Take the file that errors name, and the opened file of every tensor."""
        self.path = path
        self._files = files
        self.not_finite: list[str] = []

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by its name in the file."""
        return {name: tuple(self._slice(name).get_shape()) for name in self._files}

    def dtypes(self) -> dict[str, str]:
        """Return what the file calls the type of every tensor, where it is none that we read."""
        found = {name: self._slice(name).get_dtype() for name in self._files}
        return {name: dtype for name, dtype in found.items() if dtype not in _DTYPES}

    def read(self, name: str, dtype: torch.dtype, device: str) -> Tensor:
        """Return a tensor of its own memory."""
        shape = self._slice(name).get_shape()
        tensor = torch.empty(shape, dtype=dtype, device=device)
        self.fill(tensor, name)
        return tensor

    def fill(self, target: Tensor, name: str, first: int = 0) -> None:
        """Copy a tensor, or its rows from ``first`` on, into ``target``; note if not finite."""
        finite = True
        for start, piece in self._pieces(name, first, len(target)):
            rows = target[start : start + len(piece)]
            rows.copy_(piece)
            # The extremes show every NaN and infinity, at a tenth of what asking each number costs.
            finite = finite and all(bool(torch.isfinite(x)) for x in torch.aminmax(rows))
        if not finite and name not in self.not_finite:
            self.not_finite.append(name)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape hold the same numbers."""
        rows = self._slice(one).get_shape()[0]
        pairs = zip(self._pieces(one, 0, rows), self._pieces(other, 0, rows), strict=True)
        return all(torch.equal(a, b) for (_, a), (_, b) in pairs)

    def _slice(self, name: str) -> Any:
        return self._files[name].get_slice(name)

    def _pieces(self, name: str, first: int, rows: int) -> Iterator[tuple[int, Tensor]]:
        whole = self._slice(name)
        columns = 1
        for size in whole.get_shape()[1:]:
            columns *= size
        step = max(1, _PIECE_BYTES // (8 * max(columns, 1)))
        for start in range(0, rows, step):
            end = min(start + step, rows)
            yield start, whole[first + start : first + end]


@contextmanager
def opened(folder: Path) -> Iterator[TensorFiles | RandomTensors]:
    """Open a checkpoint's one file, or those that its index names, or what draws random ones.

    Raises:
        UserError: naming the file that is missing or damaged; pickles are never read.
    """
    path = folder / FILE_NAME
    drawn = folder / RANDOM_NAME
    if drawn.is_file():
        for stored in (path, folder / INDEX_NAME):
            if stored.is_file():
                raise UserError(f"{drawn} lies beside {stored.name}: remove one of them")
        yield read_drawn(drawn)
        return
    with ExitStack() as stack:

        def open_one(file_path: Path) -> Any:
            try:
                return stack.enter_context(safe_open(file_path, framework="pt"))
            except FileNotFoundError:
                raise UserError(f"{file_path} is missing{_pickle_hint(folder)}") from None
            except (OSError, SafetensorError) as error:
                raise UserError(f"{file_path} cannot be read, copy it again: {error}") from error

        if path.is_file() or not (folder / INDEX_NAME).is_file():
            file = open_one(path)
            yield TensorFiles(path, dict.fromkeys(file.keys(), file))
            return
        index = folder / INDEX_NAME
        shards = {
            name: open_one(folder / name) for name in sorted(set(_weight_map(index).values()))
        }
        files = {key: shard for shard in shards.values() for key in shard.keys()}  # noqa: SIM118
        _check_index(index, {key: name for name, shard in shards.items() for key in shard.keys()})  # noqa: SIM118
        yield TensorFiles(index, files)


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{index} lacks weight_map")
    for name in mapping.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise UserError(f"{index} names {name!r}, which is no safetensors file beside it")
    return mapping


def _check_index(index: Path, found: dict[str, str]) -> None:
    said = _weight_map(index)
    wrong = sorted(key for key in said.keys() | found.keys() if said.get(key) != found.get(key))
    if wrong:
        raise UserError(f"{index} does not match its files in: {', '.join(wrong)}")


def _pickle_hint(folder: Path) -> str:
    pickles = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in _PICKLES and not path.name.startswith("normalizer_")
    )
    return f"; {pickles[0]} is a pickle, which is never read: convert it" if pickles else ""
