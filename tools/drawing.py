"""What the pictures of docs/ have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from matplotlib.axes import Axes

Value = TypeVar("Value")

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
"""Of curves over time."""


def runs(values: Sequence[Value]) -> list[tuple[int, int, Value]]:
    """Stretches of equal values: first index, index behind the last, value."""
    edges = [i for i in range(1, len(values)) if values[i] is not values[i - 1]]
    begins, ends = [0, *edges], [*edges, len(values)]
    return [(begin, end, values[begin]) for begin, end in zip(begins, ends, strict=True)]


def frame(
    axes: Axes,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> None:
    """Prepare a view of the arm: the same scale on both axes, the grid behind everything."""
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=x_range, ylim=y_range)
    axes.set_aspect("equal")
    axes.grid(color="#e5e7eb", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
