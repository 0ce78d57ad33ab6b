#!/usr/bin/env python3
"""Draw docs/contact.png: an arm that is sent through the table, and led back again.

Safety layer, driver and simulated arm in lockstep, without ROS and without geometry, which would
stop the arm above the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from arm_loop import TICK_S, DrivenLoop
from drawing import STYLE, runs
from matplotlib.axes import Axes
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, SERVO_IDS, data_path
from so101_driver.safety import (
    ActionKind,
    Chunk,
    EventKind,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)
from so101_driver.sim.arm_simulation import ArmSimulation

from so101_driver import registers as reg

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SECONDS = 7.0
LIFT = JOINT_NAMES.index("shoulder_lift")
START_RAD = np.array([0.0, -0.5, 0.6, 1.2, 0.0, 0.2])
DOWN_RAD = 0.5
"""The policy's goal for shoulder_lift, deep below the table."""
SPEED_RAD_S = 0.6
BEGIN_S = 0.4
BACK_S = 4.5
"""When the policy leads back."""
CHUNK_EVERY_S = 0.2
HORIZON_S = 1.0
STEP_S = 0.05

TOUCH_M = 0.0125
"""Height of the tip at which the fingers, which are thicker, touch the table."""

STATE_COLOURS = {
    State.HOLD: "#c9d3dc",
    State.TRACKING: "#9fd3a6",
    State.STOPPING: "#f2b36b",
}


@dataclass
class Recording:
    """One value per tick."""

    time_s: list[float] = field(default_factory=list)
    command_rad: list[float] = field(default_factory=list)
    expected_rad: list[float] = field(default_factory=list)
    measured_rad: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    duty: list[float] = field(default_factory=list)
    torque_limit: list[float] = field(default_factory=list)
    state: list[State] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    touched_s: float = float("nan")


class Cell:
    """Safety layer, driver core and simulated arm, a tick of 10 ms at a time."""

    def __init__(self) -> None:
        limits = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
        self.limits = limits
        self.arm = ArmSimulation(seed=1, start_rad=tuple(START_RAD))
        self.arm.enable_torque()
        supervisor = Supervisor(limits, Settings(mode=Mode.FULL))
        calibration = Calibration.load(data_path("sim_calibration.json"))
        self.loop = DrivenLoop(self.arm, supervisor, limits, calibration)

    def step(self, chunks: list[Chunk], recording: Recording) -> None:
        """Pass one tick with the chunks that came."""
        measured_rad = self.loop.advance()
        events = [OperatorEvent(EventKind.ARM)] if self.loop.tick == 2 else []
        command = self.loop.command(measured_rad, chunks, events)
        if command.output is Output.COMMANDS and command.positions_rad is not None:
            self._record(command.positions_rad[LIFT], measured_rad[LIFT], recording)

    def _record(self, command_rad: float, measured_rad: float, recording: Recording) -> None:
        status = self.loop.supervisor.status(self.loop.now_ns)
        error_rad = status.following_error_rad[LIFT] if status.following_error_rad else 0.0
        servo = self.arm.servos[SERVO_IDS[LIFT]]
        recording.time_s.append(self.loop.tick * TICK_S)
        recording.command_rad.append(command_rad)
        recording.measured_rad.append(measured_rad)
        recording.expected_rad.append(measured_rad - error_rad)
        recording.rate.append(status.path_rate)
        recording.duty.append(abs(servo.plant.duty))
        recording.torque_limit.append(servo.memory.value(reg.TORQUE_LIMIT) * reg.DUTY)
        recording.state.append(status.state)
        recording.reason.append(status.reason)
        if np.isnan(recording.touched_s) and self.arm.tip_pose()[2, 3] < TOUCH_M:
            recording.touched_s = self.loop.tick * TICK_S


def policy_chunk(time_s: float, sequence: int) -> Chunk:
    """What a policy with a plan sends: first down through the table, later back up."""
    times_s = time_s + np.arange(0.0, HORIZON_S + STEP_S / 2, STEP_S)
    down_rad = np.minimum(START_RAD[LIFT] + SPEED_RAD_S * (times_s - BEGIN_S), DOWN_RAD)
    lift_rad = np.maximum(START_RAD[LIFT], down_rad)
    if time_s >= BACK_S:
        lift_rad = np.full_like(times_s, START_RAD[LIFT])
    points = np.tile(START_RAD, (len(times_s), 1))
    points[:, LIFT] = lift_rad
    return Chunk(
        stamp_ns=round(time_s * 1e9),
        source="policy",
        session=1,
        sequence=sequence,
        joint_names=JOINT_NAMES,
        points_rad=points.tolist(),
        offsets_ns=tuple(round(i * STEP_S * 1e9) for i in range(len(times_s))),
        image_age_s=0.0,
        action_kind=ActionKind.GOAL,
    )


