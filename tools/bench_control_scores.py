"""How well `bench_control` finds commands to follow: after the plant too, and within the limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bench_control_scenes import TICK_S, Array
from so101_driver.safety.limits import Limits
from so101_driver.sim.plant import ServoModel

CROSSING_S = 0.6
"""Largest lag that the cross-correlation looks for."""

EXCESS = 1e-6
"""Share by which a limit must be exceeded to count as violated."""


def after_plant(commands: Array) -> Array:
    """Where servos of so101_hardware.md §8 go: dead time, lag, speed and acceleration limits.

    ``commands`` may have any number of columns; gravity and friction are left out, because they act
    on every method alike.
    """
    model, slices = ServoModel(), 5
    dt_s = TICK_S / slices
    times_s = TICK_S * np.arange(len(commands))
    delayed = np.searchsorted(times_s, times_s - model.dead_time_s + 1e-9, side="right") - 1
    position, velocity = commands[0].copy(), np.zeros(commands.shape[1])
    most = 39.0
    rows = np.empty_like(commands)
    for tick in range(len(commands)):
        target = commands[max(delayed[tick], 0)]
        for _ in range(slices):
            error = target - position
            size = np.abs(error)
            speed = np.minimum(size / model.lag_s, 0.9 * np.sqrt(2.0 * most * size))
            speed = np.copysign(np.minimum(speed, model.max_speed_radps), error)
            velocity += np.clip(speed - velocity, -most * dt_s, most * dt_s)
            position += velocity * dt_s
        rows[tick] = position
    return rows


@dataclass(frozen=True, slots=True)
class Score:
    """How well one run followed its demonstration; positions in radians.

    Attributes:
        rms_rad: RMS error against the undelayed demonstration.
        lag_s: Delay at which the velocities correlate best.
        peak_jerk: Largest finite-difference jerk, rad/s³.
        rms_jerk: Its root mean square.
        jump_rad: Largest departure from quadratic extrapolation when a chunk takes effect.
        jump_rad_s: Largest change of velocity within that tick.
        violations: Ticks at which a command violates a limit.
        plant_rms_rad: RMS error after the plant, against the demonstration after the plant.
        plant_lag_s: Likewise the lag.
        plant_peak_jerk: Peak jerk after the plant.
    """

    rms_rad: float
    lag_s: float
    peak_jerk: float
    rms_jerk: float
    jump_rad: float
    jump_rad_s: float
    violations: int
    plant_rms_rad: float
    plant_lag_s: float
    plant_peak_jerk: float


def score(commands: Array, wanted: Array, handoffs: Array, limits: Limits, from_tick: int) -> Score:
    """Measure one run from a tick on, when the start's error has been closed."""
    jerk = np.diff(commands, 3, axis=0)[from_tick:] / TICK_S**3
    plant = after_plant(np.hstack((commands, wanted)))
    joints = commands.shape[1]
    moved, ideal = plant[:, :joints], plant[:, joints:]
    jumps = handoff_jumps(commands, handoffs[handoffs >= from_tick])
    return Score(
        rms_rad=rms(commands[from_tick:] - wanted[from_tick:]),
        lag_s=lag_s(commands[from_tick:], wanted[from_tick:]),
        peak_jerk=float(np.abs(jerk).max()),
        rms_jerk=rms(jerk),
        jump_rad=jumps[0],
        jump_rad_s=jumps[1],
        violations=violations(commands, limits),
        plant_rms_rad=rms(moved[from_tick:] - ideal[from_tick:]),
        plant_lag_s=lag_s(moved[from_tick:], ideal[from_tick:]),
        plant_peak_jerk=float(np.abs(np.diff(moved, 3, axis=0)[from_tick:]).max() / TICK_S**3),
    )


def rms(values: Array) -> float:
    """Root mean square over everything."""
    return float(np.sqrt(np.square(values).mean()))


def lag_s(rows: Array, wanted: Array) -> float:
    """By how much ``rows`` are late: where the velocities' cross-correlation peaks."""
    a, b = np.diff(rows, axis=0), np.diff(wanted, axis=0)
    most = round(CROSSING_S / TICK_S)
    shifts = np.arange(-most, most + 1)
    inner = slice(most, len(b) - most)
    values = np.array([float((a[most + k : len(a) - most + k] * b[inner]).sum()) for k in shifts])
    # A window of the same length for each shift; its energy differs, so it is divided out.
    energy = np.array([float(np.square(a[most + k : len(a) - most + k]).sum()) for k in shifts])
    values /= np.sqrt(np.maximum(energy, 1e-18))
    best = int(values.argmax())
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2.0 * middle + right
        if bend < 0.0:
            return float((shifts[best] + 0.5 * (left - right) / bend) * TICK_S)
    return float(shifts[best] * TICK_S)


def handoff_jumps(commands: Array, ticks: Array) -> tuple[float, float]:
    """Largest jump of position and of velocity at the ticks when chunks take effect."""
    ticks = ticks[(ticks >= 3) & (ticks < len(commands))]
    if not len(ticks):
        return 0.0, 0.0
    extrapolated = 3.0 * (commands[ticks - 1] - commands[ticks - 2]) + commands[ticks - 3]
    change = commands[ticks] - 2.0 * commands[ticks - 1] + commands[ticks - 2]
    return (
        float(np.abs(commands[ticks] - extrapolated).max()),
        float(np.abs(change).max() / TICK_S),
    )


def violations(commands: Array, limits: Limits) -> int:
    """Ticks at which a position, velocity, acceleration or jerk limit is violated."""
    bad = ((commands > limits.upper_rad + EXCESS) | (commands < limits.lower_rad - EXCESS)).any(1)
    rates = (limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
    for order, top in enumerate(rates, start=1):
        over = np.abs(np.diff(commands, order, axis=0)) / TICK_S**order > top * (1.0 + EXCESS)
        bad[order:] |= over.any(axis=1)
    return int(bad.sum())


def path_deviation(commands: Array, way: Array) -> Array:
    """Distance in joint space of each command from a polyline, radians (Euclidean)."""
    begin, leg = way[:-1], np.diff(way, axis=0)
    length = np.maximum(np.square(leg).sum(axis=1), 1e-18)
    nearest = np.empty(len(commands))
    for index, point in enumerate(commands):
        along = np.clip(((point - begin) * leg).sum(axis=1) / length, 0.0, 1.0)
        off = begin + along[:, None] * leg - point
        nearest[index] = np.sqrt(np.square(off).sum(axis=1).min())
    return nearest
