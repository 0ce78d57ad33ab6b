"""Tables and pictures of `bench_chunking`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from chunking_episodes import TICK_S, Episode
from chunking_methods import (
    ORIGIN_NS,
    Conditioned,
    Handoffs,
    Latest,
    Method,
    WeightedAverage,
    hand_over,
)
from drawing import STYLE
from so101_driver.joints import JOINT_NAMES
from wallx_policy.model import Policy, PrefixMode

COLOURS = {
    "no conditioning": "#8a8f98",
    "weighted average 0.3/0.7": "#c9a227",
    "temporal ensemble": "#c1272d",
    "frozen": "#00a0a0",
    "guided": "#0057b8",
}
EXAMPLE_DELAY_S = 0.2
MOST_BYTES = 250_000


def main_table(report: dict[str, Any]) -> str:
    """Every method at every delay."""
    methods = report["methods"]
    delays = list(next(iter(methods.values())))
    lines = [
        "| jump [mrad] / change of velocity [rad/s] / error [mrad] | "
        + " | ".join(f"{delay} ms" for delay in delays)
        + " |",
        "|---" * (len(delays) + 1) + "|",
    ]
    for name, rows in methods.items():
        cells = [
            f"{1e3 * row['jump_rad']:.1f} / {row['velocity_rad_s']:.2f} / "
            f"{1e3 * row['error_rad']:.0f}"
            for row in rows.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sweep_table(report: dict[str, Any]) -> str:
    """The guidance with other weights."""
    lines = [
        "| guided, 200 ms | jump [mrad] | change of velocity [rad/s] | error [mrad] |",
        "|---|---|---|---|",
    ]
    for name, row in report["sweep"].items():
        lines.append(
            f"| {name} | {1e3 * row['jump_rad']:.1f} | {row['velocity_rad_s']:.2f} | "
            f"{1e3 * row['error_rad']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def write_plots(report: dict[str, Any], policy: Policy, shown: Episode, folder: Path) -> None:
    """Both pictures, as chunking_*.png."""
    with plt.rc_context(STYLE):
        _example(policy, shown, folder / "chunking_example.png")
        _comparison(report, folder / "chunking_comparison.png")


def write_docs(report: dict[str, Any], folder: Path, docs: Path) -> None:
    """Copy the pictures, and renew the tables of docs/chunking.md."""
    for name in ("example", "comparison"):
        picture = (folder / f"chunking_{name}.png").read_bytes()
        if len(picture) > MOST_BYTES:
            raise RuntimeError(f"chunking_{name}.png has {len(picture)} bytes")
        (docs / f"chunking_{name}.png").write_bytes(picture)
    page = docs / "chunking.md"
    text = page.read_text(encoding="utf-8")
    for name, table in (("comparison", main_table(report)), ("sweep", sweep_table(report))):
        begin, end = f"<!-- {name}: make bench-chunking ARGS=--docs -->", f"<!-- {name} ends -->"
        head, rest = text.split(begin)
        text = head + begin + "\n" + table + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def _save(path: Path) -> None:
    plt.savefig(path, dpi=110)
    plt.close()


def _example(policy: Policy, shown: Episode, path: Path) -> None:
    """Some hand-offs of the joint that jumps most: the old plan, and the new one by each method."""
    methods: dict[str, Method] = {
        "no conditioning": Latest(),
        "weighted average 0.3/0.7": WeightedAverage(),
        "frozen": Conditioned(PrefixMode.FROZEN),
        "guided": Conditioned(PrefixMode.GUIDED),
    }
    found: dict[str, Handoffs] = {
        name: hand_over(policy, shown, method, EXAMPLE_DELAY_S, paths=True)
        for name, method in methods.items()
    }
    joint, numbers = _largest(found["no conditioning"])
    figure, rows = plt.subplots(2, len(numbers), figsize=(13, 5.6), sharex=True)
    times_s = np.arange(-0.12, 0.3, TICK_S / 2)
    for column, number in enumerate(numbers):
        begin_s = found["no conditioning"].times_s[number]
        for order, axes in enumerate(rows[:, column]):
            ticks = np.round((begin_s + times_s) / TICK_S).astype(int)
            ticks = np.clip(ticks, 0, len(shown.commands_rad) - 1)
            wanted = np.gradient(shown.commands_rad[:, joint], TICK_S) if order else None
            grey = wanted[ticks] if order else shown.commands_rad[ticks, joint]
            axes.plot(1e3 * times_s, grey, color="black", lw=4, alpha=0.15)
            for name, one in found.items():
                before, after = one.paths[number]
                late_s = one.times_s[number] - begin_s
                for part, plan, style in (
                    (times_s <= late_s, before, "-"),
                    (times_s >= late_s, after, "-"),
                ):
                    at_ns = ORIGIN_NS + np.round((begin_s + times_s[part]) * 1e9).astype(np.int64)
                    values = plan(at_ns)[:, joint]
                    if order:
                        values = np.gradient(values, TICK_S / 2)
                    old = plan is before
                    axes.plot(
                        1e3 * times_s[part],
                        values,
                        style,
                        color="black" if old else COLOURS[name],
                        lw=1.0 if old else 1.8,
                        label=None if plan is before or order or column else name,
                    )
            axes.axvline(0.0, color="black", lw=0.6, ls=":")
        rows[0, column].set_title(f"at {begin_s:.1f} s", fontsize=9)
        rows[1, column].set_xlabel("time since the arrival [ms]")
    rows[0, 0].set_ylabel(f"{JOINT_NAMES[joint]} [rad]")
    rows[1, 0].set_ylabel("velocity [rad/s]")
    limit = np.percentile(np.abs(np.gradient(shown.commands_rad[:, joint], TICK_S)), 99)
    for axes in rows[1]:
        axes.set_ylim(-2.2 * limit, 2.2 * limit)
    figure.suptitle(
        f"Hand-offs with chunks {1e3 * EXAMPLE_DELAY_S:.0f} ms late, before safety smooths them; "
        "black: the old plan, grey: the demonstration",
        fontsize=10,
    )
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncol=5, fontsize=9)
    _save(path)


def _largest(found: Handoffs) -> tuple[int, list[int]]:
    """Joint of the arm with the largest jumps, and four hand-offs of it: large, at other times."""
    jumps = np.array(found.jump_rad)[:, :5]
    joint = int(np.argmax(np.sqrt(np.square(jumps).mean(axis=0))))
    chosen: list[int] = []
    for number in np.argsort(jumps[:, joint])[::-1]:
        apart = all(abs(found.times_s[number] - found.times_s[one]) > 0.8 for one in chosen)
        if apart and 0.5 < found.times_s[number] < found.times_s[-1] - 0.5:
            chosen.append(int(number))
        if len(chosen) == 4:
            break
    return joint, sorted(chosen)


def _comparison(report: dict[str, Any], path: Path) -> None:
    """Jump, change of velocity and error over the delay."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2))
    for axes, (key, scale, title) in zip(
        panels,
        (
            ("jump_rad", 1e3, "jump at the hand-off [mrad]"),
            ("velocity_rad_s", 1.0, "change of velocity beyond the demonstration's [rad/s]"),
            ("error_rad", 1e3, "open-loop error until the next hand-off [mrad]"),
        ),
        strict=True,
    ):
        for name, rows in report["methods"].items():
            delays = [float(delay) for delay in rows]
            values = [scale * row[key] for row in rows.values()]
            bold = 2.2 if name in ("frozen", "guided") else 1.4
            axes.plot(delays, values, "o-", color=COLOURS[name], lw=bold, ms=4, label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("delay from observation to chunk [ms]")
        axes.set_ylim(bottom=0.0)
        if key == "velocity_rad_s":
            # An ensemble leaps where a chunk ends, which is at some delays near a hand-off.
            shown = [
                r[key] for n, m in report["methods"].items() if "ens" not in n for r in m.values()
            ]
            axes.set_ylim(0.0, 1.2 * max(shown))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncol=5, fontsize=9)
    _save(path)
