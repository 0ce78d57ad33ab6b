"""Draws the states of the safety node; the arrows must be those of the table of transitions."""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver.safety.transitions import all_changes
from so101_driver.safety.types import State

_WIDTH, _HEIGHT = 150, 56
_INK = "#444"
_ARMED_FRAME = (270, 40, 640, 340)

_BOXES = {
    State.DISARMED: (30, 182, "#eeeeee", "commands nothing"),
    State.HOLD: (310, 182, "#dcefe2", "at rest"),
    State.TRACKING: (515, 70, "#dcefe2", "follows chunks"),
    State.STOPPING: (720, 182, "#dcefe2", "brakes"),
    State.PARKING: (515, 294, "#dcefe2", "parks or returns"),
    State.ESTOP: (310, 450, "#f7d9d9", "latched, holds"),
    State.FAULT: (720, 450, "#f7d9d9", "latched, holds"),
}

_S = State
_ARMED = (_S.HOLD, _S.TRACKING, _S.STOPPING, _S.PARKING)


@dataclass(frozen=True, slots=True)
class _Arrow:
    """One line of the drawing, which may stand for several changes with the same end."""

    before: tuple[State, ...]
    after: State
    path: str
    text: str
    at: tuple[int, int]
    anchor: str = "middle"


_ARROWS = (
    _Arrow((_S.DISARMED,), _S.HOLD, "M180 200H308", "arm", (225, 194)),
    _Arrow((_S.HOLD,), _S.DISARMED, "M310 220H182", "disarm", (225, 236)),
    _Arrow((_S.HOLD,), _S.TRACKING, "M370 182L513 108", "chunk", (425, 138), "end"),
    _Arrow(
        (_S.TRACKING,), _S.STOPPING, "M667 90L795 180", "chunks end, or a stop", (752, 118), "start"
    ),
    _Arrow((_S.STOPPING,), _S.TRACKING, "M750 182L645 128", "chunk", (678, 168), "end"),
    _Arrow((_S.STOPPING,), _S.HOLD, "M720 200H462", "at rest", (525, 194)),
    _Arrow((_S.HOLD,), _S.PARKING, "M370 238L513 312", "park, return", (425, 292), "end"),
    _Arrow((_S.STOPPING,), _S.PARKING, "M750 238L645 292", "park", (678, 262), "end"),
    _Arrow(
        (_S.PARKING,), _S.STOPPING, "M667 332L795 240", "arrived, cut short", (752, 314), "start"
    ),
    _Arrow((_S.TRACKING,), _S.PARKING, "M590 126V292", "park", (598, 250), "start"),
    _Arrow(
        _ARMED,
        _S.DISARMED,
        "M270 310H105V240",
        "parked, or driver lost",
        (112, 328),
        "start",
    ),
    _Arrow(
        (*_ARMED, _S.DISARMED),
        _S.ESTOP,
        "M385 380V448",
        "estop, from anywhere",
        (393, 420),
        "start",
    ),
    _Arrow(_ARMED, _S.FAULT, "M795 380V448", "joint states or driver fail", (787, 420), "end"),
    _Arrow((_S.FAULT,), _S.ESTOP, "M720 478H462", "estop", (590, 472)),
    _Arrow((_S.ESTOP,), _S.DISARMED, "M310 478H75V240", "reset", (200, 472)),
    _Arrow((_S.FAULT,), _S.DISARMED, "M795 506V530H45V240", "reset", (590, 524)),
)


def drawn() -> frozenset[tuple[State, State]]:
    """Pairs of states that an arrow joins."""
    return frozenset((before, arrow.after) for arrow in _ARROWS for before in arrow.before)


def tabled() -> frozenset[tuple[State, State]]:
    """Pairs of states that the table of transitions joins."""
    return frozenset((before, after) for before, after, _ in all_changes() if before is not after)


def draw() -> str:
    """Return the picture as SVG."""
    x, y, width, height = _ARMED_FRAME
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 550" '
        'font-family="DejaVu Sans, Arial, sans-serif" font-size="13">',
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{_INK}"/></marker></defs>',
        '<rect width="940" height="550" fill="#ffffff"/>',
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="#f8fbf9" '
        'stroke="#999" stroke-dasharray="5 4"/>',
        f'<text x="{x + 14}" y="{y + 22}" fill="#555">armed: commands at 100 Hz</text>',
    ]
    for state, (left, top, fill, meaning) in _BOXES.items():
        middle = left + _WIDTH / 2
        lines += [
            f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" '
            f'fill="{fill}" stroke="#555"/>',
            f'<text x="{middle:g}" y="{top + 24}" text-anchor="middle" font-weight="bold">'
            f"{state.name}</text>",
            f'<text x="{middle:g}" y="{top + 43}" text-anchor="middle" fill="#555">'
            f"{meaning}</text>",
        ]
    for arrow in _ARROWS:
        lines += [
            f'<path d="{arrow.path}" fill="none" stroke="{_INK}" stroke-width="1.5" '
            'marker-end="url(#a)"/>',
            f'<text x="{arrow.at[0]}" y="{arrow.at[1]}" text-anchor="{arrow.anchor}" '
            f'fill="#222">{arrow.text}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
