"""Action tokenizers of our own, and checkpoints that write what a test wants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SCALE = 10


def write_codec(folder: Path, tokenizer: Tokenizer, lowest: int, **changes: object) -> Path:
    """Write an action tokenizer as FAST's own folder has it; ``lowest`` is its ``min_token``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "processor_class": "UniversalActionProcessor",
        "auto_map": {"AutoProcessor": "processing_action_tokenizer.UniversalActionProcessor"},
        "scale": SCALE,
        "min_token": lowest,
        "vocab_size": tokenizer.get_vocab_size(),
        "action_dim": None,
        "time_horizon": None,
    }
    (folder / "processor_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def byte_tokenizer(size: int = 400) -> Tokenizer:
    """Return a byte-level tokenizer as FAST's: every byte, and pairs around the zero of −354."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draws = torch.Generator().manual_seed(0)
    rows = 354 + torch.randn(40, 60, generator=draws).mul(9).round().int()
    tokenizer.train_from_iterator(["".join(map(chr, row)) for row in rows.tolist()], trainer)
    return tokenizer


def character_tokenizer(size: int = 64) -> Tokenizer:
    """Return a tokenizer of one token for each of the first characters, as the reference's."""
    tokenizer = Tokenizer(models.BPE(vocab={chr(i): i for i in range(size)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_it_write(folder: Path, ids: Sequence[int]) -> None:
    """Change a checkpoint's weights so that it answers with these ids, each at most once.

    Its layers add nothing, and the embedding of every token points to the next one's.
    """
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    tensors["model.norm.weight"].fill_(1.0)
    name = "model.embed_tokens.weight"
    embedding = torch.zeros_like(tensors[name])
    newline = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("\n").ids
    assert len(newline) == 1
    chain = [*newline, *ids]
    assert len(set(chain)) == len(chain) < embedding.shape[1]
    for i, number in enumerate(chain):
        embedding[number, i] = 2.5**i
        if i:
            embedding[number, i - 1] = 2.5**i
    tensors[name] = embedding
    save_file(tensors, path)
