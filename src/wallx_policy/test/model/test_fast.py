"""FAST prediction: from tokens to actions in data set units, or a failure that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fast_files import character_tokenizer, make_it_write, write_codec
from safetensors.torch import load_file, save_file
from so101_driver.errors import UserError
from wallx_policy.contract import Contract, PredictionMode
from wallx_policy.model import FastFailure, Policy, load_policy
from wallx_policy.model.fast import RETRY_TEMPERATURE, FastModel, FastParts
from wallx_policy.model.fast_codec import FastCodec
from wallx_policy.model.generation import Generation, Sampling, Stop
from wallx_policy.model.settings import FastSettings

VIEWS = ("front", "left_wrist_view")
START = 435
"""Of the reference's 64 action tokens."""
END = 421
LOWEST = -32


@pytest.fixture
def folder(references: Path, tmp_path: Path) -> Path:
    """The reference's model with its stand-in for an action tokenizer; one may change it."""
    copy = Path(shutil.copytree(references / "tiny_wallx", tmp_path / "fast"))
    copy.chmod(0o755)
    for file in copy.iterdir():
        file.chmod(0o644)
    write_codec(copy / "action_tokenizer", character_tokenizer(), LOWEST)
    return copy


def load(folder: Path, **switches: object) -> Policy:
    taken = {"prediction_mode": "fast", "cameras": VIEWS, "action_dim": 6, **switches}
    return load_policy(folder, **taken)


@pytest.fixture
def observation(references: Path) -> dict:
    golden = load_file(references / "ref044/fast_f32.safetensors")
    with np.load(references / "ref044/images_u8.npz") as images:
        return {
            "images": {view: images[view] for view in VIEWS},
            "state": golden["in.proprioception"][0, 0, :6].numpy(),
            "instruction": "pick up the red cube.",
        }


