"""Predicts actions from images, state and words, in the units of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError

from wallx_policy.contract_types import PredictionMode
from wallx_policy.lerobot_files import IMAGE_PREFIX
from wallx_policy.model.chunking import ActionPrefix, Continuation
from wallx_policy.model.config_types import Layout
from wallx_policy.model.flow import FlowInputs, FlowModel
from wallx_policy.model.images import ImagePreprocessor
from wallx_policy.model.normalization import Normalization
from wallx_policy.model.prompt import (
    PromptTokenizer,
    flow_prompt,
    lerobot_task,
    view_phrase,
    view_phrase_05,
)
from wallx_policy.model.settings import PolicySettings, Rotary
from wallx_policy.model.state import StateEncoder

__all__ = ["ActionPrediction", "Observation", "Policy", "PolicySettings", "Rotary"]


class Observation(TypedDict):
    """What `Policy.predict` takes.

    ``images``: uint8 [H, W, 3] RGB by view; ``state``: [columns] in data set units, NaN where
    unknown; ``instruction``: plain words.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: ArrayLike
    instruction: str


@dataclass(frozen=True, slots=True)
class ActionPrediction:
    """A chunk of actions.

    Attributes:
        actions: [horizon, dof] in data set units; normalised if the checkpoint has no statistics.
        timings_s: Seconds by stage: preprocess, vision, prefill, flow.
    """

    actions: NDArray[np.float64]
    timings_s: dict[str, float]


class Policy:
    """A loaded checkpoint; made by `wallx_policy.model.load_policy`."""

    def __init__(
        self,
        settings: PolicySettings,
        model: FlowModel,
        tokenizer: PromptTokenizer,
        images: ImagePreprocessor,
        normalization: Normalization | None,
        state: StateEncoder,
        views: Mapping[str, str],
    ) -> None:
        """Put the parts together; ``views`` are views by name of an image, where they differ."""
        self.settings = settings
        self._model = model
        self._tokenizer = tokenizer
        self._images = images
        self._normalization = normalization
        self._state = state
        self._views = dict(views)
        self._phrase = (
            view_phrase_05 if settings.layout in (Layout.WALL05, Layout.LEROBOT05) else view_phrase
        )

    @property
    def description(self) -> str:
        """One line that says what was taken for every switch."""
        return self.settings.line()

    @property
    def model(self) -> FlowModel:
        """The network behind this policy, for benchmarks and comparison with references."""
        return self._model

    @property
    def has_statistics(self) -> bool:
        """Whether states and actions are in data set units; without statistics they cannot be."""
        return self._normalization is not None

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the noise: horizon and all columns, used or not."""
        return self.settings.horizon, self._model.columns

    def noise(self, seed: int) -> NDArray[np.float32]:
        """Return normal noise, the same for the same seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.noise_shape, generator=generator).numpy()

    def predict(
        self,
        observation: Observation,
        noise: ArrayLike | None = None,
        prefix: ActionPrefix | None = None,
    ) -> ActionPrediction:
        """Predict a chunk of actions.

        Args:
            observation: Images of every view, state and instruction.
            noise: [horizon, all columns]; drawn from torch's global generator if not given.
            prefix: What the chunk shall begin with, because the arm will have done it by then. The
                committed rows of a frozen prefix are given back as they came.

        Raises:
            UserError: when the observation or the prefix does not fit the checkpoint.
        """
        start = perf_counter()
        continuation = None if prefix is None else self._continuation(prefix)
        inputs = self.inputs(observation)
        given = torch.randn(self.noise_shape) if noise is None else noise
        drawn = torch.as_tensor(given, dtype=torch.float32)
        if tuple(drawn.shape) != self.noise_shape:
            raise UserError(f"noise must be {list(self.noise_shape)}, not {list(drawn.shape)}")
        preprocess_s = perf_counter() - start
        sample = self._model.sample if continuation is None else continuation.sample
        result = sample(inputs, drawn[None])
        actions = result.actions[0, :, : self.settings.action_dim].cpu().numpy()
        if self._normalization is not None:
            actions = self._normalization.actions(actions)
        actions = actions.astype(np.float64)
        if continuation is not None:
            actions = continuation.begun(actions)
        return ActionPrediction(actions, {"preprocess": preprocess_s, **result.timings_s})

    def inputs(self, observation: Observation) -> FlowInputs:
        """Return what the network sees of an observation."""
        given = self._by_view(observation["images"])
        missing = [view for view in self.settings.cameras if view not in given]
        if missing:
            raise UserError(
                f"the observation lacks the views {', '.join(missing)}; it has "
                f"{', '.join(given) or 'none'}"
            )
        images = {view: _checked_image(view, given[view]) for view in self.settings.cameras}
        patches = self._images(images)
        tokens = self._images.tokens(patches)
        instruction = observation["instruction"]
        if self.settings.layout is Layout.LEROBOT:
            instruction = lerobot_task(instruction)
        horizon = self.settings.horizon
        state = self._state(observation["state"])
        prompt = flow_prompt(
            self.settings.cameras,
            tokens,
            instruction,
            horizon,
            state=state.text,
            phrase=self._phrase,
        )
        state_tokens = 1 if state.text is None else 0
        numbers = self._tokenizer.encode(prompt, sum(tokens), horizon, state_tokens=state_tokens)
        ids = torch.from_numpy(numbers)[None]
        dof = torch.zeros(1, self._model.columns)
        dof[:, : self.settings.active_columns] = 1.0
        return FlowInputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(patches.pixel_values),
            grid_thw=torch.from_numpy(patches.grid_thw),
            state=state.values,
            state_mask=state.known,
            dof_mask=dof,
        )

    def _continuation(self, prefix: ActionPrefix) -> Continuation:
        mode = self.settings.prediction
        if mode is not PredictionMode.FLOW:
            raise UserError(f"{mode.value} prediction cannot continue a prefix, only flow can")
        return Continuation(
            prefix,
            self._model,
            self._normalization,
            self.settings.horizon,
            self.settings.action_dim,
        )

    def _by_view(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        found: dict[str, NDArray[np.uint8]] = {}
        for name, image in images.items():
            bare = name.removeprefix(IMAGE_PREFIX)
            view = self._views.get(bare, bare)
            if view in found:
                raise UserError(f"the observation has two images of the view {view}")
            found[view] = image
        return found


def _checked_image(view: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"the image of {view} must be uint8 [height, width, 3], not "
            f"{array.dtype} {list(array.shape)}"
        )
    return array
