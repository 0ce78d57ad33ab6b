"""What a recorded run proves: measurements, report, table and video, all made from bags alone.

No claim of a node enters: rates, delays and limits are computed from recorded messages and their
stamps. The functions import what they need when called, so that importing this package stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from wallx_policy.evidence.measurement import DemoMeasurement

__all__ = [
    "ActFiles",
    "measure_demo",
    "render_table",
    "write_figures",
    "write_report",
    "write_video",
]

Progress = Callable[[str, float], None]
"""Called with what is being done and which share of it is done, 0..1."""


@dataclass(frozen=True, slots=True)
class ActFiles:
    """One act of a demo and where its evidence lies.

    Attributes:
        title: Shown in the table and the report, e.g. "expert: pick and place".
        bag_dir: The rosbag2 folder that the recorder wrote.
        limits_file: Safety limits that were in force; None leaves the limit checks out.
        limits_profile: Profile within that file.
        has_task: Whether the act is meant to put the cube into the tray, so that it has to.
        note: One sentence shown beside the act, e.g. that its weights are random.
        cameras: Views that ought to be in the bag.
    """

    title: str
    bag_dir: Path
    limits_file: Path | None = None
    limits_profile: str = "demo"
    has_task: bool = True
    note: str = ""
    cameras: tuple[str, ...] = ("face_view", "wrist_view")


def measure_demo(
    acts: Sequence[ActFiles],
    baseline_json: Path | None = None,
    progress: Progress | None = None,
) -> DemoMeasurement:
    """Measure every act from its bag.

    Args:
        acts: In the order in which they were played.
        baseline_json: ``{"periods_s": [...]}`` of a bare thread that slept to absolute deadlines at
            100 Hz during the same run; None shows that comparison as missing.
        progress: Told how far the work is.

    Raises:
        UserError: A bag is missing or holds nothing that can be read.
    """
    from wallx_policy.evidence import measurement

    return measurement.measure_demo(acts, baseline_json, progress)


def render_table(measurement: DemoMeasurement) -> Table:
    """Return the measurements beside their bars as a table for a terminal."""
    from wallx_policy.evidence import table

    return table.render_table(measurement)


def write_figures(measurement: DemoMeasurement, out_dir: Path) -> Path:
    """Write the table's lines as ``figures.json`` into ``out_dir`` and return its path."""
    from wallx_policy.evidence import figures

    return figures.write_figures(measurement, out_dir)


def write_report(
    measurement: DemoMeasurement, out_dir: Path, progress: Progress | None = None
) -> Path:
    """Write ``report.html`` (self-contained) into ``out_dir`` and return its path."""
    from wallx_policy.evidence import report

    return report.write_report(measurement, out_dir, progress)


def write_video(
    measurement: DemoMeasurement, out_dir: Path, progress: Progress | None = None
) -> Path:
    """Write ``demo.mp4`` (both cameras side by side, with captions) and return its path.

    Raises:
        UserError: No act has camera images.
    """
    from wallx_policy.evidence import video

    return video.write_video(measurement, out_dir, progress)
