"""The pictures of a report, one function each; every one returns a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import GRIPPER, JOINT_NAMES

from wallx_policy.evidence.frames import Moment, key_moments, side_by_side, views
from wallx_policy.evidence.measurement import ActMeasurement
from wallx_policy.evidence.metrics import TICK_S, Timing
from wallx_policy.evidence.rows import CHUNK_LATENCY_S, CHUNK_RATE_HZ, CUBE, WIRE_DELAY_S
from wallx_policy.evidence.series import SafetyState
from wallx_policy.success import LIFT_M

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_IN = 11.0
DPI = 110
FILMSTRIP_COLUMNS = 3
FILMSTRIP_MOMENTS = 9
COMMANDED, MEASURED, BAR = "#1f5fbf", "#e07b1a", "#c02020"
JOINT_COLOURS = ("#1f5fbf", "#e07b1a", "#2f9e44", "#c02020", "#7b4bb3", "#5c6770")
STATE_COLOURS = {
    SafetyState.DISARMED: "#e6e8eb",
    SafetyState.HOLD: "#d6e6fb",
    SafetyState.TRACKING: "#dcf3dd",
    SafetyState.STOPPING: "#fbeccb",
    SafetyState.PARKING: "#eadcf7",
    SafetyState.ESTOP: "#f8cccc",
    SafetyState.FAULT: "#f3a9a9",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def filmstrip(act: ActMeasurement) -> bytes | None:
    """Both cameras at the moments that tell the story; None without images."""
    cameras = views(act)
    moments = _apart(key_moments(act), FILMSTRIP_MOMENTS)
    if not cameras:
        return None
    with plt.rc_context({**STYLE, "axes.grid": False}):
        rows = -(-len(moments) // FILMSTRIP_COLUMNS)
        figure, axes = plt.subplots(
            rows,
            FILMSTRIP_COLUMNS,
            figsize=(WIDTH_IN, rows * 2.1),
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, moment in zip(axes.flat, moments, strict=False):
            pictures = [frames.at(moment.time_ns) for frames in cameras.values()]
            axis.imshow(side_by_side([picture for picture in pictures if picture is not None]))
            seconds = float(act.seconds(moment.time_ns))
            axis.set_title(f"{seconds:.1f} s  {moment.caption}", fontsize=10)
        return _png(figure)


def joints(act: ActMeasurement) -> bytes | None:
    """What each joint was told and what it did."""
    if act.commands is None and act.states is None:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            3, 2, figsize=(WIDTH_IN, 6.4), sharex=True, layout="constrained"
        )
        for joint, axis in enumerate(axes.T.flat):
            _shade_states(axis, act)
            if act.states is not None:
                seconds = act.seconds(act.states.stamp_ns)
                degrees = np.degrees(act.states.position_rad[:, joint])
                axis.plot(seconds, degrees, color=MEASURED, linewidth=1.2, label="measured")
            if act.commands is not None:
                for segment in act.segments:
                    seconds = act.seconds(act.commands.stamp_ns[segment])
                    degrees = np.degrees(act.commands.position_rad[segment, joint])
                    label = "commanded" if segment is act.segments[0] else None
                    axis.plot(seconds, degrees, color=COMMANDED, linewidth=0.9, label=label)
            axis.set_title(f"{JOINT_NAMES[joint]} [°]")
        for axis in axes[-1]:
            axis.set_xlabel("time [s]")
        axes[0][0].legend(loc="best", ncols=2, fontsize=8)
        _state_legend(figure, act)
        return _png(figure)


def limits(act: ActMeasurement) -> bytes | None:
    """Speed, acceleration and jerk of the commands as shares of their limits."""
    if act.differences is None or act.commands is None or act.limits is None:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            3, 1, figsize=(WIDTH_IN, 5.4), sharex=True, layout="constrained"
        )
        seconds = act.seconds(act.commands.stamp_ns)
        kinds = (
            ("velocity", act.differences.velocity, act.limits.velocity_rad_s),
            ("acceleration", act.differences.acceleration, act.limits.acceleration_rad_s2),
            ("jerk", act.differences.jerk, act.limits.jerk_rad_s3),
        )
        for axis, (kind, values, limit) in zip(axes, kinds, strict=True):
            _shade_states(axis, act)
            share = np.abs(values) / limit
            for joint, name in enumerate(JOINT_NAMES):
                axis.plot(
                    seconds,
                    100 * share[:, joint],
                    color=JOINT_COLOURS[joint],
                    linewidth=0.8,
                    label=name,
                )
            axis.axhline(100, color=BAR, linewidth=1.2)
            largest = np.nanmax(share) if np.any(np.isfinite(share)) else 0.0
            axis.set_title(f"{kind}, % of the joint's limit (largest {largest:.1%})")
            axis.set_ylim(0, max(110, 105 * largest))
        axes[-1].set_xlabel("time [s]")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=6)
        return _png(figure)


def periods(act: ActMeasurement, bare: Timing | None) -> bytes | None:
    """The command period beside a bare thread's, and where in the run it was off."""
    if act.timing is None or act.commands is None:
        return None
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH_IN, 2.9), layout="constrained", width_ratios=(1, 1.4)
        )
        measured = [("joint_commands", act.timing, COMMANDED)]
        if bare is not None:
            measured.append(("bare thread", bare, "#5c6770"))
        furthest_ms = max(1e3 * np.max(np.abs(t.intervals_s - TICK_S)) for _, t, _ in measured)
        edges = np.geomspace(0.01, max(1.0, furthest_ms * 1.05), 60)
        for label, timing, colour in measured:
            off_ms = np.maximum(1e3 * np.abs(timing.intervals_s - TICK_S), edges[0])
            left.hist(
                off_ms,
                edges,
                weights=np.full(len(off_ms), 100 / len(off_ms)),
                histtype="step",
                linewidth=1.4,
                color=colour,
                label=f"{label}: p99 {timing.error_p99_s * 1e3:.2f} ms",
            )
            left.axvline(timing.error_p99_s * 1e3, color=colour, linestyle=":", linewidth=1)
        left.set(xscale="log", yscale="log", xlabel="|period - 10 ms| [ms]", ylabel="% of ticks")
        left.set_title("period error")
        left.legend(fontsize=8)
        _shade_states(right, act)
        for segment in act.segments:
            seconds = act.seconds(act.commands.publish_ns[segment])[1:]
            interval_ms = np.diff(act.commands.publish_ns[segment]) * 1e-6
            right.plot(seconds, interval_ms, ".", markersize=2, color=COMMANDED)
        right.set(xlabel="time [s]", ylabel="[ms]")
        right.set_title("command period over the run")
        return _png(figure)


