"""Words that the model writes, as they grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wallx_policy.model.generation import (
    GREEDY,
    Cancelled,
    GenerationFailure,
    Generator,
    Sampling,
    Stop,
)
from wallx_policy.model.network import PromptInputs
from wallx_policy.model.prompt import PromptTokenizer, special_token

MAX_NEW_TOKENS = 100
"""As the references."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How a text is written.

    Attributes:
        max_new_tokens: A longer text is cut there.
        sampling: How a token is chosen.
        on_text: Told the text so far whenever it has grown.
        cancelled: Asked before every token; True ends the text there.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    sampling: Sampling = GREEDY
    on_text: Callable[[str], None] | None = None
    cancelled: Cancelled | None = None


class TextWriter:
    """Turns what a `Generator` writes into words."""

    def __init__(self, generate: Generator, tokenizer: PromptTokenizer) -> None:
        """Take what writes tokens and what they mean."""
        self._generate = generate
        self._tokenizer = tokenizer

    def text(self, inputs: PromptInputs, how: Writing) -> tuple[str, Stop]:
        """Return the answer to a prompt, without special tokens and space around, and its end."""
        said, on_text = "", how.on_text

        def tell(ids: tuple[int, ...]) -> None:
            nonlocal said
            text = self._tokenizer.text(ids)
            if text != said and on_text is not None:
                said = text
                on_text(text)

        written = self._generate(
            inputs,
            how.max_new_tokens,
            how.sampling,
            on_token=None if on_text is None else tell,
            cancelled=how.cancelled,
        )
        return self._tokenizer.text(written.ids), written.stop

    def sentence(self, inputs: PromptInputs, how: Writing) -> str:
        """Return an answer that can serve as an instruction: one line that came to its end.

        Raises:
            GenerationFailure: when it did not end, is empty, or holds a special token.
        """
        text, stop = self.text(inputs, how)
        if stop is Stop.CANCELLED:
            raise GenerationFailure("the sentence was cancelled")
        if stop is Stop.LENGTH:
            limit = how.max_new_tokens
            raise GenerationFailure(f"the model's sentence did not end within {limit} tokens")
        if not text:
            raise GenerationFailure("the model's sentence is empty")
        special = special_token(text)
        if special:
            raise GenerationFailure(f"the model's sentence holds the token {special}")
        return " ".join(text.split())
