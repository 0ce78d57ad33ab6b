"""A fine-tune without contract.yaml drives the arm as the same one with it does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from so101_driver.joints import JOINT_NAMES
from wallx_policy.backends.base import BackendSettings, CameraImage, Observation
from wallx_policy.backends.wall_oss import WallOssBackend
from wallx_policy.contract import Contract
from wallx_policy.random_checkpoints import Recipe, write_checkpoint

IMAGES = {"front": "face_view", "wrist": "wrist_view"}
SIZES = {"face_view": (320, 240), "wrist_view": (240, 240)}


def describe_training(folder: Path) -> None:
    """Leave what training leaves behind: info.json, and config.yml in wall-x's own layouts."""
    names = {"names": [f"{name}.pos" for name in JOINT_NAMES]}
    features = {"observation.state": names, "action": names}
    for name, view in IMAGES.items():
        width, height = SIZES[view]
        features[f"observation.images.{name}"] = {
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
        }
    info = {"robot_type": "so101_follower", "fps": 25, "features": features}
    (folder / "info.json").write_text(json.dumps(info))
    config = json.loads((folder / "config.json").read_text())
    if "type" in config:
        return
    path = folder / "config.yml"
    training = yaml.safe_load(path.read_text()) if path.exists() else {}
    camera = {f"observation.images.{name}": view for name, view in IMAGES.items()}
    training["key_mappings"] = {"camera": camera}
    training["action_horizon"] = 25
    path.write_text(yaml.safe_dump(training, sort_keys=False))


@pytest.mark.parametrize("layout", ["flow", "lerobot", "wall05", "lerobot05"])
def test_both_say_the_same(tmp_path: Path, layout: str) -> None:
    folder = write_checkpoint(tmp_path / "policy", Recipe(layout=layout))
    written = Contract.load(folder)
    given = WallOssBackend(BackendSettings(checkpoint=str(folder)))
    (folder / "contract.yaml").unlink()
    describe_training(folder)
    built = WallOssBackend(BackendSettings(checkpoint=str(folder)))
    for key in ("state", "action", "cameras", "horizon", "period_s", "prediction_mode"):
        assert getattr(built.contract, key) == getattr(written, key), key
    assert "joint names: info.json" in built.description.summary
    images = {
        view: CameraImage(np.full((height, width, 3), 90, np.uint8), 0)
        for view, (width, height) in SIZES.items()
    }
    seen = Observation(0, images, np.zeros(6), 0, "go")
    np.testing.assert_array_equal(
        built.predict_with_seed(seen, 5).actions_rad, given.predict_with_seed(seen, 5).actions_rad
    )
