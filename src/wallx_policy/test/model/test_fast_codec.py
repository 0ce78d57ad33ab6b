"""FAST tokens and actions: the reference's numbers, and a failure for whatever is no chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fast_files import byte_tokenizer, character_tokenizer, write_codec
from hypothesis import given, settings
from hypothesis import strategies as st
from so101_driver.errors import UserError
from wallx_policy.model.fast_codec import FastCodec, FastFailure

MIN_TOKEN = -354
STEP = 0.05
"""Half a coefficient's step: rounding moves no coefficient further."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codec(tmp_path_factory.mktemp("fast"), byte_tokenizer(), MIN_TOKEN)


@pytest.fixture(scope="module")
def codec(folder: Path) -> FastCodec:
    return FastCodec(folder)


def spelled(codec: FastCodec, points: np.ndarray) -> list[int]:
    text = "".join(map(chr, points))
    return codec._pairs.encode(text, add_special_tokens=False).ids


def test_the_reference_is_reproduced(references: Path, codec: FastCodec) -> None:
    with np.load(references / "fast_codec.npz") as golden:
        assert (int(golden["scale"]), int(golden["min_token"])) == (10, MIN_TOKEN)
        for actions, points, decoded in zip(
            golden["actions"], golden["codepoints"], golden["decoded"], strict=True
        ):
            ids = codec.encode(actions)
            assert ids == spelled(codec, points)
            assert len(ids) < len(points)  # pairs were merged
            assert np.abs(codec.decode(ids, 32, 6) - decoded).max() < 1e-6
            # Rows are times: the other shape is another chunk.
            turned = codec.decode(ids, 6, 32).T
            assert np.abs(turned - decoded).max() > 0.1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_actions_survive_but_for_rounding(codec: FastCodec, data: st.DataObject) -> None:
    horizon, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    actions = draws.normal(0.0, data.draw(st.floats(0.0, 2.0)), (horizon, columns))
    back = codec.decode(codec.encode(actions), horizon, columns)
    assert back.shape == (horizon, columns)
    # The transform keeps lengths, so the error in time is no longer than that of the rounding.
    error = np.linalg.norm(back - actions, axis=0)
    assert (error <= STEP * np.sqrt(horizon) + 1e-5).all()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-3, 420), max_size=60),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_any_ids_are_a_chunk_or_a_failure(
    codec: FastCodec, ids: list[int], horizon: int, columns: int
) -> None:
    try:
        actions = codec.decode(ids, horizon, columns)
    except FastFailure as error:
        assert str(error)
        return
    assert actions.shape == (horizon, columns)
    assert actions.dtype == np.float32
    assert np.isfinite(actions).all()
    assert all(0 <= number < 400 for number in ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=12, max_size=12))
def test_any_numbers_can_be_decoded(codec: FastCodec, points: list[int]) -> None:
    actions = codec.decode(spelled(codec, np.array(points)), 4, 3)
    assert actions.shape == (4, 3)
    assert spelled(codec, np.array(points)) == codec.encode(actions)


class TestFailures:
    @pytest.mark.parametrize("count", [0, 11, 13, 24])
    def test_another_count(self, codec: FastCodec, count: int) -> None:
        ids = spelled(codec, np.full(count, 354))
        with pytest.raises(FastFailure, match=f"spell {count} numbers, a chunk of 4 actions of 3"):
            codec.decode(ids, 4, 3)

    @pytest.mark.parametrize("number", [-1, 400])
    def test_an_unknown_id(self, codec: FastCodec, number: int) -> None:
        with pytest.raises(FastFailure, match=f"token {number} is not"):
            codec.decode([*spelled(codec, np.full(12, 354)), number], 4, 3)

    def test_bytes_that_are_no_text(self, codec: FastCodec) -> None:
        """A lone byte would read as a coefficient of 65533."""
        whole = spelled(codec, np.arange(300, 312))
        lone = codec._pairs.token_to_id("Å")
        with pytest.raises(FastFailure, match="no valid text"):
            codec.decode([*whole[:-1], lone], 4, 3)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_actions_that_are_not_finite(self, codec: FastCodec, value: float) -> None:
        with pytest.raises(FastFailure, match="not finite"):
            codec.encode(np.full((4, 3), value))

    def test_actions_without_a_character(self, codec: FastCodec, tmp_path: Path) -> None:
        with pytest.raises(FastFailure, match="too large"):
            codec.encode(np.full((4, 3), 1e6))
        narrow = FastCodec(write_codec(tmp_path, character_tokenizer(), -32))
        with pytest.raises(FastFailure, match="cannot spell"):
            narrow.encode(np.full((4, 3), 50.0))


def test_what_lies_below_the_lowest_number_becomes_it(tmp_path: Path) -> None:
    narrow = FastCodec(write_codec(tmp_path, character_tokenizer(), -32))
    assert narrow.encode([[-5.0], [-5.0]]) == [0, 32]
    assert narrow.decode([0, 32], 2, 1)[0, 0] == pytest.approx(-3.2 / np.sqrt(2))


def test_a_special_token_counts_as_what_it_says(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens(["<pad>"])
    codec = FastCodec(write_codec(tmp_path, tokenizer, -32))
    with pytest.raises(FastFailure, match="spell 7 numbers"):
        codec.decode([1, 2, 64], 2, 1)


class TestFolders:
    @pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
    def test_a_file_is_missing(self, tmp_path: Path, name: str) -> None:
        folder = write_codec(tmp_path, byte_tokenizer(), MIN_TOKEN)
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"lacks {name}: copy tokenizer.json"):
            FastCodec(folder)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"scale": 0}, "scale must be above 0"),
            ({"scale": "10"}, "scale must be a number"),
            ({"scale": float("nan")}, "scale must be a number"),
            ({"min_token": None}, "min_token must be a whole number"),
            ({"min_token": 1.5}, "min_token must be a whole number"),
            ({"vocab_size": True}, "vocab_size must be a whole number"),
            ({"vocab_size": 200}, "has 400 tokens, processor_config.json says vocab_size 200"),
        ],
    )
    def test_a_value_is_wrong(self, tmp_path: Path, changes: dict, words: str) -> None:
        folder = write_codec(tmp_path, byte_tokenizer(), MIN_TOKEN, **changes)
        with pytest.raises(UserError, match=words):
            FastCodec(folder)

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        folder = write_codec(tmp_path, byte_tokenizer(), MIN_TOKEN)
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(UserError, match="cannot be read as a tokenizer"):
            FastCodec(folder)

    def test_the_shape_of_another_model(self, tmp_path: Path) -> None:
        codec = FastCodec(write_codec(tmp_path, byte_tokenizer(), MIN_TOKEN, action_dim=7))
        codec.check_shape(32, 7)
        with pytest.raises(UserError, match="action_dim is 7, the checkpoint's is 6"):
            codec.check_shape(32, 6)

    def test_code_of_the_folder_does_not_run(self, folder: Path, tmp_path: Path) -> None:
        other = write_codec(tmp_path / "a", byte_tokenizer(), MIN_TOKEN)
        (other / "processing_action_tokenizer.py").write_text("raise RuntimeError('it ran')")
        FastCodec(other)
