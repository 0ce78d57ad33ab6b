"""Random checkpoints of every layout load as they are, and are built like the released ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES
from wallx_policy.backends.base import BackendSettings, CameraImage, Observation
from wallx_policy.backends.wall_oss import WallOssBackend
from wallx_policy.contract import Contract, GraphDescription, Weights
from wallx_policy.model import load_policy
from wallx_policy.model.checkpoint import ModelWeights, read_weights
from wallx_policy.model.config import read_config
from wallx_policy.model.fast_codec import FastCodec, FastFailure
from wallx_policy.random_checkpoints import (
    LAYOUTS,
    ROBOTS,
    Recipe,
    plan,
    random_weights,
    write_checkpoint,
)
from wallx_policy.random_checkpoints.vocabularies import (
    LEAST_CODES,
    MIN_CODE,
    build_action_tokenizer,
)

FLOWS = [layout for layout in LAYOUTS if layout != "fast"]
REFERENCES = {"flow": "tiny_wallx", "lerobot": "lerobot_wall_x", "wall05": "tiny_wallx05"}
HOME = np.array([0.0, -60.0, 30.0, 60.0, 0.0, 10.0])


def header(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape by tensor name."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


def weights(folder: Path) -> ModelWeights:
    config = read_config(folder, None)
    return read_weights(folder, config.layout, config.model, "cpu", torch.float32)


def assert_same(one: ModelWeights, other: ModelWeights) -> None:
    assert torch.equal(one.embedding, other.embedding)
    assert torch.equal(one.head.w2, other.head.w2)
    for name, tensor in one.vision.items():
        assert torch.equal(tensor, other.vision[name]), name
    for layer, same in zip(one.layers, other.layers, strict=True):
        for expert, twin in zip(layer, same, strict=True):
            for name in expert.__slots__:
                assert torch.equal(getattr(expert, name), getattr(twin, name)), name


@pytest.mark.parametrize("layout", FLOWS)
@pytest.mark.parametrize("robot", ROBOTS)
def test_it_loads_without_a_word_and_predicts(tmp_path: Path, layout: str, robot: str) -> None:
    folder = write_checkpoint(tmp_path, Recipe(layout=layout, robot=robot))
    policy = load_policy(folder)
    columns = 6 if robot == "so101" else 26 if "05" in layout else 20
    image = np.full((240, 320, 3), 99, np.uint8)
    observation = {
        "images": dict.fromkeys(policy.settings.cameras, image),
        "state": HOME if robot == "so101" else np.zeros(columns),
        "instruction": "pick up the red cube",
    }
    actions = policy.predict(observation, policy.noise(1)).actions
    assert actions.shape == (policy.settings.horizon, columns)
    assert np.isfinite(actions).all()
    if robot == "so101":
        extent = Contract.load(folder).action_statistics.extent()
        middle, half = np.mean(extent, axis=0), np.ptp(extent, axis=0) / 2
        assert (np.abs(actions - middle) < 2.0 * half).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_says_that_it_is_random_and_the_graph_can_run_it(tmp_path: Path, layout: str) -> None:
    folder = write_checkpoint(tmp_path, Recipe(layout=layout, seed=7))
    contract = Contract.load(folder)
    assert contract.weights is Weights.RANDOM
    sizes = {camera.view: (camera.width, camera.height) for camera in contract.cameras}
    home = contract.actions_from_radians(np.zeros(6))  # any pose will do for the columns
    assert len(home) == 6
    graph = GraphDescription(sizes, JOINT_NAMES, tuple(contract.to_radians(HOME)))
    assert contract.differences(graph) == ()
    assert "weights: random (seed 7)" in (folder / "README.md").read_text()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["weights"] == "random"


@pytest.mark.parametrize("layout", FLOWS)
def test_the_backend_moves_the_arm_near_its_pose(tmp_path: Path, layout: str) -> None:
    folder = write_checkpoint(tmp_path, Recipe(layout=layout))
    backend = WallOssBackend(BackendSettings(checkpoint=str(folder)))
    assert "RANDOM" in backend.description.summary
    images = {
        camera.view: CameraImage(np.zeros((camera.height, camera.width, 3), np.uint8), 1)
        for camera in backend.contract.cameras
    }
    state_rad = backend.contract.to_radians(HOME)
    chunk = backend.predict(Observation(1, images, state_rad, 1, "pick up the red cube"))
    assert chunk.actions_rad.shape == (25, 6)
    # The pose is within 8° to 14° of each joint's, by the statistics.
    assert np.abs(chunk.actions_rad[:, :5] - state_rad[:5]).max() < np.radians(40.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_end_effector_columns_have_no_contract(tmp_path: Path, layout: str) -> None:
    folder = write_checkpoint(tmp_path, Recipe(layout=layout, robot="base"))
    assert not (folder / "contract.yaml").exists()
    assert "weights: random" in (folder / "README.md").read_text()


@pytest.mark.parametrize("layout", REFERENCES)
def test_its_tensors_are_those_of_the_reference(
    references: Path, tmp_path: Path, layout: str
) -> None:
    """Names and types, whatever the number of layers; shapes are checked when loading."""
    reference = header(references / REFERENCES[layout])
    dtype = "float32" if layout == "wall05" else None  # as the reference was saved
    made = header(write_checkpoint(tmp_path, Recipe(layout=layout, robot="base", dtype=dtype)))

    def kinds(tensors: dict) -> set[tuple[str, str]]:
        return {(re.sub(r"(layers|blocks)\.\d+", r"\1.N", n), t[0]) for n, t in tensors.items()}

    drop = "normalizer_" if layout == "flow" else "\n"  # the reference holds none
    assert {kind for kind in kinds(made) if drop not in kind[0]} == kinds(reference)


@pytest.mark.parametrize(
    ("layout", "tensors", "millions"),
    [
        ("flow", 937, 4220),
        ("fast", 937, 4224),
        ("lerobot", 937, 4219),
        ("wall05", 901, 4162),
        ("lerobot05", 901, 4162),
    ],
)
def test_full_is_the_released_size(layout: str, tensors: int, millions: int) -> None:
    """The counts of the released checkpoints; nothing is drawn here."""
    made = plan(Recipe(layout=layout, size="full", robot="base"))
    drawn = [entry for entry in made.entries if "normalizer" not in entry.name]
    assert (len(drawn), made.numbers // 1_000_000) == (tensors, millions)
    shapes = {entry.name.removeprefix(made.prefix): entry.shape for entry in drawn}
    wanted = {
        "visual.merger.mlp.0.weight": (5120, 5120),
        "visual.blocks.31.attn.qkv.weight": (3840, 1280),
        "action_preprocessor.w1.weight": (2048, 40),
        "model.layers.35.self_attn.k_proj.weight": (256, 2048),
        "model.layers.35.moe.experts.0.gate_proj.weight": (11008, 2048),
        "model.layers.35.moe.experts.1.down_proj.weight": (2048, 2048),
    }
    if "05" in layout:
        wanted = {
            "model.embed_tokens.weight": (155765, 2048),
            "action_preprocessor.w1.weight": (1024, 52),
            "model.layers.35.self_attn.qkv_proj_experts.1.weight": (2560, 1024),
            "model.layers.35.moe.experts.0.gate_up_proj.weight": (22016, 2048),
            "model.layers.35.moe.experts.1.gate_up_proj.weight": (4096, 1024),
            "visual.blocks.31.mlp.gate_proj.weight": (3420, 1280),
        }
    assert {name: shapes.get(name) for name in wanted} == wanted


def test_mid_is_the_size_of_the_benchmark() -> None:
    assert plan(Recipe(size="mid")).numbers // 1_000_000 == 59


def test_split_and_fused_are_one_model(tmp_path: Path) -> None:
    split = write_checkpoint(tmp_path / "split", Recipe(seed=2))
    fused = write_checkpoint(tmp_path / "fused", Recipe(seed=2, fused=True))
    assert "model.layers.2.self_attn.qkv_proj.weight" in header(fused)
    assert "visual.blocks.0.mlp.gate_up_proj.bias" in header(fused)
    assert_same(weights(split), weights(fused))
    other = write_checkpoint(tmp_path / "other", Recipe(seed=3, fused=True))
    assert not torch.equal(weights(split).embedding, weights(other).embedding)


def test_shards_are_one_model(tmp_path: Path) -> None:
    recipe = Recipe(layout="wall05", seed=2)
    whole = write_checkpoint(tmp_path / "whole", recipe)
    told: list[tuple[int, int]] = []
    parts = write_checkpoint(
        tmp_path / "parts",
        recipe,
        shard_bytes=300_000,
        progress=lambda done, total: told.append((done, total)),
    )
    files = sorted(path.name for path in parts.glob("model-*"))
    assert files == [
        f"model-{i}-of-00004.safetensors" for i in ("00001", "00002", "00003", "00004")
    ]
    assert all((parts / name).stat().st_size < 330_000 for name in files)
    assert_same(weights(whole), weights(parts))
    assert told[-1] == (plan(recipe).size,) * 2
    assert told == sorted(told)


@pytest.mark.parametrize("layout", FLOWS)
def test_drawn_at_load_is_what_would_have_been_written(tmp_path: Path, layout: str) -> None:
    """The same numbers, and neither needs the other's memory or disk."""
    recipe = Recipe(layout=layout, seed=5, dtype="float32")
    written = write_checkpoint(tmp_path / "written", recipe)
    drawn = write_checkpoint(tmp_path / "drawn", recipe, drawn=True)
    assert sum(path.stat().st_size for path in drawn.iterdir() if path.is_file()) < 150_000
    assert "drawn" in (drawn / "README.md").read_text()
    assert_same(weights(written), weights(drawn))
    one, other = load_policy(written), load_policy(drawn, dtype="bfloat16")
    assert one.description.replace("float32", "bfloat16") == other.description


