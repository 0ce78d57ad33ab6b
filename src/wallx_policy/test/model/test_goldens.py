"""The model gives the numbers of the reference implementations, and not those of another switch.

Weights and outputs come from ``shared/fixtures/wall_oss``; its README gives the tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from wallx_policy.lerobot_files import read_processors
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.flow import FlowInputs, FlowTrace
from wallx_policy.model.normalization import from_processors

F32 = 1e-5
BF16 = 5e-2
BRIDGE = 5e-3
"""Largest change of an action when the other bicubic kernel is taken."""
VIEWS = ("front", "left_wrist_view")
TASK = "pick up the red cube."

Load = Callable[..., Policy]


@pytest.fixture
def load(references: Path) -> Load:
    """Return ``load(**switches)`` of the tiny checkpoint in the original layout."""

    def make(**switches: object) -> Policy:
        taken = {"action_attention": "island", "num_steps": 10, **switches}
        return load_policy(
            references / "tiny_wallx", cameras=VIEWS, horizon=32, action_dim=6, **taken
        )

    return make


def golden(references: Path, name: str) -> dict[str, Tensor]:
    return load_file(references / f"{name}.safetensors")


def inputs(reference: dict[str, Tensor], pixel_values: Tensor | None = None) -> FlowInputs:
    """Return a reference's own inputs; some files leave the pixels to another file."""
    return FlowInputs(
        input_ids=reference["in.input_ids"],
        attention_mask=reference["in.attention_mask"],
        pixel_values=reference["in.pixel_values"] if pixel_values is None else pixel_values,
        grid_thw=reference["in.image_grid_thw"],
        state=reference["in.proprioception"][:, 0],
        state_mask=reference["in.agent_pos_mask"][:, 0],
        dof_mask=reference["in.dof_mask"][:, 0],
    )


def difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours.float() - reference.float()).abs().max())


def observation(references: Path, reference: str, state: Tensor) -> dict:
    with np.load(references / reference / "images_u8.npz") as images:
        return {
            "images": {view: images[view] for view in VIEWS},
            "state": state[0, 0, :6].numpy(),
            "instruction": TASK,
        }


@pytest.mark.parametrize("reference", ["ref044", "ref062"])
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_lerobot_actions_are_reproduced(
    references: Path, load: Load, reference: str, reuse_prefix: bool
) -> None:
    expected = golden(references, f"{reference}/flow_b1_f32")
    trace = FlowTrace()
    result = load()._model.sample(
        inputs(expected), expected["noise"], reuse_prefix=reuse_prefix, trace=trace
    )
    assert difference(result.actions, expected["predict_action_20"]) < F32
    assert difference(trace.image_embeds, expected["image_embeds"]) < F32
    assert torch.equal(trace.positions, expected["position_ids"])
    assert difference(trace.propri, expected["propri_embed"][:, 0]) < F32
    for ours, theirs in zip(trace.embeddings, expected["action_embed_steps"], strict=True):
        assert difference(ours, theirs) < F32
    for ours, theirs in zip(trace.velocities, expected["velocity_steps"], strict=True):
        assert difference(ours[0], theirs) < F32


@pytest.mark.parametrize("reference", ["ref044", "ref062"])
def test_hidden_states_are_reproduced_layer_by_layer(
    references: Path, load: Load, reference: str
) -> None:
    expected = golden(references, f"{reference}/flow_b1_f32")
    trace = FlowTrace()
    load()._model.sample(inputs(expected), expected["noise"], reuse_prefix=False, trace=trace)
    names = ("layer0", "layer1", "layer2", "final")
    for hidden, name in zip(trace.hidden, names, strict=True):
        assert difference(hidden, expected[f"hidden_step0_{name}"]) < F32, name


@pytest.mark.parametrize("reference", ["ref044", "ref062"])
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_a_batch_padded_on_the_left_is_reproduced(
    references: Path, load: Load, reference: str, reuse_prefix: bool
) -> None:
    expected = golden(references, f"{reference}/flow_b2_leftpad_f32")
    one = golden(references, f"{reference}/flow_b1_f32")["in.pixel_values"]
    result = load()._model.sample(
        inputs(expected, one.repeat(2, 1)), expected["noise"], reuse_prefix=reuse_prefix
    )
    assert difference(result.actions, expected["predict_action_20"]) < F32


