"""What predict() gives for checkpoints that speak end-effector poses, and by which statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES
from wallx_policy.backends.base import BackendSettings
from wallx_policy.backends.wall_oss import WallOssBackend
from wallx_policy.contract import (
    ActionKind,
    ActionSpace,
    Camera,
    Channel,
    Contract,
    Statistics,
    Unit,
)
from wallx_policy.model import ActionPrefix, load_policy
from wallx_policy.model.poses import six_from_rotation

VIEW = "face_view"
PICTURE = {VIEW: np.zeros((56, 56, 3), np.uint8)}
SETTINGS = {"cameras": [VIEW], "state_bins": 512, "num_steps": 2}


def state_26(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a state of wall-oss-0.5 and the left arm's rotation in it."""
    random = np.random.default_rng(seed)
    left, right = Rotation.random(2, random_state=seed).as_matrix()
    arms = [
        np.concatenate([random.normal(size=3), six_from_rotation(r), [0.5]]) for r in (left, right)
    ]
    return np.concatenate([*arms, np.zeros(6)]), left


def seen(state: np.ndarray) -> dict:
    return {"images": PICTURE, "state": state, "instruction": "go"}


def test_the_columns_of_wall_oss_05_become_absolute_poses(wall05: Path) -> None:
    policy = load_policy(wall05, **SETTINGS)
    assert "26 with poses of follow_left_ee, follow_right_ee" in policy.description
    state, now = state_26(1)
    found = policy.predict(seen(state), policy.noise(0))
    pose = found.poses.end_effectors["follow_left_ee"]
    np.testing.assert_allclose(pose.position_m, state[:3] + found.actions[:, :3])
    eye = np.broadcast_to(np.eye(3), (32, 3, 3))
    np.testing.assert_allclose(pose.rotation @ pose.rotation.swapaxes(1, 2), eye, atol=1e-9)
    # Taken back to the state, it is the rotation whose first row the network gave.
    delta = pose.rotation @ now.T
    row = found.actions[:, 3:6] / np.linalg.norm(found.actions[:, 3:6], axis=1, keepdims=True)
    np.testing.assert_allclose(delta[:, 0], row, atol=1e-9)
    np.testing.assert_array_equal(found.poses.others["height"], found.actions[:, 23:24])
    with pytest.raises(UserError, match="relative_to"):
        policy.predict(seen(state), prefix=ActionPrefix(found.actions[:4], 2))


def test_a_policy_without_these_columns_has_no_poses(wall05: Path) -> None:
    policy = load_policy(wall05, **SETTINGS, action_dim=7)
    found = policy.predict(seen(state_26(2)[0]), policy.noise(0))
    assert (found.poses, policy.settings.end_effectors) == (None, ())
    groups = {"follow_left_arm_joint_pos": 5, "follow_left_gripper": 1, "action_padding": 20}
    training = {"dof_config": groups, "agent_pos_config": groups}
    (wall05 / "config.yml").write_text(yaml.safe_dump(training, sort_keys=False))
    policy = load_policy(wall05, **SETTINGS)
    assert policy.predict(seen(np.zeros(6)), policy.noise(0)).poses is None


def test_the_original_layout_gives_euler_angles_as_they_are(
    references: Path, tmp_path: Path
) -> None:
    assert load_policy(references / "tiny_wallx", cameras=[VIEW]).settings.end_effectors == ()
    for file in (references / "tiny_wallx").iterdir():
        (tmp_path / file.name).symlink_to(file)
    one = {"q01": [-1.0] * 20, "q99": [1.0] * 20}
    (tmp_path / "norm_stats.json").write_text(json.dumps({"state": one, "action": one}))
    policy = load_policy(tmp_path, cameras=[VIEW], num_steps=2)
    assert policy.settings.end_effectors == ("follow_left_ee", "follow_right_ee")
    found = policy.predict(seen(np.zeros(20)), policy.noise(0))
    pose = found.poses.end_effectors["follow_right_ee"]
    np.testing.assert_array_equal(pose.position_m, found.actions[:, 7:10])
    wanted = Rotation.from_euler("xyz", found.actions[:, 10:13]).as_matrix()
    np.testing.assert_allclose(pose.rotation, wanted, atol=1e-9)


def test_a_contract_of_joints_does_not_make_joints_of_poses(
    references: Path, tmp_path: Path
) -> None:
    for file in (references / "tiny_wallx").iterdir():
        (tmp_path / file.name).symlink_to(file)
    one = {"q01": [-1.0] * 20, "q99": [1.0] * 20}
    (tmp_path / "norm_stats.json").write_text(json.dumps({"state": one, "action": one}))
    joints = tuple(Channel(name, Unit.RAD) for name in JOINT_NAMES)
    Contract(
        embodiment="so101",
        action_space=ActionSpace.JOINT,
        cameras=(Camera(VIEW, 56, 56),),
        state=joints,
        action=joints,
        period_s=0.04,
        horizon=32,
        action_kind=ActionKind.GOAL,
    ).save(tmp_path)
    with pytest.raises(UserError, match=r"contract.yaml says joint, but .* follow_left_ee"):
        load_policy(tmp_path)


def test_lerobots_columns_are_not_those_of_the_base(references: Path) -> None:
    folder = references / "lerobot_wall_x"
    policy = load_policy(folder, base=references / "tiny_wallx", action_dim=6)
    assert policy.settings.end_effectors == ()


