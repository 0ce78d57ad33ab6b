"""Draws docs/middle_pose.png: the pose in which the arm is held while it is calibrated.

.venv/bin/python tools/draw_middle_pose.py [--out docs/middle_pose.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
from draw_geometry import _hull as hull
from drawing import frame
from numpy.typing import NDArray
from so101_driver.joints import GRIPPER, JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics, rotation_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Polygon

Array = NDArray[np.float64]

COLOURS = {"print": "#f2b84b", "servo": "#374151", "horn": "#9ca3af"}
JAW_COLOUR = "#059669"
_TURN = np.linspace(0.0, 2.0 * np.pi, 33)


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/middle_pose.png"))
    options = parser.parse_args()
    urdf = data_path("so101.urdf")
    kinematics = Kinematics.from_urdf(urdf)
    pose = np.zeros(len(JOINT_NAMES))
    pose[GRIPPER] = kinematics.position_limits_rad[GRIPPER].mean()
    frames = kinematics.link_frames(pose)
    solids = _solids(urdf, frames)
    figure, (side, top) = plt.subplots(
        1, 2, figsize=(10, 3.9), layout="constrained", width_ratios=(1.35, 1)
    )
    _draw(side, solids, (0, 2), towards_viewer=-1)
    _draw(top, solids, (0, 1), towards_viewer=1)
    frame(side, "From its right side", "x, to the front (m)", "z, up (m)", (-0.10, 0.47), (0, 0.4))
    frame(
        top, "From above", "x, to the front (m)", "y, to the left (m)", (-0.10, 0.47), (-0.2, 0.2)
    )
    for text, link, place in (
        ("shoulder_pan: straight ahead", "shoulder_link", (0.24, 0.06)),
        ("shoulder_lift:\nupper arm upright", "upper_arm_link", (-0.025, 0.19)),
        ("elbow_flex: forearm level", "lower_arm_link", (0.10, 0.33)),
        ("wrist_flex: gripper level", "wrist_link", (0.28, 0.15)),
        ("gripper:\nhalf open", "moving_jaw_link", (0.22, 0.37)),
    ):
        _note(side, text, frames[link][[0, 2], 3], place)
    _note(top, "wrist_roll: moving jaw (green) on top", frames["gripper_link"][:2, 3], (0.23, 0.13))
    figure.savefig(options.out, dpi=80, pil_kwargs={"optimize": True})


def _solids(urdf: Path, frames: dict[str, Array]) -> list[tuple[Array, str]]:
    """Corners [n, 3] in base_link and colour of every visual of the URDF."""
    found = []
    for link in ElementTree.parse(urdf).getroot().iter("link"):
        frame = frames.get(link.get("name", ""))
        for visual in link.iter("visual") if frame is not None else ():
            origin, geometry = visual.find("origin"), visual.find("geometry")
            material = visual.find("material")
            assert origin is not None
            assert geometry is not None
            points = _corners(geometry[0])
            turn = rotation_of(*map(float, origin.get("rpy", "0 0 0").split()))
            xyz = np.array([float(part) for part in origin.get("xyz", "0 0 0").split()])
            points = points @ turn.T + xyz
            name = material.get("name", "") if material is not None else ""
            colour = COLOURS.get(name, "#d1d5db")
            if "jaw" in link.get("name", ""):
                colour = JAW_COLOUR
            found.append((points @ frame[:3, :3].T + frame[:3, 3], colour))
    return found


def _corners(shape: ElementTree.Element) -> Array:
    if shape.tag == "box":
        size = np.array([float(part) for part in shape.get("size", "").split()])
        signs = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3), axis=-1).reshape(-1, 3)
        return signs * size
    radius, length = float(shape.get("radius", 0)), float(shape.get("length", 0))
    ring = radius * np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
    return np.concatenate([np.c_[ring, np.full(len(ring), z)] for z in (-length / 2, length / 2)])


def _draw(
    axes: Axes, solids: list[tuple[Array, str]], view: tuple[int, int], towards_viewer: int
) -> None:
    """Outlines of all solids, the farthest first."""
    (depth,) = {0, 1, 2} - set(view)
    for points, colour in sorted(
        solids, key=lambda solid: (towards_viewer * solid[0][:, depth]).max()
    ):
        axes.add_patch(Polygon(hull(points[:, view]), fc=colour, ec="#1f2937", lw=0.6))


def _note(axes: Axes, text: str, at: Array, place: tuple[float, float]) -> None:
    axes.annotate(
        text,
        at,
        place,
        ha="center",
        va="center",
        fontsize=9.5,
        arrowprops={"arrowstyle": "-", "color": "#b91c1c", "lw": 1.0},
        bbox={"fc": "white", "ec": "none", "pad": 1.0, "alpha": 0.85},
        zorder=5,
    )
    axes.plot(*at, "o", color="#b91c1c", ms=4, zorder=6)


if __name__ == "__main__":
    main()
