"""Draws docs/geometry.png: what the safety layer takes the arm and its surroundings for.

.venv/bin/python tools/draw_geometry.py [--out docs/geometry.png] [--geometry FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from drawing import frame
from numpy.typing import NDArray
from so101_driver.joints import data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety.geometry_file import load_shapes
from so101_driver.safety.geometry_shapes import Shapes

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle

Array = NDArray[np.float64]

REST_RAD = np.array([0.0, -1.65, 1.55, 0.7, 0.0, 0.1])
READY_RAD = np.array([0.0, -0.6, 0.5, 1.1, 0.0, 0.6])
GRASP_RAD = np.array([0.0, 0.305, 0.053, 1.213, 0.0, 0.35])
COLOURS = {
    "base": "#6b7280",
    "shoulder": "#4b5563",
    "upper arm": "#f59e0b",
    "forearm": "#d97706",
    "wrist": "#2563eb",
    "gripper": "#059669",
    "finger": "#10b981",
    "jaw": "#84cc16",
}
X_RANGE_M = (-0.23, 0.51)
SIDE = (0, 2)
TOP = (0, 1)
_CIRCLE = np.linspace(0.0, 2.0 * np.pi, 49)
_DISC = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/geometry.png"))
    parser.add_argument("--geometry", type=Path, default=data_path("so101_geometry.yaml"))
    options = parser.parse_args()
    kinematics = Kinematics.from_urdf(data_path("so101.urdf"))
    shapes = load_shapes(options.geometry, kinematics.link_names)
    figure, axes = plt.subplot_mosaic(
        [["grasp", "top"], ["rest", "top"]], figsize=(12, 8.6), layout="constrained"
    )
    _side(axes["grasp"], kinematics, shapes, GRASP_RAD, "Grasping, from the side")
    _side(axes["rest"], kinematics, shapes, REST_RAD, "Parked, from the side")
    _top(axes["top"], kinematics, shapes)
    _label_grasp(axes["grasp"], kinematics, shapes)
    _label_table(axes["grasp"], shapes)
    figure.savefig(options.out, dpi=85, pil_kwargs={"optimize": True})


def _side(axes: Axes, kinematics: Kinematics, shapes: Shapes, pose: Array, title: str) -> None:
    _arm(axes, kinematics, shapes, pose, SIDE)
    table = shapes.table
    if table is not None:
        x = np.array([-0.3, 0.6])
        z = table.point_m[2] - table.normal[0] / table.normal[2] * (x - table.point_m[0])
        axes.plot(x, z, color="#111827", lw=1.5)
        axes.fill_between(x, z - table.command_depth_m, z, color="#fca5a5", lw=0)
        axes.fill_between(x, z - 0.1, z - table.command_depth_m, color="#d1d5db", lw=0)
    _workspace(axes, shapes, SIDE)
    frame(axes, title, "x, to the front (m)", "z, up (m)", X_RANGE_M, (-0.09, 0.53))


def _top(axes: Axes, kinematics: Kinematics, shapes: Shapes) -> None:
    _arm(axes, kinematics, shapes, GRASP_RAD + np.array([-0.6, 0, 0, 0, 0, 0]), TOP)
    _arm(axes, kinematics, shapes, READY_RAD + np.array([1.1, 0, 0, 0, 0, 0]), TOP)
    _workspace(axes, shapes, TOP)
    for box in shapes.boxes:
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        corners = box.centre_m + np.c_[signs, np.zeros(4)] * box.half_m @ box.rotation.T
        axes.add_patch(Polygon(corners[:, :2], color="#ef4444", alpha=0.5))
        axes.annotate(box.name, box.centre_m[:2], ha="center")
    frame(
        axes,
        "Two poses from above",
        "x, to the front (m)",
        "y, to the left (m)",
        X_RANGE_M,
        (-0.45, 0.45),
    )


def _arm(axes: Axes, kinematics: Kinematics, shapes: Shapes, pose: Array, view: tuple) -> None:
    """Draw the capsules' outlines; a capsule looks like a stadium from every side."""
    frames = kinematics.link_frames(pose)
    for part in shapes.parts:
        frame = frames[part.link]
        colour = COLOURS.get(part.name, "#9333ea")
        for capsule in part.capsules:
            ends = [frame[:3, :3] @ end + frame[:3, 3] for end in (capsule.start_m, capsule.end_m)]
            outline = np.concatenate([end[list(view)] + capsule.radius_m * _DISC for end in ends])
            axes.add_patch(
                Polygon(_hull(outline), fc=colour, ec=colour, alpha=0.45, lw=1.2, zorder=3)
            )
    for tip in shapes.fingertips:
        frame = frames[tip.link]
        points = tip.points_m @ frame[:3, :3].T + frame[:3, 3]
        axes.plot(*points[:, view].T, ".", color="#b91c1c", ms=5, zorder=5)
    tip_m = kinematics.forward(pose)[:3, 3]
    axes.plot(*tip_m[list(view)], "x", color="#111827", ms=7, mew=2, zorder=6)


