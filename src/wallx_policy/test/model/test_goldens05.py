"""wall-oss-0.5 gives the numbers of its reference, in its own layout and in LeRobot's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from torch import Tensor
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.flow import FlowInputs, FlowTrace

F32 = 1e-5
VIEWS = ("face_view", "right_wrist_view")
TASK = "pick up the red cube"
LONG_SIDE = {"resolution": dict.fromkeys(VIEWS, 112)}
"""The reference ran with small images."""


@pytest.fixture
def golden(references: Path) -> dict[str, Tensor]:
    return load_file(references / "ref05/flow_b1_f32.safetensors")


def load(folder: Path, **switches: object) -> Policy:
    return load_policy(folder, **{"state_bins": 512, "cameras": VIEWS, **switches})


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def inputs(golden: dict[str, Tensor], active: int = 26) -> FlowInputs:
    return FlowInputs(
        input_ids=golden["in.input_ids"],
        attention_mask=golden["in.attention_mask"],
        pixel_values=golden["in.pixel_values"],
        grid_thw=golden["in.image_grid_thw"],
        dof_mask=(torch.arange(26) < active).float()[None],
    )


def difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours.float() - reference.float()).abs().max())


def raw(policy: Policy, golden: dict[str, Tensor]) -> np.ndarray:
    """Return the state that becomes the reference's when normalised."""
    return policy._normalization.state.back(golden["state_normalized"][0].numpy())


def observation(references: Path, state: np.ndarray, names: tuple[str, ...] = VIEWS) -> dict:
    with np.load(references / "ref05/images_u8.npz") as images:
        pictures = {name: images[view] for name, view in zip(names, VIEWS, strict=True)}
    return {"images": pictures, "state": state, "instruction": TASK}


@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_actions_are_reproduced_step_by_step(
    wall05: Path, golden: dict[str, Tensor], reuse_prefix: bool
) -> None:
    model, trace = load(wall05).model, FlowTrace()
    result = model.sample(inputs(golden), golden["noise"], reuse_prefix=reuse_prefix, trace=trace)
    assert difference(result.actions, golden["predict_action_26"]) < F32
    assert difference(trace.image_embeds, golden["image_embeds"]) < F32
    assert torch.equal(trace.positions, golden["position_ids"])
    assert torch.equal(model.times[:-1], golden["time_steps"][:, 0])
    for ours, theirs in zip(trace.embeddings, golden["action_embed_steps"], strict=True):
        assert difference(ours, theirs) < F32
    for ours, theirs in zip(trace.velocities, golden["velocity_steps"], strict=True):
        assert difference(ours, theirs) < F32


def test_hidden_states_are_reproduced_layer_by_layer(
    wall05: Path, golden: dict[str, Tensor]
) -> None:
    trace = FlowTrace()
    load(wall05).model.sample(inputs(golden), golden["noise"], reuse_prefix=False, trace=trace)
    for hidden, name in zip(trace.hidden, ("layer0", "layer1", "layer2", "final"), strict=True):
        assert difference(hidden, golden[f"hidden_step0_{name}"]) < F32, name


def test_inactive_columns_follow_the_chosen_rule(wall05: Path, golden: dict[str, Tensor]) -> None:
    expected = golden["predict_action_26_dof7"]
    left = load(wall05, action_dim=7, inactive_columns="model")
    result = left.model.sample(inputs(golden, 7), golden["noise"]).actions
    assert difference(result, expected) < F32
    # wall-x itself leads them to what zero is when normalised, and that reaches the others.
    led = load(wall05, action_dim=7)
    assert led.settings.inactive.value == "zero"
    result = led.model.sample(inputs(golden, 7), golden["noise"]).actions
    assert difference(result[..., :7], expected[..., :7]) > 1e-3
    zero = torch.from_numpy(led._normalization.zero_action(26))
    way = golden["noise"] + 0.999 * (zero - golden["noise"])
    assert difference(result[..., 7:], way[..., 7:]) < F32


@pytest.mark.parametrize(
    ("switch", "least"),
    [
        ({"action_attention": "island"}, 1e-2),
        ({"num_steps": 9}, 1e-4),
        ({"end_time": 1.0}, 1e-4),
        ({"rotary": "bf16"}, 1e-4),
    ],
)
def test_every_switch_changes_the_actions(
    wall05: Path, golden: dict[str, Tensor], switch: dict, least: float
) -> None:
    result = load(wall05, **switch).model.sample(inputs(golden), golden["noise"]).actions
    assert difference(result, golden["predict_action_26"]) > least


