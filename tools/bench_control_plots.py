"""Pictures of `bench_control`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from bench_control_methods import (
    AlignedRuckig,
    BehindLimiter,
    OnArrival,
    Ours,
    WeightedAverage,
    run,
)
from bench_control_scenes import (
    TICK_S,
    Condition,
    Demonstration,
    sampled,
    simulated_limits,
    stream,
)
from matplotlib.axes import Axes
from so101_driver.joints import JOINT_NAMES
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import Blend

COLOURS = {
    "ours: latest": "#0057b8",
    "ours: ensemble": "#00a0a0",
    "ours: half": "#7da7d9",
    "ours: committed": "#5b4bb5",
    "(a) on arrival, linear": "#999999",
    "(b) 0.3/0.7 by index": "#c9a227",
    "(c) cubic per message": "#bbbbbb",
    "(d) aligned, Ruckig": "#c1272d",
    "(e) a behind limiter": "#666666",
    "(e) b behind limiter": "#e07b00",
    "(e) c behind limiter": "#444444",
    "(f) aligned cubic, unlimited": "#b565a7",
    "floor: best mix, unlimited": "#000000",
}
MOST_BYTES = 200_000


def write_plots(report: dict[str, Any], demos: list[Demonstration], folder: Path) -> None:
    """All pictures, as control_*.png."""
    _example(demos[0], folder / "control_example.png")
    _comparison(report, folder / "control_comparison.png")
    _fast(report, folder / "control_fast.png")


def write_docs(report: dict[str, Any], folder: Path, docs: Path) -> None:
    """Copy the pictures that docs/tracking.md shows, and renew its tables."""
    for name in ("example", "comparison"):
        picture = (folder / f"control_{name}.png").read_bytes()
        if len(picture) > MOST_BYTES:
            raise RuntimeError(
                f"control_{name}.png has {len(picture)} bytes, more than {MOST_BYTES}"
            )
        (docs / f"tracking_{name}.png").write_bytes(picture)
    page = docs / "tracking.md"
    text = page.read_text(encoding="utf-8")
    for name, table in (("comparison", _main_table(report)), ("fast", _fast_table(report))):
        begin, end = f"<!-- {name}: make bench-control ARGS=--docs -->", f"<!-- {name} ends -->"
        head, rest = text.split(begin)
        text = head + begin + "\n" + table + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def _main_table(report: dict[str, Any]) -> str:
    conditions = list(report["main"])
    lines = [
        "| RMS error [mrad] / RMS jerk [rad/s³] | " + " | ".join(conditions) + " |",
        "|---" * (len(conditions) + 1) + "|",
    ]
    for name in max(report["main"].values(), key=len):
        cells = []
        for condition in conditions:
            row = report["main"][condition].get(name)
            if row is None:
                cells.append("")
                continue
            digits = 2 if row["rms_rad"] < 0.001 else 1
            broken = "*" if row["violations"] else ""
            cells.append(f"{1e3 * row['rms_rad']:.{digits}f} / {row['rms_jerk']:.0f}{broken}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _fast_table(report: dict[str, Any]) -> str:
    factors = sorted({row["factor"] for row in report["fast"]})
    lines = [
        "| off the path: RMS / 99 % [mrad], lag [ms] | "
        + " | ".join(f"× {factor:g}" for factor in factors)
        + " |",
        "|---" * (len(factors) + 1) + "|",
    ]
    for name in dict.fromkeys(row["variant"] for row in report["fast"]):
        cells = [
            f"{1e3 * row['deviation_rms_rad']:.0f} / {1e3 * row['deviation_p99_rad']:.0f}, "
            f"{1e3 * row['lag_s']:.0f}"
            for row in report["fast"]
            if row["variant"] == name
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _save(path: Path) -> None:
    plt.savefig(path, dpi=100)
    plt.close()


def _example(demonstration: Demonstration, path: Path) -> None:
    """Two seconds of one joint: position and velocity, ours and three others."""
    limits, condition = simulated_limits("cautious"), Condition(0.2, noisy=True)
    wanted = sampled(demonstration)
    arrivals = stream(demonstration, condition, seed=1)
    start = wanted[0]
    methods = {
        "(a) on arrival, linear": OnArrival(start),
        "(b) 0.3/0.7 by index": WeightedAverage(start),
        "(d) aligned, Ruckig": AlignedRuckig(start, limits, 0.2, 1),
        "(e) b behind limiter": BehindLimiter(WeightedAverage(start), start, limits),
        "ours: latest": Ours(start, limits, Settings()),
        "ours: ensemble": Ours(start, limits, Settings(blend=Blend.ENSEMBLE)),
    }
    speed = np.abs(np.diff(wanted, axis=0))
    joint = 1
    centre = int(np.argmax(np.convolve(speed[:, joint], np.ones(100), "same")[150:-150])) + 150
    window = slice(max(centre - 90, 0), centre + 90)
    times_s = TICK_S * np.arange(len(wanted))
    figure, rows = plt.subplots(2, len(methods), figsize=(13, 5.2), sharex=True, sharey="row")
    for column, (name, method) in enumerate(methods.items()):
        commands, _ = run(method, arrivals, len(wanted))
        for row, order in enumerate((0, 1)):
            axes: Axes = rows[row][column]
            ideal = np.gradient(wanted[:, joint], TICK_S) if order else wanted[:, joint]
            made = np.diff(commands[:, joint], prepend=commands[0, joint]) / TICK_S
            made = made if order else commands[:, joint]
            axes.plot(times_s[window], ideal[window], color="black", lw=3.0, alpha=0.25)
            axes.plot(times_s[window], made[window], color=COLOURS[name], lw=1.1)
            axes.grid(alpha=0.3)
        rows[0][column].set_title(name, fontsize=10, color=COLOURS[name])
        rows[1][column].set_xlabel("time [s]")
    rows[0][0].set_ylabel(f"{JOINT_NAMES[joint]} [rad]")
    rows[1][0].set_ylabel("velocity [rad/s]")
    shown = np.gradient(wanted[:, joint], TICK_S)[window]
    room = max(0.6 * float(np.ptp(shown)), 0.4)
    rows[1][0].set_ylim(shown.min() - room, shown.max() + room)
    figure.suptitle(
        f"Commands for {condition.name} chunks; grey: the demonstration without delay", fontsize=11
    )
    figure.tight_layout()
    _save(path)


def _comparison(report: dict[str, Any], path: Path) -> None:
    """Error over latency, and error against jerk over each method's smoothing."""
    figure, (clean, noisy, pareto) = plt.subplots(1, 3, figsize=(13, 4.8))
    for axes, kind in ((clean, "clean"), (noisy, "noisy")):
        conditions = [name for name in report["main"] if name.endswith(kind)]
        latencies = [float(name.split()[0]) for name in conditions]
        for method, colour in COLOURS.items():
            rows = [report["main"][name].get(method) for name in conditions]
            if not rows or any(row is None for row in rows):
                continue
            broken = any(row["violations"] for row in rows)
            axes.plot(
                latencies,
                [1e3 * row["rms_rad"] for row in rows],
                marker="o",
                color=colour,
                ls=":" if broken or method.startswith("floor") else "-",
                lw=2.2 if method.startswith("ours") else 1.2,
                ms=4,
                label=method,
            )
        axes.set_yscale("log")
        axes.set_xlabel("policy latency [ms]")
        axes.set_ylabel("RMS error to the undelayed demonstration [mrad]")
        axes.set_title(f"{kind} chunks", fontsize=11)
        axes.grid(alpha=0.3, which="both")
    handles, labels = noisy.get_legend_handles_labels()
    clean.axhline(1.53, color="black", lw=0.8, ls="--")
    clean.text(0.0, 1.6, "one servo tick", fontsize=8)
    for (name, points), marker in zip(report["pareto"].items(), "osD^v<>", strict=False):
        method = next(method for method in COLOURS if name.startswith(method))
        pareto.plot(
            [1e3 * point["rms_rad"] for point in points],
            [point["rms_jerk"] for point in points],
            marker=marker,
            ms=4,
            lw=1.0,
            color=COLOURS[method],
            label=name,
        )
    if report["pareto"]:
        pareto.set_xscale("log")
        pareto.set_yscale("log")
        ticks = (3, 4, 5, 6, 8, 10, 15, 20, 30)
        pareto.set_xticks(ticks, [str(tick) for tick in ticks])
        pareto.set_xticks([], minor=True)
        pareto.legend(fontsize=7, loc="lower right")
    pareto.set_xlabel("RMS error [mrad]")
    pareto.set_ylabel("RMS jerk of the commands [rad/s³]")
    pareto.set_title("200 ms noisy, over each method's smoothing", fontsize=11)
    pareto.grid(alpha=0.3, which="both")
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncol=5, fontsize=8, frameon=False)
    _save(path)


def _fast(report: dict[str, Any], path: Path) -> None:
    """Deviation from the path and lag of the variants for chunks that are too fast."""
    factors = sorted({row["factor"] for row in report["fast"]})
    figure, (off, lag) = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for name in dict.fromkeys(row["variant"] for row in report["fast"]):
        rows = [row for row in report["fast"] if row["variant"] == name]
        bold = 2.4 if "shipped" in name else 1.2
        off.plot(factors, [1e3 * r["deviation_rms_rad"] for r in rows], "o-", lw=bold, label=name)
        lag.plot(factors, [1e3 * r["lag_s"] for r in rows], "o-", lw=bold)
    off.set_ylabel("RMS distance from the demonstration's path [mrad]")
    lag.set_ylabel("lag [ms]")
    for axes in (off, lag):
        axes.set_xlabel("times too fast")
        axes.grid(alpha=0.3)
    off.legend(fontsize=8)
    figure.tight_layout()
    _save(path)
