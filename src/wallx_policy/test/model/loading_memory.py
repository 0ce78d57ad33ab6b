"""Measures, in processes of its own, how much memory reading a checkpoint takes.

Run by test_loading_memory: ``python loading_memory.py <folder>`` prints the highest anonymous
memory while reading, divided by the size of the tensors that remain, for several ways to read.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from wallx_policy.model import tensor_files
from wallx_policy.model.checkpoint import read_weights
from wallx_policy.model.config import read_config
from wallx_policy.model.weights import ModelWeights

_STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int:
    """Return the memory that belongs to no file."""
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def tensors(weights: ModelWeights) -> Iterator[Tensor]:
    yield weights.embedding
    yield from weights.final_norms
    yield from weights.vision.values()
    for part in (weights.head, *(expert for layer in weights.layers for expert in layer)):
        values = (getattr(part, name) for name in part.__slots__)
        yield from (value for value in values if value is not None)


def measured(folder: Path, dtype: str) -> float:
    """Return peak over size."""
    torch.set_num_threads(1)
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
    sizes = {t.data_ptr(): t.numel() * t.element_size() for t in tensors(weights)}
    return (max(peak, anonymous_bytes()) - base) / sum(sizes.values())


def in_a_fork(folder: Path, dtype: str, piece_bytes: int) -> float:
    """Measure in a copy of this process, which has freed nothing that could be used again."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        tensor_files._PIECE_BYTES = piece_bytes
        os.write(write_end, repr(measured(folder, dtype)).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(text)


if __name__ == "__main__":
    path, usual = Path(sys.argv[1]), tensor_files._PIECE_BYTES
    found = {
        "float32": in_a_fork(path, "float32", usual),
        "bfloat16": in_a_fork(path, "bfloat16", usual),
        "bfloat16 whole": in_a_fork(path, "bfloat16", 1 << 40),
    }
    print(json.dumps(found))
