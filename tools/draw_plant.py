#!/usr/bin/env python3
"""Draw docs/plant.png: what the virtual servo makes of a step and of slow ramps.

The simulated arm alone, without ROS and without a driver; goals are written at 100 Hz.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from drawing import STYLE
from matplotlib.axes import Axes
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.plant import ServoModel

from so101_driver import registers as reg

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]

TICK_S = 0.01
PAN, LIFT = JOINT_NAMES.index("shoulder_pan"), JOINT_NAMES.index("shoulder_lift")
UPRIGHT_RAD = (0.0,) * 6
STRETCHED_RAD = (0.0, 0.5, -0.5, 0.0, 0.0, 0.0)
SETTLE_S = 2.0
STEP_RAD = 0.2
RAMP_RAD = 0.06
RAMP_S = 3.0
"""From one turning point of the slow ramp to the next."""

GOAL, MEASURED, OTHER, NOTE = "#1f5fbf", "#e07b1a", "#5c6770", "#333333"


@dataclass(slots=True)
class Trace:
    """One joint over time, in degrees from where it was at the start."""

    time_s: list[float] = field(default_factory=list)
    goal_deg: list[float] = field(default_factory=list)
    measured_deg: list[float] = field(default_factory=list)


def record(
    joint: int,
    start_rad: Sequence[float],
    goal_rad: Callable[[float], float],
    seconds: float,
    *,
    backlash_rad: float | None = None,
    p_gain: int = 16,
) -> Trace:
    """Run one joint after a goal that is a function of time, relative to its start."""
    model = ServoModel() if backlash_rad is None else ServoModel(backlash_rad=backlash_rad)
    arm = ArmSimulation(start_rad=start_rad, model=model)
    servo = tuple(arm.servos.values())[joint]
    servo.write(reg.P_GAIN.address, reg.P_GAIN.encode(p_gain), 0.0)
    arm.enable_torque()
    trace = Trace()
    for tick in range(-round(SETTLE_S / TICK_S), round(seconds / TICK_S)):
        goals = list(start_rad)
        # It comes from one side, so that it starts with the gears touching.
        arrival = RAMP_RAD * min(0.0, tick * TICK_S / SETTLE_S + 0.5)
        goals[joint] += goal_rad(tick * TICK_S) if tick >= 0 else arrival
        arm.set_goals_rad(goals)
        for _ in range(2 if tick % 2 else 3):
            # 100 Hz goals on a world of 250 Hz.
            arm.step()
            if tick >= 0:
                trace.time_s.append(len(trace.time_s) * arm.timestep_s)
                trace.goal_deg.append(float(np.degrees(goals[joint] - start_rad[joint])))
                measured = arm.joints_rad()[joint] - start_rad[joint]
                trace.measured_deg.append(float(np.degrees(measured)))
    return trace


def triangle(time_s: float, height_rad: float = RAMP_RAD, ramp_s: float = RAMP_S) -> float:
    """Up and down again at a constant speed, beginning upwards."""
    phase = time_s / ramp_s % 2.0
    return height_rad * (phase if phase < 1.0 else 2.0 - phase)


def draw_step(axes: Axes) -> None:
    """A step of a joint without load."""
    trace = record(PAN, UPRIGHT_RAD, lambda _time_s: STEP_RAD, 0.7)
    time_s, measured = np.array(trace.time_s), np.array(trace.measured_deg)
    goal_deg = np.degrees(STEP_RAD)
    axes.step([-0.05, 0.0, 0.7], [0.0, goal_deg, goal_deg], where="post", color=GOAL, label="goal")
    axes.plot(time_s, measured, color=MEASURED, lw=1.8, label="Present_Position")
    first = measured[0]
    moved_s = time_s[np.argmax(measured > first + 0.3)]
    share = first + 0.63 * (goal_deg - first)
    lag_s = time_s[np.argmax(measured > share)]
    span(axes, 0.0, moved_s, 0.9, f"dead time\n{1e3 * moved_s:.0f} ms")
    span(axes, moved_s, lag_s, 7.2, f"then 63 % in {1e3 * (lag_s - moved_s):.0f} ms", after=True)
    axes.set_title("a step: shoulder_pan", loc="left")
    axes.set_xlim(-0.03, 0.6)
    axes.legend(loc="lower right")


def draw_turn(axes: Axes) -> None:
    """A joint that turns back in motion, with and without free play."""
    back_s = 0.6

    def goal_rad(time_s: float) -> float:
        return triangle(time_s, 0.3, back_s)

    default_deg = np.degrees(ServoModel().backlash_rad)
    for backlash_deg, colour, style in ((0.0, OTHER, "--"), (default_deg, MEASURED, "-")):
        trace = record(
            PAN, UPRIGHT_RAD, goal_rad, 1.2, backlash_rad=float(np.radians(backlash_deg))
        )
        label = f"backlash {backlash_deg:.1f}°"
        axes.plot(trace.time_s, trace.measured_deg, color=colour, ls=style, lw=1.6, label=label)
    axes.plot(trace.time_s, trace.goal_deg, color=GOAL, label="goal")
    peak = int(np.argmax(trace.measured_deg))
    span(axes, back_s, trace.time_s[peak], 18.2, "")
    axes.text(back_s + 0.05, 18.5, f"{1e3 * (trace.time_s[peak] - back_s):.0f} ms", color=NOTE)
    axes.set_title("turning back: shoulder_pan", loc="left")
    axes.set_xlim(0.3, 1.15)
    axes.set_ylim(5.0, 20.5)
    axes.legend(loc="lower center", fontsize=8)


def draw_ramp(axes: Axes) -> None:
    """A slow ramp there and back: friction."""
    trace = record(PAN, UPRIGHT_RAD, triangle, 2.5 * RAMP_S)
    axes.plot(trace.time_s, trace.goal_deg, color=GOAL, label="goal")
    axes.plot(trace.time_s, trace.measured_deg, color=MEASURED, lw=1.6, label="Present_Position")
    at = round(2.0 / 0.004)
    gap(axes, 2.0, trace.measured_deg[at], trace.goal_deg[at], "friction\nleaves {:.1f}°")
    moves_s = follows(np.array(trace.time_s), np.array(trace.measured_deg), RAMP_S)
    span(axes, RAMP_S, moves_s, 3.75, f"held {moves_s - RAMP_S:.1f} s")
    axes.set_title("a slow ramp: shoulder_pan", loc="left")
    axes.set_ylim(-1.5, 4.6)
    axes.legend(loc="lower right", fontsize=8)


def follows(time_s: Array, measured_deg: Array, since_s: float) -> float:
    """When the joint follows the other way, after the goal has turned back."""
    after = time_s >= since_s
    peak = measured_deg[after & (time_s < since_s + 1.5)].max()
    return float(time_s[after][np.argmax(measured_deg[after] < peak - 0.3)])


def draw_sag(axes: Axes) -> None:
    """A slow ramp of a joint that carries the arm, at two gains."""
    for p_gain, colour, style in ((32, OTHER, "--"), (16, MEASURED, "-")):
        trace = record(LIFT, STRETCHED_RAD, triangle, 2.5 * RAMP_S, p_gain=p_gain)
        name = f"Present_Position, P = {p_gain}" + (" (LeRobot)" if p_gain == 16 else "")
        axes.plot(trace.time_s, trace.measured_deg, color=colour, ls=style, lw=1.6, label=name)
    axes.plot(trace.time_s, trace.goal_deg, color=GOAL, label="goal")
    at = round(2.0 / 0.004)
    gap(axes, 2.0, trace.measured_deg[at], trace.goal_deg[at], "sags\n{:.1f}°")
    axes.set_title("the same under gravity: shoulder_lift (+ is down)", loc="left")
    axes.set_ylim(-0.5, 8.2)
    axes.legend(loc="upper left", fontsize=8)


def gap(axes: Axes, time_s: float, one: float, other: float, text: str) -> None:
    """Mark how far goal and measurement are apart."""
    arrow = {"arrowstyle": "<->", "color": NOTE, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (time_s, one), (time_s, other), arrowprops=arrow)
    axes.text(time_s + 0.1, min(one, other) - 0.1, text.format(abs(one - other)), va="top")


def span(
    axes: Axes, begin_s: float, end_s: float, y: float, text: str, *, after: bool = False
) -> None:
    """Mark a stretch of time."""
    axes.annotate(
        "",
        (end_s, y),
        (begin_s, y),
        arrowprops={"arrowstyle": "<->", "color": NOTE, "shrinkA": 0, "shrinkB": 0},
    )
    x, side = (end_s + 0.01 * (axes.get_xlim()[1] - axes.get_xlim()[0]), "left")
    if not after:
        x, side = (begin_s + end_s) / 2, "center"
    axes.text(x, y, text, color=NOTE, ha=side, va="center" if after else "bottom")


def draw(path: Path) -> None:
    """Write the picture."""
    plt.rcParams.update(STYLE)
    figure, panels = plt.subplots(2, 2, figsize=(10.5, 7.0))
    for panel, axes in zip((draw_step, draw_turn, draw_ramp, draw_sag), panels.flat, strict=True):
        panel(axes)
        axes.set_xlabel("time [s]")
        axes.set_ylabel("angle [°]")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/plant.png"))
    path = parser.parse_args().path
    draw(path)
    print(f"wrote {path} ({path.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