def cube(act: ActMeasurement) -> bytes | None:
    """Height of the cube and opening of the gripper."""
    if act.objects is None or not np.any(np.isfinite(act.objects.height_m(CUBE))):
        return None
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_IN, 2.9), layout="constrained")
        _shade_states(axis, act)
        height = act.objects.height_m(CUBE)
        start = height[np.flatnonzero(np.isfinite(height))[0]]
        seconds = act.seconds(act.objects.time_ns)
        axis.plot(seconds, 1e3 * (height - start), color=BAR, linewidth=1.6, label="red cube")
        axis.axhline(1e3 * LIFT_M, color=BAR, linestyle=":", linewidth=1)
        axis.annotate("lifted", (seconds[0], 1e3 * LIFT_M), fontsize=8, va="bottom", color=BAR)
        axis.set(xlabel="time [s]", ylabel="height above its start [mm]")
        axis.yaxis.label.set_color(BAR)
        gripper = axis.twinx()
        gripper.grid(visible=False)
        for series, colour, label in (
            (act.states, MEASURED, "measured"),
            (act.commands, COMMANDED, "commanded"),
        ):
            if series is not None:
                degrees = np.degrees(series.position_rad[:, GRIPPER])
                gripper.plot(
                    act.seconds(series.stamp_ns),
                    degrees,
                    color=colour,
                    linewidth=1,
                    label=f"gripper {label}",
                )
        gripper.set_ylabel("gripper [°]")
        lines = [*axis.get_legend_handles_labels()[0], *gripper.get_legend_handles_labels()[0]]
        labels = [str(line.get_label()) for line in lines]
        figure.legend(lines, labels, loc="outside upper right", fontsize=8, ncols=3)
        return _png(figure)


