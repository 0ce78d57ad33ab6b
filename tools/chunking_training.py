"""A tiny flow model for `bench_chunking`, trained on the expert's episodes in minutes on a CPU.

It has the layout of wall-oss-flow and is run by the same code as a released checkpoint, but it is
no WALL-OSS: 0.2 million weights, no vision (its one camera image is always grey), and the place of
the cube as three more numbers of the state. It exists to have something that predicts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from chunking_episodes import TICK_S, Episode
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, silu
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.checkpoint import read_weights
from wallx_policy.model.config import ModelConfig, read_config
from wallx_policy.model.decoder import Cache, Prefix
from wallx_policy.model.flow import FlowInputs, time_embedding
from wallx_policy.model.network import Network
from wallx_policy.model.normalization import from_normalizers
from wallx_policy.model.tensors import (
    EMBEDDING,
    STATE,
    expert_names,
    final_norm_names,
    fused_name,
    tensor_shapes,
)
from wallx_policy.model.weights import ModelWeights
from wallx_policy.random_checkpoints import write_random_checkpoint

PERIOD_S, HORIZON = 0.04, 25
COLUMNS, STATE_COLUMNS = 6, 9
VIEW, IMAGE = "face_view", np.full((56, 56, 3), 128, np.uint8)
INSTRUCTION = "put the red cube into the tray"
STATISTICS = "chunking"
PACES = (0.6, 1.0, 1.6)
"""People do the same thing at different speeds, and a single state does not tell at which."""

OBSERVATIONS, DRAWS = 24, 8
"""Of one training step: observations, and noises and times of each."""
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class Phase:
    """Of training; each begins with a warm-up and ends at next to no learning rate.

    Attributes:
        steps: How many.
        rate: Largest learning rate.
        average: How slowly the weights that are kept follow those that are trained; 0: at once.
    """

    steps: int
    rate: float
    average: float


PHASES = (Phase(3000, 3e-3, 0.0), Phase(2000, 1e-3, 0.995))


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What the model sees and shall say at one moment.

    Attributes:
        states: [samples, 9] radians and metres.
        actions: [samples, horizon, 6] radians.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64]


def state_at(episode: Episode, time_s: float) -> NDArray[np.float64]:
    """Joints and cube at a time, [9]."""
    tick = min(round(time_s / TICK_S), len(episode.joints_rad) - 1)
    return np.concatenate((episode.joints_rad[tick], episode.cube_m[tick]))


def actions_at(episode: Episode, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Commands at times, [times, 6]; the last one after the end."""
    ticks = np.clip(times_s / TICK_S, 0.0, len(episode.commands_rad) - 1.0)
    known = np.arange(len(episode.commands_rad))
    return np.stack([np.interp(ticks, known, joint) for joint in episode.commands_rad.T], axis=-1)


def all_samples(episodes: Sequence[Episode], every_s: float = 0.05) -> Samples:
    """Cut every episode, at every pace, into samples."""
    states, actions = [], []
    for episode in episodes:
        for pace in PACES:
            played = episode.faster(pace)
            for time_s in np.arange(0.0, played.duration_s, every_s):
                states.append(state_at(played, time_s))
                actions.append(actions_at(played, time_s + PERIOD_S * np.arange(HORIZON)))
    return Samples(np.array(states), np.array(actions))


