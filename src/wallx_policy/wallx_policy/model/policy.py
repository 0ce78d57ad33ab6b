"""Predicts actions from images, state and words, in the units of the data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError

from wallx_policy.contract_types import PredictionMode
from wallx_policy.model.chunking import ActionPrefix, Continuation, checked_actions
from wallx_policy.model.fast import FastModel
from wallx_policy.model.flow import FlowInputs, FlowModel
from wallx_policy.model.generation import Cancelled, Sampling
from wallx_policy.model.inputs import Images, InputBuilder, Observation
from wallx_policy.model.normalization import Normalization
from wallx_policy.model.poses import AbsolutePoses, PoseGroups
from wallx_policy.model.settings import PolicySettings, Rotary
from wallx_policy.model.text import MAX_NEW_TOKENS, TextWriter, Writing
from wallx_policy.model.turns import FairLock

__all__ = ["ActionPrediction", "Observation", "Policy", "PolicySettings", "Rotary"]


@dataclass(frozen=True, slots=True)
class ActionPrediction:
    """A chunk of actions.

    Attributes:
        actions: [horizon, dof] in data set units; normalised if the checkpoint has no statistics.
        timings_s: Seconds by stage: preprocess, turn (waiting for it), then vision, prefill, flow;
            or prompt, tokens.
        attempts: How many answers FAST took; the first draws nothing.
        poses: The same chunk as absolute end-effector poses; None for a checkpoint in joint space,
            or without statistics.
    """

    actions: NDArray[np.float64]
    timings_s: dict[str, float]
    attempts: int = 1
    poses: AbsolutePoses | None = None


class Policy:
    """A loaded checkpoint; made by `wallx_policy.model.load_policy`.

    Any thread may call any method. They take turns on the device: a prediction by flow is one turn,
    words and FAST tokens take one turn each, so that a long answer delays nobody by more than a
    token (or its prompt).

    Attributes:
        settings: What was taken for every switch.
        turns: The lock that a turn holds.
    """

    def __init__(
        self,
        settings: PolicySettings,
        model: FlowModel,
        inputs: InputBuilder,
        normalization: Normalization | None,
        text: TextWriter,
        fast: FastModel | None,
        turns: FairLock,
        poses: PoseGroups | None = None,
    ) -> None:
        """Put the parts together; ``fast`` is there if, and only if, the prediction is FAST."""
        self._poses = poses
        self.settings = settings
        self.turns = turns
        self._model = model
        self._inputs = inputs
        self._normalization = normalization
        self._text = text
        self._fast = fast

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
        *,
        seed: int = 0,
    ) -> ActionPrediction:
        """Predict a chunk of actions.

        Args:
            observation: Images of every view, state and instruction.
            noise: [horizon, all columns]; drawn from torch's global generator if not given. Flow
                only.
            prefix: What the chunk shall begin with, because the arm will have done it by then. The
                committed rows of a frozen prefix are given back as they came. Flow only.
            seed: Of FAST's attempts after the first; flow takes its noise instead.

        Raises:
            FastFailure: when the FAST tokens spell no chunk.
            UserError: when the observation, the noise or the prefix does not fit the checkpoint.
        """
        start = perf_counter()
        continuation = None if prefix is None else self._continuation(prefix, observation)
        if self._fast is not None:
            if noise is not None:
                raise UserError("FAST prediction starts from no noise: leave it out")
            prompt = self._inputs.fast(observation)
            preprocess_s = perf_counter() - start
            spelled = self._fast.sample(prompt, seed)
            actions = self._in_data_set_units(spelled.actions)
            return ActionPrediction(
                actions,
                {"preprocess": preprocess_s, **spelled.timings_s},
                spelled.attempts,
                self._absolute(actions, observation),
            )
        inputs = self.inputs(observation)
        given = torch.randn(self.noise_shape) if noise is None else noise
        drawn = torch.as_tensor(given, dtype=torch.float32)
        if tuple(drawn.shape) != self.noise_shape:
            raise UserError(f"noise must be {list(self.noise_shape)}, not {list(drawn.shape)}")
        preprocess_s = perf_counter() - start
        sample = self._model.sample if continuation is None else continuation.sample
        with self.turns as waited_s:
            result = sample(inputs, drawn[None])
            normalized = result.actions[0, :, : self.settings.action_dim].cpu().numpy()
        actions = self._in_data_set_units(normalized)
        if continuation is not None:
            actions = continuation.begun(actions)
        return ActionPrediction(
            actions,
            {"preprocess": preprocess_s, "turn": waited_s, **result.timings_s},
            poses=self._absolute(actions, observation),
        )

    def ask(
        self,
        images: Images,
        question: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
        cancelled: Cancelled | None = None,
    ) -> str:
        """Answer a question about images.

        Args:
            images: uint8 [H, W, 3] RGB by view, in the order in which the model shall see them.
            question: Plain words.
            max_new_tokens: A longer answer is cut there.
            temperature: 0 takes the likeliest token; above 0 draws, the bolder the higher.
            seed: Of the draws.
            on_text: Told the answer so far whenever it has grown, on this thread.
            cancelled: Asked before every token; True ends the answer there.

        Raises:
            GenerationFailure: when the network's output is not finite.
            UserError: when the images, the question or a number do not fit.
        """
        how = Writing(max_new_tokens, Sampling(temperature, seed), on_text, cancelled)
        return self._text.text(self._inputs.question(images, question), how)[0]

    def subtask(
        self,
        observation: Observation,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
        cancelled: Cancelled | None = None,
    ) -> str:
        """Say in words what to do next, fit to be the instruction of a prediction.

        Args:
            observation: Images of every view and the instruction; the state does not matter.
            max_new_tokens: The words must end before.
            temperature: As of `ask`.
            seed: As of `ask`.
            on_text: As of `ask`.
            cancelled: As of `ask`.

        Raises:
            GenerationFailure: when the words do not end, are cancelled, empty, or no words: they
                must not become an instruction then.
            UserError: when the observation or a number does not fit.
        """
        how = Writing(max_new_tokens, Sampling(temperature, seed), on_text, cancelled)
        return self._text.sentence(self._inputs.subtask(observation), how)

    def inputs(self, observation: Observation) -> FlowInputs:
        """Return what the network sees of an observation in flow prediction."""
        return self._inputs.flow(observation)

    def _in_data_set_units(self, normalized: NDArray[np.float32]) -> NDArray[np.float64]:
        if self._normalization is None:
            return normalized.astype(np.float64)
        return self._normalization.actions(normalized).astype(np.float64)

    def _absolute(
        self, actions: NDArray[np.float64], observation: Observation
    ) -> AbsolutePoses | None:
        return None if self._poses is None else self._poses.absolute(actions, observation["state"])

    def _continuation(self, prefix: ActionPrefix, observation: Observation) -> Continuation:
        mode = self.settings.prediction
        if mode is not PredictionMode.FLOW:
            raise UserError(f"{mode.value} prediction cannot continue a prefix, only flow can")
        checked_actions(prefix, self.settings.horizon, self.settings.action_dim)
        if self._poses is not None and self._poses.relative:
            if prefix.relative_to is None:
                raise UserError(
                    "actions of this checkpoint are relative to a state: give the prefix the one "
                    "that its actions were predicted from as relative_to"
                )
            moved = self._poses.rebased(prefix.actions, prefix.relative_to, observation["state"])
            prefix = replace(prefix, actions=moved)
        return Continuation(
            prefix,
            self._model,
            self._normalization,
            self.settings.horizon,
            self.settings.action_dim,
        )
