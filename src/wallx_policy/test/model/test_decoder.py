"""Tokens run in parts, or once for all, come out the same; gradients pass where they must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from so101_driver.errors import UserError
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.decoder import Cache, Prefix
from wallx_policy.model.flow import FlowInputs, FlowModel

CLOSE = 1e-5


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return load_policy(random_checkpoint)


@pytest.fixture
def inputs(policy: Policy, observe: Callable[..., dict]) -> FlowInputs:
    return policy.inputs(observe())


@pytest.fixture
def model(policy: Policy) -> FlowModel:
    return policy.model


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_tokens_one_by_one_equal_tokens_at_once(model: FlowModel, inputs: FlowInputs) -> None:
    network = model.network
    prompt = network.embed(inputs, network.see(inputs.pixel_values, inputs.grid_thw))
    turn, x = network.turn(prompt.positions), prompt.embeddings
    tokens, first = x.shape[1], x.shape[1] - 5
    whole = network.decoder.prefill(x, turn, final_rows=tokens)
    assert network.decoder.prefill(x, turn).hidden is None
    prefix = network.decoder.prefill(x[:, :first], turn.part(slice(first)), final_rows=1)
    assert difference(prefix.hidden[:, 0], whole.hidden[:, first - 1]) < CLOSE
    cache = Cache(prefix, room=5)
    for i in range(first, tokens):
        one = slice(i, i + 1)
        hidden = network.decoder.extend(x[:, one], turn.part(one), cache)
        assert difference(hidden, whole.hidden[:, one]) < CLOSE
    assert cache.length == tokens
    with pytest.raises(ValueError, match="room"):
        network.decoder.extend(x[:, one], turn.part(one), cache)
    assert network.logits(whole.hidden).shape == (1, tokens, network.rows)


@torch.no_grad()
def test_asking_for_fewer_final_rows_changes_none(model: FlowModel, inputs: FlowInputs) -> None:
    network = model.network
    prompt = network.embed(inputs, network.see(inputs.pixel_values, inputs.grid_thw))
    turn, x = network.turn(prompt.positions), prompt.embeddings
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None, None]
    every = network.decoder.prefill(x, turn, final_rows=x.shape[1]).hidden
    for given in (None, mask):
        few = network.decoder.prefill(x, turn, given, final_rows=3).hidden
        assert difference(few, every[:, -3:]) < CLOSE
    blind = mask & torch.eye(x.shape[1], dtype=torch.bool)
    other = network.decoder.prefill(x, turn, blind, final_rows=3).hidden
    assert difference(other, every[:, -3:]) > 1e-2


def test_the_next_position_follows_the_largest(model: FlowModel, inputs: FlowInputs) -> None:
    prompt = model.network.embed(inputs, model.network.see(inputs.pixel_values, inputs.grid_thw))
    assert prompt.next_position.tolist() == [int(prompt.positions.max()) + 1]


def test_what_does_not_fit_the_tokens_is_refused(model: FlowModel, inputs: FlowInputs) -> None:
    network = model.network
    images = network.see(inputs.pixel_values, inputs.grid_thw)
    for given in (None, images[:-1], torch.cat((images, images[:1]))):
        with pytest.raises(UserError, match="image tokens"):
            network.embed(inputs, given)
    with pytest.raises(UserError, match="no state to embed"):
        network.embed(replace(inputs, state=None), images)
    ids = inputs.input_ids.roll(1, dims=1)
    with pytest.raises(UserError, match="25 action tokens"):
        model.prepare(replace(inputs, input_ids=ids), torch.zeros(1, 25, 6))


def test_padding_does_not_count_as_a_position(model: FlowModel, inputs: FlowInputs) -> None:
    def padded(tensor: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (700, 0), value=value)

    images = model.network.see(inputs.pixel_values, inputs.grid_thw)
    short = model.network.embed(inputs, images)
    long = model.network.embed(
        replace(
            inputs,
            input_ids=padded(inputs.input_ids, 0),
            attention_mask=padded(inputs.attention_mask, 0),
        ),
        images,
    )
    assert long.padded
    assert not short.padded
    assert torch.equal(long.next_position, short.next_position)
    only = replace(inputs, attention_mask=torch.zeros_like(inputs.attention_mask))
    only.attention_mask[:, :1] = 1
    assert model.network.embed(only, images).next_position.tolist() == [1]


def test_the_velocity_has_the_gradient_of_its_differences(
    model: FlowModel, inputs: FlowInputs, policy: Policy
) -> None:
    """Guided chunking differentiates it; the prefix is detached and may be used again."""
    noise = torch.from_numpy(policy.noise(2))[None]
    context = model.prepare(inputs, noise)
    assert not any(t.requires_grad for t in context.cache.layer(0, room=25))
    x = noise.clone().requires_grad_()
    weight = torch.from_numpy(policy.noise(3))[None]
    direction = torch.from_numpy(policy.noise(4))[None]
    (gradient,) = torch.autograd.grad((model.velocity(context, x, 3) * weight).sum(), x)
    h = 1e-2
    with torch.no_grad():
        ahead, behind = (
            (model.velocity(context, noise + s * h * direction, 3) * weight).sum() for s in (1, -1)
        )
    expected = float((ahead - behind) / (2 * h))
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-2)


def test_steps_by_hand_equal_sample(model: FlowModel, inputs: FlowInputs, policy: Policy) -> None:
    noise = torch.from_numpy(policy.noise(6))[None]
    context = model.prepare(inputs, noise)
    x = noise
    with torch.no_grad():
        for step, (t, after) in enumerate(zip(model.times, model.times[1:], strict=False)):
            x = x + float(after - t) * model.velocity(context, x, step)
    assert torch.equal(x, model.sample(inputs, noise).actions)


@pytest.mark.parametrize("attention", ["island", "causal"])
def test_without_gradients_the_room_is_used_and_nothing_else_changes(
    random_checkpoint: Path, inputs: FlowInputs, policy: Policy, attention: str
) -> None:
    """With gradients every step makes tensors of its own, or the graph of one would be spoilt."""
    model = load_policy(random_checkpoint, action_attention=attention).model
    noise = torch.from_numpy(policy.noise(5))[None]
    context = model.prepare(inputs, noise)
    assert (context.mask is None) == (attention == "island")
    keys, _ = context.cache.layer(0, room=25)
    held = keys.clone()
    with_gradients = model.velocity(context, noise, 2)
    assert torch.equal(keys, held)
    with torch.no_grad():
        first, other = model.velocity(context, noise, 2), model.velocity(context, -noise, 2)
        again = model.velocity(context, noise, 2)
    assert not torch.equal(keys, held)
    assert torch.equal(keys[:, :, : context.cache.length], held[:, :, : context.cache.length])
    assert difference(first, with_gradients) < CLOSE
    assert torch.equal(first, again)
    assert difference(first, other) > 1e-2


def test_a_cache_holds_another_prefix_in_the_same_memory(
    model: FlowModel, inputs: FlowInputs, policy: Policy, observe: Callable[..., dict]
) -> None:
    noise = torch.from_numpy(policy.noise(5))[None]
    first = model.prepare(inputs, noise).cache
    second = model.prepare(policy.inputs(observe(1)), noise).cache
    length, memory = first.length, first.layer(1, room=25)[0]
    assert difference(memory[:, :, :length], second.layer(1, room=25)[0][:, :, :length]) > 1e-2
    kept = tuple(
        tuple(t[:, :, :length] for t in second.layer(n, room=25))
        for n in range(model.network.config.layers)
    )
    first.hold(Prefix(kept, None))
    assert torch.equal(memory[:, :, :length], kept[1][0])
    with pytest.raises(ValueError, match="room"):
        first.layer(0, room=26)