class TestNormStats:
    @pytest.fixture
    def folder(self, wall05: Path) -> Path:
        """A fine-tune: statistics of its own beside the weights, none among them."""
        path = wall05 / "model.safetensors"
        tensors = load_file(path)
        kept = {key: value for key, value in tensors.items() if ".normalizer_" not in key}
        save_file(kept, path)
        for name in ("action", "propri"):
            (wall05 / f"normalizer_{name}.pth").unlink()
        self.write(wall05, {"norm_stats": self.features(1.0)})
        return wall05

    @staticmethod
    def features(scale: float) -> dict:
        one = {
            "q01": [-1.0 * scale] * 26,
            "q99": [3.0 * scale] * 26,
            "min": [-2.0] * 26,
            "max": [8.0] * 26,
        }
        return {"state": one, "action": one}

    @staticmethod
    def write(folder: Path, content: object) -> None:
        (folder / "norm_stats.json").write_text(json.dumps(content))

    def test_quantiles_are_used_and_extremes_on_request(self, folder: Path) -> None:
        policy = load_policy(folder, **SETTINGS)
        assert "q01 and q99 of norm_stats in norm_stats.json, clamped" in policy.description
        state = np.full(26, 1.0, np.float32)
        assert policy._normalization.normalized_state(state).tolist() == [0.0] * 26
        actions = policy._normalization.actions(np.ones((1, 26), np.float32))
        np.testing.assert_allclose(actions, 3.0)
        wide = load_policy(folder, **SETTINGS, normalization="min_max")
        np.testing.assert_allclose(wide._normalization.actions(np.ones((1, 26), np.float32)), 8.0)
        assert "min and max of norm_stats" in wide.description
        with pytest.raises(UserError, match=r"mean_std: .*norm_stats\.json is wall-x's"):
            load_policy(folder, **SETTINGS, normalization="mean_std")
        none = load_policy(
            folder, **SETTINGS, normalization="identity", inactive_columns="model", action_dim=6
        )
        assert not none.has_statistics

    def test_the_name_is_given_where_there_are_several(self, folder: Path) -> None:
        self.write(folder, {"a": self.features(1.0), "b": self.features(2.0)})
        with pytest.raises(UserError, match="several statistics, give norm_key: a, b"):
            load_policy(folder, **SETTINGS)
        policy = load_policy(folder, **SETTINGS, norm_key="b")
        actions = policy._normalization.actions(np.ones((1, 26), np.float32))
        np.testing.assert_allclose(actions, 6.0)
        with pytest.raises(UserError, match=r"norm_key 'c' is not in the checkpoint.*a, b"):
            load_policy(folder, **SETTINGS, norm_key="c")

    def test_the_contract_names_the_statistics(self, folder: Path) -> None:
        self.write(folder, {"a": self.features(1.0), "b": self.features(2.0)})
        channels = tuple(Channel(f"c{i}", Unit.PLAIN) for i in range(26))
        contract = Contract(
            embodiment="two arms",
            action_space=ActionSpace.EE,
            cameras=(Camera(VIEW, 56, 56),),
            state=channels,
            action=channels,
            period_s=0.04,
            horizon=32,
            action_kind=ActionKind.GOAL,
            state_statistics=Statistics(),
            norm_key="b",
        )
        contract.save(folder)
        assert "of b in norm_stats.json" in load_policy(folder, state_bins=512).description
        given = load_policy(folder, state_bins=512, norm_key="a")
        assert "of a in norm_stats.json" in given.description

    def test_poses_do_not_drive_this_arm(self, folder: Path) -> None:
        channels = (Channel("follow_left_ee_cartesian_pos[0]", Unit.METRE),)
        contract = Contract(
            embodiment="two arms",
            action_space=ActionSpace.EE,
            cameras=(),
            state=channels,
            action=channels,
            period_s=0.04,
            horizon=32,
            action_kind=ActionKind.GOAL,
        )
        contract.save(folder)
        with pytest.raises(UserError, match=r"end-effector poses: .*fine-tuned in joint space"):
            WallOssBackend(BackendSettings(checkpoint=str(folder)))

    def test_missing_statistics_name_file_and_feature(self, folder: Path) -> None:
        features = self.features(1.0)
        del features["state"]["q99"]
        self.write(folder, features)
        with pytest.raises(UserError, match=r"norm_stats\.json: state of norm_stats lacks q99"):
            load_policy(folder, **SETTINGS)
        short = self.features(1.0)
        short["action"] = {"q01": [0.0] * 7, "q99": [1.0] * 7}
        self.write(folder, short)
        with pytest.raises(UserError, match="statistics of the action have 7 columns, 26"):
            load_policy(folder, **SETTINGS)
        with pytest.raises(UserError, match=r"action of norm_stats lacks min, max"):
            load_policy(folder, **SETTINGS, normalization="min_max")

    def test_one_name_twice_is_refused(self, wall05: Path) -> None:
        self.write(wall05, {"x2_normal": self.features(1.0)})
        with pytest.raises(UserError, match=r"norm_stats\.json holds statistics 'x2_normal'"):
            load_policy(wall05, **SETTINGS)
        self.write(wall05, self.features(1.0))
        with pytest.raises(UserError, match="give norm_key: norm_stats, x2_normal"):
            load_policy(wall05, **SETTINGS)
        assert load_policy(wall05, **SETTINGS, norm_key="x2_normal").has_statistics
