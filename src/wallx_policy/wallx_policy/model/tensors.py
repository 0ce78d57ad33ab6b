"""Names and shapes of a checkpoint's tensors, split as in the first release or fused as later."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from wallx_policy.model.config_types import ExpertShape, Mixture, ModelConfig
from wallx_policy.model.vision import vision_shapes

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
"""The other name of the embedding, which is the output layer too."""
HEAD = "action_preprocessor."
STATE = f"{HEAD}propri_proj.weight"
NORMALIZER = re.compile(r"action_preprocessor\.normalizer_(action|propri)\.(min|delta)\.(.+)")
"""Statistics: of what, which number, and the data set's name."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Tensors of one expert in one layer; several names are stacked along their first axis."""

    input_norm: str
    qkv: tuple[str, ...]
    qkv_bias: tuple[str, ...]
    out: str
    post_norm: str
    gate_up: tuple[str, ...]
    down: str


def expert_names(mixture: Mixture, layer: int, expert: int) -> ExpertNames:
    """Return the names of an expert's tensors, nothing fused that has been seen split."""
    prefix = f"model.layers.{layer}."
    feed_forward = f"{prefix}moe.experts.{expert}."
    gate_up = (f"{feed_forward}gate_proj.weight", f"{feed_forward}up_proj.weight")
    down = f"{feed_forward}down_proj.weight"
    attention = f"{prefix}self_attn."
    if mixture is Mixture.MLP:
        return ExpertNames(
            input_norm=f"{prefix}input_layernorm.weight",
            qkv=tuple(f"{attention}{x}_proj.weight" for x in "qkv"),
            qkv_bias=tuple(f"{attention}{x}_proj.bias" for x in "qkv"),
            out=f"{attention}o_proj.weight",
            post_norm=f"{prefix}post_attention_layernorm.weight",
            gate_up=gate_up,
            down=down,
        )
    return ExpertNames(
        input_norm=f"{prefix}input_layernorms.{expert}.weight",
        qkv=(f"{attention}qkv_proj_experts.{expert}.weight",),
        qkv_bias=(f"{attention}qkv_proj_experts.{expert}.bias",),
        out=f"{attention}o_proj_experts.{expert}.weight",
        post_norm=f"{prefix}post_attention_layernorms.{expert}.weight",
        gate_up=gate_up,
        down=down,
    )


def final_norm_names(mixture: Mixture) -> tuple[str, str]:
    """Return the names of the last norm by token type."""
    if mixture is Mixture.MLP:
        return "model.norm.weight", "model.norm.weight"
    return "model.norms.0.weight", "model.norms.1.weight"


def tensor_shapes(
    config: ModelConfig, rows: int, columns: int, *, state_columns: int | None = None
) -> dict[str, Shape]:
    """Return the shape of every needed tensor by its name without prefix, nothing fused.

    Args:
        config: Shape of the network.
        rows: Of the embedding.
        columns: Of the action, used or not.
        state_columns: Of the state, as many as of the action unless said; the tensor that embeds
            them is needed only where the configuration says so.
    """
    hidden, width = (expert.width for expert in config.experts)
    shapes: dict[str, Shape] = {
        EMBEDDING: (rows, hidden),
        f"{HEAD}w1.weight": (width, 2 * columns),
        f"{HEAD}w2.weight": (width, 2 * width),
        f"{HEAD}w3.weight": (width, width),
        f"{HEAD}action_proj_back.weight": (columns, width),
    }
    if config.state_token:
        shapes[STATE] = (hidden, 2 * (state_columns or columns))
    for expert, name in zip(config.experts, final_norm_names(config.mixture), strict=True):
        shapes[name] = (expert.width,)
    for layer in range(config.layers):
        for number, expert in enumerate(config.experts):
            shapes |= _expert_shapes(config, expert, expert_names(config.mixture, layer, number))
    shapes |= {f"visual.{name}": shape for name, shape in vision_shapes(config.vision).items()}
    return shapes


def _expert_shapes(
    config: ModelConfig, expert: ExpertShape, names: ExpertNames
) -> dict[str, Shape]:
    width, q, kv = expert.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
    heights = (q, kv, kv) if len(names.qkv) > 1 else (q + 2 * kv,)
    shapes: dict[str, Shape] = {
        names.input_norm: (width,),
        names.out: (width, q),
        names.post_norm: (width,),
        names.down: (width, expert.inner),
    }
    shapes |= {n: (height, width) for n, height in zip(names.qkv, heights, strict=True)}
    shapes |= {n: (height,) for n, height in zip(names.qkv_bias, heights, strict=True)}
    shapes |= dict.fromkeys(names.gate_up, (expert.inner, width))
    return shapes


def fused_name(name: str) -> str:
    """Return the tensor that newer saves put this one into; the same name if they do not."""
    name = re.sub(r"\.self_attn\.[qkv]_proj\.", ".self_attn.qkv_proj.", name)
    return re.sub(r"\.(gate|up)_proj\.", ".gate_up_proj.", name)


def fused_as_in(shapes: dict[str, Shape], present: Collection[str]) -> dict[str, Shape]:
    """Return shapes with parts joined along their first axis where the file joins them.

    A part of which neither form is present counts as joined if others of its kind are, so that
    what is missing is called by the name that it would have.
    """
    kinds = {_kind(name) for name in present}
    joined: dict[str, Shape] = {}
    for name, shape in shapes.items():
        fused = fused_name(name)
        if fused == name or not (
            fused in present or (name not in present and _kind(fused) in kinds)
        ):
            joined[name] = shape
        else:
            joined[fused] = (joined.get(fused, (0,))[0] + shape[0], *shape[1:])
    return joined


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)
