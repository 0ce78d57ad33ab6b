"""The measurements as JSON, for scripts and for comparing runs."""

from __future__ import annotations

import json
from pathlib import Path

from wallx_policy.evidence.measurement import DemoMeasurement

FILE_NAME = "figures.json"


def write_figures(measurement: DemoMeasurement, out_dir: Path) -> Path:
    """See ``wallx_policy.evidence.write_figures``."""
    content = {
        act.files.title: {
            row.name: {"measured": row.measured, "bar": row.bar, "verdict": row.verdict.value}
            for row in act.rows
        }
        for act in measurement.acts
    }
    path = out_dir / FILE_NAME
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
