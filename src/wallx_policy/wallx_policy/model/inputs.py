"""From observations and words to what the network sees of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError

from wallx_policy.lerobot_files import IMAGE_PREFIX
from wallx_policy.model.config_types import Layout
from wallx_policy.model.flow import FlowInputs
from wallx_policy.model.images import ImagePreprocessor, Patches
from wallx_policy.model.network import PromptInputs
from wallx_policy.model.points import Size, rescaled_points
from wallx_policy.model.prompt import (
    PromptTokenizer,
    chat_prompt,
    flow_prompt,
    lerobot_task,
    question_prompt_05,
    subtask_prompt,
    view_phrase,
    view_phrase_05,
)
from wallx_policy.model.settings import PolicySettings
from wallx_policy.model.state import StateEncoder

Images = Mapping[str, NDArray[np.uint8]]


class Observation(TypedDict):
    """What `Policy.predict` takes.

    ``images``: uint8 [H, W, 3] RGB by view; ``state``: [columns] in data set units, NaN where
    unknown; ``instruction``: plain words.
    """

    images: Images
    state: ArrayLike
    instruction: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """Images of one prompt: their views in order, patches, tokens of each, and the last's sizes."""

    views: tuple[str, ...]
    patches: Patches
    tokens: list[int]
    camera: Size
    model: Size

    def rescaled(self, text: str) -> str:
        """Return words with their points in pixels of the last resized image, as in training."""
        return rescaled_points(text, self.camera, self.model)


class InputBuilder:
    """Makes the inputs of every kind of prompt."""

    def __init__(
        self,
        settings: PolicySettings,
        columns: int,
        tokenizer: PromptTokenizer,
        images: ImagePreprocessor,
        chat_images: ImagePreprocessor,
        state: StateEncoder,
        views: Mapping[str, str],
    ) -> None:
        """Put the parts together.

        Args:
            settings: Of the checkpoint.
            columns: Action columns of the model.
            tokenizer: Its tokenizer.
            images: Prepares the images of an observation.
            chat_images: Prepares the images of Qwen's chat prompt.
            state: Encodes the state.
            views: Views by name of an image, where they differ.
        """
        self._settings = settings
        self._columns = columns
        self._tokenizer = tokenizer
        self._images = images
        self._chat_images = chat_images
        self._state = state
        self._views = dict(views)
        self._new = settings.layout in (Layout.WALL05, Layout.LEROBOT05)
        self._phrase: Callable[[str], str] = view_phrase_05 if self._new else view_phrase

    def flow(self, observation: Observation) -> FlowInputs:
        """Return the inputs of the prompt that ends with the action tokens."""
        dof = torch.zeros(1, self._columns)
        dof[:, : self._settings.active_columns] = 1.0
        return FlowInputs(**self._acting(observation, self._settings.horizon), dof_mask=dof)

    def fast(self, observation: Observation) -> PromptInputs:
        """Return the inputs of the prompt that FAST tokens answer."""
        return PromptInputs(**self._acting(observation, 0))

    def subtask(self, observation: Observation) -> PromptInputs:
        """Return the inputs of the prompt that a subtask answers; the state does not matter."""
        seen = self._see_all(observation["images"])
        words = seen.rescaled(self._task(observation))
        prompt = subtask_prompt(seen.views, seen.tokens, words, phrase=self._phrase)
        return PromptInputs(**self._parts(prompt, seen))

    def question(self, images: Images, question: str) -> PromptInputs:
        """Return the inputs of a question about images, in the order in which they are given."""
        if not question.strip():
            raise UserError("the question is empty")
        given = self._by_view(images)
        if not given:
            raise UserError("a question needs at least one image")
        seen = _see(given, self._images if self._new else self._chat_images)
        words = seen.rescaled(question)
        if self._new:
            prompt = question_prompt_05(seen.views, seen.tokens, words)
        else:
            prompt = chat_prompt(seen.tokens, words)
        return PromptInputs(**self._parts(prompt, seen))

    def _acting(self, observation: Observation, horizon: int) -> dict[str, torch.Tensor | None]:
        seen = self._see_all(observation["images"])
        state = self._state(observation["state"])
        prompt = flow_prompt(
            seen.views,
            seen.tokens,
            seen.rescaled(self._task(observation)),
            horizon,
            state=state.text,
            phrase=self._phrase,
        )
        state_tokens = 1 if state.text is None else 0
        parts = self._parts(prompt, seen, horizon, state_tokens)
        return {**parts, "state": state.values, "state_mask": state.known}

    def _task(self, observation: Observation) -> str:
        words = observation["instruction"]
        return lerobot_task(words) if self._settings.layout is Layout.LEROBOT else words

    def _parts(
        self, prompt: str, seen: _Seen, horizon: int = 0, state_tokens: int = 0
    ) -> dict[str, torch.Tensor | None]:
        numbers = self._tokenizer.encode(
            prompt, sum(seen.tokens), horizon, state_tokens=state_tokens
        )
        ids = torch.from_numpy(numbers)[None]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.from_numpy(seen.patches.pixel_values),
            "grid_thw": torch.from_numpy(seen.patches.grid_thw),
        }

    def _see_all(self, images: Images) -> _Seen:
        given, wanted = self._by_view(images), self._settings.cameras
        missing = [view for view in wanted if view not in given]
        if missing:
            raise UserError(
                f"the observation lacks the views {', '.join(missing)}; it has "
                f"{', '.join(given) or 'none'}"
            )
        return _see({view: given[view] for view in wanted}, self._images)

    def _by_view(self, images: Images) -> dict[str, NDArray[np.uint8]]:
        found: dict[str, NDArray[np.uint8]] = {}
        for name, image in images.items():
            bare = name.removeprefix(IMAGE_PREFIX)
            view = self._views.get(bare, bare)
            if view in found:
                raise UserError(f"the observation has two images of the view {view}")
            found[view] = image
        return found


def _see(images: Images, preprocessor: ImagePreprocessor) -> _Seen:
    checked = {view: _checked_image(view, image) for view, image in images.items()}
    patches = preprocessor(checked)
    height, width = next(reversed(checked.values())).shape[:2]
    return _Seen(
        views=tuple(checked),
        patches=patches,
        tokens=preprocessor.tokens(patches),
        camera=(width, height),
        model=preprocessor.sizes(patches)[-1],
    )


def _checked_image(view: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"the image of {view} must be uint8 [height, width, 3], not "
            f"{array.dtype} {list(array.shape)}"
        )
    return array
