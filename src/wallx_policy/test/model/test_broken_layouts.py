"""A checkpoint of any layout, broken in any way we can think of, is refused by file and key.

Each way is tried on every layout that has the file; what must be said stands beside it.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from so101_driver.errors import UserError
from wallx_policy.model import load_policy
from wallx_policy.random_checkpoints import Recipe, write_checkpoint

RECIPES = {
    "flow": Recipe("flow"),
    "flow-fused": Recipe("flow", fused=True),
    "flow-base": Recipe("flow", robot="base"),
    "fast": Recipe("fast"),
    "lerobot": Recipe("lerobot"),
    "wall05": Recipe("wall05"),
    "wall05-pth": Recipe("wall05", pickled=True),
    "lerobot05": Recipe("lerobot05"),
}
WALLX = ("flow", "flow-fused", "flow-base", "fast", "wall05")
LEROBOT = ("lerobot", "lerobot05")
SAME_TENSORS = {
    ("flow", "flow"),
    ("flow-fused", "flow"),
    ("lerobot", "lerobot"),
    ("wall05", "wall05"),
    ("wall05-pth", "wall05"),
    ("lerobot05", "wall05"),
}
WEIGHTS = "model.safetensors"
EMBEDDINGS = ("model.embed_tokens.weight", "model.lm_head.weight")
GROUPS = {
    "embedding": EMBEDDINGS,
    "attention": ("self_attn.q_proj.", "self_attn.qkv_proj"),
    "norm": ("layers.1.input_layernorm",),
    "text expert": ("layers.2.moe.experts.0.down_proj",),
    "action expert": ("layers.0.moe.experts.1.down_proj",),
    "action head": ("action_preprocessor.w2",),
    "vision": ("visual.blocks.3.attn.proj.bias",),
    "patches": ("visual.patch_embed",),
}

Change = Callable[[dict[str, torch.Tensor], str], object]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An unbroken checkpoint of every kind; do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: write_checkpoint(folder / name, recipe) for name, recipe in RECIPES.items()}


@pytest.fixture(params=RECIPES)
def folder(request: pytest.FixtureRequest, whole: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of one that a test may break; its name is the kind's."""
    return Path(shutil.copytree(whole[request.param], tmp_path / request.param))


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", kinds, indirect=True)