def test_weights_for_a_benchmark_need_no_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, Recipe(robot="base", seed=4))
    config = read_config(folder, None)
    stored = weights(folder)
    made = random_weights(
        config.model, "cpu", torch.float32, rows=len(stored.embedding), columns=20, seed=4
    )
    assert_same(stored, made)
    assert made.normalizers == {}
    half = random_weights(config.model, "cpu", torch.bfloat16, rows=9, columns=3)
    assert half.embedding.dtype == torch.bfloat16
    assert half.embedding.shape == (9, 64)
    assert half.head.back.dtype == half.layers[0][0].input_norm.dtype == torch.float32


def test_statistics_may_be_pickled(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, Recipe(layout="wall05", pickled=True))
    assert not any("normalizer" in name for name in header(folder))
    assert "min and delta of so101_sim" in load_policy(folder).description
    assert not list(folder.glob("*.pth.*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layout": "pi0"}, "layout must be one of flow, fast, lerobot, wall05, lerobot05"),
        ({"size": "huge"}, "size must be one of tiny, mid, large, full"),
        ({"robot": "so100"}, "robot must be one of so101, base"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, not 'float16'"),
        ({"layout": "lerobot", "fused": True}, "never fused"),
        ({"layout": "flow", "pickled": True}, "no .pth files"),
    ],
)
def test_what_does_not_exist_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe(**changes)