def delays(act: ActMeasurement) -> bytes | None:
    """Chunk latency, the pause between chunks, and the way from command to wire."""
    chunks, wire = act.chunks, act.wire
    if (chunks is None or len(chunks) < 2) and wire is None:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(WIDTH_IN, 2.7), sharex=True, layout="constrained"
        )
        for axis in axes:
            _shade_states(axis, act)
            axis.set_xlabel("time [s]")
        if chunks is not None and len(chunks) > 1:
            seconds = act.seconds(chunks.publish_ns)
            latency_ms = (chunks.publish_ns - chunks.stamp_ns) * 1e-6
            axes[0].plot(seconds, latency_ms, ".", markersize=3, color=COMMANDED)
            pause_ms = np.diff(chunks.publish_ns) * 1e-6
            axes[1].plot(seconds[1:], pause_ms, ".", markersize=3, color=COMMANDED)
        _bar(axes[0], 1e3 * CHUNK_LATENCY_S)
        _bar(axes[1], 1e3 / CHUNK_RATE_HZ)
        if wire is not None:
            seconds = act.seconds(wire.at_ns)
            axes[2].plot(seconds, 1e3 * wire.delay_s, ".", markersize=2, color=COMMANDED)
        _bar(axes[2], 1e3 * WIRE_DELAY_S)
        titles = ("observation to chunk", "pause between chunks", "command to wire, while moving")
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(f"{title} [ms]")
        return _png(figure)


def _bar(axis: Axes, value: float) -> None:
    axis.axhline(value, color=BAR, linewidth=1.2)
    axis.set_ylim(0, max(axis.get_ylim()[1], 1.15 * value))


def _shade_states(axis: Axes, act: ActMeasurement) -> None:
    if act.safety is None:
        return
    changes = act.safety.changes()
    ends = [time_ns for time_ns, _ in changes[1:]] + [int(act.safety.publish_ns[-1])]
    for (start_ns, state), end_ns in zip(changes, ends, strict=True):
        if state in STATE_COLOURS:
            start, end = act.seconds(start_ns), act.seconds(end_ns)
            axis.axvspan(start, end, color=STATE_COLOURS[state], linewidth=0, zorder=-5)


def _state_legend(figure: Figure, act: ActMeasurement) -> None:
    if act.safety is None:
        return
    seen = [state for state in STATE_COLOURS if state in set(act.safety.state)]
    patches = [plt.Rectangle((0, 0), 1, 1, color=STATE_COLOURS[state]) for state in seen]
    names = [state.name for state in seen]
    figure.legend(patches, names, loc="outside upper right", ncols=len(seen), fontsize=8)


def _apart(moments: Sequence[Moment], most: int) -> list[Moment]:
    """Return at most ``most`` moments, the unnamed ones closest to others left out first."""
    kept = list(moments)
    while len(kept) > most:
        gaps: NDArray[np.float64] = np.diff([m.time_ns for m in kept]).astype(float)
        nearness = [
            (bool(kept[i].caption), min(gaps[i - 1], gaps[i])) for i in range(1, len(kept) - 1)
        ]
        del kept[1 + nearness.index(min(nearness))]
    return kept


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return buffer.getvalue()
