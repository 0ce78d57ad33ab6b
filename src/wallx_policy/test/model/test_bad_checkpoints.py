"""Every kind of broken checkpoint is refused in one sentence that names the file and the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.model import load_policy


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(folder: Path, *words: str, **arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "not a folder")


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    refused(tmp_path, "config.json", "missing")


def test_a_configuration_that_is_no_json(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "config.json").write_text("{")
    refused(changed_checkpoint, "config.json", "JSON")


def test_missing_weights(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "model.safetensors").unlink()
    refused(changed_checkpoint, "model.safetensors", "missing")


def test_a_pickle_is_never_read(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "model.safetensors").unlink()
    (changed_checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(changed_checkpoint, "pytorch_model.bin", "pickle")


def test_truncated_weights(changed_checkpoint: Path) -> None:
    path = changed_checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(changed_checkpoint, "model.safetensors", "cannot be read")


def test_weights_that_are_noise(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    refused(changed_checkpoint, "model.safetensors", "cannot be read")


def test_a_renamed_tensor_is_missing_and_unexpected(changed_checkpoint: Path) -> None:
    name, other = "model.layers.1.self_attn.o_proj.weight", "model.layers.1.self_attn.out.weight"
    edit_tensors(changed_checkpoint, lambda t: t.update({other: t.pop(name)}))
    message = refused(changed_checkpoint, "model.safetensors", name, other)
    assert message.index("missing") < message.index(name) < message.index("unexpected")


def test_every_missing_tensor_is_listed(changed_checkpoint: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers.2." in name]:
            del tensors[name]

    edit_tensors(changed_checkpoint, drop)
    assert refused(changed_checkpoint, "missing").count(".layers.2.") == 15


def test_a_wrong_shape(changed_checkpoint: Path) -> None:
    name = "action_preprocessor.w3.weight"
    edit_tensors(changed_checkpoint, lambda t: t.update({name: torch.zeros(64, 63)}))
    refused(changed_checkpoint, name, "[64, 63]", "[64, 64]")


def test_action_columns_that_the_configuration_does_not_have(changed_checkpoint: Path) -> None:
    edit_json(changed_checkpoint / "config.json", dof_config={"follow_left_arm_joint_pos": 5})
    refused(changed_checkpoint, "action_preprocessor.action_proj_back.weight is [6, 64], not [5")


def test_every_tensor_that_is_not_finite_is_listed(changed_checkpoint: Path) -> None:
    names = ("visual.blocks.0.norm1.weight", "action_preprocessor.w1.weight")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[names[0]][3] = torch.nan
        tensors[names[1]][0, 0] = torch.inf

    edit_tensors(changed_checkpoint, spoil)
    refused(changed_checkpoint, "not finite", *names)


def test_statistics_that_are_not_finite(changed_checkpoint: Path) -> None:
    name = "action_preprocessor.normalizer_action.min.so101_sim"
    edit_tensors(changed_checkpoint, lambda t: t[name].fill_(torch.nan))
    refused(changed_checkpoint, "not finite", name)


def test_half_of_the_statistics(changed_checkpoint: Path) -> None:
    name = "action_preprocessor.normalizer_propri.delta.so101_sim"
    edit_tensors(changed_checkpoint, lambda t: t.pop(name))
    refused(changed_checkpoint, "so101_sim", "delta of propri")


def test_several_statistics_need_a_name(changed_checkpoint: Path) -> None:
    def copy(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "normalizer" in name]:
            tensors[name.replace("so101_sim", "other")] = tensors[name].clone()

    edit_tensors(changed_checkpoint, copy)
    refused(changed_checkpoint, "norm_key", "other", "so101_sim")
    refused(changed_checkpoint, "'third'", norm_key="third")
    assert "of other" in load_policy(changed_checkpoint, norm_key="other").description


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("num_experts", 3),
        ("use_adarms", True),
        ("use_x_pred", True),
        ("mlp_moe", False),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("dim_inputs", [64, 32]),
    ],
)
def test_a_flag_that_is_not_implemented_is_named(
    changed_checkpoint: Path, flag: str, value: object
) -> None:
    edit_json(changed_checkpoint / "config.json", **{flag: value})
    refused(changed_checkpoint, "config.json", flag, "not implemented")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen3_5"}, ("qwen3_5", "not implemented")),
        ({"attention_moe": True}, ("attention_moe", "norm_moe", "not implemented")),
        ({"type": "wall_oss_05"}, ("vlm_config",)),
        ({"type": "pi0"}, ("pi0", "not implemented")),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, ("rope_scaling",)),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 4]}}, ("mrope_section",)),
        ({"hidden_size": "wide"}, ("config.json", "wide")),
    ],
)
def test_other_models_are_named(
    changed_checkpoint: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    edit_json(changed_checkpoint / "config.json", **changes)
    refused(changed_checkpoint, *words)


def test_an_ordinary_vision_language_model(changed_checkpoint: Path) -> None:
    path = changed_checkpoint / "config.json"
    content = json.loads(path.read_text())
    del content["num_experts"], content["dof_config"]
    path.write_text(json.dumps(content))
    refused(changed_checkpoint, "no WALL-OSS checkpoint")


def test_a_missing_tokenizer(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "tokenizer.json").unlink()
    refused(changed_checkpoint, "tokenizer.json", "missing")


def test_a_damaged_tokenizer(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "tokenizer.json").write_text("{}")
    refused(changed_checkpoint, "tokenizer.json", "cannot be read")


def test_a_tokenizer_without_action_tokens(changed_checkpoint: Path) -> None:
    path = changed_checkpoint / "tokenizer.json"
    path.write_text(path.read_text().replace("<|action|>", "<|act|>"))
    refused(changed_checkpoint, "tokenizer.json", "<|action|>")


def test_a_tokenizer_with_more_tokens_than_embeddings(changed_checkpoint: Path) -> None:
    name = "model.embed_tokens.weight"
    edit_tensors(changed_checkpoint, lambda t: t.update({name: t[name][:-1].clone()}))
    refused(changed_checkpoint, "tokenizer.json", "embeddings")


def test_a_tokenizer_with_other_numbers(changed_checkpoint: Path) -> None:
    edit_json(changed_checkpoint / "config.json", image_token_id=3)
    refused(changed_checkpoint, "tokenizer.json", "<|image_pad|>", "another model's")
    # A token that no prompt needs may be missing.
    edit_json(changed_checkpoint / "config.json", image_token_id=None, video_token_id=3)
    path = changed_checkpoint / "tokenizer.json"
    path.write_text(path.read_text().replace("<|video_pad|>", "<|film_pad|>"))
    load_policy(changed_checkpoint)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 16}, ("patch_size", "(16, 2, 2)", "(14, 2, 2)")),
        ({"do_normalize": False}, ("do_normalize", "not implemented")),
        ({"resample": 2}, ("resample", "not implemented")),
        ({"rescale_factor": 1.0}, ("rescale_factor", "1/255")),
    ],
)
def test_images_prepared_in_another_way(
    changed_checkpoint: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    edit_json(changed_checkpoint / "preprocessor_config.json", **changes)
    refused(changed_checkpoint, "preprocessor_config.json", *words)


def test_missing_image_settings(changed_checkpoint: Path) -> None:
    path = changed_checkpoint / "preprocessor_config.json"
    edit_json(path, patch_size=None)
    path.write_text(path.read_text().replace('"patch_size"', '"patch"'))
    refused(changed_checkpoint, "preprocessor_config.json", "patch_size")
    path.unlink()
    refused(changed_checkpoint, "preprocessor_config.json", "missing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "float16"}, ("dtype", "float16")),
        ({"action_attention": "full"}, ("action_attention", "island, causal")),
        ({"resize": "opencv"}, ("resize", "pil, torchvision, mixed")),
        ({"rotary": "f8"}, ("rotary", "exact, bf16")),
        ({"num_steps": 0}, ("num_steps", "0")),
        ({"end_time": 0.0}, ("end_time", "above 0")),
        ({"end_time": 1.01}, ("end_time", "1.01")),
        ({"inactive_columns": "none"}, ("inactive_columns", "model, zero")),
        ({"normalization": "l2"}, ("normalization", "min_delta, mean_std")),
        ({"normalization": "quantiles"}, ("normalization quantiles", "min and delta only")),
        ({"state_encoding": "digits"}, ("state_encoding", "token, text")),
        ({"state_encoding": "text"}, ("state_bins",)),
        ({"prediction_mode": "slow"}, ("prediction_mode", "flow, fast")),
        ({"horizon": 0}, ("horizon", "0")),
        ({"action_dim": 7}, ("action_dim", "7", "6")),
        ({"cameras": ["face_view", "face_view"]}, ("twice", "face_view")),
        ({"state_bins": 256}, ("state_bins",)),
        ({"base": "somewhere"}, ("base",)),
        ({"device": "cuda:77"}, ("cuda:77",)),
    ],
)
def test_a_bad_argument_is_named(
    random_checkpoint: Path, arguments: dict[str, object], words: tuple[str, ...]
) -> None:
    refused(random_checkpoint, *words, **arguments)


def test_views_must_be_known(changed_checkpoint: Path) -> None:
    (changed_checkpoint / "contract.yaml").unlink()
    refused(changed_checkpoint, "cameras")
    load_policy(changed_checkpoint, cameras=["face_view", "wrist_view"])


class TestLeRobotFolders:
    """LeRobot's loader goes on where these are refused."""

    @pytest.fixture
    def folder(self, references: Path, tmp_path: Path) -> Path:
        copy = shutil.copytree(references / "lerobot_wall_x", tmp_path / "policy")
        base = copy / "base"
        base.mkdir()
        for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
            shutil.copy(references / "tiny_wallx" / name, base)
        return Path(copy)

    def test_the_base_may_lie_in_the_folder(self, folder: Path) -> None:
        assert load_policy(folder).settings.action_dim == 6

    def test_without_a_base_it_says_which_files_to_copy(self, folder: Path) -> None:
        shutil.rmtree(folder / "base")
        refused(folder, "tokenizer.json", "preprocessor_config.json", "base")

    def test_missing_statistics(self, folder: Path) -> None:
        path = folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
        tensors = load_file(path)
        del tensors["action.std"]
        save_file(tensors, path)
        refused(folder, "action", "MEAN_STD", "std")

    def test_a_missing_processor(self, folder: Path) -> None:
        (folder / "policy_preprocessor.json").unlink()
        refused(folder, "policy_preprocessor.json", "missing")

    def test_an_unknown_processor_step(self, folder: Path) -> None:
        path = folder / "policy_preprocessor.json"
        path.write_text(path.read_text().replace("wall_x_task_processor", "delta_processor"))
        refused(folder, "delta_processor", "not implemented")

    def test_a_processor_step_that_stands_there_twice(self, folder: Path) -> None:
        path = folder / "policy_preprocessor.json"
        steps = json.loads(path.read_text())["steps"]
        edit_json(path, steps=[*steps, steps[3]])
        refused(folder, "normalizer_processor", "twice")

    def test_fast_mode(self, folder: Path) -> None:
        edit_json(folder / "config.json", prediction_mode="fast")
        refused(folder, "FAST", "action_tokenizer", "tokenizer.json and processor_config.json")

    def test_a_tensor_without_the_prefix(self, folder: Path) -> None:
        edit_tensors(folder, lambda t: t.update({"step": torch.zeros(1)}))
        refused(folder, "unexpected", "step")

    def test_a_key_of_statistics_makes_no_sense(self, folder: Path) -> None:
        refused(folder, "norm_key", norm_key="x2_normal")
