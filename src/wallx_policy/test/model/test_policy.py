"""What the model does beside the reference numbers: prompts, images, caching, odd observations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.images import smart_size
from wallx_policy.model.positions import mrope_positions
from wallx_policy.model.prompt import flow_prompt, lerobot_task, view_phrase
from wallx_policy.model.tensors import fused_name

Observe = Callable[..., dict]


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return load_policy(random_checkpoint)


def test_the_prefix_computed_once_changes_nothing(policy: Policy, observe: Observe) -> None:
    inputs = policy.inputs(observe())
    noise = torch.from_numpy(policy.noise(5))[None]
    once = policy.model.sample(inputs, noise).actions
    always = policy.model.sample(inputs, noise, reuse_prefix=False).actions
    assert float((once - always).abs().max()) < 1e-5


def test_split_and_fused_tensors_are_the_same_model(
    changed_checkpoint: Path, policy: Policy, observe: Observe
) -> None:
    path = changed_checkpoint / "model.safetensors"
    parts: dict[str, list[torch.Tensor]] = {}
    split = load_file(path)
    for layer in ("q", "k", "v", "gate", "up", ""):  # in the order of the fused tensor
        for name in sorted(split):
            fused = fused_name(name)
            if f".{layer}_proj." in name and fused != name:
                parts.setdefault(fused, []).append(split[name])
            elif not layer and fused == name:
                parts[name] = [split[name]]
    fused_tensors = {name: torch.cat(tensors) for name, tensors in parts.items()}
    assert len(fused_tensors) < len(split)
    save_file(fused_tensors, path)
    noise = policy.noise(1)
    fused_actions = load_policy(changed_checkpoint).predict(observe(), noise).actions
    np.testing.assert_array_equal(fused_actions, policy.predict(observe(), noise).actions)


def test_the_same_seed_gives_the_same_actions(policy: Policy, observe: Observe) -> None:
    first, again, other = (
        policy.predict(observe(), policy.noise(seed)).actions for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_images_words_and_views_reach_the_actions(policy: Policy, observe: Observe) -> None:
    noise = policy.noise(0)
    actions = policy.predict(observe(), noise).actions
    images = observe()["images"]
    dark = {**images, "wrist_view": np.zeros((240, 240, 3), np.uint8)}
    for change in (
        {"images": dark},
        {"instruction": "open the gripper"},
        {"state": np.full(6, 40.0)},
    ):
        other = policy.predict(observe(**change), noise).actions
        assert np.abs(other - actions).max() > 1e-4, change


def test_the_order_of_given_images_does_not_matter(policy: Policy, observe: Observe) -> None:
    images = observe()["images"]
    turned = dict(reversed(images.items()))
    noise = policy.noise(0)
    np.testing.assert_array_equal(
        policy.predict(observe(), noise).actions,
        policy.predict(observe(images=turned), noise).actions,
    )


def test_the_order_of_configured_views_does(
    policy: Policy, random_checkpoint: Path, observe: Observe
) -> None:
    turned = load_policy(random_checkpoint, cameras=["wrist_view", "face_view"])
    noise = policy.noise(0)
    a, b = (p.predict(observe(), noise).actions for p in (policy, turned))
    assert np.abs(a - b).max() > 1e-4


def test_an_unknown_joint_is_masked_not_guessed(policy: Policy, observe: Observe) -> None:
    state = np.array([0.0, np.nan, 30.0, 60.0, 0.0, 10.0])
    inputs = policy.inputs(observe(state=state))
    assert inputs.state_mask[0].tolist() == [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert inputs.state[0, 1] == 0.0
    assert np.isfinite(policy.predict(observe(state=state), policy.noise(0)).actions).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": {}}, "face_view, wrist_view"),
        ({"images": {"face_view": np.zeros((9, 9, 3), np.float32)}}, "wrist_view"),
        (
            {"images": {"face_view": np.zeros((9, 9), np.uint8), "wrist_view": None}},
            "face_view must be uint8",
        ),
        ({"state": np.zeros(7)}, "up to 6"),
        ({"state": np.array([np.inf] * 6)}, "infinite"),
        ({"instruction": "go <|action|>"}, "<|action|>"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(
    policy: Policy, observe: Observe, change: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words.replace("|", r"\|")):
        policy.predict(observe(**change))


def test_noise_has_a_row_for_every_action(policy: Policy, observe: Observe) -> None:
    with pytest.raises(UserError, match="noise"):
        policy.predict(observe(), np.zeros((3, 6)))


def test_a_long_instruction_is_not_cut(policy: Policy, observe: Observe) -> None:
    words = "put the red cube into the tray and " * 300
    inputs = policy.inputs(observe(instruction=words))
    assert inputs.input_ids.shape[1] > 2400
    assert int((inputs.input_ids == policy.model.network.special.action).sum()) == 25


def test_any_text_is_an_instruction(policy: Policy, observe: Observe) -> None:
    for text in ("", "no", "12", "put: cube", "nimm den Würfel 🟥", "\n\n"):
        policy.inputs(observe(instruction=text))


def test_the_prompt_is_the_trained_one() -> None:
    assert flow_prompt(("face_view", "wrist"), (2, 1), "lift it.", 2) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Observation: front view: <|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
        " wrist view: <|vision_start|><|image_pad|><|vision_end|>\n"
        "Instruction: lift it.\nPredict the next action in robot action.\n"
        "Proprioception: <|propri|>\n<|im_end|>\n<|im_start|>assistant\n<|action|><|action|>"
    )


@pytest.mark.parametrize(
    ("view", "phrase"),
    [
        ("face_view", "front view"),
        ("right_wrist_view", "right wrist view"),
        ("move2_view", "move view"),
        ("side_view_low", "side view low"),
        ("front", "front view"),
        ("my_cam", "my_cam view"),
    ],
)
def test_views_have_their_trained_words(view: str, phrase: str) -> None:
    assert view_phrase(view) == phrase


def test_lerobot_completes_tasks() -> None:
    assert lerobot_task("") == "Execute the robot action."
    assert lerobot_task("go") == lerobot_task("go.") == "go."


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((256, 192), (252, 196)),
        ((256, 256), (252, 252)),
        ((14, 14), (56, 56)),
        ((70, 98), (56, 112)),  # 2.5 and 3.5 tokens: half to even
    ],
)
def test_sizes_become_whole_tokens(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert smart_size(*size, 28, 4 * 28**2, 16384 * 28**2) == expected


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_sizes_keep_their_bounds(width: int, height: int) -> None:
    minimum, maximum = 4 * 28**2, 100 * 28**2
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(UserError):
            smart_size(width, height, 28, minimum, maximum)
        return
    new_width, new_height = smart_size(width, height, 28, minimum, maximum)
    assert new_width % 28 == new_height % 28 == 0
    assert new_width * new_height >= minimum
    # One token of the short side may be more than its share of the area.
    assert new_width * new_height <= maximum or min(new_width, new_height) == 28


def test_positions_count_past_an_image() -> None:
    ids = np.array([[0, 7, 5, 5, 5, 5, 5, 5, 8, 9]])
    mask = np.ones_like(ids)
    mask[0, 0] = 0
    time, height, width = mrope_positions(ids, mask, np.array([[2, 3]]), 5)[:, 0]
    assert time.tolist() == [1, 0, 1, 1, 1, 1, 1, 1, 4, 5]
    assert height.tolist() == [1, 0, 1, 1, 1, 2, 2, 2, 4, 5]
    assert width.tolist() == [1, 0, 1, 2, 3, 1, 2, 3, 4, 5]
