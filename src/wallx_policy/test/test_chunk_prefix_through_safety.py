"""What the prefix says the arm will be told is what safety then tells it.

Safety smooths chunks, joins them and takes its time; a prefix that did not know would begin a new
chunk where the arm will not be.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mujoco")

from arm_loop import TICK_S, ObedientLoop
from so101_driver.calibration import Calibration
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety import (
    ActionKind,
    Chunk,
    Mode,
    Output,
    Settings,
    Supervisor,
    effective_limits,
)
from so101_driver.safety.types import State
from wallx_policy.chunk_prefix import (
    Following,
    JointPrefix,
    NoPrefix,
    PrefixBuilder,
    PrefixSettings,
)
from wallx_policy.joined_chunks import JoinSettings

PERIOD_S, HORIZON = 0.04, 25
MIDDLE_RAD = np.array([0.0, -0.6, 0.4, 0.6, 0.0, 0.5])
SECONDS = 6.0


class PointArm:
    """Is at once where it is told to be."""

    servos: dict[int, object] = {}  # noqa: RUF012 -- it has none

    def __init__(self) -> None:
        self.now_s = 0.0
        self._joints_rad = path(0.0)

    def step(self) -> None:
        self.now_s += TICK_S

    def joints_rad(self) -> np.ndarray:
        return self._joints_rad

    def enable_torque(self) -> None:
        """Has no torque."""

    def set_goals_rad(self, goals_rad: np.ndarray) -> None:
        self._joints_rad = np.array(goals_rad)


def path(times_s: np.ndarray | float) -> np.ndarray:
    """A motion at moderate speed that begins at rest."""
    times = np.asarray(times_s, dtype=np.float64)[..., None]
    begun = 1.0 - np.exp(-((times / 0.6) ** 3))
    return MIDDLE_RAD + begun * 0.25 * np.sin(times * np.array([1.0, 1.2, 1.4, 1.6, 1.8, 1.1]))


def run(delay_s: float, off_rad: float, conditioned: bool):
    """Chunks that differ by up to ``off_rad``; returns prefixes, reasons, and all commands."""
    limits = effective_limits(
        data_path("so101_limits.yaml"),
        "demo",
        data_path("so101.urdf"),
        Calibration.load(data_path("sim_calibration.json")),
    )
    supervisor = Supervisor(limits, Settings(mode=Mode.FULL, auto_arm=True, source="policy"))
    loop = ObedientLoop(PointArm(), supervisor)
    settings = PrefixSettings(join=JoinSettings(acceleration_rad_s2=10.0, jerk_rad_s3=150.0))
    builder, random = PrefixBuilder(settings), np.random.default_rng(1)
    prefixes, reasons, commands = [], [], {}
    observed_ns, waiting = 0, []
    for sequence in range(round(SECONDS / TICK_S)):
        measured = loop.advance()
        arrived = []
        if waiting and loop.now_ns >= waiting[0][0]:
            chunk = waiting.pop()[1]
            builder.note_chunk(
                chunk.stamp_ns,
                0.0,
                PERIOD_S,
                chunk.points_rad,
                published_ns=loop.now_ns - 20_000_000,
                committed=chunk.committed_steps,
            )
            arrived = [chunk]
        command = loop.command(measured, arrived)
        if command.output is Output.COMMANDS:
            builder.note_command(loop.now_ns, command.positions_rad)
            commands[loop.now_ns] = np.array(command.positions_rad)
        if waiting or loop.now_ns < observed_ns:
            continue
        stamp_ns, observed_ns = loop.now_ns, loop.now_ns + round(0.1 * 1e9)
        points = path(stamp_ns * 1e-9 + PERIOD_S * np.arange(HORIZON))
        points += random.uniform(-off_rad, off_rad, 6)
        committed = 0
        answer = builder.build(
            stamp_ns,
            0.0,
            PERIOD_S,
            HORIZON,
            now_ns=loop.now_ns,
            latency_s=delay_s,
            following=Following(command.state, Mode.FULL),
        )
        if isinstance(answer, NoPrefix):
            reasons.append((stamp_ns * 1e-9, command.state, answer.text))
        elif conditioned:
            prefixes.append((stamp_ns, answer))
            committed = answer.committed
            off = answer.positions_rad[committed - 1] - points[committed - 1]
            later_s = PERIOD_S * np.arange(HORIZON - committed + 1)[:, None]
            points[committed - 1 :] += np.exp(-later_s / 0.2) * off
            points[: committed - 1] = answer.positions_rad[: committed - 1]
        else:
            prefixes.append((stamp_ns, answer))
        chunk = Chunk(
            stamp_ns=stamp_ns,
            source="policy",
            session=1,
            sequence=sequence + 1,
            joint_names=JOINT_NAMES,
            points_rad=points.tolist(),
            offsets_ns=tuple(round(i * PERIOD_S * 1e9) for i in range(HORIZON)),
            image_age_s=0.0,
            action_kind=ActionKind.GOAL,
            committed_steps=committed,
        )
        waiting.append((stamp_ns + round(delay_s * 1e9), chunk))
    return prefixes, reasons, commands


def errors_rad(prefixes: list[tuple[int, JointPrefix]], commands: dict) -> np.ndarray:
    """Largest difference of each prefix's committed rows and what was commanded then."""
    times_ns = np.array(list(commands))
    told = np.array(list(commands.values()))
    worst = []
    for stamp_ns, prefix in prefixes:
        rows_ns = stamp_ns + 40_000_000 * np.arange(prefix.committed)
        if rows_ns[-1] > times_ns[-1]:
            continue
        actual = np.stack([np.interp(rows_ns, times_ns, joint) for joint in told.T], axis=-1)
        worst.append(np.abs(actual - prefix.positions_rad[: prefix.committed]).max())
    return np.array(worst)


@pytest.mark.parametrize("delay_s", [0.05, 0.2, 0.3])
def test_conditioned_chunks_are_executed_as_promised(delay_s: float) -> None:
    prefixes, reasons, commands = run(delay_s, 0.05, conditioned=True)
    late = [reason for reason in reasons if reason[0] > 1.0]
    assert not late, late
    worst = errors_rad(prefixes, commands)
    print(f"{delay_s}: {len(worst)} prefixes, p50 {np.median(worst):.4f}, max {worst.max():.4f}")
    assert len(worst) > 10
    assert np.median(worst) < 0.006
    assert worst.max() < 0.02


def test_it_is_known_how_safety_joins_chunks_that_were_not_conditioned() -> None:
    """The first prefix of all must begin so: nothing that came before it had one."""
    prefixes, reasons, commands = run(0.2, 0.03, conditioned=False)
    assert not [reason for reason in reasons if reason[0] > 1.0]
    worst = errors_rad(prefixes, commands)
    print(f"{len(worst)} prefixes, p50 {np.median(worst):.4f}, max {worst.max():.4f}")
    assert np.median(worst) < 0.004
    assert worst.max() < 0.015


def test_before_the_arm_follows_there_is_none() -> None:
    _, reasons, _ = run(0.2, 0.0, conditioned=True)
    assert reasons
    assert reasons[0][1] is not State.TRACKING
    assert math.isclose(reasons[0][0], 0.01)
