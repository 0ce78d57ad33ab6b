"""Tokens are written as the references write them, whatever is kept from step to step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from so101_driver.errors import UserError
from torch import Tensor
from wallx_policy.model import Policy, load_policy
from wallx_policy.model.generation import GenerationFailure, Generator, Sampling, Stop
from wallx_policy.model.network import Network, PromptInputs
from wallx_policy.model.turns import FairLock

LOGITS = 1e-4
CACHE = 3e-5
"""Of logits around 15, in another order of summation."""
BOLD = Sampling(temperature=30.0, seed=5)
"""Visits many tokens; the greedy text of random weights repeats itself."""


@pytest.fixture(scope="module")
def policy(references: Path) -> Policy:
    cameras = ("front", "left_wrist_view")
    return load_policy(references / "tiny_wallx", cameras=cameras, action_dim=6)


@pytest.fixture(scope="module")
def network(policy: Policy) -> Network:
    return policy.model.network


def generator(network: Network, end: int | None = None) -> Generator:
    return Generator(network, network.special.end if end is None else end, FairLock())


def acting(references: Path, name: str) -> tuple[PromptInputs, Tensor, Tensor]:
    """Return the inputs, new tokens and logits of a reference that shows an observation."""
    golden = load_file(references / f"ref044/{name}_f32.safetensors")
    flow = load_file(references / "ref044/flow_b1_f32.safetensors")
    ids = golden["prompt_ids"]
    inputs = PromptInputs(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=flow["in.pixel_values"],
        grid_thw=golden["in.image_grid_thw"],
        state=golden["in.proprioception"][:, 0],
        state_mask=golden["in.agent_pos_mask"][:, 0],
    )
    return inputs, golden["sequences"][0, ids.shape[1] :], golden["scores"]


def asking(references: Path) -> tuple[PromptInputs, Tensor, Tensor]:
    """Return the same of the reference that shows one image."""
    golden = load_file(references / "ref044/vqa_f32.safetensors")
    ids = golden["prompt_ids"]
    inputs = PromptInputs(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=golden["pixel_values"],
        grid_thw=golden["image_grid_thw"],
    )
    return inputs, golden["sequences"][0, ids.shape[1] :], golden["scores"]


def asking05(references: Path, name: str) -> tuple[PromptInputs, Tensor, Tensor]:
    golden = load_file(references / "ref05/text_f32.safetensors")
    flow = load_file(references / "ref05/flow_b1_f32.safetensors")
    ids = golden[f"{name}.input_ids"]
    inputs = PromptInputs(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=flow["in.pixel_values"],
        grid_thw=flow["in.image_grid_thw"],
    )
    return inputs, golden[f"{name}.generated"][0], golden[f"{name}.logits"]


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("name", ["text", "fast", "vqa"])
def test_the_references_are_reproduced(references: Path, network: Network, name: str) -> None:
    inputs, ids, logits = asking(references) if name == "vqa" else acting(references, name)
    written = generator(network)(inputs, len(ids), keep_logits=True)
    assert list(written.ids) == ids.tolist()
    assert difference(written.logits, logits) < LOGITS
    assert written.stop is Stop.LENGTH


@pytest.mark.parametrize("name", ["vqa", "subtask"])
def test_the_references_of_05_are_reproduced(references: Path, wall05: Path, name: str) -> None:
    inputs, ids, logits = asking05(references, name)
    network = load_policy(
        wall05, state_bins=512, cameras=("face_view", "right_wrist_view")
    ).model.network
    written = generator(network)(inputs, len(ids), keep_logits=True)
    assert list(written.ids) == ids.tolist()
    assert difference(written.logits, logits) < LOGITS


@torch.no_grad()
def uncached(network: Network, inputs: PromptInputs, count: int, shift: int = 0) -> Tensor:
    """Return the logits [count, rows] of greedy tokens, the whole text run again for each."""
    images = network.see(inputs.pixel_values, inputs.grid_thw)
    prompt = network.embed(inputs, images)
    x, positions = prompt.embeddings, prompt.positions
    all_logits = []
    for step in range(count):
        hidden = network.decoder.prefill(x, network.turn(positions), final_rows=1).hidden
        logits = network.logits(hidden)[0, -1]
        all_logits.append(logits)
        token = logits.argmax().reshape(1, 1)
        x = torch.cat((x, network.token_embeddings(token)), dim=1)
        following = prompt.next_position + step + shift
        positions = torch.cat((positions, following.expand(3, 1, 1)), dim=2)
    return torch.stack(all_logits)


def test_the_cache_changes_nothing(references: Path, network: Network) -> None:
    inputs, _, _ = asking(references)
    greedy = generator(network)(inputs, 12, keep_logits=True)
    assert difference(greedy.logits, uncached(network, inputs, 12)) < CACHE
    # A token further away is another text.
    assert difference(greedy.logits, uncached(network, inputs, 12, shift=1)) > LOGITS


def test_a_drawn_text_that_is_prompt_goes_on_alike(references: Path, network: Network) -> None:
    """Tokens count the same whether the model wrote them or read them."""
    inputs, _, _ = asking(references)
    drawn = generator(network)(inputs, 9, BOLD, keep_logits=True)
    assert len(set(drawn.ids)) > 5
    read = torch.cat((inputs.input_ids, torch.tensor([drawn.ids[:-1]])), dim=1)
    longer = replace(inputs, input_ids=read, attention_mask=torch.ones_like(read))
    again = generator(network)(longer, 1, keep_logits=True)
    assert difference(again.logits[0], drawn.logits[-1]) < CACHE
    assert difference(again.logits[0], drawn.logits[-2]) > LOGITS


def test_draws_follow_their_seed_and_temperature(references: Path, network: Network) -> None:
    inputs, ids, _ = asking(references)

    def draw(temperature: float, seed: int) -> tuple[int, ...]:
        return generator(network)(inputs, 8, Sampling(temperature, seed)).ids

    assert draw(30.0, 1) == draw(30.0, 1)
    assert draw(30.0, 1) != draw(30.0, 2)
    assert draw(1e-3, 1) == tuple(ids[:8].tolist())
    with pytest.raises(UserError, match="temperature must be 0 or above, not -1"):
        Sampling(-1.0)
    with pytest.raises(UserError, match="temperature"):
        Sampling(float("nan"))


def test_the_end_ends_the_text_and_is_not_part_of_it(references: Path, network: Network) -> None:
    inputs, _, _ = asking(references)
    drawn = generator(network)(inputs, 9, BOLD).ids
    end = drawn[4]
    assert drawn.index(end) == 4
    written = generator(network, end)(inputs, 9, BOLD, keep_logits=True)
    assert (written.ids, written.stop) == (drawn[:4], Stop.END)
    assert len(written.logits) == 5


def test_callers_hear_every_token_and_may_cancel(references: Path, network: Network) -> None:
    inputs, ids, _ = asking(references)
    heard: list[tuple[int, ...]] = []
    written = generator(network)(
        inputs, 20, on_token=heard.append, cancelled=lambda: len(heard) == 3
    )
    assert written.stop is Stop.CANCELLED
    assert heard == [tuple(ids[:n].tolist()) for n in (1, 2, 3)]
    assert written.ids == heard[-1]
    early = generator(network)(inputs, 20, on_token=heard.append, cancelled=lambda: True)
    assert (early.ids, early.stop, len(heard)) == ((), Stop.CANCELLED, 3)


def test_what_cannot_be_continued_is_refused(references: Path, network: Network) -> None:
    inputs, _, _ = asking(references)
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, not 0"):
        generator(network)(inputs, 0)
    padded = inputs.attention_mask.clone()
    padded[0, 0] = 0
    with pytest.raises(ValueError, match="without padding"):
        generator(network)(replace(inputs, attention_mask=padded), 1)
    pixels = inputs.pixel_values.clone()
    pixels[0, 0] = float("nan")
    with pytest.raises(GenerationFailure, match="not finite"):
        generator(network)(replace(inputs, pixel_values=pixels), 1)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestTurns:
    def test_whoever_waits_longest_is_next(self) -> None:
        turns, order, waits_s = FairLock(), [], []

        def work(name: str) -> None:
            with turns as waited_s:
                order.append(name)
                waits_s.append(waited_s)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        with turns:
            for n, thread in enumerate(threads):
                thread.start()
                until(lambda n=n: len(turns._queue) == n + 2)
            order.append("first")
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        assert order == ["first", "a", "b", "c"]
        assert all(0.02 <= waited_s < 5.0 for waited_s in waits_s)

    def test_a_writer_lets_others_in_between_tokens(
        self, references: Path, network: Network
    ) -> None:
        inputs, _, _ = asking(references)
        heard: list[tuple[int, ...]] = []
        heard_by_then: list[int] = []

        class Observed(FairLock):
            taken = 0

            def __enter__(self) -> float:
                waited_s = super().__enter__()
                self.taken += 1
                if self.taken == 3:
                    other.start()
                    until(lambda: len(self._queue) == 2)
                return waited_s

        turns = Observed()

        def interrupt() -> None:
            with turns:
                heard_by_then.append(len(heard))

        other = threading.Thread(target=interrupt)
        Generator(network, network.special.end, turns)(inputs, 10, on_token=heard.append)
        other.join()
        assert heard_by_then in ([2], [3])  # the third may be told while the other begins
        assert len(heard) == 10

    def test_waiting_is_a_stage_of_its_own(self, references: Path, network: Network) -> None:
        inputs, _, _ = asking(references)

        class Late(FairLock):
            def __enter__(self) -> float:
                return super().__enter__() + 100.0

        text = Generator(network, network.special.end, Late())(inputs, 3)
        assert set(text.timings_s) == {"turn", "prompt", "tokens"}
        assert 300.0 <= text.timings_s["turn"] < 301.0
        assert text.timings_s["tokens"] < -199.0  # the time itself did not pass

    def test_an_error_gives_the_turn_back(self) -> None:
        turns = FairLock()
        with pytest.raises(KeyError), turns:
            raise KeyError
        with turns:
            assert len(turns._queue) == 1
