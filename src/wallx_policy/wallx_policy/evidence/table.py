"""The table at the end of a demo."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from wallx_policy.evidence.measurement import DemoMeasurement
from wallx_policy.evidence.rows import Verdict

STYLE = {
    Verdict.MET: "green",
    Verdict.MISSED: "bold red",
    Verdict.MISSING: "yellow",
    Verdict.INFORMATION: "dim",
}


def render_table(measurement: DemoMeasurement) -> Table:
    """See ``wallx_policy.evidence.render_table``."""
    table = Table(title="Measured from the recorded bags", title_justify="left")
    table.add_column("measurement")
    table.add_column("measured")
    table.add_column("bar")
    table.add_column("verdict")
    for act in measurement.acts:
        table.add_section()
        table.add_row(Text(act.files.title, style="bold"), "", "", "")
        for note in act.notes:
            if note != act.files.note:  # which the user has read before the act
                table.add_row("", Text(note, style="italic"), "", "")
        for row in act.rows:
            verdict = Text(row.verdict.value, style=STYLE[row.verdict])
            table.add_row(f"  {row.name}", Text(row.measured), Text(row.bar), verdict)
    return table
