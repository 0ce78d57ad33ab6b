"""Predicts actions from images, state and words, in the units of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError

from wallx_policy.lerobot_files import IMAGE_PREFIX
from wallx_policy.model.config import ActionAttention, Layout
from wallx_policy.model.flow import FlowInputs, FlowModel
from wallx_policy.model.images import ImagePreprocessor, Resize
from wallx_policy.model.normalization import Normalization
from wallx_policy.model.prompt import PromptTokenizer, flow_prompt, lerobot_task


class Rotary(Enum):
    """Precision of the rotary frequencies."""

    EXACT = "exact"
    BF16 = "bf16"


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


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What was taken for every switch of a checkpoint.

    Attributes:
        layout: Who wrote the checkpoint.
        cameras: Views in prompt order.
        horizon: Actions in a chunk.
        action_dim: Leading action columns in use.
        steps: Euler steps.
        end_time: Flow time where the last one ends.
        action_attention: What action tokens see of each other.
        resize: Kernel of the image resampling.
        rotary: Precision of the frequencies.
        statistics: Where normalisation comes from.
        device: Where the model runs.
        dtype: Of its matrices.
    """

    layout: Layout
    cameras: tuple[str, ...]
    horizon: int
    action_dim: int
    steps: int
    end_time: float
    action_attention: ActionAttention
    resize: Resize
    rotary: Rotary
    statistics: str
    device: str
    dtype: str

    def line(self) -> str:
        """Return one line for the log."""
        return (
            f"{self.layout.value} layout, views {', '.join(self.cameras)}, {self.horizon} actions "
            f"of {self.action_dim}, {self.steps} Euler steps to {self.end_time:g}, "
            f"{self.action_attention.value} attention, {self.resize.value} resize, "
            f"{self.rotary.value} rotary, statistics: {self.statistics}, "
            f"{self.dtype} on {self.device}"
        )


class Policy:
    """A loaded checkpoint; made by `wallx_policy.model.load_policy`."""

    def __init__(
        self,
        settings: PolicySettings,
        model: FlowModel,
        tokenizer: PromptTokenizer,
        images: ImagePreprocessor,
        normalization: Normalization | None,
        rename: Mapping[str, str],
    ) -> None:
        """Put the parts together."""
        self.settings = settings
        self._model = model
        self._tokenizer = tokenizer
        self._images = images
        self._normalization = normalization
        self._rename = dict(rename)

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

    def predict(self, observation: Observation, noise: ArrayLike | None = None) -> ActionPrediction:
        """Predict a chunk of actions.

        Args:
            observation: Images of every view, state and instruction.
            noise: [horizon, all columns]; drawn from torch's global generator if not given.

        Raises:
            UserError: when the observation does not fit the checkpoint.
        """
        start = perf_counter()
        inputs = self.inputs(observation)
        given = torch.randn(self.noise_shape) if noise is None else noise
        drawn = torch.as_tensor(given, dtype=torch.float32)
        if tuple(drawn.shape) != self.noise_shape:
            raise UserError(f"noise must be {list(self.noise_shape)}, not {list(drawn.shape)}")
        preprocess_s = perf_counter() - start
        result = self._model.sample(inputs, drawn[None])
        actions = result.actions[0, :, : self.settings.action_dim].cpu().numpy()
        if self._normalization is not None:
            actions = self._normalization.actions(actions)
        return ActionPrediction(
            actions.astype(np.float64), {"preprocess": preprocess_s, **result.timings_s}
        )

    def inputs(self, observation: Observation) -> FlowInputs:
        """Return what the network sees of an observation."""
        given = {self._view(name): image for name, image in observation["images"].items()}
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
        prompt = flow_prompt(self.settings.cameras, tokens, instruction, horizon)
        ids = torch.from_numpy(self._tokenizer.encode(prompt, sum(tokens), horizon))[None]
        state, known = self._state(observation["state"])
        dof = torch.zeros(1, self._model.columns)
        dof[:, : self.settings.action_dim] = 1.0
        return FlowInputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(patches.pixel_values),
            grid_thw=torch.from_numpy(patches.grid_thw),
            state=state,
            state_mask=known,
            dof_mask=dof,
        )

    def _view(self, name: str) -> str:
        name = self._rename.get(name, self._rename.get(IMAGE_PREFIX + name, name))
        return name.removeprefix(IMAGE_PREFIX)

    def _state(self, given: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        state = np.asarray(given, dtype=np.float32)
        columns = self._model.columns
        if state.ndim != 1 or len(state) > columns:
            raise UserError(f"the state must be up to {columns} numbers, not {list(state.shape)}")
        if np.isinf(state).any():
            raise UserError("the state is infinite")
        if self._normalization is not None:
            state = self._normalization.normalized_state(state)
        values, known = torch.zeros(1, columns), torch.zeros(1, columns)
        known[0, : len(state)] = torch.from_numpy(~np.isnan(state)).float()
        values[0, : len(state)] = torch.from_numpy(np.nan_to_num(state, nan=0.0))
        return values, known


def _checked_image(view: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"the image of {view} must be uint8 [height, width, 3], not "
            f"{array.dtype} {list(array.shape)}"
        )
    return array
