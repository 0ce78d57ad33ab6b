"""Actions that the model writes as FAST tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError

from wallx_policy.model.fast_codec import FILES, FOLDER, FastCodec, FastFailure
from wallx_policy.model.generation import (
    GREEDY,
    Generation,
    GenerationFailure,
    Sampling,
    Stop,
)
from wallx_policy.model.network import PromptInputs
from wallx_policy.model.prompt import PromptTokenizer
from wallx_policy.model.settings import FastSettings, positive

RETRY_TEMPERATURE = 0.7
"""Of every attempt after the first, which is greedy; wall-x's own."""

Generate = Callable[[PromptInputs, int, Sampling], Generation]


@dataclass(frozen=True, slots=True)
class FastResult:
    """Normalised actions [horizon, columns], the attempts they took, and seconds by stage."""

    actions: NDArray[np.float32]
    attempts: int
    timings_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class FastParts:
    """What FAST prediction needs beside the network."""

    settings: FastSettings
    codec: FastCodec
    tokens: range


class FastModel:
    """Writes tokens and decodes them."""

    def __init__(
        self,
        generate: Generate,
        parts: FastParts,
        horizon: int,
        columns: int,
    ) -> None:
        """Take what continues a prompt, what the tokens mean, and the shape of a chunk."""
        self._generate = generate
        self._codec = parts.codec
        self._tokens = parts.tokens
        self._settings = parts.settings
        self._horizon = horizon
        self._columns = columns

    def sample(self, inputs: PromptInputs, seed: int) -> FastResult:
        """Return the chunk that answers a prompt.

        Args:
            inputs: From `InputBuilder.fast`.
            seed: Of the attempts after the first.

        Raises:
            FastFailure: when no attempt brought a chunk; it says why the last one did not.
        """
        timings_s: Counter[str] = Counter()
        failure = FastFailure("no attempt was made")
        for attempt in range(1 + self._settings.retries):
            sampling = GREEDY if attempt == 0 else Sampling(RETRY_TEMPERATURE, seed + attempt)
            try:
                written = self._generate(inputs, self._settings.max_new_tokens, sampling)
            except GenerationFailure as error:  # not finite: no other draw will help
                raise FastFailure(str(error)) from error
            timings_s.update(written.timings_s)
            try:
                actions = self._actions(written)
            except FastFailure as error:
                failure = error
            else:
                return FastResult(actions, attempt + 1, dict(timings_s))
        if self._settings.retries:
            raise FastFailure(f"{failure} ({1 + self._settings.retries} attempts)") from failure
        raise failure

    def _actions(self, written: Generation) -> NDArray[np.float32]:
        if written.stop is not Stop.END:
            raise FastFailure(
                f"the action tokens did not end within {self._settings.max_new_tokens} tokens"
            )
        # Other tokens are passed over, as in the references.
        ids = [
            number - self._tokens.start for number in written.ids if number >= self._tokens.start
        ]
        return self._codec.decode(ids, self._horizon, self._columns)


def read_fast(
    folder: Path,
    named: Sequence[str | Path | None],
    tokenizer: PromptTokenizer,
    shape: tuple[int, int],
    max_new_tokens: int | None,
    retries: int | None,
) -> FastParts:
    """Read the action tokenizer of a checkpoint.

    Args:
        folder: The checkpoint.
        named: Where its action tokenizer may lie, the first that is given counts; without any it
            is the folder ``action_tokenizer`` of the checkpoint.
        tokenizer: Of the checkpoint.
        shape: Horizon and columns of a chunk.
        max_new_tokens: Of an answer; None for one token per number, and the end.
        retries: Further attempts; None for none.

    Raises:
        UserError: when a file is missing, or the two tokenizers are not of one model.
    """
    source = next((Path(name) for name in named if name), folder / FOLDER)
    if not source.is_dir():
        raise UserError(
            f"{folder} predicts FAST tokens, and the folder {source} of their tokenizer is "
            f"missing: copy {' and '.join(FILES)} of the action tokenizer it was trained with "
            f"(physical-intelligence/fast unless you made your own) into {folder / FOLDER}, or "
            "name their folder as action_tokenizer"
        )
    codec = FastCodec(source)
    codec.check_shape(*shape)
    tokens = tokenizer.action_tokens()
    if not tokens:
        raise UserError(
            f"{folder} has no tokens <|action_token_0|> …, so it cannot predict FAST tokens: give "
            "prediction_mode='flow', or the tokenizer of the base model it was trained from"
        )
    if len(tokens) != codec.vocab_size:
        raise UserError(
            f"{folder} has {len(tokens)} action tokens, the action tokenizer in {source} "
            f"{codec.vocab_size}: they are of different models"
        )
    if max_new_tokens is None:
        max_new_tokens = shape[0] * shape[1] + 1
    if retries is not None and retries < 0:
        raise UserError(f"fast_retries must be at least 0, not {retries}")
    settings = FastSettings(
        str(source), positive("fast_max_new_tokens", max_new_tokens), retries or 0
    )
    return FastParts(settings, codec, tokens)
