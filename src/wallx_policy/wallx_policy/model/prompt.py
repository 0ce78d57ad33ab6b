"""The prompts, word for word as in training, and their tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError
from tokenizers import AddedToken, Tokenizer

from wallx_policy.lerobot_files import read_json

ACTION = "<|action|>"
PROPRI = "<|propri|>"
IMAGE_PAD = "<|image_pad|>"
END = "<|im_end|>"
_NEEDED = (
    "<|im_start|>",
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE_PAD,
    PROPRI,
    ACTION,
)
_PHRASES = {
    "face_view": "front view",
    "left_wrist_view": "left wrist view",
    "right_wrist_view": "right wrist view",
    "move1_view": "move view",
    "move2_view": "move view",
    "wall_view": "wall view",
    "top_view": "top view",
}
_PHRASES_05 = {
    view: _PHRASES[view] for view in ("face_view", "left_wrist_view", "right_wrist_view")
}
_SPECIAL = re.compile(r"<\|[^|>]*\|>")
DEFAULT_INSTRUCTION = "Execute the robot action."


def view_phrase(view: str) -> str:
    """Return the words that stand for a view in the prompt."""
    if view in _PHRASES:
        return _PHRASES[view]
    return view.replace("_", " ") if "view" in view else f"{view} view"


def view_phrase_05(view: str) -> str:
    """Return the words that stand for a view in the prompt of wall-oss-0.5."""
    return _PHRASES_05.get(view, view.replace("_", " "))


def lerobot_task(instruction: str) -> str:
    """Return an instruction as LeRobot's processor passes it on."""
    if not instruction:
        return DEFAULT_INSTRUCTION
    return instruction if instruction.endswith(".") else f"{instruction}."


def special_token(text: str) -> str | None:
    """Return the first special token in a text; None if there is none."""
    found = _SPECIAL.search(text)
    return None if found is None else found[0]


def flow_prompt(
    views: Sequence[str],
    image_tokens: Sequence[int],
    instruction: str,
    horizon: int,
    *,
    state: str | None = None,
    phrase: Callable[[str], str] = view_phrase,
) -> str:
    """Return the prompt whose last ``horizon`` tokens are the action tokens.

    Args:
        views: View names in order.
        image_tokens: Tokens of each view's image.
        instruction: As it shall stand in the prompt.
        horizon: Actions in the chunk; 0 for the prompt whose answer are FAST tokens.
        state: The robot's state in words; None puts the token there that carries it.
        phrase: Gives a view its words.

    Raises:
        UserError: when the instruction contains a special token.
    """
    return (
        f"{_observation(views, image_tokens, phrase)}"
        f"Instruction: {_plain('instruction', instruction)}\n"
        "Predict the next action in robot action.\n"
        f"Proprioception: {PROPRI if state is None else state}\n{_ANSWER}{ACTION * horizon}"
    )


def subtask_prompt(
    views: Sequence[str],
    image_tokens: Sequence[int],
    instruction: str,
    *,
    phrase: Callable[[str], str] = view_phrase,
) -> str:
    """Return the prompt whose answer says in words what to do next; see `flow_prompt`."""
    return (
        f"{_observation(views, image_tokens, phrase)}"
        f"Instruction: {_plain('instruction', instruction)}\n"
        f"Predict the next action in language.\n{_ANSWER}"
    )


def question_prompt_05(views: Sequence[str], image_tokens: Sequence[int], question: str) -> str:
    """Return wall-oss-0.5's prompt for a question about views; see `flow_prompt`."""
    return (
        f"{_observation(views, image_tokens, view_phrase_05)}"
        f"Question: {_plain('question', question)}\n{_ANSWER}"
    )


def chat_prompt(image_tokens: Sequence[int], question: str) -> str:
    """Return Qwen's chat prompt for a question about images, which come first.

    Args:
        image_tokens: Tokens of each image.
        question: In plain words.

    Raises:
        UserError: when the question contains a special token.
    """
    images = "".join(map(_image, image_tokens))
    return f"{_SYSTEM}<|im_start|>user\n{images}{_plain('question', question)}{_ANSWER}"


_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def _observation(
    views: Sequence[str], image_tokens: Sequence[int], phrase: Callable[[str], str]
) -> str:
    images = "".join(
        f" {phrase(view)}: {_image(count)}" for view, count in zip(views, image_tokens, strict=True)
    )
    return f"{_SYSTEM}<|im_start|>user\nObservation:{images}\n"