class TestFast:
    """wall-oss-fast: the tokens of actions, and the folder that turns them into numbers."""

    def test_its_files_agree(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path, Recipe(layout="fast"))
        said = json.loads((folder / "tokenizer_config.json").read_text())
        tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        ids = {token["content"]: token["id"] for token in tokens}
        start, count = said["action_token_start_index"], said["action_token_vocab_size"]
        assert ids["<|action_token_0|>"] == start == ids["<|action|>"] + 1
        assert ids[f"<|action_token_{count - 1}|>"] == start + count - 1 == max(ids.values())
        codec = json.loads((folder / "action_tokenizer" / "processor_config.json").read_text())
        assert (codec["vocab_size"], codec["scale"], codec["min_token"]) == (count, 10, MIN_CODE)
        assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape[0] == (
            start + count
        )

    @pytest.mark.parametrize("size", [LEAST_CODES, 2048])
    def test_its_codec_spells_any_number_and_is_short_around_zero(self, size: int) -> None:
        tokenizer = build_action_tokenizer(size)
        assert tokenizer.get_vocab_size() == size
        random = np.random.default_rng(0)
        for reach in (3, 30, 300):
            codes = random.integers(-reach, reach + 1, 192)
            text = "".join(chr(code - MIN_CODE) for code in codes)
            ids = tokenizer.encode(text).ids
            assert tokenizer.decode(ids) == text
            assert reach > 90 or len(ids) <= 192
        zeros = tokenizer.encode(chr(-MIN_CODE) * 192).ids
        assert len(zeros) < 12

    def test_its_codec_is_read_as_a_released_one(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path, Recipe(layout="fast"))
        codec = FastCodec(folder / "action_tokenizer")
        actions = np.sin(np.linspace(0, 6, 25 * 6)).reshape(25, 6)
        ids = codec.encode(actions)
        assert len(ids) < 25 * 6
        np.testing.assert_allclose(codec.decode(ids, 25, 6), actions, atol=0.1)

    def test_what_it_writes_is_no_chunk_and_said_to_be_none(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path, Recipe(layout="fast"))
        policy = load_policy(folder, fast_max_new_tokens=3, fast_retries=0)
        image = np.zeros((240, 320, 3), np.uint8)
        views = dict.fromkeys(policy.settings.cameras, image)
        with pytest.raises(FastFailure, match="3 tokens"):
            policy.predict({"images": views, "state": HOME, "instruction": "go"})

    def test_too_few_tokens(self) -> None:
        with pytest.raises(ValueError, match="512"):
            build_action_tokenizer(100)
