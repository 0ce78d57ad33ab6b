"""Writes safetensors files tensor by tensor; nothing larger than a piece is ever held."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.tensor_files import FILE_NAME, INDEX_NAME

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_SPARE_BYTES = 64 << 20
"""What a disk keeps beyond the weights: the small files, and room to breathe."""

Progress = Callable[[int, int], None]
"""Takes bytes written and bytes in all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor to write.

    Attributes:
        name: In the file.
        shape: Of the whole tensor.
        dtype: It is written in.
        pieces: Called once; yields consecutive rows that make up the tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


def check_room(folder: Path, needed: int) -> None:
    """Refuse, before anything is written, what the disk has no room for.

    Args:
        folder: Where it shall go; need not exist yet.
        needed: Bytes.

    Raises:
        UserError: saying how much is needed and how much is free.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"{folder} needs {_gb(needed + _SPARE_BYTES)}, its disk has {_gb(free)} free: choose "
            "a smaller size, bfloat16, or another disk"
        )


def write_tensors(
    folder: Path,
    entries: Iterable[Entry],
    metadata: Mapping[str, str],
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write one file, or shards and their index when one would exceed ``shard_bytes``.

    Files appear complete or not at all.

    Args:
        folder: Where they go.
        entries: All tensors, names unique.
        metadata: Texts for the header of every file.
        shard_bytes: Tensor bytes in a shard at most, except for a larger tensor by itself.
        progress: Told after every piece.

    Returns:
        The files.

    Raises:
        UserError: when one cannot be written.
    """
    # As other writers do: widest type first, which keeps every tensor aligned.
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
    total = sum(entry.size for entry in ordered)
    shards = _shards(ordered, shard_bytes)
    tell = _Counter(total, progress)
    if len(shards) == 1:
        return (_write_file(folder / FILE_NAME, shards[0], metadata, tell),)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    paths = [
        _write_file(folder / name, shard, metadata, tell)
        for name, shard in zip(names, shards, strict=True)
    ]
    index = {
        "metadata": {"total_size": total},
        "weight_map": {
            entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard
        },
    }
    path = folder / INDEX_NAME
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return (*paths, path)


def _shards(entries: Sequence[Entry], limit: int | None) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    held = 0
    for entry in entries:
        if limit is not None and shards[-1] and held + entry.size > limit:
            shards.append([])
            held = 0
        shards[-1].append(entry)
        held += entry.size
    return shards


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _write_file(
    path: Path, entries: Sequence[Entry], metadata: Mapping[str, str], tell: _Counter
) -> Path:
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half_written.open("wb") as file:
            file.write(_header(entries, metadata))
            for entry in entries:
                written = 0
                for piece in entry.pieces():
                    data = piece.to(entry.dtype).cpu().contiguous().flatten().view(torch.uint8)
                    file.write(data.numpy().data)
                    written += len(data)
                    tell.add(len(data))
                if written != entry.size:
                    raise ValueError(f"{entry.name} has {written} bytes, not {entry.size}")
        half_written.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        half_written.unlink(missing_ok=True)
    return path


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + entry.size
        content[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
