"""Tables of `bench_control` for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.table import Table

AIM_COLUMNS = ("condition", "ours", "mrad", "best rival", "mrad", "ratio", "floor", "peak jerk")
FAST_COLUMNS = ("times", "variant", "off path [mrad]", "99 %", "lag [ms]", "arrives later [ms]")


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of Score for people."""

    key: str
    title: str
    factor: float
    digits: int


MEASURES = (
    Measure("rms_rad", "RMS error [mrad]", 1e3, 2),
    Measure("plant_rms_rad", "RMS error after the plant [mrad]", 1e3, 2),
    Measure("lag_s", "lag [ms]", 1e3, 0),
    Measure("plant_lag_s", "lag after the plant [ms]", 1e3, 0),
    Measure("peak_jerk", "peak jerk [rad/s³]", 1.0, 0),
    Measure("rms_jerk", "RMS jerk [rad/s³]", 1.0, 1),
    Measure("plant_peak_jerk", "peak jerk after the plant [rad/s³]", 1.0, 0),
    Measure("jump_rad", "hand-off jump of position [mrad]", 1e3, 2),
    Measure("jump_rad_s", "hand-off jump of velocity [rad/s]", 1.0, 3),
    Measure("violations", "ticks that violate a limit", 1.0, 0),
)


def tables(report: dict[str, Any]) -> list[Table]:
    """The report for the terminal."""
    main, found = report["main"], []
    for measure in MEASURES:
        table = Table(title=measure.title, title_justify="left")
        table.add_column("method")
        for condition in main:
            table.add_column(condition, justify="right")
        for name in max(main.values(), key=len):
            table.add_row(
                name,
                *(
                    f"{measure.factor * rows[name][measure.key]:.{measure.digits}f}"
                    if name in rows
                    else ""
                    for rows in main.values()
                ),
            )
        found.append(table)
    aim = Table(title="RMS error against the best of (d) and (e)", title_justify="left")
    for column in (
        "condition",
        "ours",
        "mrad",
        "best rival",
        "mrad",
        "ratio",
        "floor",
        "peak jerk",
    ):
        aim.add_column(column)
    for row in report["aims"]:
        aim.add_row(
            row["condition"],
            row["ours"],
            f"{1e3 * row['rms_rad']:.2f}",
            row["rival"],
            f"{1e3 * row['rival_rms_rad']:.2f}",
            f"{row['ratio']:.2f}",
            "" if math.isnan(row["floor_rad"]) else f"{1e3 * row['floor_rad']:.2f}",
            f"{row['peak_jerk']:.0f} to {row['rival_peak_jerk']:.0f}",
        )
    found.append(aim)
    fast = Table(title="Chunks that are too fast, 100 ms latency", title_justify="left")
    for column in (
        "times",
        "variant",
        "off the path [mrad]",
        "99 %",
        "lag [ms]",
        "arrives later [ms]",
    ):
        fast.add_column(column)
    for row in report["fast"]:
        fast.add_row(
            f"{row['factor']:g}",
            row["variant"],
            f"{1e3 * row['deviation_rms_rad']:.1f}",
            f"{1e3 * row['deviation_p99_rad']:.0f}",
            f"{1e3 * row['lag_s']:.0f}",
            f"{1e3 * row['late_s']:.0f}",
        )
    found.append(fast)
    if report["reactions"]:
        reaction = Table(title="A change of plan by 0.1 rad", title_justify="left")
        for column in ("method", "half of it after [ms]", "nine tenths"):
            reaction.add_column(column)
        for row in report["reactions"]:
            reaction.add_row(
                row["method"], f"{1e3 * row['half_s']:.0f}", f"{1e3 * row['most_s']:.0f}"
            )
        found.append(reaction)
    return found