def _image(tokens: int) -> str:
    return f"<|vision_start|>{IMAGE_PAD * tokens}<|vision_end|>"


def _plain(what: str, text: str) -> str:
    special = special_token(text)
    if special:
        raise UserError(f"the {what} must not contain the special token {special}")
    return text


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids looked up by their text: of tokens whose embeddings are replaced, and of a text's end."""

    image_pad: int
    propri: int
    action: int
    end: int


class PromptTokenizer:
    """The checkpoint's own tokenizer; never truncates and never pads."""

    def __init__(
        self,
        folder: Path,
        embedding_rows: int,
        *,
        add_tokens: bool = False,
        ids: Mapping[str, int] | None = None,
    ) -> None:
        """Read ``tokenizer.json``.

        Args:
            folder: Where it lies.
            embedding_rows: Of the checkpoint.
            add_tokens: Whether the files leave out the tokens of state and action, which then
                follow the last one, as in wall-oss-0.5.
            ids: Ids of tokens as the network's configuration has them.

        Raises:
            UserError: when it is missing, lacks a token, has another id for one, or has more tokens
                than the checkpoint has embeddings.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path} is missing: copy the tokenizer files of the base model there")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if add_tokens and all(self._tokenizer.token_to_id(t) is None for t in (PROPRI, ACTION)):
            self._tokenizer.add_special_tokens(
                [AddedToken(t, special=True) for t in (PROPRI, ACTION)]
            )
        missing = [token for token in _NEEDED if self._tokenizer.token_to_id(token) is None]
        if missing:
            raise UserError(f"{path} lacks the tokens {', '.join(missing)}: it is another model's")
        for token, number in (ids or {}).items():
            own = self._tokenizer.token_to_id(token)
            if own is not None and own != number:
                raise UserError(
                    f"{path} calls {token} {own}, config.json {number}: it is another model's"
                )
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if size > embedding_rows:
            raise UserError(
                f"{path} has {size} tokens, the checkpoint only {embedding_rows} embeddings: it is "
                "another model's"
            )
        self.special = SpecialIds(
            *(self._tokenizer.token_to_id(token) for token in (IMAGE_PAD, PROPRI, ACTION, END))
        )
        self._path = path

    def encode(
        self, prompt: str, image_tokens: int, horizon: int, *, state_tokens: int = 1
    ) -> NDArray[np.int64]:
        """Return the ids of a flow prompt.

        Args:
            prompt: From `flow_prompt`.
            image_tokens: Of all images.
            horizon: Action tokens.
            state_tokens: 1, or 0 where the state is text.

        Raises:
            UserError: when the tokenizer splits or merges a special token.
        """
        ids = np.asarray(self._tokenizer.encode(prompt, add_special_tokens=False).ids, np.int64)
        wanted = {
            IMAGE_PAD: (self.special.image_pad, image_tokens),
            PROPRI: (self.special.propri, state_tokens),
            ACTION: (self.special.action, horizon),
        }
        for token, (number, count) in wanted.items():
            found = int((ids == number).sum())
            if found != count:
                raise UserError(f"the tokenizer made {found} of {count} {token} tokens")
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Return what ids say, without special tokens and space around.

        The last character may still lack bytes; then it is left out.
        """
        said = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return said.rstrip("\N{REPLACEMENT CHARACTER}").strip()

    def action_tokens(self) -> range:
        """Return the ids of ``<|action_token_0|>``, ``<|action_token_1|>`` …; empty if none.

        Raises:
            UserError: when they do not follow each other, or ``tokenizer_config.json`` counts them
                otherwise.
        """
        first = self._tokenizer.token_to_id("<|action_token_0|>")
        if first is None:
            return range(0)
        count = 1
        while (number := self._tokenizer.token_to_id(f"<|action_token_{count}|>")) is not None:
            if number != first + count:
                raise UserError(
                    f"{self._path}: <|action_token_{count}|> is {number}, not {first + count}: "
                    "action tokens must follow each other"
                )
            count += 1
        path = self._path.with_name("tokenizer_config.json")
        said = read_json(path) if path.is_file() else {}
        for key, own in (("action_token_start_index", first), ("action_token_vocab_size", count)):
            if said.get(key, own) != own:
                raise UserError(
                    f"{path}: {key} is {said[key]!r}, {self._path.name} has {own}: they are of "
                    "different models"
                )
        return range(first, first + count)