def refused(folder: Path, *words: str, **arguments: object) -> str:
    """Loading fails with one line that holds all words; anything but a UserError fails the test."""
    with pytest.raises(UserError) as caught:
        load_policy(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message, message
    return message


def home(folder: Path) -> Path:
    """Where tokenizer, image settings and network configuration lie."""
    return folder / "base" if (folder / "base").is_dir() else folder


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a file into memory; a mapped one may not be written over."""
    return load(path.read_bytes())


def one_of(tensors: dict[str, torch.Tensor], parts: tuple[str, ...]) -> str:
    return next(name for name in sorted(tensors) for part in parts if part in name)


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def plain(folder: Path, name: str) -> str:
    return name.removeprefix("model.") if folder.name == "lerobot" else name


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_unbroken_ones_load(whole: dict[str, Path]) -> None:
    """Otherwise every refusal below would prove nothing."""
    for path in whole.values():
        load_policy(path)


class TestFiles:
    """The file of tensors itself."""

    @pytest.mark.parametrize("kept", [0, 5, 8, 100, "header", "half", "last"])
    def test_truncated(self, folder: Path, kept: int | str) -> None:
        path = folder / WEIGHTS
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        end = {"header": header, "half": (header + len(data)) // 2, "last": len(data) - 1}
        path.write_bytes(data[: end.get(kept, kept)])
        refused(folder, WEIGHTS, "cannot be read")

    def test_longer_than_it_says(self, folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(path.read_bytes() + b"\0")
        refused(folder, WEIGHTS, "cannot be read")

    @pytest.mark.parametrize("start", [b"\xff" * 8, b"\x10" + b"\0" * 7 + b"{not json at all}"])
    def test_a_header_that_is_none(self, folder: Path, start: bytes) -> None:
        path = folder / WEIGHTS
        path.write_bytes(start + path.read_bytes()[len(start) :])
        refused(folder, WEIGHTS, "cannot be read")

    def test_a_missing_file(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        refused(folder, WEIGHTS, "missing")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
    def test_a_pickle_in_its_place(self, folder: Path, name: str, tmp_path: Path) -> None:
        trap = tmp_path / "ran"

        class Trap:
            def __reduce__(self) -> tuple:
                return (Path.touch, (trap,))

        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap()))
        refused(folder, name, "pickle")
        assert not trap.exists()

    def test_a_pickle_under_its_name(self, folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / WEIGHTS)
        refused(folder, WEIGHTS, "cannot be read")

    def test_a_folder_under_its_name(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).mkdir()
        refused(folder, WEIGHTS)

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("wall05"), shard_bytes=400_000)
        shard = sorted(folder.glob("model-*"))[1]
        shard.unlink()
        refused(folder, shard.name, "missing")

    def test_a_shard_of_another_checkpoint(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("wall05"), shard_bytes=400_000)
        one, other = sorted(folder.glob("model-*"))[:2]
        shutil.copy(one, other)
        refused(folder, "model.safetensors.index.json", "does not match")

    def test_a_damaged_index(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "x", Recipe("flow"), shard_bytes=700_000)
        (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
        refused(folder, "model.safetensors.index.json", "weight_map")


class TestTensors:
    """Single tensors of every part of the network."""

    @pytest.mark.parametrize("group", GROUPS)
    def test_not_finite(self, folder: Path, group: str) -> None:
        names: list[str] = []
        value = (torch.nan, torch.inf, -torch.inf)[list(GROUPS).index(group) % 3]

        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            names.append(one_of(tensors, GROUPS[group]))
            tensors[names[0]].view(-1)[-1] = value

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, "not finite", plain(folder, names[0]))

    @pytest.mark.parametrize(
        ("title", "change"),
        [
            ("missing", lambda t, n: t.pop(n)),
            ("unexpected", lambda t, n: t.update({f"{n}.1": t[n].clone()})),
            ("missing", lambda t, n: t.update({f"{n}_old": t.pop(n)})),
            ("wrong shape", lambda t, n: t.update({n: t[n][..., :-1].clone()})),
            ("wrong shape", lambda t, n: t.update({n: t[n].unsqueeze(0)})),
            ("wrong shape", lambda t, n: t.update({n: t[n].flatten()[0].clone()})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.int8)})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.int64)})),
            ("not implemented", lambda t, n: t.update({n: t[n] > 0})),
            ("not implemented", lambda t, n: t.update({n: t[n].to(torch.float8_e4m3fn)})),
        ],
    )
    @pytest.mark.parametrize("group", ["attention", "action expert", "vision", "action head"])
    def test_not_what_the_configuration_says(
        self, folder: Path, group: str, title: str, change: Change
    ) -> None:
        names: list[str] = []

        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            names.append(one_of(tensors, GROUPS[group]))
            change(tensors, names[0])

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, title, plain(folder, names[0]))

    def test_two_halves_of_the_tied_matrix_that_differ(self, folder: Path) -> None:
        def spoil(tensors: dict[str, torch.Tensor]) -> None:
            name = one_of(tensors, EMBEDDINGS)
            prefix = "model." if folder.name == "lerobot" else ""
            for other in ("lm_head.weight", "model.embed_tokens.weight"):
                tensors[prefix + other] = tensors[name].clone()
            tensors[prefix + "lm_head.weight"][3, 3] += 1.0

        edit_tensors(folder, spoil)
        refused(folder, WEIGHTS, "lm_head.weight", "differs")

    def test_names_of_another_layout(self, folder: Path) -> None:
        def rename(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                other = f"model.{name}" if folder.name != "lerobot" else plain(folder, name)
                tensors[other] = tensors.pop(name)

        edit_tensors(folder, rename)
        message = refused(folder, WEIGHTS, "missing", "unexpected")
        assert message.count("visual.blocks.0.norm1.weight") == 2

    @pytest.mark.parametrize("other", ["flow", "lerobot", "wall05"])
    def test_weights_of_another_layout(
        self, folder: Path, other: str, whole: dict[str, Path]
    ) -> None:
        if (folder.name, other) in SAME_TENSORS:
            pytest.skip("the same tensors")
        shutil.copy(whole[other] / WEIGHTS, folder / WEIGHTS)
        refused(folder)

    def test_fewer_embeddings_than_tokens(self, folder: Path) -> None:
        def cut(tensors: dict[str, torch.Tensor]) -> None:
            name = one_of(tensors, EMBEDDINGS)
            tensors[name] = tensors[name][:-1].clone()

        edit_tensors(folder, cut)
        refused(folder, "tokenizer.json", "embeddings")


class TestTokenizer:
    """The tokenizer, wherever the layout keeps it."""

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\0"])
    def test_damaged(self, folder: Path, content: str) -> None:
        (home(folder) / "tokenizer.json").write_text(content)
        refused(folder, "tokenizer.json", "cannot be read")

    def test_missing(self, folder: Path) -> None:
        (home(folder) / "tokenizer.json").unlink()
        refused(folder, "tokenizer.json")

    @pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    def test_without_a_special_token(self, folder: Path, token: str) -> None:
        path = home(folder) / "tokenizer.json"
        path.write_text(path.read_text().replace(token, token.replace("<|", "<|my_")))
        refused(folder, "tokenizer.json", token)

    @only("flow", "flow-fused", "fast", "lerobot")
    @pytest.mark.parametrize("token", ["<|propri|>", "<|action|>"])
    def test_without_a_token_of_wall(self, folder: Path, token: str) -> None:
        path = home(folder) / "tokenizer.json"
        path.write_text(path.read_text().replace(token, "<|other|>"))
        refused(folder, "tokenizer.json", token)

    @only("wall05", "lerobot05")
    def test_with_one_of_two_tokens(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace("<|video_pad|>", "<|action|>"))
        refused(folder, "tokenizer.json")

    def test_of_another_model(self, folder: Path) -> None:
        """The same words under other numbers: what the embeddings mean is lost."""
        path = home(folder) / "tokenizer.json"
        content = json.loads(path.read_text())
        ids = {token["content"]: token for token in content["added_tokens"]}
        one, other = ids["<|image_pad|>"], ids["<|vision_end|>"]
        one["content"], other["content"] = other["content"], one["content"]
        path.write_text(json.dumps(content))
        refused(folder, "tokenizer.json", "another model's")

    def test_with_more_tokens_than_embeddings(self, folder: Path) -> None:
        path = home(folder) / "tokenizer.json"
        content = json.loads(path.read_text())
        last = content["added_tokens"][-1]
        extra = [{**last, "content": f"<|x{i}|>", "id": last["id"] + i} for i in range(1, 9)]
        content["added_tokens"] += extra
        path.write_text(json.dumps(content))
        refused(folder, "tokenizer.json", "embeddings")

    @only("fast")
    def test_action_tokens_that_are_not_those_of_the_codec(self, folder: Path) -> None:
        path = folder / "action_tokenizer" / "processor_config.json"
        edit_json(path, lambda c: c.update(vocab_size=600))
        refused(folder, "512", "600")
        path.unlink()
        refused(folder, "action_tokenizer", "processor_config.json")
        shutil.rmtree(path.parent)
        refused(folder, "action_tokenizer", "missing")


class TestStatistics:
    """What turns the model's numbers into angles and back."""

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    @pytest.mark.parametrize("kind", ["min", "delta"])
    def test_of_wallx(self, folder: Path, feature: str, kind: str) -> None:
        whole = load_file(folder / WEIGHTS)
        name = one_of(whole, (f"normalizer_{feature}.{kind}.",))
        for change, words in (
            (lambda t: t.pop(name), (kind, feature)),
            (lambda t: t[name].fill_(torch.nan), (name, "not finite")),
            (lambda t: t.update({name: t[name][:-1].clone()}), ("differ in size", feature)),
        ):
            edit_tensors(folder, change)
            refused(folder, *words)
            save_file(whole, folder / WEIGHTS)

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_of_wallx_upside_down(self, folder: Path, feature: str) -> None:
        def turn(tensors: dict[str, torch.Tensor]) -> None:
            tensors[one_of(tensors, (f"normalizer_{feature}.delta.",))][2] = -1.0

        edit_tensors(folder, turn)
        refused(folder, f"delta of {feature} is below 0 in column 2")

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_of_wallx_with_another_width(self, folder: Path, feature: str) -> None:
        def cut(tensors: dict[str, torch.Tensor]) -> None:
            for name in [name for name in tensors if f"normalizer_{feature}" in name]:
                tensors[name] = tensors[name][:4].clone()

        edit_tensors(folder, cut)
        words = {"action": "action", "propri": "state"}
        refused(folder, f"statistics of the {words[feature]} have 4 columns")

    @only("wall05-pth")
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_pickled(self, folder: Path, feature: str) -> None:
        path = folder / f"normalizer_{feature}.pth"
        good = torch.load(path, weights_only=True)
        key = "delta.so101_sim"
        for content, words in (
            ({k: v for k, v in good.items() if k != key}, f"delta of {feature}"),
            ({**good, key: torch.full((26,), torch.nan)}, f"{key} is not finite"),
            ({**good, key: -good[key]}, f"delta of {feature} is below 0"),
            ({**good, key: good[key][:3]}, "differ in size"),
            ({**good, "scale.so101_sim": good[key]}, "scale.so101_sim"),
            (good[key], "tensors by name"),
        ):
            torch.save(content, path)
            refused(folder, words)
        path.write_bytes(path.read_bytes()[:-50])
        refused(folder, path.name)
        path.unlink()
        refused(folder, path.name, "missing")

    @only(*LEROBOT)
    @pytest.mark.parametrize("feature", ["observation.state", "action"])
    def test_of_lerobot(self, folder: Path, feature: str) -> None:
        names = ("mean", "std") if folder.name == "lerobot" else ("q01", "q99")
        step = "unnormalizer" if feature == "action" else "step_*_normalizer"
        path = next(iter(folder.glob(f"policy_*processor_*{step}_processor.safetensors")))
        whole = load_file(path)
        for name in names:
            key = f"{feature}.{name}"
            rest = {k: v for k, v in whole.items() if k != key}
            bad = whole[key].clone()
            bad[1] = torch.nan
            for tensors, words in (
                (rest, f"{name} is missing"),
                ({**rest, key: bad}, f"{key} is not finite"),
                ({**rest, key: whole[key][:-1].clone()}, f"{feature}."),
                ({**rest, key: whole[key][None]}, key),
            ):
                save_file(tensors, path)
                refused(folder, path.name, words)
        save_file(whole, path)
        load_policy(folder)
        path.write_bytes(path.read_bytes()[:-3])
        refused(folder, path.name, "cannot be read")
        path.unlink()
        refused(folder, path.name)

    @only(*LEROBOT)
    def test_of_lerobot_upside_down(self, folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            if path.name != WEIGHTS:
                tensors = load_file(path)
                for feature in ("observation.state", "action"):
                    tensors[f"{feature}.std"][1] = -1.0
                    tensors[f"{feature}.q99"][1] = tensors[f"{feature}.q01"][1] - 1.0
                save_file(tensors, path)
        refused(folder, "observation.state.", "in column 1")

    @only("lerobot")
    def test_a_state_that_never_moved(self, folder: Path) -> None:
        """Any reading besides the one of training would become a number of millions."""
        path = next(iter(folder.glob("policy_preprocessor_*.safetensors")))
        tensors = load_file(path)
        tensors["observation.state.std"][4] = 0.0
        save_file(tensors, path)
        refused(folder, path.name, "observation.state.std", "column 4")

    @only("lerobot")
    def test_an_action_that_never_moved_is_a_constant(self, folder: Path) -> None:
        path = next(iter(folder.glob("policy_postprocessor_*.safetensors")))
        tensors = load_file(path)
        tensors["action.std"][4] = 0.0
        save_file(tensors, path)
        load_policy(folder)
        tensors["action.std"][4] = -1.0
        save_file(tensors, path)
        refused(folder, path.name, "action.std", "column 4")

    @only(*LEROBOT)
    @pytest.mark.parametrize("which", ["pre", "post"])
    def test_processors(self, folder: Path, which: str) -> None:
        path = folder / f"policy_{which}processor.json"
        text = path.read_text()
        kind = "STATE" if which == "pre" else "ACTION"

        def norm(content: dict) -> dict:
            return next(s for s in content["steps"] if "normalizer" in s["registry_name"])

        changes: list[tuple[Callable[[dict], object], str]] = [
            (lambda c: norm(c)["config"]["norm_map"].pop(kind), f"nothing of {kind}"),
            (lambda c: norm(c)["config"].pop("norm_map"), f"nothing of {kind}"),
            (lambda c: norm(c)["config"]["norm_map"].update({kind: "Z_SCORE"}), "Z_SCORE"),
            (lambda c: norm(c).update(state_file="../s.safetensors"), "must lie in the folder"),
            (lambda c: norm(c).pop("state_file"), "is missing"),
            (lambda c: c["steps"].remove(norm(c)), "normalizer_processor"),
            (lambda c: c["steps"].append(norm(c)), "twice"),
            (lambda c: norm(c).update(registry_name="my_own_step"), "my_own_step"),
        ]
        for change, words in changes:
            edit_json(path, change)
            refused(folder, words)
            path.write_text(text)
        path.unlink()
        refused(folder, path.name, "missing")

    @only("lerobot05")
    def test_a_clamp_before_the_normaliser(self, folder: Path) -> None:
        path = folder / "policy_preprocessor.json"
        edit_json(path, lambda c: c["steps"].insert(0, c["steps"].pop(6)))
        refused(folder, path.name, "wall_oss_05_clamp_normalized", "order")


class TestConfiguration:
    """The configuration against the tensors, and against what is implemented."""

    def network(self, folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the network's configuration, wherever the layout keeps it."""
        path = home(folder) / "config.json"
        edit_json(path, lambda c: change(c.get("vlm_config", c)))

    @pytest.mark.parametrize(
        "change",
        [
            {"num_hidden_layers": 2},
            {"num_hidden_layers": 4},
            {"num_key_value_heads": 4},
            {"dof": 3},
            {"inner": 1},
            {"depth": 3},
            {"vision": {"hidden_size": 32}},
            {"vision": {"out_hidden_size": 32}},
        ],
    )
    def test_another_shape(self, folder: Path, change: dict[str, Any]) -> None:
        def apply(content: dict[str, Any]) -> None:
            if "inner" in change:
                content["experts"][1]["intermediate_size"] += 1
            elif "depth" in change:
                content["vision_config"].update(depth=3, fullatt_block_indexes=[1])
            elif "vision" in change:
                content["vision_config"].update(change["vision"])
            elif "dof" not in change:
                content.update(change)

        self.network(folder, apply)
        if "dof" in change:
            if folder.name in LEROBOT:
                edit_json(folder / "config.json", lambda c: c.update(max_action_dim=19))
            elif (folder / "config.yml").is_file():
                (folder / "config.yml").write_text("dof_config: {arm: 6}\ndata: {state_bins: 256}")
            else:
                self.network(folder, lambda c: c["dof_config"].popitem())
        refused(folder, WEIGHTS, "does not match its configuration")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("num_experts", 3),
            ("use_adarms", True),
            ("use_x_pred", True),
            ("use_flow_action_expert", False),
            ("proj_with_mask", False),
            ("use_sliding_window", True),
            ("tie_word_embeddings", False),
            ("hidden_act", "gelu"),
            ("mlp_moe", False),
            ("gated_attention", True),
            ("adarms_cond_dim", 1024),
            ("model_type", "qwen3_5"),
            ("dim_inputs", [64, 16]),
            ("head_dim", 32),
        ],
    )
    def test_a_flag_of_the_network(self, folder: Path, flag: str, value: object) -> None:
        self.network(folder, lambda c: c.update({flag: value}))
        refused(folder, "config.json", flag, "not implemented")

    @only("flow", "lerobot", "wall05", "lerobot05")
    @pytest.mark.parametrize("flag", ["attention_moe", "norm_moe", "mot_opt"])
    def test_half_a_mixture(self, folder: Path, flag: str) -> None:
        new = "05" in folder.name
        self.network(folder, lambda c: c.update({flag: not new}))
        refused(folder, "config.json", flag, "not implemented")

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("depth", 0, "vision_config.depth must be a positive whole number"),
            ("num_heads", 3, "vision_config.num_heads = 3 does not divide"),
            ("fullatt_block_indexes", [9], "names block 9 of 4"),
            ("window_size", 100, "window_size = 100"),
            ("hidden_act", "relu", "hidden_act"),
            ("deepstack", [1], "vision_config.deepstack"),
            ("patch_size", 28, "preprocessor_config.json has patches of (14, 2, 2)"),
        ],
    )
    def test_the_vision_tower(self, folder: Path, key: str, value: object, words: str) -> None:
        self.network(folder, lambda c: c["vision_config"].update({key: value}))
        refused(folder, words)

    @only(*LEROBOT)
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("n_obs_steps", 2),
            ("use_peft", True),
            ("use_amp", True),
            ("attn_implementation", "flash_attention_2"),
            ("use_rtc", True),
            ("type", "pi05"),
        ],
    )
    def test_a_flag_of_the_policy(self, folder: Path, key: str, value: object) -> None:
        edit_json(folder / "config.json", lambda c: c.update({key: value}))
        refused(folder, "config.json", "not implemented")

    @pytest.mark.parametrize("other", ["flow", "lerobot", "wall05", "lerobot05"])
    def test_the_configuration_of_another_layout(
        self, folder: Path, other: str, whole: dict[str, Path]
    ) -> None:
        if folder.name.split("-")[0] in (other, other.replace("flow", "fast")):
            pytest.skip("its own")
        shutil.copy(whole[other] / "config.json", folder / "config.json")
        refused(folder)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    @pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"a": NaN'])
    def test_no_object(self, folder: Path, name: str, content: str) -> None:
        (home(folder) / name).write_text(content)
        refused(folder, name)

    def test_a_contract_of_another_checkpoint(self, folder: Path) -> None:
        path = folder / "contract.yaml"
        if not path.is_file():
            pytest.skip("it has none")
        path.write_text(path.read_text().replace("wrist_view", "top_view"))
        if folder.name in LEROBOT or "wall05" in folder.name:
            refused(folder, "contract.yaml", "config.json", "cameras")
        path.write_text("cameras: none")
        refused(folder, "contract.yaml")


def nodes(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to everything in a JSON object."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from nodes(value, (*path, key))


def test_odd_values_anywhere_load_or_are_refused(folder: Path) -> None:
    """Whatever stands in a JSON file, nothing but a UserError of one line comes out."""
    generator = random.Random(folder.name)
    files = [path for path in folder.rglob("*.json") if path.name != "tokenizer.json"]
    tried = {UserError: 0, None: 0}
    for _ in range(25):
        path = generator.choice(files)
        text = path.read_text()
        content = json.loads(text)
        *way, key = generator.choice(list(nodes(content)))
        inner = content
        for step in way:
            inner = inner[step]
        inner[key] = generator.choice([None, "x", -1, 0, 1.5, [], {}, True, [1], {"a": "b"}])
        path.write_text(json.dumps(content))
        try:
            load_policy(folder)
            tried[None] += 1
        except UserError as error:
            assert "\n" not in str(error)
            tried[UserError] += 1
        path.write_text(text)
    assert tried[UserError] > 2
