"""Questions and subtasks: the trained prompts, words as they grow, what is no instruction."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fast_files import make_it_write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from so101_driver.errors import UserError
from tokenizers import Tokenizer
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.generation import Generation, GenerationFailure, Stop
from wallx_policy.model.points import rescaled_points
from wallx_policy.model.prompt import (
    PromptTokenizer,
    chat_prompt,
    flow_prompt,
    question_prompt_05,
    subtask_prompt,
    view_phrase_05,
)
from wallx_policy.model.text import TextWriter, Writing

VIEWS = ("front", "left_wrist_view")
QUESTION = "what should you do next? Think step by step."
TASK = "pick up the red cube."
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PAD = "<|image_pad|>"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def pictures(references: Path, name: str = "ref044") -> dict[str, np.ndarray]:
    with np.load(references / name / "images_u8.npz") as images:
        return dict(images)


@pytest.fixture(scope="module")
def policy(references: Path) -> Policy:
    return load_policy(references / "tiny_wallx", cameras=VIEWS, action_dim=6)


@pytest.fixture
def observation(references: Path) -> dict:
    golden = load_file(references / "ref044/text_f32.safetensors")
    images = pictures(references)
    return {
        "images": {view: images[view] for view in VIEWS},
        "state": golden["in.proprioception"][0, 0, :6].numpy(),
        "instruction": TASK,
    }


class TestPrompts:
    def test_the_words_are_the_trained_ones(self) -> None:
        seen = f"Observation: front view: <|vision_start|>{PAD * 2}<|vision_end|>\n"
        assert subtask_prompt(("face_view",), (2,), "lift it.") == (
            f"{HEAD}{seen}Instruction: lift it.\nPredict the next action in language.\n{TAIL}"
        )
        assert question_prompt_05(("face_view",), (2,), "where?") == (
            f"{HEAD}{seen}Question: where?\n{TAIL}"
        )
        one = f"<|vision_start|>{PAD}<|vision_end|>"
        assert chat_prompt((1, 1), "where?") == f"{HEAD}{one}{one}where?{TAIL}"
        fast = flow_prompt(("face_view",), (2,), "lift it.", 0)
        assert fast == flow_prompt(("face_view",), (2,), "lift it.", 3).removesuffix(
            "<|action|>" * 3
        )
        assert fast.endswith(TAIL)

    @pytest.mark.parametrize("token", ["<|action_fast|>", "<|im_end|>", "<|action_token_3|>"])
    def test_no_words_smuggle_a_special_token_in(self, token: str) -> None:
        """``<|action_fast|>`` least of all: it is no token, and would be spelled out."""
        words = f"lift {token} it"
        for prompt in (
            lambda: flow_prompt(("a",), (1,), words, 0),
            lambda: subtask_prompt(("a",), (1,), words),
            lambda: question_prompt_05(("a",), (1,), words),
            lambda: chat_prompt((1,), words),
        ):
            with pytest.raises(UserError, match=re.escape(token)):
                prompt()

    def test_the_references_read_the_same(
        self, references: Path, policy: Policy, observation: dict
    ) -> None:
        vqa = load_file(references / "ref044/vqa_f32.safetensors")
        ours = policy._inputs.question({"front": observation["images"]["front"]}, QUESTION)
        assert torch.equal(ours.input_ids, vqa["prompt_ids"])
        assert torch.equal(ours.grid_thw, vqa["image_grid_thw"])
        assert float((ours.pixel_values - vqa["pixel_values"]).abs().max()) < 1e-6
        fast = load_file(references / "ref044/fast_f32.safetensors")
        ours = policy._inputs.fast(observation)
        assert torch.equal(ours.input_ids, fast["prompt_ids"])
        assert torch.equal(ours.state, fast["in.proprioception"][:, 0])

    def test_the_references_of_05_read_the_same(self, references: Path, wall05: Path) -> None:
        golden = load_file(references / "ref05/text_f32.safetensors")
        cameras = ("face_view", "right_wrist_view")
        config = wall05 / "config.json"
        small = '{"resolution": {"face_view": 112, "right_wrist_view": 112}, '
        config.write_text(config.read_text().replace("{", small, 1))
        policy = load_policy(wall05, state_bins=512, cameras=cameras)
        images = {view: pictures(references, "ref05")[view] for view in cameras}
        ours = policy._inputs.question(images, "what is on the table?")
        assert torch.equal(ours.input_ids, golden["vqa.input_ids"])
        seen = {"images": images, "state": None, "instruction": "pick up the red cube"}
        ours = policy._inputs.subtask(seen)
        assert torch.equal(ours.input_ids, golden["subtask.input_ids"])
        assert view_phrase_05("face_view") == "front view"

    def test_lerobot_ends_the_instruction_but_not_the_question(
        self, references: Path, observation: dict
    ) -> None:
        base = references / "tiny_wallx"
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        policy = load_policy(references / "lerobot_wall_x", base=base)
        asked = policy._inputs.question(observation["images"], "is it red")
        assert "is it red<|im_end|>" in tokenizer.decode(asked.input_ids[0].tolist(), False)
        seen = {**observation, "instruction": "lift it"}
        subtask = policy._inputs.subtask(seen)
        assert "Instruction: lift it.\n" in tokenizer.decode(subtask.input_ids[0].tolist(), False)

    @pytest.mark.parametrize(
        ("images", "question", "words"),
        [
            ({}, "what?", "at least one image"),
            ({"front": np.zeros((9, 9), np.uint8)}, "what?", "front must be uint8"),
            ({"front": np.zeros((99, 99, 3), np.uint8)}, " \n", "question is empty"),
        ],
    )
    def test_a_question_that_does_not_fit_is_refused(
        self, policy: Policy, images: dict, question: str, words: str
    ) -> None:
        with pytest.raises(UserError, match=words):
            policy.ask(images, question)


class TestPoints:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("grasp <point>[100, 60]</point> now", "grasp <point>[40, 30]</point> now"),
            ("<point>100 60</point>", "<point>[40, 30]</point>"),
            ("<point>(10, 20, 639, 479)</point>", "<point>[4, 10, 255, 239]</point>"),
            ("<point>[9999, 9999]</point>", "<point>[255, 239]</point>"),
            (
                "<point>[0,0]</point><point>[5,3]</point>",
                "<point>[0, 0]</point><point>[2, 2]</point>",
            ),
            ("no point", "no point"),
        ],
    )
    def test_pixels_follow_the_resizing(self, text: str, expected: str) -> None:
        assert rescaled_points(text, (640, 480), (256, 240)) == expected

    @pytest.mark.parametrize("inside", ["", "1", "1, 2, 3", "a, b", "1.5, 2", "-1, 2"])
    def test_what_is_no_point_is_refused(self, inside: str) -> None:
        with pytest.raises(UserError, match="is no point"):
            rescaled_points(f"<point>{inside}</point>", (640, 480), (256, 240))

    @given(st.integers(0, 700), st.integers(0, 500), st.integers(1, 700), st.integers(1, 500))
    def test_points_stay_in_the_image(self, x: int, y: int, width: int, height: int) -> None:
        text = rescaled_points(f"<point>[{x}, {y}]</point>", (640, 480), (width, height))
        new_x, new_y = map(int, re.findall(r"\d+", text))
        assert 0 <= new_x < width
        assert 0 <= new_y < height

    def test_they_are_those_of_the_last_view(
        self, references: Path, policy: Policy, observation: dict
    ) -> None:
        """The wrist's 90×100 become 224×252, the front's 160×120 would become 252×196."""
        tokenizer = Tokenizer.from_file(str(references / "tiny_wallx/tokenizer.json"))
        point = "<point>[45, 50]</point>"
        seen = {**observation, "instruction": f"at {point}"}
        for inputs in (policy.inputs(seen), policy._inputs.subtask(seen)):
            read = tokenizer.decode(inputs.input_ids[0].tolist(), skip_special_tokens=False)
            assert "Instruction: at <point>[112, 126]</point>" in read
        asked = policy._inputs.question({"front": observation["images"]["front"]}, point)
        read = tokenizer.decode(asked.input_ids[0].tolist(), skip_special_tokens=False)
        assert "<point>[47, 47]</point>" in read  # 168 / 160 and 112 / 120, no first resize


@pytest.fixture
def writing(random_checkpoint: Path, tmp_path: Path) -> Callable[[str], Policy]:
    """Return ``writing(text)``: a policy that answers with it; no token may come twice."""

    def make(text: str, *, ended: bool = True) -> Policy:
        folder = Path(shutil.copytree(random_checkpoint, tmp_path / "writing"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = "<|im_end|>" if ended else ""
        make_it_write(folder, tokenizer.encode(text + end, add_special_tokens=False).ids)
        return load_policy(folder)

    return make


class TestAnswers:
    def test_an_answer_ends_where_the_model_ends_it(self, writing: Callable, observe: Callable):
        policy, heard = writing(" the red cube"), []
        images = observe()["images"]
        assert policy.ask(images, "what is there?", on_text=heard.append) == "the red cube"
        assert heard[-1] == "the red cube"
        assert all(longer.startswith(shorter) for shorter, longer in pairwise(heard))
        assert len(heard) == len(set(heard)) > 1

    def test_an_answer_is_cut_or_cancelled(self, writing: Callable, observe: Callable) -> None:
        policy, heard = writing(" open hand"), []
        images = observe()["images"]
        assert policy.ask(images, "what?", max_new_tokens=1) == "open"
        assert policy.ask(images, "what?", cancelled=lambda: True) == ""
        cut = policy.ask(images, "what?", on_text=heard.append, cancelled=lambda: bool(heard))
        assert cut == heard[0] == "open"
        with pytest.raises(UserError, match="max_new_tokens"):
            policy.ask(images, "what?", max_new_tokens=0)
        with pytest.raises(UserError, match="temperature"):
            policy.ask(images, "what?", temperature=-1.0)

    def test_half_a_character_is_not_told(self, writing: Callable, observe: Callable) -> None:
        """Four bytes, four tokens, one robot."""
        heard: list[str] = []
        assert writing("🤖").ask(observe()["images"], "what?", on_text=heard.append) == "🤖"
        assert heard == ["🤖"]

    def test_a_subtask_is_an_instruction(self, writing: Callable, observe: Callable) -> None:
        policy = writing(" open\thand")
        subtask = policy.subtask(observe())
        assert subtask == "open hand"
        policy.predict(observe(instruction=subtask))

    @pytest.mark.parametrize(
        ("text", "how", "words"),
        [
            (" open hand", {"max_new_tokens": 1}, "did not end within 1 tokens"),
            (" open hand", {"cancelled": lambda: True}, "cancelled"),
            (" ", {}, "empty"),
        ],
    )
    def test_what_is_no_subtask_is_none(
        self, writing: Callable, observe: Callable, text: str, how: dict, words: str
    ) -> None:
        with pytest.raises(GenerationFailure, match=words):
            writing(text).subtask(observe(), **how)

    def test_a_special_token_in_bytes_is_no_subtask(self, random_checkpoint: Path) -> None:
        tokenizer = PromptTokenizer(random_checkpoint, 10**6)
        ids = [tokenizer._tokenizer.token_to_id(letter) for letter in "go<|a|>"]
        writer = TextWriter(lambda *_, **__: Generation(tuple(ids), Stop.END, None, {}), tokenizer)
        assert writer.text(None, Writing())[0] == "go<|a|>"
        with pytest.raises(GenerationFailure, match=r"holds the token <\|a\|>"):
            writer.sentence(None, Writing())

    def test_special_tokens_are_not_told(self, writing: Callable, observe: Callable) -> None:
        policy = writing(" red<|vision_start|> cube")
        assert policy.ask(observe()["images"], "what?") == "red cube"

    def test_a_prediction_waits_for_its_turn(self, policy: Policy, observation: dict) -> None:
        done: list[dict[str, float]] = []

        def predict() -> None:
            done.append(policy.predict(observation, policy.noise(0)).timings_s)

        thread = threading.Thread(target=predict)
        with policy.turns:
            thread.start()
            deadline = time.monotonic() + 5.0
            while len(policy.turns._queue) < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert not done
        thread.join()
        assert done[0]["turn"] >= 0.02

    def test_a_subtask_needs_every_view(self, policy: Policy, observation: dict) -> None:
        del observation["images"]["front"]
        with pytest.raises(UserError, match="front"):
            policy.subtask(observation)

    def test_threads_do_not_disturb_each_other(
        self, random_checkpoint: Path, observe: Callable
    ) -> None:
        policy = load_policy(random_checkpoint)
        noise, images = policy.noise(3), observe()["images"]
        alone = policy.predict(observe(), noise).actions
        said = policy.ask(images, "what?", max_new_tokens=20)
        answers: list[str] = []

        def ask() -> None:
            answers.append(policy.ask(images, "what?", max_new_tokens=20))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        together = [policy.predict(observe(), noise).actions for _ in range(4)]
        for thread in threads:
            thread.join()
        assert answers == [said, said]
        for actions in together:
            np.testing.assert_array_equal(actions, alone)