def edit_json(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


class TestPrediction:
    def test_the_reference_writes_the_same_tokens(
        self, references: Path, folder: Path, observation: dict
    ) -> None:
        golden = load_file(references / "ref044/fast_f32.safetensors")
        policy = load(folder)
        written = policy._fast._generate(policy._inputs.fast(observation), 100, Sampling())
        ids = [number - START for number in written.ids if number >= START]
        assert ids == golden["action_ids"].tolist()
        # Its stand-in for a codec fills up with zeros, which ours never does.
        zero = -LOWEST
        filled = FastCodec(folder / "action_tokenizer").decode([*ids, *[zero] * 92], 32, 6)
        assert np.abs(filled - golden["predict_action"][0].numpy()).max() < 1e-5
        with pytest.raises(FastFailure, match="did not end within 100 tokens"):
            load(folder, fast_max_new_tokens=100).predict(observation)

    def test_an_answer_becomes_actions(self, folder: Path, observation: dict) -> None:
        tokens = [3, 60, 31, 33, 12, 55, 44, 8]
        make_it_write(folder, [*(START + t for t in tokens), END])
        policy = load(folder, horizon=4, action_dim=2)
        prediction = policy.predict(observation)
        expected = policy._fast._codec.decode(tokens, 4, 2)
        np.testing.assert_allclose(prediction.actions, expected, rtol=1e-6)
        assert np.abs(expected).max() > 1.0
        assert prediction.attempts == 1
        assert set(prediction.timings_s) == {"preprocess", "turn", "prompt", "tokens"}
        # Tokens of another kind are passed over, a chunk of another shape is none.
        spelled = [START + t for t in tokens]
        make_it_write(folder, [*spelled[:4], 7, *spelled[4:], END])
        wider = load(folder, horizon=4, action_dim=2, fast_max_new_tokens=10)
        np.testing.assert_array_equal(wider.predict(observation).actions, prediction.actions)
        with pytest.raises(FastFailure, match="8 numbers, a chunk of 4 actions of 3"):
            load(folder, horizon=4, action_dim=3).predict(observation)

    def test_actions_come_in_data_set_units(
        self, references: Path, folder: Path, tmp_path: Path, observation: dict
    ) -> None:
        tokens = [3, 60, 31, 33, 12, 55, 44, 8, 20, 40, 50, 10]
        make_it_write(folder, [*(START + t for t in tokens), END])
        policy_folder = Path(shutil.copytree(references / "lerobot_wall_x", tmp_path / "policy"))
        policy_folder.chmod(0o755)
        weights = load_file(folder / "model.safetensors")
        lerobot = {f"model.{name}": tensor for name, tensor in weights.items()}
        lerobot["model.lm_head.weight"] = lerobot.pop("model.model.embed_tokens.weight")
        (policy_folder / "model.safetensors").unlink()
        save_file(lerobot, policy_folder / "model.safetensors")
        config = policy_folder / "config.json"
        config.chmod(0o644)
        edit_json(
            config,
            prediction_mode="fast",
            chunk_size=2,
            n_action_steps=2,
            action_tokenizer_path=str(folder / "action_tokenizer"),
        )
        policy = load_policy(policy_folder, base=references / "tiny_wallx")
        assert policy.settings.prediction is PredictionMode.FAST
        normalized = policy._fast._codec.decode(tokens, 2, 6)
        actions = policy.predict(observation).actions
        line = policy._normalization.action
        np.testing.assert_allclose(actions, normalized * line.scale + line.shift, rtol=1e-5)
        assert np.abs(actions - normalized).max() > 0.1

    def test_a_network_that_is_not_finite_is_a_failure(
        self, folder: Path, observation: dict
    ) -> None:
        policy = load(folder, fast_retries=3)
        policy.model.network._embedding.fill_(float("nan"))
        with pytest.raises(FastFailure, match="not finite"):
            policy.predict(observation)

    def test_noise_and_prefixes_are_for_flow(self, folder: Path, observation: dict) -> None:
        policy = load(folder)
        with pytest.raises(UserError, match="noise"):
            policy.predict(observation, policy.noise(0))

    def test_one_line_says_what_was_taken(self, folder: Path) -> None:
        line = load(folder, fast_retries=2).description
        assert "fast prediction of up to 193 tokens by" in line
        assert "action_tokenizer, 2 retries" in line


class Script:
    """Stands in for the network: gives one answer after the other."""

    def __init__(self, *answers: tuple[Sequence[int], Stop]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[int, Sampling]] = []

    def __call__(self, inputs: object, max_new_tokens: int, sampling: Sampling) -> Generation:
        self.asked.append((max_new_tokens, sampling))
        ids, stop = self._answers.pop(0)
        return Generation(tuple(ids), stop, None, {"prompt": 0.5, "tokens": 1.0})


class TestRetries:
    GOOD = ([START + t for t in (1, 2, 3, 4)], Stop.END)
    SHORT = (GOOD[0][:-1], Stop.END)
    LONG = (GOOD[0], Stop.LENGTH)
    UNKNOWN = ([*GOOD[0][:3], START + 64], Stop.END)

    @pytest.fixture
    def model(self, tmp_path: Path) -> Callable[..., FastModel]:
        codec = FastCodec(write_codec(tmp_path, character_tokenizer(), LOWEST))

        def make(script: Script, retries: int) -> FastModel:
            settings = FastSettings("folder", 9, retries)
            parts = FastParts(settings, codec, range(START, START + 64))
            return FastModel(script, parts, 2, 2)

        return make

    def test_the_first_attempt_is_greedy_and_the_others_are_drawn(self, model: Callable) -> None:
        script = Script(self.SHORT, self.UNKNOWN, self.GOOD)
        result = model(script, 3).sample(None, seed=70)
        assert result.actions.shape == (2, 2)
        assert result.attempts == 3
        assert result.timings_s == {"prompt": 1.5, "tokens": 3.0}
        assert script.asked == [
            (9, Sampling()),
            (9, Sampling(RETRY_TEMPERATURE, 71)),
            (9, Sampling(RETRY_TEMPERATURE, 72)),
        ]

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (SHORT, "3 numbers, a chunk of 2 actions of 2 has 4$"),
            (LONG, "did not end within 9 tokens$"),
            (UNKNOWN, "action token 64 is not"),
            (([], Stop.END), "spell 0 numbers"),
        ],
    )
    def test_without_retries_one_failure_is_the_end(
        self, model: Callable, answer: tuple, words: str
    ) -> None:
        script = Script(answer, self.GOOD)
        with pytest.raises(FastFailure, match=words):
            model(script, 0).sample(None, seed=0)
        assert len(script.asked) == 1

    def test_the_last_failure_is_told(self, model: Callable) -> None:
        with pytest.raises(FastFailure, match=r"did not end within 9 tokens \(2 attempts\)"):
            model(Script(self.SHORT, self.LONG), 1).sample(None, seed=0)


