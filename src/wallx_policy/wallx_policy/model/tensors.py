"""Names and shapes of a checkpoint's tensors, split as in the first release or fused as later."""

from __future__ import annotations

import re
from collections.abc import Collection

from wallx_policy.model.config import ModelConfig
from wallx_policy.model.vision import vision_shapes

EMBEDDING = "model.embed_tokens.weight"
NORMALIZER = re.compile(r"action_preprocessor\.normalizer_(action|propri)\.(min|delta)\.(.+)")
"""Statistics: of what, which number, and the data set's name."""


def tensor_shapes(config: ModelConfig, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every needed tensor by its name in the original layout, nothing fused.

    Args:
        config: Shape of the network.
        rows: Of the embedding.
        columns: Of the action, used or not.
    """
    c = config
    hidden, q, kv = c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim
    head = "action_preprocessor."
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (rows, hidden),
        "model.norm.weight": (hidden,),
        f"{head}w1.weight": (hidden, 2 * columns),
        f"{head}w2.weight": (hidden, 2 * hidden),
        f"{head}w3.weight": (hidden, hidden),
        f"{head}action_proj_back.weight": (columns, hidden),
        f"{head}propri_proj.weight": (hidden, 2 * columns),
    }
    for n in range(c.layers):
        layer = f"model.layers.{n}."
        shapes[f"{layer}input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (hidden,)
        for name, width in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (width, hidden)
            shapes[f"{layer}self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, q)
        for e, shape in enumerate(c.experts):
            inner, expert = shape.inner, f"{layer}moe.experts.{e}."
            shapes[f"{expert}gate_proj.weight"] = (inner, hidden)
            shapes[f"{expert}up_proj.weight"] = (inner, hidden)
            shapes[f"{expert}down_proj.weight"] = (hidden, inner)
    shapes |= {f"visual.{name}": shape for name, shape in vision_shapes(c.vision).items()}
    return shapes


def fused_name(name: str) -> str:
    """Return the tensor that newer saves put this one into; the same name if they do not."""
    name = re.sub(r"\.self_attn\.[qkv]_proj\.", ".self_attn.qkv_proj.", name)
    return re.sub(r"\.(gate|up)_proj\.", ".gate_up_proj.", name)


def fused_as_in(
    shapes: dict[str, tuple[int, ...]], present: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Return shapes with parts joined along their first axis where the joined name is present."""
    joined: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        fused = fused_name(name)
        if fused not in present:
            joined[name] = shape
        else:
            joined[fused] = (joined.get(fused, (0,))[0] + shape[0], *shape[1:])
    return joined