def record() -> tuple[Recording, Limits]:
    """Run the scene."""
    cell, recording = Cell(), Recording()
    every = round(CHUNK_EVERY_S / TICK_S)
    for tick in range(1, round(SECONDS / TICK_S)):
        chunks = []
        if tick * TICK_S >= BEGIN_S and tick % every == 0:
            chunks.append(policy_chunk(tick * TICK_S, tick // every))
        cell.step(chunks, recording)
    return recording, cell.limits


def draw(recording: Recording, limits: Limits, path: Path) -> None:
    """Write the picture."""
    time_s = np.array(recording.time_s)
    behind_rad = np.abs(np.array(recording.measured_rad) - np.array(recording.expected_rad))
    slow_rad, stop_rad = limits.following_slow_rad[LIFT], limits.following_stop_rad[LIFT]
    slowed_s = time_s[np.argmax(np.array(recording.rate) < 1.0)]
    blocked_s = time_s[[state is State.STOPPING for state in recording.state].index(True)]
    limited_s = time_s[np.argmax(np.array(recording.torque_limit) < 1.0)]
    tracking = np.array([state is State.TRACKING for state in recording.state])
    freed_s = time_s[np.argmax((time_s > BACK_S) & (behind_rad < slow_rad))]

    plt.rcParams.update(STYLE)
    figure, (top, middle, rate, duty) = plt.subplots(
        4, 1, figsize=(10.5, 8.6), sharex=True, height_ratios=(4.2, 2.2, 1.1, 1.8)
    )
    for begin, end, state in runs(recording.state):
        left, right = time_s[begin], time_s[min(end, len(time_s) - 1)]
        for axes in (top, middle, rate, duty):
            axes.axvspan(left, right, color=STATE_COLOURS[state], alpha=0.45, lw=0)
        if right - left > 0.2:
            place = {"transform": top.get_xaxis_transform(), "ha": "center", "weight": "bold"}
            top.text((left + right) / 2, 1.02, state.name, **place)

    top.plot(time_s, recording.command_rad, color="#1f5fbf", label="command")
    top.plot(
        time_s,
        recording.expected_rad,
        color="#1f5fbf",
        ls="--",
        label="expected: where the servo should be by now",
    )
    top.plot(time_s, recording.measured_rad, color="#e07b1a", lw=2, label="measured")
    top.set_ylabel("shoulder_lift [rad]\n(up is towards the table)")
    top.set_ylim(-0.55, 0.55)
    top.legend(loc="lower center", bbox_to_anchor=(0.48, 0.12))
    number(top, 1, recording.touched_s, 0.46, "the fingers\ntouch the table", right=False)
    number(top, 2, slowed_s, -0.12, "slower")
    number(
        top,
        3,
        blocked_s,
        0.44,
        "blocked: it stops (STOPPING) and holds;\nchunks that lead further are refused",
    )
    back_s = time_s[np.argmax((time_s > BACK_S) & tracking)]
    number(top, 5, back_s, 0.44, "a chunk that leads back\nis followed at once")
    number(top, 6, freed_s, 0.2, "freed")

    middle.plot(time_s, behind_rad, color="#7b4bb3", lw=2)
    middle.axhline(slow_rad, color="#b7791f", ls="--", lw=1)
    middle.axhline(stop_rad, color="#c02020", ls="--", lw=1)
    middle.text(0.05, slow_rad + 0.008, "slow: the rate begins to fall", color="#b7791f")
    middle.text(0.05, stop_rad + 0.008, "stop: the rate is 0", color="#c02020")
    middle.set_ylabel("hangs behind\n[rad]")
    middle.set_ylim(0.0, 0.40)

    rate.plot(time_s, recording.rate, color="#2f9e44", lw=2)
    rate.set_ylabel("rate")
    rate.set_ylim(-0.05, 1.1)

    duty.plot(
        time_s, recording.torque_limit, color="#c02020", ls="--", lw=1.2, label="torque limit"
    )
    duty.plot(time_s, recording.duty, color="#5c6770", lw=1.2, label="duty of the servo")
    duty.axhline(0.8, color="#999999", ls=":", lw=1)
    duty.text(0.05, 0.82, "above: trips after 2 s", color="#777777")
    duty.set_ylabel("servo, share\nof full torque")
    duty.set_ylim(0.0, 1.12)
    duty.legend(loc="lower right", bbox_to_anchor=(1.0, 0.18))
    number(duty, 4, limited_s, 0.45, "the driver takes force off the servo")
    duty.set_xlabel("time [s]")
    duty.set_xlim(0.0, SECONDS)
    figure.align_ylabels()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def number(axes: Axes, n: int, time_s: float, y: float, text: str, right: bool = True) -> None:
    """Mark a moment with a number and say what happens, beside it."""
    axes.axvline(time_s, color="#333333", lw=0.8, ls=":")
    shift_s, side = (0.06, "left") if right else (-0.06, "right")
    axes.text(time_s + shift_s, y, f"({n}) {text}", va="center", ha=side)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/contact.png"))
    path = parser.parse_args().path
    recording, limits = record()
    draw(recording, limits, path)
    print(f"wrote {path} ({path.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
