"""Our vision tower gives what transformers' Qwen2.5-VL gives, for every size and mix of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from wallx_policy.model.vision import VisionTower, vision_shapes

CONFIG = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_heads": 2,
    "in_chans": 3,
    "out_hidden_size": 24,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [1],
}
WHOLE_WINDOWS = [(1, 8, 16)]
TWO_ALIKE = [(1, 14, 18), (1, 14, 18)]
"""Two views of 252×196 pixels: windows of 64, 32, 16 and 4 patches."""
MIXED = [(1, 6, 8), (1, 18, 18), (1, 4, 26)]
SMALLEST = [(1, 2, 2)]
FRAMES = [(2, 10, 12), (1, 4, 20)]
GRIDS = {
    "whole windows": WHOLE_WINDOWS,
    "two alike": TWO_ALIKE,
    "mixed": MIXED,
    "smallest": SMALLEST,
    "frames": FRAMES,
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in vision_shapes(CONFIG).items():
        fan_in = torch.Size(shape[1:]).numel()
        made[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
        if len(shape) == 1:
            made[name] = 0.1 * made[name] + (0.0 if name.endswith("bias") else 1.0)
    return made


def pixels(grids: list[tuple[int, int, int]]) -> Tensor:
    patches = sum(t * h * w for t, h, w in grids)
    return torch.randn(patches, 1176, generator=torch.Generator().manual_seed(1))


def transformers_tower(weights: dict[str, Tensor], bf16_rotary: bool) -> torch.nn.Module:
    module = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    known = dict(CONFIG)
    config = module.Qwen2_5_VLVisionConfig(in_channels=known.pop("in_chans"), **known)
    config._attn_implementation = "sdpa"
    tower = module.Qwen2_5_VisionTransformerPretrainedModel(config)
    tower.load_state_dict(weights, strict=True)
    if bf16_rotary:
        rotary = tower.rotary_pos_emb
        rotary.inv_freq = rotary.inv_freq.to(torch.bfloat16).float()
    return tower.eval()


@torch.no_grad()
@pytest.mark.parametrize("bf16_rotary", [False, True])
def test_every_mix_of_images_comes_out_as_with_transformers(
    weights: dict[str, Tensor], bf16_rotary: bool
) -> None:
    reference = transformers_tower(weights, bf16_rotary)
    ours = VisionTower(CONFIG, weights, bf16_rotary)
    other = VisionTower(CONFIG, weights, not bf16_rotary)
    for name, grids in GRIDS.items():
        x, grid = pixels(grids), torch.tensor(grids)
        expected = reference(x, grid_thw=grid, return_dict=True).pooler_output
        assert float((ours(x, grid) - expected).abs().max()) < 1e-5, name
        if name == "mixed":
            assert float((other(x, grid) - expected).abs().max()) > 1e-4


@torch.no_grad()
def test_images_do_not_see_each_other_but_all_of_themselves(weights: dict[str, Tensor]) -> None:
    tower, x, grid = VisionTower(CONFIG, weights, False), pixels(TWO_ALIKE), torch.tensor(TWO_ALIKE)
    before = tower(x, grid)
    x[0] += 1.0  # the first patch of the first image
    moved = (tower(x, grid) - before).abs().amax(dim=1)
    tokens = len(moved) // 2
    assert float(moved[:tokens].min()) > 0.0
    assert float(moved[tokens:].max()) == 0.0


def test_blocks_that_are_not_full_see_a_window(weights: dict[str, Tensor]) -> None:
    config = {**CONFIG, "fullatt_block_indexes": []}
    tower, x, grid = VisionTower(config, weights, False), pixels([(1, 8, 16)]), [(1, 8, 16)]
    with torch.no_grad():
        before = tower(x, torch.tensor(grid))
        x[0] += 1.0
        moved = (tower(x, torch.tensor(grid)) - before).abs().amax(dim=1).view(4, 8)
    assert float(moved[:, :4].min()) > 0.0
    assert float(moved[:, 4:].max()) == 0.0


def test_a_plan_is_made_once_per_size_and_old_ones_are_dropped(weights: dict[str, Tensor]) -> None:
    tower = VisionTower(CONFIG, weights, False)
    plan = tower.plan(torch.tensor(TWO_ALIKE))
    assert tower.plan(torch.tensor(TWO_ALIKE)) is plan
    assert tower.plan(torch.tensor(MIXED)) is not plan
    for width in range(2, 60, 2):
        tower.plan(torch.tensor([(1, 4, width)]))
    assert tower.plan(torch.tensor(TWO_ALIKE)) is not plan
    assert len(tower._plans) <= 16


def test_whole_groups_need_no_mask_and_no_copies(weights: dict[str, Tensor]) -> None:
    tower = VisionTower(CONFIG, weights, False)
    plan = tower.plan(torch.tensor(TWO_ALIKE))
    assert (plan.images.count, plan.images.slots) == (2, 252)
    assert plan.images.mask is None
    assert plan.images.take is None
    assert plan.windows.mask is not None
    whole = tower.plan(torch.tensor(WHOLE_WINDOWS))
    assert whole.windows.mask is None
    assert whole.windows.slots == 64
