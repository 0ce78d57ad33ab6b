"""Writes tokens one after the other: the prompt runs once, then every new token attends to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.decoder import Cache, Rotary
from wallx_policy.model.network import Network, PromptInputs

OnToken = Callable[[tuple[int, ...]], None]
"""Gets all ids so far, after each."""
Cancelled = Callable[[], bool]
"""Asked before each token; True ends the text there."""


class GenerationFailure(Exception):
    """What the model wrote cannot be used; the text says why."""


class Stop(Enum):
    """Why a text ended."""

    END = "end"
    """The model said so."""
    LENGTH = "length"
    """No more tokens were allowed."""
    CANCELLED = "cancelled"
    """The caller asked for it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: 0 takes the likeliest; above 0 draws, the bolder the higher.
        seed: Of the draws.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no temperature."""
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature must be 0 or above, not {self.temperature}")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Generation:
    """What was written.

    Attributes:
        ids: Without the token that ended it.
        stop: Why it ended.
        logits: [tokens, rows], f32 on the CPU, the end's included; None unless asked for.
        timings_s: Seconds by stage: turn (waiting for it), prompt (images and all up to the first
            token), tokens.
    """

    ids: tuple[int, ...]
    stop: Stop
    logits: Tensor | None
    timings_s: dict[str, float]


class Generator:
    """Continues prompts; every token is of type 0, as in all references."""

    def __init__(self, network: Network, end: int, turns: AbstractContextManager[float]) -> None:
        """Take the id that ends a text, and a lock that gives the seconds waited for it.

        It is held for the prompt, and then for one token at a time.
        """
        self._network = network
        self._end = end
        self._turns = turns

    def __call__(
        self,
        inputs: PromptInputs,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        keep_logits: bool = False,
        on_token: OnToken | None = None,
        cancelled: Cancelled | None = None,
    ) -> Generation:
        """Continue one prompt.

        Args:
            inputs: Batch of one without padding.
            max_new_tokens: At most so many, the end included.
            sampling: How a token is chosen.
            keep_logits: Whether to return every step's logits.
            on_token: Told after each token.
            cancelled: Asked before each token.

        Raises:
            GenerationFailure: when the network's output is not finite.
            UserError: when ``max_new_tokens`` is below 1.
            ValueError: for more than one prompt, or padding.
        """
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        if inputs.input_ids.shape[0] != 1 or not bool(inputs.attention_mask.bool().all()):
            raise ValueError("text is written for one prompt at a time, without padding")
        choose = _Chooser(sampling)
        ids: list[int] = []
        kept: list[Tensor] = []
        if cancelled is not None and cancelled():
            return Generation((), Stop.CANCELLED, None, {})
        start = perf_counter()
        with self._turns as waited_s:
            logits, cache, turn = self._begin(inputs, max_new_tokens)
            token = choose(logits)
        begun, before_s = perf_counter(), waited_s
        while True:
            if keep_logits:
                kept.append(logits.cpu())
            if token == self._end:
                stop = Stop.END
                break
            ids.append(token)
            if on_token is not None:
                on_token(tuple(ids))
            if len(ids) == max_new_tokens:
                stop = Stop.LENGTH
                break
            if cancelled is not None and cancelled():
                stop = Stop.CANCELLED
                break
            with self._turns as more_s:
                waited_s += more_s
                logits = self._step(token, cache, turn.part(slice(len(ids) - 1, len(ids))))
                token = choose(logits)
        timings_s = {
            "turn": waited_s,
            "prompt": begun - start - before_s,
            "tokens": perf_counter() - begun - (waited_s - before_s),
        }
        return Generation(tuple(ids), stop, torch.stack(kept) if kept else None, timings_s)

    @torch.no_grad()
    def _begin(self, inputs: PromptInputs, room: int) -> tuple[Tensor, Cache, Rotary]:
        """Return the first logits, the cache, and the rotation of all tokens to come."""
        network, images = self._network, None
        if inputs.pixel_values is not None and inputs.grid_thw is not None:
            images = network.see(inputs.pixel_values, inputs.grid_thw)
        prompt = network.embed(inputs, images)
        prefix = network.decoder.prefill(
            prompt.embeddings, network.turn(prompt.positions), final_rows=1
        )
        assert prefix.hidden is not None
        logits = network.logits(prefix.hidden)[0, -1]
        positions = prompt.next_position + torch.arange(room, device=network.device)
        turn = network.turn(positions.expand(3, 1, room))
        return logits, Cache(prefix, room), turn

    @torch.no_grad()
    def _step(self, token: int, cache: Cache, turn: Rotary) -> Tensor:
        embedding = self._network.token_embeddings(torch.tensor([[token]]))
        hidden = self._network.decoder.extend(embedding, turn, cache)
        return self._network.logits(hidden)[0, -1]


class _Chooser:
    """Takes the likeliest token or draws one, always on the CPU: draws do not depend on devices."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._draws = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        highest, token = logits.max(dim=-1)
        if not math.isfinite(float(highest)):
            raise GenerationFailure(
                "the network's output is not finite: nothing can be read off it"
            )
        if self._temperature == 0.0:
            return int(token)
        chances = torch.softmax(logits.cpu().double() / self._temperature, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._draws))
