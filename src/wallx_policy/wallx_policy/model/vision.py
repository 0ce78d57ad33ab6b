"""The vision tower of Qwen2.5-VL: patches in, one embedding for every 2×2 of them out.

Most blocks attend within windows, the others within an image. What depends only on the sizes of the
images (rotation, who sees whom) is planned once, so that a run is nothing but tensor operations of
fixed shapes over all images together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from so101_driver.errors import UserError
from torch import Tensor
from torch.nn.functional import gelu, linear, rms_norm, scaled_dot_product_attention, silu

_KEYS = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
    "fullatt_block_indexes",
)
_EPS = 1e-6
_THETA = 10000.0
_PLANS = 16
"""Sizes of images whose plans are kept; a robot's cameras have one or two."""

Grid = tuple[int, int, int]


def vision_shapes(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the tower by name.

    Raises:
        UserError: for a configuration that lacks a key or names another activation.
    """
    missing = [key for key in _KEYS if key not in vision]
    if missing:
        raise UserError(f"vision_config lacks {', '.join(missing)}")
    if vision.get("hidden_act", "silu") != "silu":
        raise UserError(f"vision_config: hidden_act {vision['hidden_act']!r} is not implemented")
    hidden, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    # The released files and transformers spell this key differently.
    channels = vision.get("in_chans", vision.get("in_channels", 3))
    merged = hidden * vision["spatial_merge_size"] ** 2
    block = {
        "norm1.weight": (hidden,),
        "norm2.weight": (hidden,),
        **_with_bias("attn.qkv", 3 * hidden, hidden),
        **_with_bias("attn.proj", hidden, hidden),
        **_with_bias("mlp.gate_proj", inner, hidden),
        **_with_bias("mlp.up_proj", inner, hidden),
        **_with_bias("mlp.down_proj", hidden, inner),
    }
    frames = vision["temporal_patch_size"]
    return {
        "patch_embed.proj.weight": (hidden, channels, frames, patch, patch),
        **{f"blocks.{n}.{key}": s for n in range(vision["depth"]) for key, s in block.items()},
        "merger.ln_q.weight": (hidden,),
        **_with_bias("merger.mlp.0", merged, merged),
        **_with_bias("merger.mlp.2", vision["out_hidden_size"], merged),
    }


def _with_bias(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


@dataclass(frozen=True, slots=True)
class Groups:
    """Patches that attend to each other, side by side in slots of equal number.

    Attributes:
        count: Groups.
        slots: Patches of the largest group.
        take: Patch in every slot [count · slots]; None where patches and slots are the same.
        back: Slot of every patch [patches]; None with ``take``.
        mask: [count, 1, slots, slots], 0 where a slot may be seen, -inf where it is empty; None
            where none is.
    """

    count: int
    slots: int
    take: Tensor | None
    back: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class VisionPlan:
    """What depends on the sizes of the images only.

    Attributes:
        cos: Of every patch, [patches, 1, head width], f32.
        sin: Likewise.
        windows: Who sees whom in most blocks.
        images: And in the others.
        tokens: Embeddings of all images.
    """

    cos: Tensor
    sin: Tensor
    windows: Groups
    images: Groups
    tokens: int


class VisionTower:
    """Turns patches into one embedding for every 2×2 of them."""

    def __init__(self, vision: Mapping[str, Any], weights: dict[str, Tensor], bf16_rotary: bool):
        """Take the tensors as they are; ``bf16_rotary`` rounds the frequencies as LeRobot does."""
        self._heads = int(vision["num_heads"])
        self._head_dim = int(vision["hidden_size"]) // self._heads
        self._merge = int(vision["spatial_merge_size"])
        self._window = int(vision["window_size"]) // self._merge // int(vision["patch_size"])
        self._full = frozenset(vision["fullatt_block_indexes"])
        patch = weights["patch_embed.proj.weight"]
        self._patch = patch.flatten(1)
        self._device, self._dtype = patch.device, patch.dtype
        self._merger = _under("merger", weights)
        self._blocks = [_under(f"blocks.{n}", weights) for n in range(int(vision["depth"]))]
        self._bf16_rotary = bf16_rotary
        self._plans: dict[tuple[Grid, ...], VisionPlan] = {}
        self._run_block = self._block

    def __call__(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """Return embeddings [sum of patches / 4, out_hidden_size].

        Args:
            pixel_values: [patches, channels · temporal · patch²], f32.
            grid_thw: [images, 3], patches in time, height and width.
        """
        return self.run(pixel_values.to(self._device), self.plan(grid_thw))

    def plan(self, grid_thw: Tensor) -> VisionPlan:
        """Return the plan for images of these sizes; the last few are kept."""
        grids: tuple[Grid, ...] = tuple((int(t), int(h), int(w)) for t, h, w in grid_thw.tolist())
        plan = self._plans.get(grids)
        if plan is None:
            plan = self._planned(grids)
            if len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[grids] = plan
        return plan

    def run(self, pixel_values: Tensor, plan: VisionPlan) -> Tensor:
        """Return the embeddings of images that a plan was made for; see `__call__`."""
        x = linear(pixel_values.to(self._dtype), self._patch)
        for n, block in enumerate(self._blocks):
            x = self._run_block(block, x, plan, plan.images if n in self._full else plan.windows)
        merged = self._norm(x, self._merger["ln_q.weight"]).view(-1, self._merge**2 * x.shape[-1])
        return _linear(self._merger, "mlp.2", gelu(_linear(self._merger, "mlp.0", merged)))

    def compile(self, backend: str = "inductor") -> None:
        """Let torch compile a block."""
        self._run_block = torch.compile(self._block, backend=backend, fullgraph=True)

    def _block(
        self, block: Mapping[str, Tensor], x: Tensor, plan: VisionPlan, groups: Groups
    ) -> Tensor:
        x = x + self._attended(block, self._norm(x, block["norm1.weight"]), plan, groups)
        normed = self._norm(x, block["norm2.weight"])
        gate = _linear(block, "mlp.gate_proj", normed)
        up = _linear(block, "mlp.up_proj", normed)
        return x + _linear(block, "mlp.down_proj", silu(gate) * up)

    def _attended(
        self, block: Mapping[str, Tensor], x: Tensor, plan: VisionPlan, groups: Groups
    ) -> Tensor:
        joined = _linear(block, "attn.qkv", x).unflatten(-1, (3, self._heads, self._head_dim))
        both = joined[:, :2].float()
        first, second = both.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        both = (both * plan.cos[:, None] + turned * plan.sin[:, None]).to(x.dtype)
        parts = torch.cat((both, joined[:, 2:]), dim=1)
        if groups.take is not None:
            parts = parts.index_select(0, groups.take)
        shape = (groups.count, groups.slots, 3, self._heads, self._head_dim)
        q, k, v = parts.view(shape).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=groups.mask)
        mixed = mixed.transpose(1, 2).reshape(groups.count * groups.slots, -1)
        if groups.back is not None:
            mixed = mixed.index_select(0, groups.back)
        return _linear(block, "attn.proj", mixed)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        # The references round before they scale.
        return weight * rms_norm(x.float(), weight.shape, eps=_EPS).to(x.dtype)

    def _planned(self, grids: Sequence[Grid]) -> VisionPlan:
        places, windows, images = [], [], []
        for t, height, width in grids:
            rows, columns = self._places(height, width)
            across = -(-width // self._merge // self._window)
            window = (rows // self._merge // self._window) * across
            window += columns // self._merge // self._window
            for _ in range(t):
                images.append(torch.full_like(rows, len(images)))
                windows.append(window + (int(windows[-1].max()) + 1 if windows else 0))
                places.append(torch.stack((rows, columns)))
        cos, sin = self._rotation(torch.cat(places, dim=1))
        return VisionPlan(
            cos.to(self._device),
            sin.to(self._device),
            self._grouped(torch.cat(windows)),
            self._grouped(torch.cat(images)),
            tokens=len(cos) // self._merge**2,
        )

    def _places(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return row and column of every patch; neighbours of a merged token lie together."""
        m = self._merge
        index = torch.arange(height * width).view(height // m, m, width // m, m)
        index = index.transpose(1, 2).flatten()
        return index // width, index % width

    def _rotation(self, places: Tensor) -> tuple[Tensor, Tensor]:
        half = self._head_dim // 2
        frequencies = 1.0 / _THETA ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
        if self._bf16_rotary:
            frequencies = frequencies.to(torch.bfloat16).float()
        angles = torch.cat([axis[:, None].float() * frequencies for axis in places], dim=-1)
        both = torch.cat((angles, angles), dim=-1)[:, None]
        return both.cos(), both.sin()

    def _grouped(self, group: Tensor) -> Groups:
        """Return the groups of patches by the number of each patch's group, from 0."""
        sizes = torch.bincount(group)
        count, slots = len(sizes), int(sizes.max())
        order = torch.argsort(group, stable=True)
        inside = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group[order]]
        slot = group[order] * slots + inside
        back = torch.empty_like(slot)
        back[order] = slot
        take = torch.zeros(count * slots, dtype=torch.long)  # empty slots get any patch
        take[slot] = order
        mask = None
        if len(group) < count * slots:
            empty = torch.ones(count * slots, dtype=torch.bool)
            empty[slot] = False
            row = torch.zeros(count, 1, 1, slots).masked_fill_(
                empty.view(count, 1, 1, slots), -torch.inf
            )
            mask = row.expand(-1, -1, slots, -1).contiguous().to(self._device, self._dtype)
        if mask is None and torch.equal(back, torch.arange(len(group))):
            return Groups(count, slots, None, None, None)
        return Groups(count, slots, take.to(self._device), back.to(self._device), mask)


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    head = f"{prefix}."
    return {n.removeprefix(head): t for n, t in weights.items() if n.startswith(head)}


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
