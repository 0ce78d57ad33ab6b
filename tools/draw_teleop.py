#!/usr/bin/env python3
"""Draw docs/teleop.png and print the lag: a leader is engaged, moved, let go and unplugged.

Leader, teleoperation core, safety layer and simulated follower in lockstep, without ROS.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from arm_loop import TICK_S, ObedientLoop
from drawing import STYLE, runs
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety import (
    ActionKind,
    Chunk,
    EventKind,
    Limits,
    Mode,
    OperatorEvent,
    Settings,
    State,
    Supervisor,
)
from so101_driver.sim.arm_simulation import ArmSimulation
from so101_driver.sim.hands import Hand
from so101_driver.sim.leader_arm import LeaderArm
from so101_driver.teleop import Teleop
from so101_driver.teleop_smoothing import HandFilter, Play
from so101_driver.teleop_types import (
    ClutchMode,
    FollowerView,
    LeaderSample,
    SafetyState,
    TeleopSettings,
    TeleopState,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

READ_EVERY = 2
"""Ticks between two readings of the leader: 50 Hz."""
PAN = 0
START_RAD = np.array([0.0, -0.9, 1.0, 0.9, 0.0, 0.3])
AWAY_RAD = np.array([0.6, 0.0, 0.0, 0.0, 0.0, 0.0])
SECONDS = 16.0
REFUSED_S, ENGAGED_S, MOVES_S, STOPS_S, LET_GO_S, AGAIN_S, UNPLUGGED_S = (
    1.0,
    2.0,
    6.0,
    10.0,
    10.5,
    12.5,
    14.6,
)
COLOURS = {
    TeleopState.DISENGAGED: "#c9d3dc",
    TeleopState.FOLLOWING: "#9fd3a6",
    TeleopState.NO_LEADER: "#e9a3a3",
}


class StoryHand:
    """Moves shoulder_pan as the picture tells."""

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Away, led to and fro, carried elsewhere while let go, led again."""
        led_s = min(max(now_s - MOVES_S, 0.0), STOPS_S - MOVES_S)
        carried = _smooth((now_s - LET_GO_S - 0.2) / 1.4)
        again_s = max(now_s - AGAIN_S - 0.4, 0.0)
        # Grows and dies away, as a hand's motion does.
        swing = 0.55 * _smooth(led_s) * _smooth(STOPS_S - MOVES_S - led_s)
        pan = swing * np.sin(2.0 * np.pi * 0.5 * led_s) - 0.5 * carried
        pan += 0.35 * _smooth(again_s) * np.sin(2.0 * np.pi * 0.6 * again_s)
        pose = START_RAD + AWAY_RAD
        pose[PAN] += pan
        return tuple(pose)


class SwingHand:
    """All joints swing about the start; for the lag."""

    def __init__(self, frequency_hz: float) -> None:
        self._frequency_hz = frequency_hz

    def pose_rad(self, now_s: float) -> Sequence[float]:
        """Grows over two seconds."""
        swing = np.array([0.4, 0.15, 0.15, 0.25, 0.4, 0.25]) * min(now_s / 2.0, 1.0)
        phases = 2.0 * np.pi * self._frequency_hz * now_s + np.arange(6)
        return tuple(START_RAD + swing * np.sin(phases))


