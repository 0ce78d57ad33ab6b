"""Cost of one tick of the safety core: with and without geometry, pressing on a table, for long.

Used by bench.py. Wall time contains what the machine does meanwhile; the thread's CPU time not.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety import (
    ActionKind,
    ArmState,
    Chunk,
    DriverReading,
    DriverState,
    EventKind,
    JointReading,
    Limits,
    Mode,
    OperatorEvent,
    Settings,
    State,
    Supervisor,
)
from so101_driver.safety.geometry import Geometry
from so101_driver.safety.geometry_file import load_geometry

_TICK_NS = 10_000_000
_ROS_OFFSET_NS = 10**18
_HOME_RAD = np.array((0.0, -0.5, 0.6, 0.7, 0.0, 0.2))
_CHUNK_EVERY = 8
_TIMES_S = 0.04 * np.arange(25)
_SLICE = 6000
"""Ticks of one minute; durations are kept per slice, so that the benchmark itself does not grow."""

Wanted = Callable[[np.ndarray], np.ndarray]


def in_the_air(times_s: np.ndarray) -> np.ndarray:
    """A sine of every joint, away from everything."""
    return _HOME_RAD + 0.3 * np.sin(1.5 * times_s)[:, None]


def through_the_table(times_s: np.ndarray) -> np.ndarray:
    """Down into the table and along it, most of the time."""
    points = np.tile(_HOME_RAD, (len(times_s), 1))
    points[:, 0] += 0.6 * np.sin(0.7 * times_s)
    points[:, 1] += 0.9 + 0.4 * np.sin(1.1 * times_s)
    return points


def steps(geometry: Geometry | None, wanted: Wanted) -> Iterator[tuple[float, float, Any]]:
    """Run a supervisor on chunks of a motion, for ever: wall s, CPU s and the command of each."""
    supervisor = Supervisor(
        Limits.from_file(data_path("so101_limits.yaml"), "demo"), Settings(mode=Mode.FULL), geometry
    )
    positions = tuple(_HOME_RAD)
    driver = DriverReading(
        DriverState.ACTIVE, "", (True,) * 6, positions, False, 0, voltage_v=(12.0,) * 6
    )
    tick = 0
    while True:
        tick += 1
        now_ns = tick * _TICK_NS
        chunks = []
        if tick % _CHUNK_EVERY == 0:
            chunks = [
                Chunk(
                    stamp_ns=now_ns + _ROS_OFFSET_NS,
                    source="bench",
                    session=1,
                    sequence=tick,
                    joint_names=JOINT_NAMES,
                    points_rad=wanted(now_ns * 1e-9 + _TIMES_S).tolist(),
                    offsets_ns=tuple(40_000_000 * i for i in range(25)),
                    image_age_s=0.0,
                    action_kind=int(ActionKind.GOAL),
                )
            ]
        arm = ArmState(
            JointReading(positions, now_ns + _ROS_OFFSET_NS, now_ns),
            replace(driver, received_ns=now_ns),
        )
        events = [OperatorEvent(EventKind.ARM, 1)] if tick == 10 else []
        begun_s, begun_cpu_s = time.perf_counter(), time.thread_time()
        command = supervisor.step(tick, now_ns, now_ns + _ROS_OFFSET_NS, arm, chunks, events)
        wall_s, cpu_s = time.perf_counter() - begun_s, time.thread_time() - begun_cpu_s
        if command.positions_rad is not None:
            positions = tuple(command.positions_rad.tolist())
        yield wall_s, cpu_s, command


def measure(geometry: Geometry | None, wanted: Wanted, minutes: int) -> list[dict[str, float]]:
    """Percentiles of each simulated minute, in milliseconds, and how many objects there were."""
    running = steps(geometry, wanted)
    slices = []
    for _ in range(minutes):
        wall_s, cpu_s, tracked = [], [], 0
        for _ in range(_SLICE):
            wall, cpu, command = next(running)
            wall_s.append(wall)
            cpu_s.append(cpu)
            tracked += command.state is State.TRACKING
        if tracked < 0.9 * _SLICE:
            raise SystemExit(f"the safety core tracked only {tracked} of {_SLICE} ticks")
        p50, p99, most = np.percentile(wall_s, (50, 99, 100)) * 1e3
        gc.collect()
        slices.append(
            {
                "p50_ms": float(p50),
                "p99_ms": float(p99),
                "max_ms": float(most),
                "cpu_p50_ms": float(np.percentile(cpu_s, 50) * 1e3),
                "cpu_p99_ms": float(np.percentile(cpu_s, 99) * 1e3),
                "objects": float(len(gc.get_objects())),
                "resident_mib": _resident_mib(),
            }
        )
    return slices


def bench_safety(minutes: int = 3, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """One tick while tracking; ``minutes`` of simulated time show whether it grows."""
    kinematics = Kinematics.from_urdf(data_path("so101.urdf"))
    geometry = load_geometry(data_path("so101_geometry.yaml"), kinematics, JOINT_NAMES)
    bare = measure(None, in_the_air, 1)[-1]
    pressing = measure(geometry, through_the_table, 1)[-1]
    progress(f"simulating {minutes} minutes …")
    whole = measure(geometry, in_the_air, minutes)
    first, last = whole[0], whole[-1]
    return {
        "step": first,
        "step_without_geometry": bare,
        "step_pressing_on_the_table": pressing,
        "minutes": minutes,
        "last_minute": last,
        "growth_of_p50": last["p50_ms"] / first["p50_ms"],
        "growth_of_objects": last["objects"] - first["objects"],
        "growth_mib": last["resident_mib"] - first["resident_mib"],
        "ratio": first["p50_ms"] / bare["p50_ms"],
    }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
