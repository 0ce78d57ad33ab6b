"""Whatever comes in, what goes out is legal.

Random sequences of chunks (sane, adversarial, malformed), measurements, driver reports, clocks and
requests go through a Supervisor. The checker below shares no code with it: it takes the published
positions of each armed segment and forms plain finite differences.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety import (
    ArmState,
    Chunk,
    DriverReading,
    DriverState,
    EventKind,
    JointReading,
    Limits,
    Mode,
    OperatorEvent,
    Output,
    Settings,
    State,
    Supervisor,
)

PERIOD_NS = 10_000_000
T = 0.01
LIMITS = Limits.from_file(data_path("so101_limits.yaml"), "cautious")
LOWER, UPPER = LIMITS.lower_rad.tolist(), LIMITS.upper_rad.tolist()
TOPS = tuple(
    array.tolist()
    for array in (LIMITS.velocity_rad_s, LIMITS.acceleration_rad_s2, LIMITS.jerk_rad_s3)
)


def violations(positions: list[tuple[float, ...]]) -> list[str]:
    """Everything illegal in one armed segment, at rest before its first position."""
    found = []
    rest = [positions[0]] * 3
    rows = rest + positions
    for joint in range(len(LOWER)):
        column = [row[joint] for row in rows]
        series = column
        for name, top in zip(("velocity", "acceleration", "jerk"), TOPS, strict=True):
            series = [(b - a) / T for a, b in pairwise(series)]
            worst = max(map(abs, series))
            # A relative 1e-6, because 1e-16 of rounding becomes 1e-10 in a third difference.
            if not worst <= top[joint] * (1 + 1e-6):
                found.append(f"{name} of joint {joint}: {worst} > {top[joint]}")
        outside = [max(LOWER[joint] - p, p - UPPER[joint], 0.0) for p in column]
        for before, after in pairwise(outside):
            if not after <= before + 1e-8:
                found.append(f"position of joint {joint}: {after} outside after {before}")
    return found


class Rig:
    """A supervisor with everything around it made up, and a record of what it publishes."""

    def __init__(self, seed: int, mode: Mode, start: list[float], deadman: bool = False) -> None:
        self.random = random.Random(seed)
        self.supervisor = Supervisor(
            LIMITS, Settings(mode=mode, scale=0.2, deadman_required=deadman)
        )
        self.measured = list(start)
        self.goal = list(start)
        self.torque = self.random.random() < 0.5
        self.steady_ns, self.offset_ns = 5_000_000_000, 1_700_000_000_000_000_000
        self.tick = self.session = self.sequence = 0
        self.states: set[State] = set()
        self.segments: list[list[tuple[float, ...]]] = []
        self.target = list(start)

    def step(self, chunks=(), events=(), joints="good", driver=DriverState.ACTIVE, desync=False):
        skipped = 1 if self.random.random() > 0.02 else self.random.randint(2, 5)
        self.tick += skipped
        self.steady_ns += skipped * PERIOD_NS
        ros_ns = self.steady_ns + self.offset_ns
        reading = None
        if joints == "good":
            reading = JointReading(tuple(self.measured), ros_ns, self.steady_ns)
        elif joints == "nan":
            reading = JointReading((math.nan, *self.measured[1:]), ros_ns, self.steady_ns)
        elif joints == "old":
            reading = JointReading(tuple(self.measured), ros_ns - 10**9, self.steady_ns)
        elif joints == "teleport":
            reading = JointReading(tuple(p + 1.0 for p in self.measured), ros_ns, self.steady_ns)
        report = DriverReading(
            driver, "made up", (self.torque,) * 6, tuple(self.goal), desync, self.steady_ns
        )
        command = self.supervisor.step(
            self.tick, self.steady_ns, ros_ns, ArmState(reading, report), chunks, events
        )
        self.states.add(command.state)
        if command.request_torque:
            self.torque = True
            self.goal = list(self.measured)
        if command.output is Output.NONE:
            return
        row = tuple(float(p) for p in command.positions_rad)
        assert all(map(math.isfinite, row))
        armed_now = any(result.message == "armed and holding" for result in command.results)
        if armed_now or not self.segments:
            self.segments.append([])
        self.segments[-1].append(row)
        # The arm follows; what it measures hangs a little below.
        self.goal = list(row)
        self.measured = [p - 0.02 for p in row]

    def chunk(self, kind: str) -> Chunk:
        """A chunk of some kind; the sane ones wander through the whole range and beyond it."""
        r = self.random
        step_ns = r.choice([20_000_000, 40_000_000, 100_000_000])
        count = r.choice([1, 2, 3, 8, 25, 60])
        self.sequence += 1
        if r.random() < 0.3:
            self.target = [r.uniform(lo - 0.5, up + 0.5) for lo, up in zip(LOWER, UPPER)]  # noqa: B905
        begin = self.goal if r.random() < 0.7 else self.target
        points = [
            [b + (e - b) * i / count for b, e in zip(begin, self.target, strict=True)]
            for i in range(count)
        ]
        names, source, age_s, action = JOINT_NAMES, "policy", 0.0, r.choice([1, 2])
        stamp_ns = self.steady_ns + self.offset_ns - r.randint(0, 300_000_000)
        offsets = [i * step_ns for i in range(count)]
        if kind == "noisy":
            points = [[p + r.gauss(0, 0.05) for p in row] for row in points]
        elif kind == "wild":
            points = [[r.uniform(-12, 12) for _ in range(6)] for _ in range(count)]
        elif kind == "value":
            bad = r.choice([math.nan, math.inf, -math.inf, 1e308, -1e308, 1e19])
            points[r.randrange(count)][r.randrange(6)] = bad
        elif kind == "shape":
            broken = r.choice(["empty", "names", "order", "ragged", "times", "first"])
            if broken == "empty":
                points, offsets = [], []
            elif broken == "names":
                names = (*JOINT_NAMES[:5], "hand")
            elif broken == "order":
                names = tuple(reversed(JOINT_NAMES))
            elif broken == "ragged":
                points[-1] = points[-1][:-1]
            elif broken == "times":
                offsets = [r.randint(-(10**10), 10**10) for _ in range(count)]
            else:
                offsets = [o + 1_000_000 for o in offsets]
        elif kind == "time":
            stamp_ns += r.choice([-(2**62), -(10**10), 40_000_000, 10**9, 2**62])
        elif kind == "header":
            action, age_s, source = r.choice(
                [(0, 0.0, "policy"), (1, math.nan, "policy"), (9, 0.0, "policy"), (1, 0.0, "other")]
            )
        elif kind == "session":
            self.session += 1
            self.sequence = 0
        elif kind == "again":
            self.sequence -= 1
        return Chunk(
            stamp_ns,
            source,
            self.session,
            self.sequence,
            names,
            points,
            tuple(offsets),
            age_s,
            action,
        )


CHUNKS = ("sane", "sane", "noisy", "wild", "value", "shape", "time", "header", "session", "again")
EVENTS = (
    EventKind.ARM,
    EventKind.DISARM,
    EventKind.ESTOP,
    EventKind.RESET,
    EventKind.PARK,
    EventKind.SELECT_SOURCE,
    EventKind.TORQUE_REFUSED,
    EventKind.SET_MODE,
)


def run(seed: int, mode: Mode, ticks: int, calm: float, start: list[float]) -> Rig:
    """Drive a rig with random input; ``calm`` is how rarely anything unusual happens."""
    rig = Rig(seed, mode, start, deadman=seed % 5 == 0)
    r = rig.random
    rig.step()
    for tick in range(ticks):
        events = []
        if rig.supervisor.status(rig.steady_ns).state in (State.ESTOP, State.FAULT):
            if r.random() < 0.05:
                events.append(OperatorEvent(EventKind.RESET, 1))
        elif rig.supervisor.status(rig.steady_ns).state is State.DISARMED and r.random() < 0.2:
            events.append(OperatorEvent(EventKind.ARM, 1))
        if r.random() > calm:
            mode_asked = r.choice([None, *Mode])
            scale = r.choice([0.0, 0.1, 0.2, math.nan, 5.0])
            events.append(OperatorEvent(r.choice(EVENTS), 2, mode_asked, scale, "policy"))
        if tick % 5 == 0:
            events.append(OperatorEvent(EventKind.DEADMAN, pressed=r.random() < 0.95))
        unusual = r.random() > calm
        joints = r.choice(["none", "nan", "old", "teleport"]) if unusual else "good"
        driver = r.choice(list(DriverState)) if r.random() > calm else DriverState.ACTIVE
        if r.random() > calm:
            rig.offset_ns += r.choice([-(10**10), 10**8, 10**12])
        chunks = []
        if tick % 8 == 0:
            kind = r.choice(CHUNKS) if r.random() < 0.5 else "sane"
            chunks = [rig.chunk(kind) for _ in range(r.choice([1, 1, 1, 0, 2]))]
        rig.step(chunks, events, joints, driver, desync=r.random() > calm)
    return rig


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(Mode),
    calm=st.sampled_from([0.9, 0.99, 0.998]),
    beyond=st.floats(-0.1, 0.17),
)
@example(seed=0, mode=Mode.FULL, calm=0.998, beyond=0.17)
def test_commands_stay_legal_whatever_comes(seed, mode, calm, beyond):
    start = [up + beyond for up in UPPER] if seed % 2 else [lo - beyond for lo in LOWER]
    rig = run(seed, mode, 400, calm, start)
    for segment in rig.segments:
        assert violations(segment) == []


def test_the_random_runs_reach_every_state():
    reached = set()
    for seed in range(8):
        reached |= run(seed, Mode.FULL, 300, 0.98, [0.0] * 6).states
    assert reached == set(State)


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_the_checker_sees_the_limits(factor):
    """Guards the guard: a motion just beyond a limit is seen, one just within is not."""
    top = LIMITS.velocity_rad_s[0] * factor
    position, rows = 0.0, [(0.0,) * 6]
    for tick in range(80):
        position += T * min(0.005 * tick**2, top)
        rows.append((position, *(0.0,) * 5))
    seen = [text for text in violations(rows) if text.startswith("velocity")]
    assert bool(seen) == (factor > 1)