def _smooth(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


@dataclass
class Recording:
    """One value, or one row of joints, per tick."""

    time_s: list[float] = field(default_factory=list)
    leader_rad: list[np.ndarray] = field(default_factory=list)
    command_rad: list[np.ndarray] = field(default_factory=list)
    joints_rad: list[np.ndarray] = field(default_factory=list)
    state: list[TeleopState] = field(default_factory=list)
    answers: list[tuple[float, str]] = field(default_factory=list)


class Cell:
    """Leader, core, safety layer and follower, a tick of 10 ms at a time."""

    def __init__(self, hand: Hand, profile: str) -> None:
        self.limits = Limits.from_file(data_path("so101_limits.yaml"), profile)
        self.leader = LeaderArm(hand=hand)
        self.leader_calibration = Calibration.load(data_path("sim_calibration.json"))
        supervisor = Supervisor(self.limits, Settings(mode=Mode.FULL, source="teleop"))
        follower = ArmSimulation(seed=1, start_rad=tuple(START_RAD))
        self.loop = ObedientLoop(follower, supervisor, supply_v=12.0)
        self.teleop = Teleop(TeleopSettings())
        self.recording = Recording()
        self.unplugged = False
        self._play, self._filter = Play(), HandFilter()
        self._state = State.DISARMED

    def step(self) -> None:
        """Pass one tick."""
        loop = self.loop
        self.leader.run(TICK_S)
        joints_rad = loop.advance()
        chunks = self._lead() if loop.tick % READ_EVERY == 0 else []
        events = [OperatorEvent(EventKind.ARM)] if loop.tick == 2 else []
        self._state = loop.command(joints_rad, chunks, events).state
        log = self.recording
        log.time_s.append(loop.tick * TICK_S)
        log.leader_rad.append(np.array([s.position_rad for s in self.leader.servos.values()]))
        log.command_rad.append(loop.goal_rad)
        log.joints_rad.append(joints_rad)
        log.state.append(self.teleop.state)

    def _lead(self) -> list[Chunk]:
        """One cycle of the teleoperation node, whose target safety sees in the same tick."""
        now_ns = self.loop.now_ns
        sample = None if self.unplugged else LeaderSample(now_ns, self._read(now_ns))
        view = FollowerView(self.loop.goal_rad, SafetyState[self._state.name], "teleop")
        problem = "unplugged" if self.unplugged else ""
        step = self.teleop.step(now_ns, sample, problem, view)
        if step.answer is not None:
            self.recording.answers.append((now_ns * 1e-9, step.answer.sentence))
        if step.target_rad is None:
            return []
        return [
            Chunk(
                stamp_ns=now_ns,
                source="teleop",
                session=step.session,
                sequence=self.loop.tick,
                joint_names=JOINT_NAMES,
                points_rad=[step.target_rad.tolist()],
                offsets_ns=(0,),
                image_age_s=0.0,
                action_kind=ActionKind.GOAL,
            )
        ]

    def _read(self, now_ns: int) -> np.ndarray:
        """What the reader makes of ticks that flicker."""
        ticks = np.array([servo.present_ticks() for servo in self.leader.servos.values()], float)
        position_rad = self.leader_calibration.ticks_to_rad(self._play.update(ticks))
        return self._filter.update(position_rad, now_ns)


def story() -> tuple[Recording, Limits]:
    """The picture's run."""
    cell = Cell(StoryHand(), "demo")
    acts: dict[float, Callable[[], None]] = {
        REFUSED_S: lambda: cell.teleop.engage(ClutchMode.ALIGN),
        ENGAGED_S: lambda: cell.teleop.engage(ClutchMode.OFFSET),
        LET_GO_S: cell.teleop.disengage,
        AGAIN_S: lambda: cell.teleop.engage(ClutchMode.RELATIVE),
        UNPLUGGED_S: lambda: setattr(cell, "unplugged", True),
    }
    for tick in range(round(SECONDS * 100)):
        if act := acts.get(tick / 100):
            act()
        cell.step()
    return cell.recording, cell.limits


def lag_s(hand: np.ndarray, follower: np.ndarray) -> float:
    """By how much the follower is late: the shift that fits best, the gripper apart."""
    time_s = np.arange(len(hand)) * 0.01
    inner = time_s[300:-50]
    target = follower[300:-50, :5]

    def mismatch(shift_s: float) -> float:
        moved = np.stack([np.interp(inner - shift_s, time_s, hand[:, j]) for j in range(5)], -1)
        return float(((moved - moved.mean(0) - target + target.mean(0)) ** 2).sum())

    return min(np.arange(-0.03, 0.4, 0.001), key=mismatch)


def print_lags() -> None:
    """Lag of the commands and of the joints behind the leader, by speed of the hand."""
    for profile in ("cautious", "demo"):
        for frequency_hz in (0.2, 0.4, 0.8):
            cell = Cell(SwingHand(frequency_hz), profile)
            cell.step()
            cell.teleop.engage(ClutchMode.OFFSET)
            for _ in range(900):
                cell.step()
            log = cell.recording
            hand, command = np.array(log.leader_rad), np.array(log.command_rad)
            joints = np.array(log.joints_rad)
            speed = np.abs(np.diff(hand, axis=0)).max() * 100
            off = np.sqrt(((hand - command)[300:] ** 2).mean())
            clipped = cell.loop.supervisor.status(cell.loop.now_ns).intent_clipped
            print(
                f"{profile:8} {frequency_hz} Hz, hand up to {speed:.1f} rad/s: command "
                f"{1e3 * lag_s(hand, command):.0f} ms late, {1e3 * off:.0f} mrad RMS off, "
                f"joints {1e3 * lag_s(hand, joints):.0f} ms late, {clipped:.0%} clipped"
            )


def draw(log: Recording, limits: Limits, path: Path) -> None:
    """Write the picture."""
    time_s = np.array(log.time_s)
    leader, command = np.array(log.leader_rad)[:, PAN], np.array(log.command_rad)[:, PAN]
    joint = np.array(log.joints_rad)[:, PAN]
    plt.rcParams.update(STYLE)
    figure, (top, speed) = plt.subplots(
        2, 1, figsize=(10.5, 6.2), sharex=True, height_ratios=(3.4, 1.4)
    )
    for begin, end, state in runs(log.state):
        left, right = time_s[begin], time_s[min(end, len(time_s) - 1)]
        if state not in COLOURS or right - left < 0.1:
            continue
        for axes in (top, speed):
            axes.axvspan(left, right, color=COLOURS[state], alpha=0.45, lw=0)
        place = {"transform": top.get_xaxis_transform(), "ha": "center", "weight": "bold"}
        top.text((left + right) / 2, 1.02, state.value, fontsize=8, **place)
    top.plot(time_s, leader, color="#7b4bb3", lw=1.8, label="leader")
    top.plot(time_s, command, color="#1f5fbf", lw=1.4, label="command, after safety")
    top.plot(time_s, joint, color="#e07b1a", lw=1.4, ls="--", label="follower's joint")
    top.set_ylabel("shoulder_pan [rad]")
    top.set_ylim(-0.75, 1.75)
    top.legend(loc="lower left", bbox_to_anchor=(0.0, 0.02))
    mark(top, REFUSED_S, 1.6, "engage (align): refused,\n34° apart")
    mark(top, ENGAGED_S, 1.35, "engage (offset): begins where the\nfollower is; the distance fades")
    mark(top, MOVES_S, 1.6, "led")
    mark(top, LET_GO_S, 1.35, "let go: the follower\nholds, the leader is\ncarried elsewhere")
    mark(top, AGAIN_S, -0.5, "engage (relative):\nthe distance stays")
    mark(top, UNPLUGGED_S, 1.6, "unplugged:\nbrakes, holds")
    speed.plot(time_s[1:], np.diff(command) / 0.01, color="#1f5fbf", lw=1.2)
    limit = limits.velocity_rad_s[PAN]
    speed.text(0.1, 2.0, f"never a step; its limit is {limit:.0f} rad/s", color="#444444", va="top")
    speed.set_ylabel("speed of the\ncommand [rad/s]")
    speed.set_ylim(-2.4, 2.4)
    speed.set_xlabel("time [s]")
    speed.set_xlim(0.0, SECONDS)
    figure.align_ylabels()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def mark(axes: plt.Axes, time_s: float, y: float, text: str) -> None:
    """Mark a moment and say what happens."""
    axes.axvline(time_s, color="#333333", lw=0.8, ls=":")
    axes.text(time_s + 0.06, y, text, va="top", fontsize=8)


def main() -> None:
    """Draw the picture, or print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/teleop.png"))
    parser.add_argument("--lag", action="store_true", help="print the lag instead")
    options = parser.parse_args()
    if options.lag:
        print_lags()
        return
    recording, limits = story()
    for time_s, sentence in recording.answers:
        print(f"{time_s:5.2f} s: {sentence}")
    draw(recording, limits, options.path)
    print(f"wrote {options.path} ({options.path.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