def write_start(folder: Path, samples: Samples, seed: int = 0) -> None:
    """Write an untrained checkpoint for the samples: their statistics, nine columns of state."""
    write_random_checkpoint(folder, seed=seed)
    (folder / "contract.yaml").unlink()
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["agent_pos_config"] = {"follow_left_arm_joint_pos": 6, "cube": 3}
    config["dof_config"] = {"follow_left_arm_joint_pos": 6}
    config["resolution"] = {VIEW: 56}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model = read_config(folder, None).model
    shapes = tensor_shapes(model, config["vocab_size"], COLUMNS, state_columns=STATE_COLUMNS)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _start(name, shape, generator) for name, shape in shapes.items()}
    for feature, values in (
        ("propri", samples.states),
        ("action", samples.actions.reshape(-1, COLUMNS)),
    ):
        low, high = torch.tensor(values.min(axis=0)), torch.tensor(values.max(axis=0))
        name = f"action_preprocessor.normalizer_{feature}"
        tensors[f"{name}.min.{STATISTICS}"] = low.float()
        tensors[f"{name}.delta.{STATISTICS}"] = (high - low).float()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _start(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    values = torch.randn(shape, generator=generator)
    inner = values[0].numel()
    if name.endswith(("o_proj.weight", "down_proj.weight", "action_proj_back.weight")):
        return 0.3 * values * inner**-0.5
    return values * (0.5 if name == EMBEDDING else inner**-0.5)


def load_trained(folder: Path) -> Policy:
    """Load what `train` wrote."""
    return load_policy(
        folder,
        norm_key=STATISTICS,
        cameras=[VIEW],
        horizon=HORIZON,
        num_steps=10,
        action_attention="island",
    )


class _Trainer:
    """The flow loss through our own decoder; prompts differ by their state only."""

    def __init__(self, folder: Path) -> None:
        self.policy = load_trained(folder)
        config = read_config(folder, None)
        self.config = config.model
        self.weights = read_weights(
            folder,
            config.layout,
            config.model,
            "cpu",
            torch.float32,
            columns=COLUMNS,
            state_columns=STATE_COLUMNS,
        )
        self.trained = _named(self.weights, self.config)
        for tensor in self.trained.values():
            tensor.requires_grad_()
        self.network = Network(
            config.model, self.weights, self.policy.model.network.special, bf16_rotary=False
        )
        observation = {"images": {VIEW: IMAGE}, "state": np.zeros(9), "instruction": INSTRUCTION}
        self.one = self.policy.inputs(observation)
        with torch.no_grad():
            self.image = self.network.see(self.one.pixel_values, self.one.grid_thw)

    def loss(self, states: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over all rows and columns, of normalised states [n, 9] and actions [n, h, 6]."""
        count = len(states)
        ids = self.one.input_ids.expand(count, -1)
        inputs = FlowInputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.one.pixel_values,
            grid_thw=self.one.grid_thw.repeat(count, 1),
            state=states,
            state_mask=torch.ones_like(states),
            dof_mask=torch.ones(count, COLUMNS),
        )
        prompt = self.network.embed(inputs, self.image.repeat(count, 1))
        tokens = ids.shape[1] - HORIZON
        turn = self.network.turn(prompt.positions[:, :1])
        decoder = self.network.decoder
        prefix = decoder.prefill(prompt.embeddings[:, :tokens], turn.part(slice(tokens)))
        repeated = tuple(
            (k.repeat_interleave(DRAWS, 0), v.repeat_interleave(DRAWS, 0))
            for k, v in prefix.keys_values
        )
        cache = Cache(Prefix(repeated, None), room=HORIZON)
        wanted = actions.repeat_interleave(DRAWS, 0)
        noise = torch.randn(wanted.shape, generator=generator)
        b = torch.rand(len(wanted), generator=generator) ** (1.0 / 1.5)  # Beta(1.5, 1)
        t = (1.0 - b) * 0.999
        x = (1.0 - t)[:, None, None] * noise + t[:, None, None] * wanted
        # Every action token sees all others: island attention, as in fine-tunes of LeRobot.
        rest = turn.part(slice(tokens, None))
        hidden = decoder.actions(self._embedded(x, t), rest, cache, None)
        v = linear(hidden, self.weights.head.back)
        return (v - (wanted - noise)).square().mean()

    def _embedded(self, x: Tensor, t: Tensor) -> Tensor:
        head = self.weights.head
        width = head.w3.shape[0]
        first = linear(torch.cat((x, torch.ones_like(x)), dim=-1), head.w1)
        times = torch.stack([time_embedding(one, width) for one in t])[:, None]
        both = torch.cat((first, times.expand(-1, x.shape[1], -1)), dim=-1)
        return linear(silu(linear(both, head.w2)), head.w3)

    def save(self, folder: Path, trained: Sequence[Tensor]) -> None:
        """Write the checkpoint with these weights in place of those that were trained."""
        tensors = dict(zip(self.trained, trained, strict=True))
        tensors[EMBEDDING] = self.weights.embedding
        tensors |= {f"visual.{name}": tensor for name, tensor in self.weights.vision.items()}
        for name, kinds in self.weights.normalizers.items():
            for (feature, kind), tensor in kinds.items():
                key = f"action_preprocessor.normalizer_{feature}.{kind}.{name}"
                tensors[key] = tensor.float()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _named(weights: ModelWeights, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors that are trained, by name; q, k, v and gate, up joined as in newer saves."""
    head = weights.head
    found = {
        f"action_preprocessor.{name}.weight": tensor
        for name, tensor in (
            ("w1", head.w1),
            ("w2", head.w2),
            ("w3", head.w3),
            ("action_proj_back", head.back),
        )
    }
    assert head.propri is not None
    found[STATE] = head.propri
    found[final_norm_names(config.mixture)[0]] = weights.final_norms[0]
    for n, experts in enumerate(weights.layers):
        for kind, expert in enumerate(experts):
            names = expert_names(config.mixture, n, kind)
            found |= {
                names.input_norm: expert.input_norm,
                fused_name(names.qkv[0]): expert.qkv,
                fused_name(names.qkv_bias[0]): expert.qkv_bias,
                names.out: expert.out,
                names.post_norm: expert.post_norm,
                fused_name(names.gate_up[0]): expert.gate_up,
                names.down: expert.down,
            }
    return found


def train(
    folder: Path,
    samples: Samples,
    say: Callable[[str], None],
    phases: Sequence[Phase] = PHASES,
    seed: int = 0,
) -> list[float]:
    """Train a checkpoint on samples, write it into a folder, and return the loss by step."""
    write_start(folder, samples, seed)
    losses: list[float] = []
    for number, phase in enumerate(phases):
        losses += train_on(folder, samples, say, phase, seed + number)
    return losses


def train_on(
    folder: Path, samples: Samples, say: Callable[[str], None], phase: Phase, seed: int
) -> list[float]:
    """Go on with the checkpoint that lies in a folder, for one phase; returns the loss by step."""
    trainer = _Trainer(folder)
    normalization = from_normalizers(trainer.weights.normalizers, STATISTICS)
    assert normalization is not None and normalization.state is not None
    states = torch.from_numpy(normalization.state.there(samples.states.astype(np.float32)))
    actions = torch.from_numpy(normalization.normalized_actions(samples.actions.astype(np.float32)))
    generator = torch.Generator().manual_seed(seed)
    tensors = list(trainer.trained.values())
    averages = [tensor.detach().clone() for tensor in tensors]
    optimizer = torch.optim.AdamW(tensors, lr=phase.rate, betas=(0.9, 0.95), weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(step / WARM_UP, 0.5 + 0.5 * np.cos(np.pi * step / phase.steps)) + 1e-3,
    )
    losses = []
    for step in range(phase.steps):
        chosen = torch.randint(len(states), (OBSERVATIONS,), generator=generator)
        loss = trainer.loss(states[chosen], actions[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        optimizer.step()
        rate.step()
        torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1.0 - phase.average)
        losses.append(loss.item())
        if step % 200 == 199:
            say(f"step {step + 1} of {phase.steps}: loss {np.mean(losses[-200:]):.4f}")
    trainer.save(folder, averages)
    return losses
