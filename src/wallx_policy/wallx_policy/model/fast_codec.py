"""FAST tokens and actions: a cosine transform in time, whole numbers, and byte pairs.

Every column is transformed (DCT-II, orthonormal), its coefficients times ``scale`` are rounded, and
each becomes the character that many after ``min_token``; byte pairs make tokens of the text. What
spells any other count of numbers than a chunk has is a failure, never a chunk of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct, idct
from so101_driver.errors import UserError
from tokenizers import Tokenizer

from wallx_policy.lerobot_files import read_json
from wallx_policy.model.generation import GenerationFailure

FOLDER = "action_tokenizer"
"""Name of its folder in a checkpoint."""
FILES = ("tokenizer.json", "processor_config.json")
_REPLACEMENT = 0xFFFD
"""What bytes become that spell no character."""
_FIRST_SURROGATE = 0xD800
"""Characters from here on cannot all be written."""


class FastFailure(GenerationFailure):
    """Tokens that spell no chunk of actions; the text says why."""


class FastCodec:
    """Decodes and encodes chunks of any horizon and width, normalised."""

    def __init__(self, folder: Path) -> None:
        """Read ``tokenizer.json`` and ``processor_config.json``; no code of the folder is run.

        Raises:
            UserError: naming the file and key at fault.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} is no action tokenizer, it lacks {', '.join(missing)}: copy "
                f"{' and '.join(FILES)} of the FAST tokenizer that the model was trained with"
            )
        path, self._path = folder / FILES[1], folder
        content = read_json(path)
        self._scale = _number(path, content, "scale")
        if self._scale <= 0.0:
            raise UserError(f"{path}: scale must be above 0, not {self._scale}")
        self._min_token = _whole(path, content, "min_token")
        self.vocab_size = _whole(path, content, "vocab_size")
        self._shape = (content.get("time_horizon"), content.get("action_dim"))
        path = folder / FILES[0]
        try:
            self._pairs = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._pairs.no_truncation()
        self._pairs.no_padding()
        size = self._pairs.get_vocab_size(with_added_tokens=True)
        if size > self.vocab_size:
            raise UserError(
                f"{path} has {size} tokens, {FILES[1]} says vocab_size {self.vocab_size}: they are "
                "of different tokenizers"
            )

    def check_shape(self, horizon: int, columns: int) -> None:
        """Refuse a chunk of another shape than the tokenizer's own, if it names one."""
        for name, own, wanted in zip(
            ("time_horizon", "action_dim"), self._shape, (horizon, columns), strict=True
        ):
            if own is not None and own != wanted:
                raise UserError(
                    f"{self._path / FILES[1]}: {name} is {own}, the checkpoint's is {wanted}: it "
                    "is another model's action tokenizer"
                )

    def decode(self, ids: Sequence[int], horizon: int, columns: int) -> NDArray[np.float32]:
        """Return the actions [horizon, columns] that tokens spell, normalised.

        Args:
            ids: Of the action tokenizer, 0 for ``<|action_token_0|>``.
            horizon: Actions in the chunk.
            columns: Numbers of an action.

        Raises:
            FastFailure: for an unknown id, bytes that spell no character, or another count.
        """
        unknown = [number for number in ids if not self._knows(number)]
        if unknown:
            raise FastFailure(f"action token {unknown[0]} is not in the action tokenizer")
        text = self._pairs.decode([int(number) for number in ids], skip_special_tokens=False)
        points = np.fromiter(map(ord, text), dtype=np.int64, count=len(text))
        if (points == _REPLACEMENT).any():
            raise FastFailure("the action tokens spell no valid text")
        if len(points) != horizon * columns:
            raise FastFailure(
                f"the action tokens spell {len(points)} numbers, a chunk of {horizon} actions of "
                f"{columns} has {horizon * columns}"
            )
        coefficients = (points + self._min_token).reshape(horizon, columns) / self._scale
        return idct(coefficients, axis=0, norm="ortho").astype(np.float32)

    def encode(self, actions: ArrayLike) -> list[int]:
        """Return the tokens of normalised actions [horizon, columns].

        Coefficients below ``min_token`` are raised to it, as in training.

        Raises:
            FastFailure: when they are not finite, or too large for the tokenizer.
        """
        values = np.asarray(actions, dtype=np.float64)
        if values.ndim != 2:
            raise ValueError(f"actions must be [horizon, columns], not {list(values.shape)}")
        if not np.isfinite(values).all():
            raise FastFailure("the actions are not finite")
        scaled = np.around(dct(values, axis=0, norm="ortho") * self._scale)
        points = np.maximum(scaled - self._min_token, 0.0)
        if points.size and points.max() >= _FIRST_SURROGATE:
            raise FastFailure("the actions are too large for the action tokenizer")
        text = "".join(map(chr, points.astype(np.int64).ravel()))
        ids: list[int] = self._pairs.encode(text, add_special_tokens=False).ids
        if self._pairs.decode(ids, skip_special_tokens=False) != text:
            raise FastFailure("the actions hold a number that the action tokenizer cannot spell")
        return ids

    def _knows(self, number: int) -> bool:
        return number >= 0 and self._pairs.id_to_token(int(number)) is not None


def _number(path: Path, content: dict[str, Any], key: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {key} must be a number, not {value!r}")
    return float(value)


def _whole(path: Path, content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{path}: {key} must be a whole number, not {value!r}")
    return value
