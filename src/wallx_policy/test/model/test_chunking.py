"""A chunk begins with what it is told: exactly when frozen, closely when guided, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation
from so101_driver.errors import UserError
from wallx_policy.contract_types import PredictionMode
from wallx_policy.model import ActionPrefix, Policy, PrefixMode, load_policy
from wallx_policy.model.chunking import (
    BETA,
    Target,
    guidance_weight,
    guided_velocity,
    soft_weights,
)
from wallx_policy.model.poses import (
    PoseGroups,
    euler_from_rotation,
    rotation_from_euler,
    six_from_rotation,
)

Observe = Callable[..., dict]
BOTH = pytest.mark.parametrize("mode", list(PrefixMode))
COMMITTED, ROWS = 6, 16


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return load_policy(random_checkpoint)


@pytest.fixture(scope="module")
def straight(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The same, but its velocities point at actions rather than beyond: as in a trained flow."""
    folder = Path(shutil.copytree(random_checkpoint, tmp_path_factory.mktemp("straight") / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["action_preprocessor.action_proj_back.weight"] /= 8.0
    save_file(tensors, folder / "model.safetensors")
    return load_policy(folder)


@pytest.fixture
def other_chunk(policy: Policy, observe: Observe) -> np.ndarray:
    """A chunk of other noise and another observation: something to continue."""
    return policy.predict(observe(7), policy.noise(7)).actions


def prefix_of(chunk: np.ndarray, mode: PrefixMode, **changes: object) -> ActionPrefix:
    prefix = ActionPrefix(chunk[:ROWS], COMMITTED, mode)
    return replace(prefix, **changes)


class TestFrozen:
    def test_committed_rows_are_the_prefix_to_the_last_bit(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        prefix = prefix_of(other_chunk + 1.0, PrefixMode.FROZEN)
        free = policy.predict(observe(), policy.noise(1)).actions
        actions = policy.predict(observe(), policy.noise(1), prefix).actions
        np.testing.assert_array_equal(actions[:COMMITTED], prefix.actions[:COMMITTED])
        assert np.abs(actions[:COMMITTED] - free[:COMMITTED]).max() > 0.5

    def test_the_flow_itself_ends_there(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        """Not only what is given out: the rows that others see are on the way to the prefix."""
        seen = record_inputs(policy, observe, prefix_of(other_chunk, PrefixMode.FROZEN))
        noise = torch.from_numpy(policy.noise(1))
        wanted = torch.from_numpy(
            policy._normalization.normalized_actions(other_chunk[:COMMITTED].astype(np.float32))
        )
        for x, t in zip(seen, policy.model.times[:-1], strict=True):
            expected = (1 - t) * noise[:COMMITTED] + t * wanted
            torch.testing.assert_close(x[0, :COMMITTED], expected, atol=1e-6, rtol=0.0)

    def test_the_other_rows_see_them(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        free = policy.predict(observe(), policy.noise(1)).actions
        prefix = prefix_of(other_chunk + 5.0, PrefixMode.FROZEN)
        actions = policy.predict(observe(), policy.noise(1), prefix).actions
        assert np.abs(actions[COMMITTED:] - free[COMMITTED:]).max() > 1e-3

    def test_rows_that_are_not_committed_have_no_effect(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        changed = other_chunk.copy()
        changed[COMMITTED:] += 3.0
        a, b = (
            policy.predict(observe(), policy.noise(1), prefix_of(c, PrefixMode.FROZEN)).actions
            for c in (other_chunk, changed)
        )
        np.testing.assert_array_equal(a, b)

    def test_nothing_committed_is_no_prefix(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        prefix = prefix_of(other_chunk, PrefixMode.FROZEN, committed=0)
        np.testing.assert_array_equal(
            policy.predict(observe(), policy.noise(1), prefix).actions,
            policy.predict(observe(), policy.noise(1)).actions,
        )


class TestGuided:
    def test_committed_rows_come_close_and_later_ones_less_so(
        self, straight: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        given = other_chunk + 4.0
        free = straight.predict(observe(), straight.noise(1)).actions
        guided = straight.predict(
            observe(), straight.noise(1), prefix_of(given, PrefixMode.GUIDED)
        ).actions
        off_free, off = (np.abs(a - given) for a in (free, guided))
        assert off_free[:COMMITTED].mean() > 3.0
        assert off[:COMMITTED].mean() < 0.2 * off_free[:COMMITTED].mean()
        soft = off[COMMITTED:ROWS].mean() / off_free[COMMITTED:ROWS].mean()
        assert 0.1 < soft < 0.9
        assert off[ROWS:].mean() > 0.8 * off_free[ROWS:].mean()

    def test_more_beta_pulls_closer(
        self, straight: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        off = []
        for beta in (0.01, 1.0, BETA):
            prefix = prefix_of(other_chunk + 4.0, PrefixMode.GUIDED, beta=beta)
            actions = straight.predict(observe(), straight.noise(1), prefix).actions
            off.append(np.abs(actions - other_chunk - 4.0)[:COMMITTED].mean())
        assert off[0] > 1.5 * off[1] > 3.0 * off[2]

    def test_a_prefix_that_comes_by_itself_changes_nothing(
        self, straight: Policy, observe: Observe
    ) -> None:
        free = straight.predict(observe(), straight.noise(1)).actions
        again = straight.predict(
            observe(), straight.noise(1), ActionPrefix(free, 25, PrefixMode.GUIDED)
        ).actions
        other = straight.predict(observe(3), straight.noise(2)).actions
        assert np.abs(again - free).max() < 0.25 * np.abs(other - free).max()

    def test_a_steep_flow_does_not_diverge(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        """With the usual weight alone, this one ends 15 degrees away from a prefix of its own."""
        free = policy.predict(observe(), policy.noise(1)).actions
        for beta in (BETA, 1e6):
            prefix = prefix_of(free, PrefixMode.GUIDED, beta=beta)
            actions = policy.predict(observe(), policy.noise(1), prefix).actions
            assert np.abs(actions - free).max() < 0.5

    def test_no_gradient_is_left_behind(
        self, policy: Policy, observe: Observe, other_chunk: np.ndarray
    ) -> None:
        policy.predict(observe(), policy.noise(1), prefix_of(other_chunk, PrefixMode.GUIDED))
        assert not policy.model._head.w1.requires_grad
        assert policy.model._head.w1.grad is None


class TestTheGradient:
    """With a flow in f64 whose derivative is not trivial: rows and columns mix."""

    columns, horizon, t, beta = 3, 5, 0.4, 1e9
    mix = torch.linspace(-1.0, 1.0, 15 * 15, dtype=torch.float64).reshape(15, 15).sin()

    def velocity(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten() @ self.mix).tanh().reshape(x.shape) - x**3

    def target(self) -> Target:
        generator = torch.Generator().manual_seed(0)
        actions = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
        weights = torch.from_numpy(soft_weights(2, 4, 5)).double()[None, :, None]
        known = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)[None, None]
        return Target(actions, weights, known, 2)

    def test_equals_finite_differences(self) -> None:
        target = self.target()
        x = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def log_likelihood(at: torch.Tensor) -> torch.Tensor:
            expected = at + (1 - self.t) * self.velocity(at)
            off = target.weights * target.known * (target.actions - expected) ** 2
            r2 = (1 - self.t) ** 2 / (self.t**2 + (1 - self.t) ** 2)
            return -off.sum() / (2 * r2)

        h, numeric = 1e-6, torch.zeros_like(x)
        for i in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[i] = h
            ahead, behind = (log_likelihood(x + s * step.reshape(x.shape)) for s in (1, -1))
            numeric.view(-1)[i] = (ahead - behind) / (2 * h)
        guided = guided_velocity(self.velocity, x, self.t, 1e-6, target, self.beta)
        added = guided - self.velocity(x)
        expected = (1 - self.t) / self.t * numeric * target.known
        torch.testing.assert_close(added, expected, atol=1e-7, rtol=1e-7)
        assert numeric[..., 2].abs().max() > 1e-2, "a column that is not guided would be moved"
        assert expected.abs().max() > 0.1

    def test_of_the_model_equals_finite_differences(self, policy: Policy, observe: Observe) -> None:
        """In f32, along a random direction, through the action rows of the tiny model."""
        model = policy.model
        noise = torch.from_numpy(policy.noise(2))[None]
        context = model.prepare(policy.inputs(observe()), noise)
        t = float(model.times[3])
        weights = torch.from_numpy(soft_weights(6, 16, 25))[None, :, None]
        known = torch.ones(1, 1, model.columns)
        target = Target(torch.from_numpy(policy.noise(3))[None], weights, known, 6)

        def half_error(x: torch.Tensor) -> float:
            expected = x + (1 - t) * model.velocity(context, x, 3)
            return float((weights * (target.actions - expected) ** 2).double().sum() / 2)

        direction = torch.from_numpy(policy.noise(4))[None]
        h = 1e-2
        with torch.no_grad():
            slope = (half_error(noise + h * direction) - half_error(noise - h * direction)) / (
                2 * h
            )
            plain = model.velocity(context, noise, 3)
        guided = guided_velocity(
            lambda x: model.velocity(context, x, 3), noise, t, 1e-6, target, 2.0
        )
        along = float(((guided - plain) * direction).sum()) / guidance_weight(t, 2.0)
        assert along == pytest.approx(-slope, rel=1e-2)


@given(st.integers(1, 40), st.data())
def test_weights_fall_from_one_over_the_overlap(horizon: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, horizon))
    committed = data.draw(st.integers(0, rows))
    weights = soft_weights(committed, rows, horizon)
    assert weights.shape == (horizon,)
    assert (weights[:committed] == 1.0).all()
    assert (weights[rows:] == 0.0).all()
    assert ((weights[committed:rows] > 0.0) & (weights[committed:rows] < 1.0)).all()
    assert all(a > b for a, b in pairwise(weights[committed:rows]))


def test_the_guidance_is_bounded_and_symmetric_in_time() -> None:
    assert guidance_weight(0.0, 5.0) == guidance_weight(1.0, 5.0) == 5.0
    assert guidance_weight(0.05, 5.0) == 5.0
    assert guidance_weight(0.5, 5.0) == pytest.approx(2.0)
    assert guidance_weight(0.3, 5.0) == pytest.approx(guidance_weight(0.7, 5.0))


@BOTH
def test_both_modes_work_for_every_layout(
    mode: PrefixMode, wall05: Path, lerobot05: Path, observe: Observe
) -> None:
    """0.5 ends at flow time 0.999 and moves columns that are not in use by itself."""
    for folder, options in (
        (wall05, {"norm_key": "x2_normal", "cameras": ["face_view"], "state_bins": 256}),
        (lerobot05, {}),
    ):
        policy = load_policy(folder, **options)
        assert policy.model.times[-1] < 1.0
        state = np.tile([0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5], 3)[:26]
        images = observe()["images"]
        observation = {
            "images": dict.fromkeys(policy.settings.cameras, images["wrist_view"]),
            "state": state,
            "instruction": "go",
        }
        free = policy.predict(observation, policy.noise(1)).actions
        given = policy.predict(observation, policy.noise(2)).actions
        prefix = ActionPrefix(given[:12], 5, mode, relative_to=state)
        actions = policy.predict(observation, policy.noise(1), prefix).actions
        off = np.abs(actions - given)[:5].mean()
        assert off < 0.6 * np.abs(free - given)[:5].mean()
        if mode is PrefixMode.FROZEN:
            poses = policy._poses.absolute(given, state).end_effectors
            for name, pose in policy._poses.absolute(actions, state).end_effectors.items():
                np.testing.assert_allclose(pose.position_m[:5], poses[name].position_m[:5])
                np.testing.assert_allclose(pose.rotation[:5], poses[name].rotation[:5], atol=1e-6)


class TestRelativeActions:
    """Those of wall-oss-0.5: the same numbers mean another pose when the arm has moved."""

    @pytest.fixture
    def moved(self) -> tuple[np.ndarray, np.ndarray]:
        """Two states."""
        random = np.random.default_rng(0)
        turns = Rotation.random(4, random_state=0).as_matrix()
        arms = [np.concatenate([random.normal(size=3), six_from_rotation(t), [0.5]]) for t in turns]
        pad = np.zeros(6)
        return np.concatenate([*arms[:2], pad]), np.concatenate([*arms[2:], pad])

    @pytest.fixture
    def policy(self, wall05: Path) -> Policy:
        return load_policy(wall05, norm_key="x2_normal", cameras=["face_view"], state_bins=256)

    def seen(self, observe: Observe, state: np.ndarray) -> dict:
        images = {"face_view": observe()["images"]["wrist_view"]}
        return {"images": images, "state": state, "instruction": "go"}

    def test_a_prefix_goes_on_from_the_poses_that_it_meant(
        self, policy: Policy, observe: Observe, moved: tuple[np.ndarray, np.ndarray]
    ) -> None:
        old, new = moved
        last = policy.predict(self.seen(observe, old), policy.noise(1))
        prefix = ActionPrefix(last.actions[:8], 4, PrefixMode.FROZEN, relative_to=old)
        found = policy.predict(self.seen(observe, new), policy.noise(2), prefix)
        for name, pose in found.poses.end_effectors.items():
            meant = last.poses.end_effectors[name]
            np.testing.assert_allclose(pose.position_m[:4], meant.position_m[:4], atol=1e-9)
            np.testing.assert_allclose(pose.rotation[:4], meant.rotation[:4], atol=1e-9)
        np.testing.assert_array_equal(found.actions[:4, 9], last.actions[:4, 9])
        assert np.abs(found.actions[:4] - last.actions[:4]).max() > 0.1

    def test_it_must_say_what_it_is_relative_to(
        self, policy: Policy, observe: Observe, moved: tuple[np.ndarray, np.ndarray]
    ) -> None:
        observation = self.seen(observe, moved[0])
        for relative_to, words in (
            (None, "relative_to"),
            (np.zeros(7), "7 columns"),
            (np.zeros(26), "cannot be made relative"),
        ):
            prefix = ActionPrefix(np.ones((8, 26)), 4, relative_to=relative_to)
            with pytest.raises(UserError, match=words):
                policy.predict(observation, policy.noise(0), prefix)

    @pytest.mark.parametrize(("kind", "width"), [("rotation", 3), ("rotation_6D", 6)])
    def test_rebased_actions_mean_the_same_poses(self, kind: str, width: int) -> None:
        widths = {"arm_ee_cartesian_pos": 3, f"arm_ee_{kind}": width}
        groups = PoseGroups.of(
            {f"{name}_relative": w for name, w in widths.items()}, widths, 3 + width
        )
        old, new, *chunk = np.random.default_rng(1).normal(size=(7, 3 + width))
        moved = groups.rebased(chunk, old, new)
        (before,), (after,) = (
            groups.absolute(a, s).end_effectors.values() for a, s in ((chunk, old), (moved, new))
        )
        np.testing.assert_allclose(after.position_m, before.position_m)
        np.testing.assert_allclose(after.rotation, before.rotation, atol=1e-9)

    def test_euler_angles_come_back(self) -> None:
        angles = np.random.default_rng(0).uniform(-1.5, 1.5, (20, 3))
        np.testing.assert_allclose(euler_from_rotation(rotation_from_euler(angles)), angles)


@BOTH
def test_only_columns_of_the_prefix_are_held(
    mode: PrefixMode, random_checkpoint: Path, observe: Observe
) -> None:
    """Noise in the other columns goes its own way from the first step on."""
    policy = load_policy(random_checkpoint, action_dim=4)
    prefix = ActionPrefix(np.full((10, 4), 20.0), 10, mode)
    first, second = record_inputs(policy, observe, prefix)[:2]
    with torch.no_grad():
        noise = torch.from_numpy(policy.noise(1))[None]
        context = policy.model.prepare(policy.inputs(observe()), noise)
        step = float(policy.model.times[1])
        free = first + step * policy.model.velocity(context, first, 0)
    torch.testing.assert_close(second[..., 4:], free[..., 4:], atol=1e-5, rtol=0.0)
    assert float((second - free)[..., :4].abs().max()) > 0.1


def test_a_column_that_never_moved_is_left_to_the_model(
    policy: Policy, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its normalised value is the rounding of a number divided by next to nothing."""
    line = policy._normalization.action_in
    narrow = replace(line, scale=np.where(np.arange(6) == 2, 1e-8, line.scale).astype(np.float32))
    normalization = replace(policy._normalization, action_in=narrow, clamp=False)
    monkeypatch.setattr(policy, "_normalization", normalization)
    given = np.tile(line.shift, (8, 1)) + 1.0
    for mode in PrefixMode:
        actions = policy.predict(
            observe(), policy.noise(1), ActionPrefix(given, 4, mode, beta=2.0)
        ).actions
        assert np.abs(actions).max() < 1e3


@BOTH
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actions": np.zeros((16, 5))}, r"\[rows, 6\] actions, not \[16, 5\]"),
        ({"actions": np.zeros(6)}, r"not \[6\]"),
        ({"actions": [[1.0] * 6, [1.0] * 5]}, "numbers"),
        ({"actions": np.full((16, 6), np.nan)}, "not finite in row 0, column 0"),
        ({"actions": np.full((16, 6), 1e300)}, "not finite"),
        ({"actions": np.zeros((26, 6))}, "26 rows, the chunk 25"),
        ({"actions": np.zeros((0, 6))}, "0 rows"),
        ({"committed": 17}, "commits 17 rows and gives 16"),
        ({"committed": -1}, "commits -1"),
        ({"beta": 0.0}, "beta"),
        ({"beta": np.inf}, "beta"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_prefix_that_no_chunk_can_begin_with_is_refused(
    policy: Policy, observe: Observe, mode: PrefixMode, change: dict, words: str
) -> None:
    prefix = prefix_of(np.zeros((25, 6)), mode, **change)
    with pytest.raises(UserError, match=words):
        policy.predict(observe(), policy.noise(0), prefix)


def test_a_prefix_out_of_all_proportion_is_refused(
    policy: Policy, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing clamps it, it would come out infinite."""
    line = replace(policy._normalization.action_in, scale=np.full(6, 0.1, np.float32))
    normalization = replace(policy._normalization, action_in=line, clamp=False)
    monkeypatch.setattr(policy, "_normalization", normalization)
    with pytest.raises(UserError, match="proportion"):
        policy.predict(observe(), policy.noise(0), ActionPrefix(np.full((4, 6), 3e38), 2))


def test_fast_prediction_refuses_a_prefix(
    policy: Policy, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = replace(policy.settings, prediction=PredictionMode.FAST)
    monkeypatch.setattr(policy, "settings", fast)
    with pytest.raises(UserError, match="fast prediction cannot continue a prefix"):
        policy.predict(observe(), policy.noise(0), prefix_of(np.zeros((25, 6)), PrefixMode.FROZEN))


@BOTH
def test_times_are_given_by_stage(policy: Policy, observe: Observe, mode: PrefixMode) -> None:
    prefix = prefix_of(np.zeros((25, 6)), mode)
    timings_s = policy.predict(observe(), policy.noise(0), prefix).timings_s
    assert set(timings_s) == {"preprocess", "turn", "vision", "prefill", "flow"}


def record_inputs(policy: Policy, observe: Observe, prefix: ActionPrefix) -> list[torch.Tensor]:
    """Return what the network was given at every Euler step, of noise 1."""
    seen = []
    model, velocity = policy.model, policy.model.velocity

    def watched(context: object, x: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(x.detach().clone())
        return velocity(context, x, step)

    model.velocity = watched
    try:
        policy.predict(observe(), policy.noise(1), prefix)
    finally:
        del model.velocity
    return seen
