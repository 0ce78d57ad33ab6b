"""Loading takes little more memory than what it loads, even where it converts or joins tensors."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from wallx_policy.model.config import read_config
from wallx_policy.model.tensors import tensor_shapes

LIMIT = 1.15
ROWS = 30_000


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


def test_loading_takes_little_more_memory_than_the_model(mid_size: Path) -> None:
    script = Path(__file__).with_name("loading_memory.py")
    run = subprocess.run(
        [sys.executable, str(script), str(mid_size)], capture_output=True, text=True, check=True
    )
    peaks = json.loads(run.stdout)
    assert peaks["float32"] < LIMIT, peaks
    assert peaks["bfloat16"] < LIMIT, peaks
    # The measurement sees it when tensors are held whole beside their copies.
    assert peaks["bfloat16 whole"] > LIMIT, peaks