def test_mixed_bfloat16_stays_near(wall05: Path, golden: dict[str, Tensor]) -> None:
    model = load(wall05, dtype="bfloat16").model
    result = model.sample(inputs(golden), golden["noise"]).actions
    assert F32 < difference(result, golden["predict_action_26"]) < 5e-2


def test_images_words_and_state_become_the_reference_inputs(
    wall05: Path, references: Path, golden: dict[str, Tensor]
) -> None:
    edit_json(wall05 / "config.json", **LONG_SIDE)
    policy = load(wall05, resize="mixed")  # as the port, which made the reference
    seen = observation(references, raw(policy, golden))
    ours = policy.inputs(seen)
    assert torch.equal(ours.input_ids, golden["in.input_ids"])
    assert torch.equal(ours.grid_thw, golden["in.image_grid_thw"])
    assert difference(ours.pixel_values, golden["in.pixel_values"]) < 1e-6
    assert ours.state is None
    actions = policy.predict(seen, golden["noise"][0]).actions
    normalized = policy._normalization.action.there(actions.astype(np.float32))
    assert np.abs(normalized - golden["predict_action_26"][0].numpy()).max() < F32
    other = load(wall05).inputs(seen).pixel_values
    assert 1e-3 < difference(other, golden["in.pixel_values"]) < 5e-2
    fewer = load(wall05, state_bins=256).inputs(seen)
    assert not torch.equal(fewer.input_ids, golden["in.input_ids"])


def test_lerobot_folder_is_the_same_model(
    lerobot05: Path, references: Path, golden: dict[str, Tensor]
) -> None:
    policy = load_policy(lerobot05)
    settings = policy.settings
    assert (settings.layout.value, settings.cameras) == ("lerobot05", VIEWS)
    assert (settings.state_bins, settings.end_time, settings.steps) == (512, 0.999, 10)
    assert settings.resize.value == "mixed"
    result = policy.model.sample(inputs(golden), golden["noise"]).actions
    assert difference(result, golden["predict_action_26"]) < F32
    seen = observation(references, raw(policy, golden), ("front", "wrist"))
    ours = policy.inputs(seen)
    text = "".join(map(str, ours.input_ids[0].tolist()))
    assert text.endswith("".join(map(str, golden["in.input_ids"][0, -60:].tolist())))
    assert int(ours.dof_mask.sum()) == 26


def test_a_narrow_robot_is_filled_up_and_its_actions_are_cropped(
    lerobot05: Path, references: Path
) -> None:
    content = json.loads((lerobot05 / "config.json").read_text())
    content["input_features"]["observation.state"]["shape"] = [6]
    content["output_features"]["action"]["shape"] = [6]
    edit_json(lerobot05 / "config.json", **content)
    policy = load_policy(lerobot05)
    assert (policy.settings.action_dim, policy.settings.active_columns) == (6, 26)
    seen = observation(references, np.full(6, 0.1, np.float32), ("front", "wrist"))
    ours, filled = policy.inputs(seen), np.pad(seen["state"], (0, 20))
    wide = load_policy(lerobot05.with_name("lerobot05"))._inputs._state(seen["state"])
    assert len(wide.text.split()) == 26
    by_hand = np.clip(policy._normalization.normalized_state(filled), -1, 1)
    bins = [int(np.floor((value + 1) / 2 * 512)) for value in by_hand.astype(np.float64)]
    assert [min(b, 511) for b in bins] == [int(word) for word in wide.text.split()]
    assert policy.predict(seen, policy.noise(0)).actions.shape == (32, 6)
    assert int(ours.dof_mask.sum()) == 26
    with pytest.raises(UserError, match="6 numbers, not 7"):
        policy.inputs({**seen, "state": np.zeros(7)})


def test_images_are_renamed_before_they_are_mapped(lerobot05: Path, references: Path) -> None:
    path = lerobot05 / "policy_preprocessor.json"
    steps = json.loads(path.read_text())["steps"]
    names = {"observation.images.cam0": "observation.images.front"}
    steps[0]["config"]["rename_map"] = names
    edit_json(path, steps=steps)
    policy, state = load_policy(lerobot05), np.zeros(26)
    renamed = policy.inputs(observation(references, state, ("cam0", "wrist"))).pixel_values
    mapped = policy.inputs(observation(references, state, ("front", "wrist"))).pixel_values
    turned = policy.inputs(observation(references, state, ("wrist", "front"))).pixel_values
    assert torch.equal(renamed, mapped)
    assert renamed.shape != turned.shape or not torch.equal(renamed, turned)