@pytest.mark.parametrize(
    ("mode", "attention"),
    [("eager", "island"), ("sdpa", "causal"), ("flash_attention_2", "causal")],
)
@pytest.mark.parametrize("steps", [9, 10])
def test_original_actions_are_reproduced_in_every_mode(
    references: Path, load: Load, mode: str, attention: str, steps: int
) -> None:
    expected = golden(references, f"orig_wallx/flow_b1_{mode}_f32")
    model = load(action_attention=attention, num_steps=steps)._model
    result = model.sample(
        inputs(golden(references, "ref044/flow_b1_f32")), expected["noise"]
    ).actions
    # Their points are ours plus one.
    name = f"predict_action_normalized_points{steps + 1}"
    assert difference(result, expected[name]) < F32
    other = f"predict_action_normalized_points{20 - steps}"
    assert difference(result, expected[other]) > 0.01


def test_the_other_attention_gives_other_actions(references: Path, load: Load) -> None:
    reference = golden(references, "ref044/flow_b1_f32")
    causal = load(action_attention="causal")._model.sample(inputs(reference), reference["noise"])
    assert difference(causal.actions, reference["predict_action_20"]) > 0.5


@pytest.mark.parametrize("reference", ["ref044", "ref062"])
@pytest.mark.parametrize("rotary", ["exact", "bf16"])
def test_mixed_bfloat16_stays_near_the_reference(
    references: Path, load: Load, reference: str, rotary: str
) -> None:
    expected = golden(references, f"{reference}/flow_b1_mixed_bf16")
    full = golden(references, f"{reference}/flow_b1_f32")
    model = load(dtype="bfloat16", rotary=rotary)._model
    result = model.sample(inputs(expected, full["in.pixel_values"]), expected["noise"]).actions
    assert difference(result, expected["predict_action_20"]) < BF16
    assert difference(result, full["predict_action_20"]) > F32


def test_rounded_frequencies_change_the_actions(references: Path, load: Load) -> None:
    reference = golden(references, "ref044/flow_b1_f32")
    result = load(rotary="bf16")._model.sample(inputs(reference), reference["noise"]).actions
    assert 1e-3 < difference(result, reference["predict_action_20"]) < BF16


@pytest.mark.parametrize(("reference", "resize"), [("ref044", "pil"), ("ref062", "torchvision")])
def test_images_and_words_become_the_reference_inputs(
    references: Path, load: Load, reference: str, resize: str
) -> None:
    expected = golden(references, f"{reference}/flow_b1_f32")
    policy = load(resize=resize)
    seen = observation(references, reference, expected["in.proprioception"])
    ours = policy.inputs(seen)
    assert torch.equal(ours.input_ids, expected["in.input_ids"])
    assert torch.equal(ours.grid_thw, expected["in.image_grid_thw"])
    assert difference(ours.pixel_values, expected["in.pixel_values"]) < 1e-6
    prediction = policy.predict(seen, expected["noise"][0])
    assert np.abs(prediction.actions - expected["predict_action"][0].numpy()).max() < F32


def test_the_other_kernel_changes_pixels_a_little(references: Path, load: Load) -> None:
    expected = golden(references, "ref044/flow_b1_f32")
    policy = load(resize="torchvision")
    seen = observation(references, "ref044", expected["in.proprioception"])
    pixels = difference(policy.inputs(seen).pixel_values, expected["in.pixel_values"])
    assert 1e-3 < pixels < 5e-2
    actions = policy.predict(seen, expected["noise"][0]).actions
    assert 1e-5 < np.abs(actions - expected["predict_action"][0].numpy()).max() < BRIDGE


def test_lerobot_folder_holds_the_same_model(references: Path) -> None:
    """Its tied matrix has only the other name; random embeddings would be far off."""
    policy = load_policy(references / "lerobot_wall_x", base=references / "tiny_wallx")
    assert policy.settings.action_attention.value == "island"
    assert policy.settings.steps == 10
    assert policy.settings.cameras == VIEWS
    expected = golden(references, "ref044/flow_b1_f32")
    result = policy._model.sample(inputs(expected), expected["noise"]).actions
    # The file holds bfloat16 weights.
    assert difference(result, expected["predict_action_20"]) < BF16


