"""What the doctor says: checks, their levels, and how they are printed."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a check ended; the value is what is printed."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Could not be checked; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What was checked.
        level: How it ended.
        text: One sentence.
        fix: What to do; may have several lines to copy. Empty where nothing is to be done.
    """

    name: str
    level: Level
    text: str
    fix: str = ""


def passed(name: str, text: str) -> Check:
    """Nothing to do."""
    return Check(name, Level.PASS, text)


def warned(name: str, text: str, fix: str = "") -> Check:
    """Works, but not as it should."""
    return Check(name, Level.WARN, text, fix)


def failed(name: str, text: str, fix: str) -> Check:
    """Will not work."""
    return Check(name, Level.FAIL, text, fix)


def skipped(name: str, text: str, fix: str = "") -> Check:
    """Was not checked."""
    return Check(name, Level.SKIP, text, fix)


def as_text(check: Check) -> str:
    """Return a check as lines for a terminal."""
    head = f"{check.level.value}  {check.name}: "
    lines = textwrap.wrap(
        check.text,
        98,
        initial_indent=head,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    word = "note" if check.level is Level.SKIP else "fix"
    for number, line in enumerate(check.fix.splitlines()):
        # Lines after the first are commands to copy, which must stay whole.
        if number:
            lines.append(f"          {line}")
        else:
            lines += textwrap.wrap(
                f"{word}: {line}",
                98,
                initial_indent=" " * 6,
                subsequent_indent=" " * 11,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def summary(checks: Sequence[Check]) -> str:
    """Return the counts in one line."""
    counts = {level: sum(check.level is level for check in checks) for level in Level}
    parts = [
        f"{counts[Level.PASS]} passed",
        f"{counts[Level.WARN]} to look at",
        f"{counts[Level.FAIL]} failed",
        f"{counts[Level.SKIP]} not checked",
    ]
    return ", ".join(parts)


def as_json(checks: Sequence[Check]) -> str:
    """Return all checks for programs."""
    content = {
        "ok": ok(checks),
        "checks": [
            {"name": c.name, "level": c.level.value, "text": c.text, "fix": c.fix} for c in checks
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def ok(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return not any(check.level is Level.FAIL for check in checks)
