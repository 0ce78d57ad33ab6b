"""Real-time chunking: a new chunk that continues the one under way.

While a chunk is computed, the arm goes on with the last one. What it will have done by the time the
new chunk arrives is committed; the new chunk has to begin with it, or the arm jumps at the
hand-off. A flow can be told without retraining, in two ways:

- FROZEN: at every Euler step the committed rows are put where the flow would have them on its way
  to the given actions, ``(1 − t) · noise + t · action``; all other rows see them by attention. No
  gradient, no further cost.
- GUIDED: pseudo-inverse guidance, as in "Real-Time Execution of Action Chunking Flow Policies"
  (Black, Galliker, Levine 2025). At flow time t the actions expected are ``x̂ = x + (1 − t) · v(x)``
  with a spread of about ``r² = (1 − t)² / (t² + (1 − t)²)``. Given that the actions are y, up to
  that spread, the score of x grows by ``(∂x̂/∂x)ᵀ W (y − x̂) / r²``, and a score counts
  ``(1 − t) / t`` in the velocity. The whole factor has no bound at both ends, hence ``beta``. W is
  1 on committed rows and falls to 0 over the others, so that the new chunk keeps to the old plan
  where it need not leave it. It costs the gradient through the action rows of every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.flow import FlowContext, FlowInputs, FlowModel, FlowResult, Integrator
from wallx_policy.model.normalization import Line, Normalization

BETA = 5.0
"""Largest weight of the guidance; ``docs/chunking.md`` has the measurement behind it."""

SMALLEST_SPREAD = 1e-6
"""A column whose scale is below this share of its values did not move in training: the model's
number for it is noise of the rounding, and nothing can be learnt from it."""


class PrefixMode(Enum):
    """How a chunk is made to continue another."""

    FROZEN = "frozen"
    GUIDED = "guided"


@dataclass(frozen=True, slots=True, eq=False)
class ActionPrefix:
    """The beginning of a new chunk as far as it is known.

    Attributes:
        actions: [rows, action columns] in data set units, from the new chunk's row 0 on.
        committed: Leading rows that will surely be executed before the new chunk arrives. The other
            rows are what the last chunk meant to do next: GUIDED leans on them less and less,
            FROZEN leaves them out.
        mode: How the new chunk is made to continue them.
        beta: Largest weight of the guidance.
        relative_to: [state columns], the state that the actions were predicted from, in data set
            units; needed where a checkpoint's actions are relative to the state.
    """

    actions: ArrayLike
    committed: int
    mode: PrefixMode = PrefixMode.GUIDED
    beta: float = BETA
    relative_to: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A prefix as the flow takes it.

    Attributes:
        actions: Normalised, [1, horizon, columns], f32; 0 where nothing is known.
        weights: Of the rows, [1, horizon, 1].
        known: [1, 1, columns], 1 for columns of the prefix.
        committed: Leading rows that are committed.
    """

    actions: Tensor
    weights: Tensor
    known: Tensor
    committed: int


def checked_actions(prefix: ActionPrefix, horizon: int, columns: int) -> NDArray[np.float32]:
    """Return the actions of a prefix that fits a checkpoint.

    Raises:
        UserError: for anything that no chunk can begin with.
    """
    try:
        actions = np.asarray(prefix.actions, dtype=np.float32)
    except (TypeError, ValueError):
        raise UserError(f"the prefix must be [rows, {columns}] numbers") from None
    if actions.ndim != 2 or actions.shape[1] != columns:
        raise UserError(f"the prefix must be [rows, {columns}] actions, not {list(actions.shape)}")
    rows = len(actions)
    if not np.isfinite(actions).all():
        row, column = np.argwhere(~np.isfinite(actions))[0]
        raise UserError(f"the prefix is not finite in row {row}, column {column}")
    if not 1 <= rows <= horizon:
        raise UserError(f"the prefix has {rows} rows, the chunk {horizon}: give 1 to {horizon}")
    if not 0 <= prefix.committed <= rows:
        raise UserError(f"the prefix commits {prefix.committed} rows and gives {rows}")
    if not (math.isfinite(prefix.beta) and prefix.beta > 0.0):
        raise UserError(f"beta of the prefix must be above 0 and finite, not {prefix.beta}")
    return actions


def soft_weights(committed: int, rows: int, horizon: int) -> NDArray[np.float32]:
    """Return the weight of every row of a chunk in the guidance, [horizon].

    1 on committed rows; then ``c · (e^c − 1) / (e − 1)``, c falling in equal steps from 1, before
    the first row that is not committed, to 0, behind the last row given; 0 on all others.
    """
    weights = np.zeros(horizon, dtype=np.float32)
    weights[:committed] = 1.0
    share = np.arange(rows - committed, 0, -1) / (rows - committed + 1)
    weights[committed:rows] = share * np.expm1(share) / math.expm1(1.0)
    return weights


def guidance_weight(t: float, beta: float) -> float:
    """Return what a unit of the score counts in the velocity at flow time t, at most ``beta``."""
    if not 0.0 < t < 1.0:
        return beta
    return min(beta, (t**2 + (1.0 - t) ** 2) / (t * (1.0 - t)))


