"""Loading takes little more memory than what it loads, even where it converts or joins tensors."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from wallx_policy.model.checkpoint import ModelWeights, read_weights
from wallx_policy.model.config import read_config
from wallx_policy.model.tensor_files import TensorFiles
from wallx_policy.model.tensors import tensor_shapes

LIMIT = 1.15
ROWS = 30_000
PATIENCE_S = 60.0


@pytest.fixture
def mid_size(changed_checkpoint: Path) -> Path:
    """A checkpoint of 200 MB whose tensors are holes in a file, zeros when read."""
    path = changed_checkpoint / "config.json"
    content = json.loads(path.read_text())
    content |= {
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "experts": [{"hidden_size": 512, "intermediate_size": size} for size in (2752, 512)],
        "dim_inputs": [512, 512],
    }
    content["vision_config"]["out_hidden_size"] = 512
    path.write_text(json.dumps(content))
    shapes = tensor_shapes(read_config(changed_checkpoint, None).model, ROWS, 6)
    write_holes(changed_checkpoint / "model.safetensors", shapes)
    return changed_checkpoint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_little_more_memory_than_the_model(mid_size: Path, dtype: str) -> None:
    peak = in_a_child(mid_size, dtype)
    assert 0.9 < peak < LIMIT


def test_the_measurement_sees_tensors_held_beside_their_copies(
    mid_size: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorFiles, "fill", fill_from_a_copy)
    assert in_a_child(mid_size, "bfloat16") > LIMIT


def fill_from_a_copy(files: TensorFiles, target: Tensor, name: str, first: int = 0) -> None:
    """Read a tensor whole before it goes to its place, as loaders usually do."""
    target.copy_(torch.cat([piece for _, piece in files._pieces(name, first, len(target))]))


def write_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start = end
        size = 4
        for length in shape:
            size *= length
        end += size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def in_a_child(folder: Path, dtype: str) -> float:
    """Return the highest anonymous memory while reading over the size of what is kept."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, repr(measured(folder, dtype)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        ready, _, _ = select.select([answer], [], [], PATIENCE_S)
        if not ready:
            os.kill(child, signal.SIGKILL)
        text = answer.read()
    os.waitpid(child, 0)
    return float(text)


def measured(folder: Path, dtype: str) -> float:
    # What the tests before have freed must not be used again, or it would not be counted.
    ctypes.CDLL(None).malloc_trim(0)
    config = read_config(folder, None)
    base, peak, reading = anonymous_bytes(), 0, True

    def watch() -> None:
        nonlocal peak
        while reading:
            peak = max(peak, anonymous_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    weights = read_weights(folder, config.layout, config.model, "cpu", getattr(torch, dtype))
    reading = False
    watcher.join()
    sizes = {t.data_ptr(): t.numel() * t.element_size() for t in kept(weights)}
    return (max(peak, anonymous_bytes()) - base) / sum(sizes.values())


def anonymous_bytes() -> int:
    """Return this process's memory that belongs to no file."""
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def kept(weights: ModelWeights) -> Iterator[Tensor]:
    yield weights.embedding
    yield from weights.final_norms
    yield from weights.vision.values()
    for part in (weights.head, *(expert for layer in weights.layers for expert in layer)):
        values = (getattr(part, name) for name in part.__slots__)
        yield from (value for value in values if value is not None)
