"""Writes the page of all states, transitions and reason codes from the tables in the code."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from so101_driver.driver_transitions import DRIVER_TRANSITIONS, DriverTransition
from so101_driver.safety.reasons import HOLD_STEP, LATCHED_STEP, NEXT_STEP, ReasonCode
from so101_driver.safety.transitions import TRANSITIONS, Transition
from so101_driver.safety.types import State

_STATES = {
    State.DISARMED: "nothing is commanded; the driver holds, or the arm is limp",
    State.HOLD: "armed and at rest; a fresh chunk is followed",
    State.TRACKING: "follows chunks",
    State.STOPPING: "armed and braking; a fresh chunk is followed at once, unless the stop was for "
    "a mode, for disarming, or in a move",
    State.PARKING: "on its way to the rest pose (`safety/park`) or ready pose (`safety/return`)",
    State.ESTOP: "latched: braked, then held with torque",
    State.FAULT: "latched likewise, because something failed",
}


def page() -> str:
    """Return the text of docs/states.md."""
    lines = [
        "# States, transitions and reasons",
        "",
        "`make docs` writes this file from `safety/transitions.py`, `safety/reasons.py` and "
        "`driver_transitions.py`. A test drives every row of the safety node; random runs of both "
        "cores meet no change that is not here.",
        "",
        "`safety/status` and `driver/status` tell state, `reason_code` and one sentence. "
        "`wallx echo safety/status` shows it.",
        "",
        "![States of the safety node](states.svg)",
        "",
        "| state of safety | meaning |",
        "|---|---|",
        *(f"| {state.name} | {meaning} |" for state, meaning in _STATES.items()),
        "",
        "## Every transition",
        "",
        "Names in backticks are services or arguments. From and to the same state: only the reason "
        "changes.",
        "",
        "| node | event or condition | from | to | the arm | reason code |",
        "|---|---|---|---|---|---|",
        *(_row("safety", row) for row in TRANSITIONS),
        *(_row("driver", row) for row in DRIVER_TRANSITIONS),
        "",
        "## Reasons of the safety node",
        "",
        "| code | meaning | what to do when disarmed | what to do in HOLD |",
        "|---|---|---|---|",
        *(
            f"| `{code.name}` | {code.value} | {NEXT_STEP.get(code, '')} | "
            f"{HOLD_STEP.get(code, '')} |"
            for code in ReasonCode
        ),
        "",
        f"In ESTOP and FAULT, whatever the code: {LATCHED_STEP}. Where the table says nothing, the "
        "sentence does.",
    ]
    return "\n".join(lines) + "\n"


def _row(node: str, row: Transition | DriverTransition) -> str:
    cells = (node, row.when, _names(row.before), row.after.name, row.arm, _codes(row.codes))
    return "| " + " | ".join(cells) + " |"


def _names(states: Sequence[Enum]) -> str:
    return ", ".join(state.name for state in states)


def _codes(codes: Sequence[Enum]) -> str:
    # The driver's code for following is empty.
    return ", ".join(f"`{code.name}`" if code.value else "" for code in codes)
