"""What is wrong with a wall-oss-0.5 checkpoint is said in one sentence, by file and key."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.model import load_policy
from wallx_policy.model.normalizer_files import CONVERTED, read_normalizers

VIEWS = ("face_view", "right_wrist_view")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, path)


def refused(folder: Path, *words: str, **arguments: object) -> str:
    taken = {"cameras": VIEWS, "state_bins": 512, **arguments}
    with pytest.raises(UserError) as caught:
        load_policy(folder, **taken)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def test_bins_that_nobody_names(wall05: Path) -> None:
    refused(wall05, "state_bins", "config.yml", state_bins=None)
    edit_json(wall05 / "config.json", state_bins=200)
    policy = load_policy(wall05, cameras=VIEWS)
    assert "state as text in 200 bins" in policy.description
    edit_json(wall05 / "config.json", state_bins=True)
    refused(wall05, "state_bins", "whole number")


def test_every_missing_tensor_is_listed_by_the_name_it_would_have(wall05: Path) -> None:
    names = [
        "model.layers.1.moe.experts.0.gate_up_proj.weight",
        "model.layers.1.self_attn.qkv_proj_experts.1.bias",
        "model.norms.1.weight",
        "visual.blocks.2.mlp.up_proj.bias",
    ]
    edit_tensors(wall05, **dict.fromkeys(names))
    message = refused(wall05, "missing", *names)
    assert "moe.experts.0.gate_proj" not in message


def test_tensors_of_the_other_mixture_are_unexpected(wall05: Path) -> None:
    extra = "model.layers.0.input_layernorm.weight"
    edit_tensors(wall05, **{extra: torch.ones(64)})
    refused(wall05, "unexpected", extra)


def test_an_expert_of_another_width(wall05: Path) -> None:
    config = json.loads((wall05 / "config.json").read_text())
    config["experts"][1]["hidden_size"] = 48
    edit_json(wall05 / "config.json", experts=config["experts"], dim_inputs=[64, 48])
    refused(wall05, "action_hidden_size = 32", "48")
    edit_json(wall05 / "config.json", action_hidden_size=48)
    refused(wall05, "model.norms.1.weight is [32], not [48]", "qkv_proj_experts.1.weight is")


def test_an_integer_tensor(wall05: Path) -> None:
    name = "model.norms.0.weight"
    edit_tensors(wall05, **{name: torch.ones(64, dtype=torch.int8)})
    refused(wall05, name, "I8", "not implemented")


def test_a_state_token_of_another_width(wall05: Path) -> None:
    name = "action_preprocessor.propri_proj.weight"
    edit_tensors(wall05, **{name: torch.zeros(32, 52)})
    refused(wall05, f"{name} is [32, 52], not [64, 52]")
    edit_tensors(wall05, **{name: torch.zeros(64, 51)})
    refused(wall05, f"{name} is [64, 51], not [64, 50]")


def test_an_output_layer_of_its_own(wall05: Path) -> None:
    embedding = load_file(wall05 / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(wall05, **{"lm_head.weight": embedding.clone()})
    load_policy(wall05, cameras=VIEWS, state_bins=512)
    edit_tensors(wall05, **{"lm_head.weight": embedding + 1e-3})
    refused(wall05, "lm_head.weight", "model.embed_tokens.weight", "not implemented")
    edit_tensors(wall05, **{"lm_head.weight": embedding[:-1].clone()})
    refused(wall05, "lm_head.weight is [471, 64], not [472, 64]")


def test_the_embedding_may_have_its_other_name_only(wall05: Path) -> None:
    """The tied matrix has two names, and save functions drop either."""
    embedding = load_file(wall05 / "model.safetensors")["model.embed_tokens.weight"]
    names = {"lm_head.weight": embedding, "model.embed_tokens.weight": None}
    before = load_policy(wall05, cameras=VIEWS, state_bins=512).model.network
    edit_tensors(wall05, **names)
    after = load_policy(wall05, cameras=VIEWS, state_bins=512).model.network
    ids = torch.arange(20)
    assert torch.equal(before.token_embeddings(ids), after.token_embeddings(ids))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_adarms": True}, ("use_adarms", "not implemented")),
        ({"use_x_pred": True}, ("use_x_pred", "not implemented")),
        ({"proj_with_mask": False}, ("proj_with_mask", "not implemented")),
        ({"use_flow_action_expert": False}, ("use_flow_action_expert", "not implemented")),
        ({"tie_word_embeddings": False}, ("tie_word_embeddings", "not implemented")),
        ({"norm_moe": False}, ("norm_moe", "not implemented")),
        ({"state_hidden_size": 32}, ("state_hidden_size", "not implemented")),
        ({"gated_attention": True}, ("gated_attention = True", "not implemented")),
        ({"noise_scheduler": {"time_shift": 2}}, ("noise_scheduler.time_shift", "not impl")),
        ({"noise_scheduler": {"solver": "heun"}}, ("noise_scheduler.solver", "not impl")),
        ({"use_state_string_representation": False}, ("propri_proj.weight", "missing")),
        ({"experts": [{"hidden_size": 64}]}, ("config.json", "experts", "a list of 2")),
        ({"experts": [{"hidden_size": 64}] * 2}, ("experts[0].intermediate_size is missing",)),
    ],
)
def test_what_is_not_implemented_is_named(
    wall05: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    edit_json(wall05 / "config.json", **changes)
    refused(wall05, *words)


def test_a_flag_of_the_vision_tower(wall05: Path) -> None:
    vision = json.loads((wall05 / "config.json").read_text())["vision_config"]
    edit_json(wall05 / "config.json", vision_config={**vision, "deepstack": [1, 2]})
    refused(wall05, "vision_config.deepstack", "not implemented")


def test_flags_that_are_off_or_private_change_nothing(wall05: Path) -> None:
    off = {"new_flag": False, "new_size": None, "new_list": [], "_name_or_path": "somewhere"}
    edit_json(wall05 / "config.json", **off)
    load_policy(wall05, cameras=VIEWS, state_bins=512)


class TestTraining:
    """config.yml, which wall-x writes beside a checkpoint."""

    def test_another_system_prompt(self, wall05: Path) -> None:
        (wall05 / "config.yml").write_text("data: {use_embodied_system_prompt_ratio: 0.5}")
        refused(wall05, "config.yml", "use_embodied_system_prompt_ratio", "not implemented")

    def test_objects_are_not_built(self, wall05: Path) -> None:
        (wall05 / "config.yml").write_text("a: !!python/object/apply:os.getcwd []")
        refused(wall05, "config.yml", "plain YAML")

    def test_no_mapping(self, wall05: Path) -> None:
        (wall05 / "config.yml").write_text("- 1")
        refused(wall05, "config.yml", "mapping")

    def test_columns_that_the_weights_do_not_have(self, wall05: Path) -> None:
        (wall05 / "config.yml").write_text("dof_config: {arm: 6}")
        refused(wall05, "action_proj_back.weight is [26, 32], not [6, 32]")


class TestNormalizers:
    """The pickled files beside the weights."""

    def test_they_are_converted_once(self, wall05: Path) -> None:
        first = read_normalizers(wall05)
        written = (wall05 / CONVERTED).stat().st_mtime_ns
        again = read_normalizers(wall05)
        assert (wall05 / CONVERTED).stat().st_mtime_ns == written
        for path in wall05.glob("*.pth"):
            path.unlink()
        alone = read_normalizers(wall05)
        for key, tensor in first["x2_normal"].items():
            assert torch.equal(again["x2_normal"][key], tensor)
            assert torch.equal(alone["x2_normal"][key], tensor)

    def test_changed_files_are_converted_again(self, wall05: Path) -> None:
        read_normalizers(wall05)
        path = wall05 / "normalizer_action.pth"
        torch.save({"min.x2_normal": torch.zeros(26), "delta.x2_normal": torch.ones(26)}, path)
        assert float(read_normalizers(wall05)["x2_normal"]["action", "min"].abs().max()) == 0.0
        refused(wall05, "x2_normal", "differ", "normalizer_action.pth")

    def test_a_folder_that_is_read_only_stays_as_it_is(self, wall05: Path) -> None:
        wall05.chmod(0o555)
        assert read_normalizers(wall05)["x2_normal"]["propri", "delta"].shape == (26,)
        assert not (wall05 / CONVERTED).exists()
        wall05.chmod(0o755)

    def test_they_alone_are_enough(self, wall05: Path) -> None:
        tensors = load_file(wall05 / "model.safetensors")
        edit_tensors(wall05, **{name: None for name in tensors if "normalizer" in name})
        policy = load_policy(wall05, cameras=VIEWS, state_bins=512)
        assert "min and delta of x2_normal" in policy.description

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_code_in_them_is_not_run(self, wall05: Path, tmp_path: Path) -> None:
        trap = tmp_path / "ran"

        class Trap:
            def __reduce__(self) -> tuple:
                return (Path.touch, (trap,))

        (wall05 / "normalizer_action.pth").write_bytes(pickle.dumps(Trap()))
        refused(wall05, "normalizer_action.pth", "not read")
        torch.save({"min.x": Trap()}, wall05 / "normalizer_action.pth")
        refused(wall05, "normalizer_action.pth", "not read")
        assert not trap.exists()

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([1, 2], "tensors by name"),
            ({"mean.x2_normal": torch.zeros(26)}, "mean.x2_normal"),
            ({"min.x2_normal": 3.0}, "min.x2_normal"),
            ({"min.x2_normal": torch.full((26,), torch.nan)}, "not finite"),
        ],
    )
    def test_anything_else_in_them(self, wall05: Path, content: object, words: str) -> None:
        torch.save(content, wall05 / "normalizer_action.pth")
        refused(wall05, "normalizer_action.pth", words)

    def test_one_without_the_other(self, wall05: Path) -> None:
        (wall05 / "normalizer_propri.pth").unlink()
        refused(wall05, "normalizer_propri.pth", "missing")

    def test_none_at_all_and_columns_that_travel_to_zero(self, wall05: Path) -> None:
        tensors = load_file(wall05 / "model.safetensors")
        edit_tensors(wall05, **{name: None for name in tensors if "normalizer" in name})
        for path in wall05.glob("*.pth"):
            path.unlink()
        policy = load_policy(wall05, cameras=VIEWS, state_bins=512)
        assert not policy.has_statistics
        refused(wall05, "inactive_columns", action_dim=7)


class TestLeRobot:
    """LeRobot's port."""

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"num_inference_timesteps": 5}, ("num_inference_timesteps", "10")),
            ({"action_branch": "ar"}, ("action_branch", "ar")),
            ({"vlm_config": None}, ("vlm_config",)),
            ({"max_action_dim": 20}, ("action_proj_back.weight is [26, 32], not [20, 32]",)),
            ({"use_peft": True}, ("use_peft", "not implemented")),
            ({"use_rtc_training": True}, ("use_rtc_training", "not implemented")),
            ({"camera_key_mapping": {"observation.images.top": "face_view"}}, ("images.top",)),
        ],
    )
    def test_what_is_not_implemented_is_named(
        self, lerobot05: Path, changes: dict[str, object], words: tuple[str, ...]
    ) -> None:
        edit_json(lerobot05 / "config.json", **changes)
        refused(lerobot05, *words, cameras=None, state_bins=None)

    def test_a_pre_processor_without_the_clamp(self, lerobot05: Path) -> None:
        path = lerobot05 / "policy_preprocessor.json"
        steps = json.loads(path.read_text())["steps"]
        edit_json(path, steps=[s for s in steps if "clamp" not in s["registry_name"]])
        refused(lerobot05, "wall_oss_05_clamp_normalized")

    def test_two_orders_of_cameras(self, lerobot05: Path) -> None:
        path = lerobot05 / "policy_preprocessor.json"
        steps = json.loads(path.read_text())["steps"]
        turned = {"observation.images.wrist": "face_view"}
        step = {"registry_name": "wall_oss_05_tokenizer", "config": {"camera_key_mapping": turned}}
        edit_json(path, steps=[*steps, step])
        refused(lerobot05, "camera_key_mapping", "disagree")

    @pytest.mark.parametrize("feature", ["observation.state", "action"])
    def test_statistics_of_the_robot_alone(self, lerobot05: Path, feature: str) -> None:
        """The port fills a narrow robot's columns up before it normalises them."""
        content = json.loads((lerobot05 / "config.json").read_text())
        content["input_features"]["observation.state"]["shape"] = [6]
        content["output_features"]["action"]["shape"] = [6]
        edit_json(lerobot05 / "config.json", **content)
        path = lerobot05 / "statistics.safetensors"
        tensors = load_file(path)
        for name in [name for name in tensors if name.startswith(feature)]:
            tensors[name] = tensors[name][:6].clone()
        save_file(tensors, path)
        word = feature.removeprefix("observation.")
        words = f"the statistics of the {word} have 6 columns, 26 are in use"
        refused(lerobot05, words, cameras=None, state_bins=None)