def test_lerobot_folder_in_mixed_precision(references: Path) -> None:
    policy = load_policy(
        references / "lerobot_wall_x", dtype="bfloat16", base=references / "tiny_wallx"
    )
    expected = golden(references, "ref062/flow_b1_mixed_bf16")
    pixels = golden(references, "ref062/flow_b1_f32")["in.pixel_values"]
    result = policy._model.sample(inputs(expected, pixels), expected["noise"]).actions
    assert difference(result, expected["predict_action_20"]) < BF16


def test_lerobot_processors_are_reproduced(references: Path) -> None:
    folder = references / "lerobot_wall_x"
    expected = golden(references, "lerobot_wall_x/expected_processor_io")
    normalization = from_processors(read_processors(folder))
    state = normalization.normalized_state(expected["state_raw"].numpy())
    assert np.abs(state - expected["state_normalized"][0].numpy()).max() < 1e-6
    actions = normalization.actions(expected["action_normalized"].numpy())
    assert np.abs(actions - expected["action_unnormalized"].numpy()).max() < 1e-6


def test_lerobot_policy_predicts_in_data_set_units(references: Path) -> None:
    """The whole way from images and degrees to degrees equals its parts."""
    policy = load_policy(references / "lerobot_wall_x", base=references / "tiny_wallx")
    expected = golden(references, "ref044/flow_b1_f32")
    normalization = from_processors(read_processors(references / "lerobot_wall_x"))
    normalized = expected["in.proprioception"][0, 0, :6].numpy()
    raw = normalized * normalization.state.scale + normalization.state.shift
    seen = observation(references, "ref044", expected["in.proprioception"])
    # LeRobot's task processor adds the full stop that the reference's prompt has.
    seen |= {"state": raw, "instruction": TASK.removesuffix(".")}
    assert torch.equal(policy.inputs(seen).input_ids, expected["in.input_ids"])
    noise = expected["noise"][0]
    actions = policy.predict(seen, noise).actions
    assert actions.shape == (32, 6)
    scaled = (actions - normalization.action.shift) / normalization.action.scale
    assert np.abs(scaled - expected["predict_action"][0].numpy()).max() < BF16


def test_original_statistics_turn_actions_back(references: Path, tmp_path: Path) -> None:
    """The checkpoint's own min and delta, under the name that is asked for."""
    from safetensors.torch import save_file

    expected = golden(references, "orig_wallx/flow_b1_eager_f32")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in (references / "tiny_wallx").iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(references / "tiny_wallx/model.safetensors")
    for feature in ("action", "propri"):
        for kind in ("min", "delta"):
            name = f"action_preprocessor.normalizer_{feature}.{kind}"
            tensors[f"{name}.x2_normal"] = expected[f"normalizer_{kind}"].clone()
            tensors[f"{name}.other"] = expected[f"normalizer_{kind}"] * 3 + 1
    save_file(tensors, folder / "model.safetensors")
    reference = golden(references, "ref044/flow_b1_f32")
    policy = load_policy(
        folder,
        action_attention="island",
        num_steps=9,
        norm_key="x2_normal",
        cameras=VIEWS,
        horizon=32,
    )
    seen = observation(references, "ref044", reference["in.proprioception"])
    normalized = reference["in.proprioception"][0, 0, :6]
    low, delta = expected["normalizer_min"], expected["normalizer_delta"]
    seen["state"] = ((normalized + 1) / 2 * delta[:6] + low[:6]).numpy()
    ours = policy.inputs(seen)
    assert difference(ours.state[0, :6], normalized.clamp(-1, 1)) < 1e-5
    normalized_actions = expected["predict_action_normalized_points10"][0].numpy()
    actions = policy._normalization.actions(normalized_actions)
    theirs = expected["predict_action_unnormalized_points10"][0].numpy()
    assert np.abs(actions - theirs).max() < 1e-5
