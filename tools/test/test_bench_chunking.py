"""The comparison of hand-offs must measure what it says, and train what it says it trains."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from bench_chunking import METHODS, figures
from chunking_episodes import TICK_S, Episode
from chunking_methods import Ensemble, Latest, WeightedAverage, hand_over, observation_stamps
from chunking_training import HORIZON, PERIOD_S, Phase, all_samples, load_trained, train
from wallx_policy.joined_chunks import TimedChunk
from wallx_policy.model import ActionPrefix, PrefixMode

START_NS, PERIOD_NS = 1_000_000_000, 40_000_000


def motion(seconds: float) -> Episode:
    times_s = TICK_S * np.arange(round(seconds / TICK_S) + 1)
    joints = 0.3 * np.sin(times_s[:, None] + np.arange(6))
    return Episode(0, joints, joints - 0.01, np.tile([0.2, 0.0, 0.01], (len(times_s), 1)))


def chunk(due_ns: int, value: float) -> TimedChunk:
    return TimedChunk(due_ns, PERIOD_S, np.full((HORIZON, 6), value))


class Wavering:
    """Predicts one motion or another, 0.2 rad apart; goes on with what it is told exactly."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.prefixes: list[ActionPrefix | None] = []

    def noise(self, seed: int) -> int:
        return seed

    def predict(self, observation, noise, prefix=None):
        joint = observation["state"][0] + 0.01
        tick = int(np.abs(self.episode.commands_rad[:, 0] - joint).argmin())
        rows = np.clip(tick + 4 * np.arange(HORIZON), 0, len(self.episode.commands_rad) - 1)
        self.prefixes.append(prefix)
        off = 0.2 * (len(self.prefixes) % 2)
        actions = self.episode.commands_rad[rows] + off
        if prefix is not None:
            last = prefix.committed - 1
            actions = actions - actions[last] + prefix.actions[last]
            actions[: last + 1] = prefix.actions[: last + 1]
        return SimpleNamespace(actions=actions)


class TestHandingOver:
    @pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.25])
    def test_jumps_are_those_of_the_method(self, delay_s: float) -> None:
        episode = motion(1.5)
        memory: dict = {}
        policy = Wavering(episode)
        found = {
            name: figures([hand_over(policy, episode, make(), delay_s, memory)])
            for name, make in METHODS.items()
        }
        assert found["no conditioning"]["jump_rad"] == pytest.approx(0.2, abs=0.02)
        assert found["weighted average 0.3/0.7"]["jump_rad"] == pytest.approx(0.14, abs=0.02)
        for name in ("frozen", "guided"):
            assert found[name]["jump_rad"] < 0.01
            assert found[name]["without_prefix"] == 0
        # Every other chunk is 0.2 rad off: one that goes on with the last, as many.
        for row in found.values():
            assert 0.05 < row["error_rad"] < 0.2

    def test_frozen_and_guided_are_told_the_old_plan(self) -> None:
        episode = motion(1.0)
        for name, mode in (("frozen", PrefixMode.FROZEN), ("guided", PrefixMode.GUIDED)):
            policy = Wavering(episode)
            hand_over(policy, episode, METHODS[name](), 0.1)
            asked = [p for p in policy.prefixes if p is not None]
            assert {p.mode for p in asked} == {mode}
            assert {p.committed for p in asked} == {4}
        policy = Wavering(episode)
        hand_over(policy, episode, METHODS["temporal ensemble"](), 0.1)
        assert not any(policy.prefixes)

    def test_a_change_of_velocity_is_told_from_a_jump(self) -> None:
        episode = motion(1.0)

        class Turning(Wavering):
            def predict(self, observation, noise, prefix=None):
                self.prefixes.append(None)
                sign = 1.0 if len(self.prefixes) % 2 else -1.0
                ramp = sign * PERIOD_S * np.arange(HORIZON)[:, None]
                return SimpleNamespace(actions=np.tile(ramp, 6))

        result = figures([hand_over(Turning(episode), episode, Latest(), 0.0)])
        assert result["velocity_rad_s"] == pytest.approx(2.0, abs=0.1)
        # 0.1 s of the old plan, and within 40 ms two plans apart by 2 rad/s.
        assert result["jump_rad"] == pytest.approx(0.18, abs=0.02)

    def test_observations_wait_for_the_last_chunk(self) -> None:
        for delay_s, frames in ((0.0, 3), (0.1, 3), (0.11, 4), (0.3, 9)):
            stamps = np.array(observation_stamps(3.0, delay_s))
            assert (np.diff(stamps) > delay_s * 1e9 - 2).all()
            np.testing.assert_allclose(np.diff(stamps), frames / 30 * 1e9, atol=1e6)


class TestMethods:
    def test_a_weighted_average_mixes_the_overlap_only(self) -> None:
        new = chunk(START_NS + 10 * PERIOD_NS, 1.0)
        path = WeightedAverage().after([chunk(START_NS, 0.0)], new)
        # The old one covers 15 of the new rows.
        at = START_NS + PERIOD_NS * np.array([10, 24, 25, 34])
        np.testing.assert_allclose(path(at)[:, 0], [0.7, 0.7, 1.0, 1.0])

    def test_an_ensemble_is_the_mean_of_those_that_cover_a_moment(self) -> None:
        *before, new = (chunk(START_NS + 10 * n * PERIOD_NS, float(n)) for n in range(3))
        weights = np.exp(-0.01 * np.arange(3))
        at = START_NS + PERIOD_NS * np.array([20, 30, 40, 60])
        expected = [
            weights @ np.arange(3) / weights.sum(),
            weights[1:] @ [1, 2] / weights[1:].sum(),
            2.0,
            2.0,
        ]
        np.testing.assert_allclose(Ensemble().after(before, new)(at)[:, 0], expected)
        two = weights[:2] @ [0, 1] / weights[:2].sum()
        np.testing.assert_allclose(Ensemble().before(before)(at[:1])[:, 0], two)


def test_another_pace_is_the_same_way() -> None:
    episode = motion(2.0)
    fast = episode.faster(1.6)
    assert fast.duration_s == pytest.approx(2.0 / 1.6, abs=0.02)
    np.testing.assert_allclose(fast.commands_rad[50], episode.commands_rad[80], atol=1e-6)


def test_a_few_steps_of_training_lower_the_loss_of_the_model_that_is_loaded(tmp_path) -> None:
    samples = all_samples([motion(2.0)], every_s=0.2)
    losses = train(tmp_path, samples, lambda text: None, [Phase(12, 3e-3, 0.5)])
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    policy = load_trained(tmp_path)
    assert policy.settings.horizon == HORIZON
    result = figures([hand_over(policy, motion(0.8), METHODS["frozen"](), 0.1)])
    assert result["handoffs"] >= 2