def guided_velocity(
    velocity: Callable[[Tensor], Tensor],
    x: Tensor,
    t: float,
    length: float,
    target: Target,
    beta: float,
) -> Tensor:
    """Return the velocity at ``x`` that leads to actions like those of the target.

    Guidance is a step down the slope of the weighted error. Where the flow is steep, as in a model
    that was not trained, the usual weight would step far beyond the bottom and diverge; it is
    limited to where the error along the slope vanishes. Trained flows are hardly ever that steep.

    Args:
        velocity: The flow's own, a differentiable function of ``x``.
        x: [1, horizon, columns].
        t: Flow time.
        length: Of the Euler step.
        target: Where to; columns that it does not know keep the flow's velocity.
        beta: Largest weight of the guidance.
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        v = velocity(at)
        expected = at + (1.0 - t) * v
        error = target.weights * target.known * (target.actions - expected.detach())
        (pull,) = torch.autograd.grad(expected, at, grad_outputs=error)
    pull = target.known * pull
    # |Jᵀe|² / |e|² bounds how steep the error is along the pull from below, at no further cost.
    steepness = pull.square().sum() / error.square().sum().clamp_min(1e-30)
    most = 1.0 / (length * steepness.clamp_min(1e-30))
    return v.detach() + most.clamp_max(guidance_weight(t, beta)) * pull


class Continuation:
    """A prefix made ready for one checkpoint."""

    def __init__(
        self,
        prefix: ActionPrefix,
        model: FlowModel,
        normalization: Normalization | None,
        horizon: int,
        columns: int,
    ) -> None:
        """Check and normalise the prefix.

        Args:
            prefix: The beginning of the chunk.
            model: Makes the chunk.
            normalization: Of the checkpoint; clamps what training clamped.
            horizon: Actions in a chunk.
            columns: Action columns that are given out, which a prefix has too.

        Raises:
            UserError: for a prefix that no chunk can begin with.
        """
        self._prefix = prefix
        self._model = model
        self._actions = checked_actions(prefix, horizon, columns)
        rows = len(self._actions)
        known = np.ones(columns, dtype=np.float32)
        normalized = self._actions
        if normalization is not None:
            with np.errstate(over="ignore"):  # what overflows is refused, or not used
                normalized = normalization.normalized_actions(normalized)
            if normalization.action_in is not None:
                known = _moving(normalization.action_in, columns)
        normalized = np.where(known > 0.0, normalized, np.float32(0.0))
        if not np.isfinite(normalized).all():
            raise UserError("the prefix is out of all proportion to the checkpoint's statistics")
        values, of_column = torch.zeros(1, horizon, model.columns), torch.zeros(1, 1, model.columns)
        values[0, :rows, :columns] = torch.from_numpy(normalized)
        of_column[0, 0, :columns] = torch.from_numpy(known)
        weights = torch.from_numpy(soft_weights(prefix.committed, rows, horizon))
        target = Target(values, weights[None, :, None], of_column, prefix.committed)
        self._integrator: Integrator = _Guided(target, prefix.beta)
        if prefix.mode is PrefixMode.FROZEN:
            self._integrator = _Frozen(target)

    def sample(self, inputs: FlowInputs, noise: Tensor) -> FlowResult:
        """Integrate noise [1, horizon, columns] to normalised actions that continue the prefix."""
        return self._model.sample(inputs, noise, integrator=self._integrator)

    def begun(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return actions [horizon, columns] in data set units, frozen rows exactly as given."""
        if self._prefix.mode is PrefixMode.FROZEN:
            committed = slice(self._prefix.committed)
            actions[committed] = np.asarray(self._prefix.actions, dtype=np.float64)[committed]
        return actions


def _moving(line: Line, columns: int) -> NDArray[np.float32]:
    """Return 1 for every column that moved in training, [columns]."""
    size = np.maximum(np.abs(line.shift[:columns]), 1.0)
    return (line.scale[:columns] > SMALLEST_SPREAD * size).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """Puts the committed rows where they would be on their way, before every step."""

    target: Target

    @property
    def key(self) -> Hashable:
        return PrefixMode.FROZEN

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        rows = torch.arange(self.target.actions.shape[1])[:, None] < self.target.committed
        return self.target.actions, rows * self.target.known

    def __call__(
        self, model: FlowModel, context: FlowContext, noise: Tensor, tensors: tuple[Tensor, ...]
    ) -> Tensor:
        actions, held = tensors[0], tensors[1].bool()
        x = noise
        for step, (t, length) in enumerate(model.steps):
            x = torch.where(held, (1.0 - t) * noise + t * actions, x)
            x = x + length * model.velocity(context, x, step)
        return torch.where(held, actions, x)


@dataclass(frozen=True, slots=True)
class _Guided:
    """Takes every step with the velocity that leads to actions like those of the target."""

    target: Target
    beta: float

    @property
    def key(self) -> Hashable:
        return PrefixMode.GUIDED, self.beta

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.target.actions, self.target.weights, self.target.known

    def __call__(
        self, model: FlowModel, context: FlowContext, noise: Tensor, tensors: tuple[Tensor, ...]
    ) -> Tensor:
        target = Target(*tensors, self.target.committed)
        x = noise
        for step, (t, length) in enumerate(model.steps):

            def own(at: Tensor, step: int = step) -> Tensor:
                return model.velocity(context, at, step)

            x = x + length * guided_velocity(own, x, t, length, target, self.beta)
        return x
