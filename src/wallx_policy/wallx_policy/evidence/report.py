"""One HTML file that shows a demo: table, pictures, camera frames; it needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path

from wallx_policy.evidence import Progress, plots
from wallx_policy.evidence.measurement import ActMeasurement, DemoMeasurement
from wallx_policy.evidence.rows import Row, Verdict

CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #20242a; max-width: 1120px; margin: 2em auto;
       padding: 0 1.2em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { margin-top: 2em; border-top: 1px solid #d5d9de;
     padding-top: 1em; font-size: 1.25em; }
table { border-collapse: collapse; width: 100%; margin: .8em 0; }
td, th { text-align: left; padding: .25em .7em .25em 0; border-bottom: 1px solid #e6e8eb;
         vertical-align: top; }
th { font-weight: 600; color: #5c6770; }
.met { color: #1f7a33; } .missed { color: #c02020; font-weight: 600; }
.missing { color: #9a6700; } .bar { color: #5c6770; }
figure { margin: 1.2em 0; } figcaption { color: #5c6770; font-size: .9em; }
img { max-width: 100%; display: block; } .note { background: #f6f7f9; padding: .4em .8em; }
.verdict { font-size: 1.1em; }
"""
VERDICT_CLASS = {
    Verdict.MET: "met",
    Verdict.MISSED: "missed",
    Verdict.MISSING: "missing",
    Verdict.INFORMATION: "bar",
}


def write_report(
    measurement: DemoMeasurement, out_dir: Path, progress: Progress | None = None
) -> Path:
    """See ``wallx_policy.evidence.write_report``."""
    parts = [_head(measurement)]
    for index, act in enumerate(measurement.acts):
        parts.append(_act_head(act))
        figures = _figures(act, measurement)
        for done, (title, draw) in enumerate(figures):
            if progress is not None:
                share = (index + done / len(figures)) / len(measurement.acts)
                progress(f"drawing {act.files.title}: {title}", share)
            png = draw()
            if png is None:
                parts.append(f"<p class='note'>{escape(title)}: nothing of it is in the bag.</p>")
            else:
                parts.append(_figure(png, title))
    if progress is not None:
        progress("report written", 1.0)
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "report.html"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _figures(
    act: ActMeasurement, measurement: DemoMeasurement
) -> list[tuple[str, Callable[[], bytes | None]]]:
    return [
        (
            f"What the cameras saw at the moments that matter: {', '.join(act.cameras) or 'none'}.",
            lambda: plots.filmstrip(act),
        ),
        ("The cube's height and the gripper.", lambda: plots.cube(act)),
        (
            "Each joint: what was commanded and what was measured. The background is the state of "
            "the safety node.",
            lambda: plots.joints(act),
        ),
        (
            "Finite differences of consecutive commands as shares of the joint's limit.",
            lambda: plots.limits(act),
        ),
        (
            "How well the 100 Hz of the commands were kept.",
            lambda: plots.periods(act, measurement.bare),
        ),
        ("Delays; the red line is the bar.", lambda: plots.delays(act)),
    ]


def _head(measurement: DemoMeasurement) -> str:
    missed = measurement.missed
    outcomes = "".join(
        f"<p><b>{escape(act.files.title)}</b>: "
        + ", ".join(f"{escape(row.name)} {escape(row.measured)}" for row in act.task_rows)
        + ".</p>"
        for act in measurement.acts
        if act.task_rows
    )
    if missed:
        items = "".join(
            f"<li>{escape(title)} — {escape(row.name)}: {escape(row.measured)}"
            f"{f' (bar: {escape(row.bar)})' if row.bar else ''} "
            f"<span class='{VERDICT_CLASS[row.verdict]}'>{row.verdict.value}</span></li>"
            for title, row in missed
        )
        verdict = f"<p class='verdict missed'>Not every bar was met:</p><ul>{items}</ul>"
    else:
        verdict = "<p class='verdict met'>Every bar was met.</p>"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Demo report</title><style>{CSS}</style></head><body>"
        "<h1>What the demo did</h1>"
        "<p>Everything here was computed from the recorded bags: publish times, stamps and values "
        "of the messages. Nothing is taken from what nodes say about themselves, but for the state "
        f"drawn as background and the lines marked (reported).</p>{outcomes}{verdict}"
    )


def _act_head(act: ActMeasurement) -> str:
    duration_s = (act.bag.end_ns - act.bag.start_ns) * 1e-9
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in act.notes)
    rows = "".join(_row(row) for row in act.rows)
    return (
        f"<h2>{escape(act.files.title)}</h2>"
        f"<p class='bar'>{duration_s:.1f} s, bag <code>{escape(act.bag.folder.name)}</code></p>"
        f"{notes}<table><tr><th>measurement</th><th>measured</th><th>bar</th><th></th></tr>"
        f"{rows}</table>"
    )


def _row(row: Row) -> str:
    return (
        f"<tr><td>{escape(row.name)}</td><td>{escape(row.measured)}</td>"
        f"<td class='bar'>{escape(row.bar)}</td>"
        f"<td class='{VERDICT_CLASS[row.verdict]}'>{row.verdict.value}</td></tr>"
    )


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f"<figure><img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
