"""One act measured: numbers beside their bars, and the arrays that the pictures are drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from so101_driver.errors import UserError
from so101_driver.safety.limits import Limits

from wallx_policy.evidence import ActFiles, Progress, metrics
from wallx_policy.evidence.bag import Bag, Topic
from wallx_policy.evidence.metrics import Derivatives, Timing, WireDelay
from wallx_policy.evidence.rows import (
    TASK_ROWS,
    Row,
    Verdict,
    camera_rows,
    chunk_rows,
    command_rows,
    limit_rows,
    rate_row,
    safety_rows,
    task_rows,
    wire_row,
)
from wallx_policy.evidence.series import (
    ChunkSeries,
    JointSeries,
    ObjectSeries,
    SafetySeries,
    camera_topics,
    chunk_series,
    joint_series,
    object_series,
    safety_series,
    wire_series,
)


@dataclass(frozen=True, slots=True)
class ActMeasurement:
    """Everything about one act. A series is None where the bag has no such topic.

    Attributes:
        files: What was measured.
        bag: The bag in memory.
        rows: Numbers beside their bars.
        notes: Sentences a reader must know: truncated bag, lost messages, unmatched writes.
    """

    files: ActFiles
    bag: Bag
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    states: JointSeries | None
    commands: JointSeries | None
    segments: tuple[slice, ...]
    chunks: ChunkSeries | None
    safety: SafetySeries | None
    objects: ObjectSeries | None
    cameras: Mapping[str, Topic]
    timing: Timing | None
    differences: Derivatives | None
    limits: Limits | None
    wire: WireDelay | None

    @property
    def task_rows(self) -> tuple[Row, ...]:
        """What became of the task; empty for an act without one."""
        return tuple(row for row in self.rows if row.name in TASK_ROWS)

    def seconds(self, time_ns: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return times in seconds since the bag's first message."""
        return (np.asarray(time_ns) - self.bag.start_ns) * 1e-9


@dataclass(frozen=True, slots=True)
class DemoMeasurement:
    """All acts and the bare thread they are compared with."""

    acts: tuple[ActMeasurement, ...]
    bare: Timing | None

    @property
    def missed(self) -> tuple[tuple[str, Row], ...]:
        """Rows that miss their bar or could not be measured, with the title of their act."""
        return tuple(
            (act.files.title, row)
            for act in self.acts
            for row in act.rows
            if row.verdict in (Verdict.MISSED, Verdict.MISSING)
        )


def measure_demo(
    acts: Sequence[ActFiles], baseline_json: Path | None, progress: Progress | None
) -> DemoMeasurement:
    """See ``wallx_policy.evidence.measure_demo``."""
    bare = _read_baseline(baseline_json) if baseline_json is not None else None
    measured = []
    for index, files in enumerate(acts):
        if progress is not None:
            progress(f"measuring {files.title}", index / len(acts))
        measured.append(measure_act(files, bare))
    if progress is not None:
        progress("measured", 1.0)
    return DemoMeasurement(tuple(measured), bare)


def measure_act(files: ActFiles, bare: Timing | None) -> ActMeasurement:
    """Measure one act.

    Raises:
        UserError: The bag or the limits file cannot be read.
    """
    bag = Bag(files.bag_dir)
    limits = None
    if files.limits_file is not None:
        limits = Limits.from_file(files.limits_file, files.limits_profile)
    commands = joint_series(bag, "joint_commands")
    states = joint_series(bag, "joint_states")
    chunks = chunk_series(bag)
    safety = safety_series(bag)
    objects = object_series(bag)
    wire_log = wire_series(bag)
    cameras = camera_topics(bag)

    segments: tuple[slice, ...] = ()
    timing = schedule = differences = wire = None
    if commands is not None:
        segments = tuple(metrics.armed_segments(commands, safety))
        timing = metrics.loop_timing(commands, segments)
        schedule = metrics.scheduled_period(commands, segments)
        differences = metrics.derivatives(commands, segments)
        if wire_log is not None and len(wire_log):
            wire = metrics.wire_delay(commands, wire_log)

    rows = [
        *chunk_rows(chunks),
        *command_rows(timing, schedule, bare),
        rate_row("joint states", states.publish_ns if states is not None else None),
        *camera_rows(cameras, files.cameras),
        *limit_rows(differences, limits),
        wire_row(wire),
        *(task_rows(objects) if files.has_task else ()),
        *safety_rows(safety),
    ]
    return ActMeasurement(
        files,
        bag,
        tuple(rows),
        tuple(_notes(bag, commands, wire, files)),
        states,
        commands,
        segments,
        chunks,
        safety,
        objects,
        cameras,
        timing,
        differences,
        limits,
        wire,
    )


def _read_baseline(path: Path) -> Timing | None:
    try:
        periods_s = np.asarray(json.loads(path.read_text())["periods_s"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the bare thread's measurement {path} cannot be read ({error}): expected a JSON "
            'object {"periods_s": [...]}.'
        ) from None
    return metrics.bare_timing(periods_s)


def _notes(
    bag: Bag, commands: JointSeries | None, wire: WireDelay | None, files: ActFiles
) -> list[str]:
    notes = [files.note] if files.note else []
    if bag.truncated:
        notes.append("The bag's file ends in the middle; everything before that is measured.")
    if commands is not None and (lost := metrics.lost_in_recording(commands.sequence)):
        notes.append(f"The recorder lost {lost} joint_commands; they do not count as missed ticks.")
    if wire is not None and wire.unknown:
        notes.append(
            f"{wire.unknown} of {wire.writes} goal writes match no command of the "
            f"{metrics.WIRE_WINDOW_S:g} s before them (rate-limited, or the driver's own)."
        )
    return notes