class TestLoading:
    def test_the_folder_may_lie_elsewhere(self, folder: Path, tmp_path: Path) -> None:
        moved = tmp_path / "elsewhere"
        (folder / "action_tokenizer").rename(moved)
        with pytest.raises(UserError, match=r"fast/action_tokenizer of .* copy tokenizer.json"):
            load(folder)
        assert load(folder, action_tokenizer=moved).settings.fast.action_tokenizer == str(moved)
        with pytest.raises(UserError, match="nowhere"):
            load(folder, action_tokenizer=tmp_path / "nowhere")

    def test_the_contract_names_mode_and_folder(
        self, random_checkpoint: Path, folder: Path, tmp_path: Path
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        joints = {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1, "other": 14}
        config |= {"dof_config": joints, "agent_pos_config": joints}
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
        contract = Contract.load(random_checkpoint)
        names = {"prediction_mode": PredictionMode.FAST, "action_tokenizer": "codec"}
        cameras = tuple(replace(c, view=v) for c, v in zip(contract.cameras, VIEWS, strict=True))
        replace(contract, cameras=cameras, **names).save(folder)
        with pytest.raises(UserError, match="fast/codec of their tokenizer is missing"):
            load_policy(folder)
        (folder / "action_tokenizer").rename(folder / "codec")
        policy = load_policy(folder)
        assert policy.settings.prediction is PredictionMode.FAST
        assert policy.settings.fast.action_tokenizer == str(folder / "codec")
        assert policy.settings.fast.max_new_tokens == contract.horizon * 6 + 1
        given = tmp_path / "given"
        write_codec(given, character_tokenizer(), LOWEST)
        taken = load_policy(folder, action_tokenizer=given).settings.fast.action_tokenizer
        assert taken == str(given)
        assert load_policy(folder, prediction_mode="flow").settings.fast is None

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"action_token_start_index": 434}, "action_token_start_index is 434, .* has 435"),
            ({"action_token_vocab_size": 2048}, "action_token_vocab_size is 2048, .* has 64"),
        ],
    )
    def test_the_tokenizer_disagrees_with_its_configuration(
        self, folder: Path, changes: dict, words: str
    ) -> None:
        edit_json(folder / "tokenizer_config.json", **changes)
        with pytest.raises(UserError, match=words):
            load(folder)

    def test_the_configuration_may_be_silent(self, folder: Path) -> None:
        edit_json(
            folder / "tokenizer_config.json",
            action_token_start_index=None,
            action_token_vocab_size=None,
        )
        assert load(folder)._fast._tokens == range(START, START + 64)
        (folder / "tokenizer_config.json").unlink()
        assert load(folder)._fast._tokens == range(START, START + 64)

    def test_action_tokens_out_of_order(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        text = path.read_text()
        for old, new in (("_5|>", "_X|>"), ("_6|>", "_5|>"), ("_X|>", "_6|>")):
            text = text.replace(f"<|action_token{old}", f"<|action_token{new}")
        path.write_text(text)
        with pytest.raises(UserError, match="must follow each other"):
            load(folder)

    def test_a_model_without_action_tokens(self, random_checkpoint: Path, folder: Path) -> None:
        with pytest.raises(UserError, match=r"no tokens <\|action_token_0\|>"):
            load_policy(
                random_checkpoint,
                prediction_mode="fast",
                action_tokenizer=folder / "action_tokenizer",
            )

    def test_an_action_tokenizer_of_another_model(self, folder: Path) -> None:
        write_codec(folder / "action_tokenizer", character_tokenizer(63), LOWEST)
        with pytest.raises(UserError, match=r"64 action tokens, .* 63: they are of different"):
            load(folder)
        write_codec(folder / "action_tokenizer", character_tokenizer(), LOWEST, time_horizon=50)
        with pytest.raises(UserError, match="time_horizon is 50, the checkpoint's is 32"):
            load(folder)

    @pytest.mark.parametrize(
        ("switches", "words"),
        [
            ({"fast_max_new_tokens": 0}, "fast_max_new_tokens must be at least 1"),
            ({"fast_retries": -1}, "fast_retries must be at least 0"),
            ({"prediction_mode": "flow", "fast_retries": 3}, "predicts by flow"),
            ({"prediction_mode": None, "action_tokenizer": "x"}, "predicts by flow"),
        ],
    )
    def test_switches_that_do_not_fit(self, folder: Path, switches: dict, words: str) -> None:
        with pytest.raises(UserError, match=words):
            load(folder, **switches)

    def test_the_discrete_actions_of_05(self, wall05: Path) -> None:
        with pytest.raises(UserError, match="no FAST tokens and not implemented"):
            load_policy(wall05, prediction_mode="fast", cameras=VIEWS, state_bins=512)
