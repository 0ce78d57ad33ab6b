#!/usr/bin/env python3
"""`make bench-control`: our chunk tracker against what others do, on the same chunk streams.

Everything is simulated time: the figures do not depend on the machine. See docs/tracking.md, whose
table and pictures `--docs` writes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_control_fast import compare_fast
from bench_control_methods import (
    AlignedCubic,
    AlignedRuckig,
    BehindLimiter,
    BestMix,
    Method,
    OnArrival,
    Ours,
    SplinePerMessage,
    WeightedAverage,
    limiter_gain,
    run,
)
from bench_control_scenes import (
    DRIFT_RAD_S,
    OFFSET_RAD,
    TICK_S,
    WHITE_RAD,
    Array,
    Condition,
    Demonstration,
    demonstrations,
    sampled,
    simulated_limits,
    stream,
    synthetic_demonstration,
)
from bench_control_scores import Score, score
from bench_control_tables import tables
from rich.console import Console
from so101_driver.safety.limits import Limits
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import Blend

SEEDS = (6, 13)
LATENCIES_S = (0.0, 0.1, 0.2, 0.4)
SCORED_FROM = 200
"""Ticks before are the start, where every method is behind."""

RUCKIG_GRID = [
    (order, ahead_s)
    for order in (1, 2)
    for ahead_s in (0.02, 0.03, 0.04, 0.06, 0.12, 0.16, 0.2, 0.25)
]
GAINS_PER_S = (8.0, 12.0, 24.0)
"""Of the limiter, for (e): each condition takes what suits it best."""

RIVALS = (
    "(d) aligned, Ruckig",
    "(e) a behind limiter",
    "(e) b behind limiter",
    "(e) c behind limiter",
)

Make = Callable[[Array], Method]


class Comparison:
    """Runs methods on conditions; every score is over all demonstrations."""

    def __init__(self, demos: list[Demonstration], limits: Limits, settings: Settings) -> None:
        self._demos = demos
        self._limits = limits
        self._settings = settings

    def scored(self, make: Make, condition: Condition, committed: bool = False) -> Score:
        """One method on one condition: errors are root mean squares, peaks are maxima."""
        scores = []
        for demonstration in self._demos:
            wanted = sampled(demonstration)
            committed_s = condition.latency_s + 0.06 if committed else 0.0
            arrivals = stream(demonstration, condition, seed=1, committed_s=committed_s)
            commands, handoffs = run(make(wanted[0]), arrivals, len(wanted))
            scores.append(score(commands, wanted, handoffs, self._limits, SCORED_FROM))
        return _joined(scores)

    def ours(self, **changes: Any) -> Make:
        """The shipped chain with changed settings."""
        settings = replace(self._settings, **changes)
        return lambda start: Ours(start, self._limits, settings)

    def ruckig(self, order: int, ahead_s: float) -> Make:
        """Method (d)."""
        return lambda start: AlignedRuckig(start, self._limits, ahead_s, order)

    def behind(self, make: Make) -> Make:
        """Method (e)."""
        return lambda start: BehindLimiter(make(start), start, self._limits)

    def all_methods(
        self, condition: Condition, grid: list[tuple[int, float]], gains: tuple[float, ...]
    ) -> dict[str, dict[str, Any]]:
        """Every method on one condition; (d) and (e) with the parameters that suit it best."""
        rows: dict[str, dict[str, Any]] = {}

        def row(name: str, result: Score, note: str = "") -> None:
            rows[name] = {**asdict(result), "parameters": note}

        for blend in Blend:
            row(f"ours: {blend.value}", self.scored(self.ours(blend=blend), condition))
        row("ours: committed", self.scored(self.ours(), condition, committed=True))
        row("(a) on arrival, linear", self.scored(OnArrival, condition))
        row("(b) 0.3/0.7 by index", self.scored(WeightedAverage, condition))
        row("(c) cubic per message", self.scored(SplinePerMessage, condition))
        best, note = None, ""
        for order, ahead_s in grid:
            result = self.scored(self.ruckig(order, ahead_s), condition)
            if best is None or result.rms_rad < best.rms_rad:
                target = "position and velocity" if order == 1 else "and acceleration too"
                best, note = result, f"{1e3 * ahead_s:.0f} ms ahead, {target}"
        assert best is not None
        row(RIVALS[0], best, note)
        for name, make in zip(
            RIVALS[1:], (OnArrival, WeightedAverage, SplinePerMessage), strict=True
        ):
            best = None
            for gain in gains:
                with limiter_gain(gain):
                    result = self.scored(self.behind(make), condition)
                if best is None or result.rms_rad < best.rms_rad:
                    best, note = result, f"gain {gain:g} /s"
            assert best is not None
            row(name, best, note)
        row("(f) aligned cubic, unlimited", self.scored(AlignedCubic, condition))
        if condition.noisy:
            row("floor: best mix, unlimited", self.scored(_best_mix, condition))
        return rows

    def pareto(self, condition: Condition) -> dict[str, list[dict[str, Any]]]:
        """Each method over its smoothing."""
        curves: dict[str, list[dict[str, Any]]] = {}

        def curve(name: str, points: list[tuple[float, Make]]) -> None:
            curves[name] = [
                {"parameter": value, **asdict(self.scored(make, condition))}
                for value, make in points
            ]

        joins = (0.02, 0.1, 0.3, 0.5, 0.8)
        tolerances = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02)
        decays = (0.3, 1.0, 3.0, 10.0)
        curve("ours: latest, join_s", [(v, self.ours(join_s=v)) for v in joins])
        curve(
            "ours: latest, fit_tolerance_rad",
            [(v, self.ours(fit_tolerance_rad=v)) for v in tolerances],
        )
        curve(
            "ours: ensemble, join_s",
            [(v, self.ours(blend=Blend.ENSEMBLE, join_s=v)) for v in joins],
        )
        curve(
            "ours: ensemble, decay per s",
            [(v, self.ours(blend=Blend.ENSEMBLE, ensemble_decay_per_s=v)) for v in decays],
        )
        ahead = (0.12, 0.16, 0.2, 0.25, 0.3, 0.4)
        curve("(d) aligned, Ruckig, s ahead", [(v, self.ruckig(1, v)) for v in ahead])
        for name, make in (
            ("ours: latest, limiter gain", self.ours()),
            ("(e) b behind limiter, gain", self.behind(WeightedAverage)),
        ):
            curves[name] = []
            for gain in (2.0, 4.0, 8.0, 12.0, 16.0):
                with limiter_gain(gain):
                    result = self.scored(make, condition)
                curves[name].append({"parameter": gain, **asdict(result)})
        return curves

    def reactions(self) -> list[dict[str, Any]]:
        """How long a change of plan takes to be executed: the price of smoothing.

        Chunks say 0, then 0.1 rad from one chunk on; told are the times from that chunk's arrival
        until half and nine tenths are commanded.
        """
        rows = []
        for name, changes in (
            *((f"ours: latest, join_s {v:g}", {"join_s": v}) for v in (0.1, 0.3, 0.5)),
            ("ours: ensemble", {"blend": Blend.ENSEMBLE}),
            ("ours: half", {"blend": Blend.HALF}),
        ):
            commands = _stepped(self.ours(**changes), self._limits)
            half, most = (int(np.argmax(commands >= share * 0.1)) for share in (0.5, 0.9))
            rows.append({"method": name, "half_s": half * TICK_S, "most_s": most * TICK_S})
        return rows


def _best_mix(start: Array) -> Method:
    return BestMix(start, lambda age_s: OFFSET_RAD**2 + (DRIFT_RAD_S * age_s) ** 2 + WHITE_RAD**2)


def _stepped(make: Make, limits: Limits) -> Array:
    """Commands from the arrival of the first chunk with the new plan on."""
    from bench_control_scenes import HORIZON, STEP_S, TICKS_PER_CHUNK
    from so101_driver.safety.chunk_gate import AcceptedChunk

    start = np.clip(np.zeros(len(limits.lower_rad)), limits.lower_rad, limits.upper_rad)
    method, changes = make(start), 20 * TICKS_PER_CHUNK
    rows = []
    for tick in range(changes + 300):
        if tick % TICKS_PER_CHUNK == 0:
            points = np.tile(start + (0.1 if tick >= changes else 0.0), (HORIZON, 1))
            method.add(AcceptedChunk(points, STEP_S, tick * round(TICK_S * 1e9)), tick)
        rows.append(method.command(tick)[0])
    return np.array(rows[changes:])


def _joined(scores: list[Score]) -> Score:
    """Root mean squares of errors, means of lags, maxima of peaks, sums of violations."""
    rows = [asdict(one) for one in scores]

    def over(key: str) -> float:
        values = np.array([row[key] for row in rows])
        if key.startswith("violations"):
            return int(values.sum())
        if "rms" in key:
            return float(np.sqrt(np.square(values).mean()))
        return float(values.mean() if key.endswith("lag_s") else values.max())

    return Score(**{key: over(key) for key in rows[0]})


def aims(main: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Per condition: the best of ours against the best of (d) and (e)."""
    rows = []
    for condition, methods in main.items():
        rival = min(RIVALS, key=lambda name: methods[name]["rms_rad"])
        for ours in ("ours: latest", "ours: ensemble"):
            mine, other = methods[ours], methods[rival]
            rows.append(
                {
                    "condition": condition,
                    "ours": ours,
                    "rms_rad": mine["rms_rad"],
                    "rival": rival,
                    "rival_rms_rad": other["rms_rad"],
                    "ratio": mine["rms_rad"] / other["rms_rad"],
                    "floor_rad": methods.get("floor: best mix, unlimited", {}).get(
                        "rms_rad", math.nan
                    ),
                    "peak_jerk": mine["peak_jerk"],
                    "rival_peak_jerk": other["peak_jerk"],
                    "violations": mine["violations"],
                }
            )
    return rows