def test_actions_are_cropped_to_what_the_policy_says(lerobot05: Path) -> None:
    edit_json(lerobot05 / "config.json", postprocess_action_dim=7)
    assert load_policy(lerobot05).settings.action_dim == 7


def test_lerobot_states_are_clamped(lerobot05: Path) -> None:
    normalization = load_policy(lerobot05)._normalization
    far = np.full(26, 1e4, np.float32)
    assert set(normalization.normalized_state(far)) == {1.0}
    assert set(normalization.normalized_actions(-far)) == {-1.0}


def test_the_tensors_tell_how_the_state_enters_where_nothing_else_does(wall05: Path) -> None:
    path = wall05 / "config.json"
    content = json.loads(path.read_text())
    del content["use_state_string_representation"]
    path.write_text(json.dumps(content))
    assert load(wall05).settings.state_encoding.value == "text"
    tensors = load_file(wall05 / "model.safetensors")
    tensors["action_preprocessor.propri_proj.weight"] = torch.randn(64, 52)
    save_file(tensors, wall05 / "model.safetensors")
    assert load(wall05, state_bins=None).settings.state_encoding.value == "token"


def test_the_task_of_training_wins_over_its_other_sections(wall05: Path) -> None:
    (wall05 / "config.yml").write_text(
        "task: {state_bins: 64}\nstate_bins: 32\ndata: {state_bins: 16, action_horizon: 9}\n"
        "action_horizon: 8"
    )
    settings = load_policy(wall05, cameras=VIEWS).settings
    # The network's own action_horizon_flow stands above any action_horizon.
    assert (settings.state_bins, settings.horizon) == (64, 32)


def test_training_says_what_the_configuration_leaves_out(wall05: Path, references: Path) -> None:
    training = {
        "task": {
            "dof_config": {"arm": 6, "gripper": 1, "action_padding": 19},
            "agent_pos_config": {"arm": 6, "gripper": 2, "action_padding": 18},
            "action_horizon_flow": 10,
        },
        "data": {
            "state_bins": 128,
            "key_mappings": {"camera": {"observation.images.a": "face_view"}},
            **LONG_SIDE,
        },
    }
    (wall05 / "config.yml").write_text(yaml.safe_dump(training, sort_keys=False))
    policy = load_policy(wall05)
    settings = policy.settings
    assert (settings.horizon, settings.state_bins, settings.cameras) == (10, 128, ("face_view",))
    assert (settings.action_dim, settings.active_columns) == (7, 7)
    picture = observation(references, np.zeros(8))["images"]["face_view"]
    seen = {"images": {"a": picture}, "state": np.zeros(8), "instruction": ""}
    assert policy.inputs(seen).dof_mask.sum() == 7
    assert len(policy._inputs._state(seen["state"]).text.split()) == 8
    assert policy.predict(seen, policy.noise(1)).actions.shape == (10, 7)


def test_a_state_that_is_text_must_be_complete(wall05: Path, references: Path) -> None:
    policy = load(wall05)
    for state, words in ((np.zeros(7), "26 numbers, not 7"), ([np.nan] * 26, "unknown")):
        with pytest.raises(UserError, match=words):
            policy.inputs(observation(references, np.asarray(state)))


def test_a_state_token_is_read_where_there_is_one(wall05: Path, references: Path) -> None:
    """Fine-tunes of wall-oss-0.5 may take the state as a token again."""
    tensors = load_file(wall05 / "model.safetensors")
    tensors["action_preprocessor.propri_proj.weight"] = torch.randn(64, 52)
    save_file(tensors, wall05 / "model.safetensors")
    edit_json(wall05 / "config.json", use_state_string_representation=False)
    policy = load_policy(wall05, cameras=VIEWS)
    assert policy.settings.state_encoding.value == "token"
    seen = observation(references, np.zeros(26))
    token = policy.inputs(seen)
    assert token.state.shape == (1, 26)
    noise = policy.noise(0)
    actions = policy.predict(seen, noise).actions
    other = policy.predict({**seen, "state": np.ones(26)}, noise).actions
    assert np.abs(actions - other).max() > 1e-4
    text = load(wall05, state_encoding="text").inputs(seen)
    assert text.state is None
    assert text.input_ids.shape[1] > token.input_ids.shape[1]