def _workspace(axes: Axes, shapes: Shapes, view: tuple) -> None:
    if shapes.workspace is None:
        return
    low, high = shapes.workspace.lower_m[list(view)], shapes.workspace.upper_m[list(view)]
    axes.add_patch(
        Rectangle(low, *(high - low), fill=False, ec="#7c3aed", ls="--", lw=1.5, zorder=2)
    )


def _label_grasp(axes: Axes, kinematics: Kinematics, shapes: Shapes) -> None:
    frames = kinematics.link_frames(GRASP_RAD)
    centres = {
        part.name: np.mean(
            [
                frames[part.link][:3, :3] @ end + frames[part.link][:3, 3]
                for capsule in part.capsules
                for end in (capsule.start_m, capsule.end_m)
            ],
            axis=0,
        )[[0, 2]]
        for part in shapes.parts
    }
    tip = kinematics.forward(GRASP_RAD)[[0, 2], 3]
    places = {
        "base": (-0.14, 0.05),
        "shoulder": (-0.14, 0.12),
        "upper arm": (-0.10, 0.21),
        "forearm": (0.17, 0.33),
        "wrist": (0.34, 0.27),
        "gripper": (0.41, 0.20),
        "finger": (0.13, 0.06),
        "jaw": (0.42, 0.12),
    }
    for name, place in places.items():
        _note(axes, name, centres[name], place, COLOURS[name])
    _note(axes, "tip", tip, (0.40, 0.05), "#111827")
    axes.text(
        0.14, 0.475, "workspace of the tip (cross)", color="#7c3aed", ha="center", fontsize=10
    )


def _label_table(axes: Axes, shapes: Shapes) -> None:
    if shapes.table is not None:
        depth_cm = 100 * shapes.table.command_depth_m
        axes.text(
            -0.02,
            -0.056,
            f"table; pink: fingertips (red) may be\ncommanded {depth_cm:.0f} cm into it",
            ha="center",
            va="center",
            fontsize=9,
        )


def _note(axes: Axes, text: str, at: Array, place: tuple[float, float], colour: str) -> None:
    axes.annotate(
        text,
        at,
        place,
        color=colour,
        fontsize=11,
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9},
        zorder=7,
    )


def _hull(points: Array) -> Array:
    """Corners of the convex hull of points [n, 2], in order (Andrew's monotone chain)."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))]

    def half(rows: Array) -> list[Array]:
        chain: list[Array] = []
        for row in rows:
            while len(chain) > 1:
                a, b = chain[-1] - chain[-2], row - chain[-2]
                if a[0] * b[1] - a[1] * b[0] > 0.0:
                    break
                chain.pop()
            chain.append(row)
        return chain[:-1]

    return np.array(half(order) + half(order[::-1]))


if __name__ == "__main__":
    main()