def compare(quick: bool, cache: Path | None) -> tuple[dict[str, Any], list[Demonstration]]:
    """Everything that is measured; ``quick`` takes seconds and proves only that the tool works."""
    limits, settings = simulated_limits("cautious"), Settings()
    demos = [synthetic_demonstration()] if quick else demonstrations(SEEDS, cache)
    comparison = Comparison(demos, limits, settings)
    grid = [(2, 0.02), (1, 0.2)] if quick else RUCKIG_GRID
    conditions = (
        [Condition(0.0, False), Condition(0.2, True)]
        if quick
        else [Condition(latency, noisy) for noisy in (False, True) for latency in LATENCIES_S]
    )
    gains = GAINS_PER_S[:1] if quick else GAINS_PER_S
    main = {one.name: comparison.all_methods(one, grid, gains) for one in conditions}
    factors = (2.0,) if quick else (1.5, 2.0, 3.0)
    report = {
        "main": main,
        "aims": aims(main),
        "fast": compare_fast(demos, factors, limits, settings),
        "reactions": comparison.reactions(),
        "pareto": {} if quick else comparison.pareto(Condition(0.2, True)),
    }
    return report, demos


def main() -> None:
    """Run the comparison, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for results")
    parser.add_argument("--quick", action="store_true", help="seconds: only shows that it works")
    parser.add_argument("--docs", action="store_true", help="write docs/tracking.md's figures too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report, demos = compare(arguments.quick, None if arguments.quick else arguments.out)
    for table in tables(report):
        Console(width=150).print(table)
    (arguments.out / "control.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    from bench_control_plots import write_docs, write_plots

    write_plots(report, demos, arguments.out)
    if arguments.docs:
        write_docs(report, arguments.out, Path("docs"))


if __name__ == "__main__":
    main()
