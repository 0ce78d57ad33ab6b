"""The fault matrix: what goes wrong, and what the driver must make of it, at rest and moving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from so101_driver.sim import Fault, FaultKind


class Outcome(Enum):
    """What became of the arm, mildest first."""

    TOLERATED = "tolerated"
    """Commands are followed, nothing to report but counters."""
    DEGRADED = "degraded"
    """Commands are followed; a joint's measurement fails now and then, or the status warns."""
    HELD = "held"
    """The arm holds while the fault lasts, and follows again by itself or from where it holds."""
    LATCHED = "latched"
    """FAULT: the arm holds until somebody asks for torque."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        name: What goes wrong, in words.
        faults: The same for the virtual bus; ``at_s`` counts from the fault's beginning.
        at_rest: What must come of it while the arm holds.
        moving: The same while it follows a motion.
        reasons: Codes of the driver's status, one of which a fault or a warning must carry.
        lasts_s: When all is well again.
        falls: Joints (from 0) that nobody can command: their servos lose torque, are held by
            something, or take another's goals.
    """

    name: str
    faults: tuple[Fault, ...]
    at_rest: Outcome
    moving: Outcome
    reasons: tuple[str, ...] = ()
    lasts_s: float = 1.0
    falls: frozenset[int] = frozenset()


def _case(
    name: str,
    outcome: Outcome | tuple[Outcome, Outcome],
    *faults: Mapping[str, Any],
    lasts_s: float = 1.0,
    **keys: Any,
) -> Case:
    at_rest, moving = outcome if isinstance(outcome, tuple) else (outcome, outcome)
    made = []
    for fault in faults:
        options = dict(fault)
        kind = FaultKind(options.pop("fault"))
        options.setdefault("for_s", lasts_s)
        made.append(Fault(kind=kind, **options))
    return Case(name, tuple(made), at_rest, moving, lasts_s=lasts_s, **keys)


_T, _D, _H, _L = Outcome
_ALL = frozenset(range(6))

_LEAST_V = 5.0
"""Below, servos cannot hold the arm."""


def _supply(volts: float, lasts_s: float, outcome: Outcome, note: str = "") -> Case:
    return _case(
        f"supply at {volts:g} V for {lasts_s:g} s{note}",
        outcome,
        {"fault": "voltage", "volts": volts},
        lasts_s=lasts_s,
        reasons=("SUPPLY_VOLTAGE",),
        falls=_ALL if volts < _LEAST_V else frozenset(),
    )


CASES: tuple[Case, ...] = (
    # Replies that are lost, broken, late or too many.
    _case("every twentieth reply is lost", _D, {"fault": "drop", "probability": 0.05}),
    _case(
        "a tenth of servo 3's replies is lost",
        _D,
        {"fault": "drop", "probability": 0.1, "servo": 3},
    ),
    _case(
        "nine of ten replies of servo 3 are lost",
        _L,
        {"fault": "drop", "probability": 0.9, "servo": 3},
        reasons=("SERVO_SILENT",),
    ),
    _case("one byte wrong in every twentieth", _D, {"fault": "corrupt", "probability": 0.05}),
    _case(
        "one byte wrong in a tenth of servo 4's",
        _D,
        {"fault": "corrupt", "probability": 0.1, "servo": 4},
    ),
    _case(
        "one byte wrong in all of servo 4's",
        _L,
        {"fault": "corrupt", "servo": 4},
        reasons=("SERVO_SILENT",),
    ),
    _case("wrong checksum in every twentieth", _D, {"fault": "checksum", "probability": 0.05}),
    _case("every twentieth reply is cut off", _D, {"fault": "truncate", "probability": 0.05}),
    _case(
        "a tenth of servo 6's are cut off",
        _D,
        {"fault": "truncate", "probability": 0.1, "servo": 6},
    ),
    _case("servo 2 answers 1 ms late", _T, {"fault": "delay", "delay_s": 0.001, "servo": 2}),
    _case(
        "every tenth reply comes 20 ms late",
        _D,
        {"fault": "delay", "delay_s": 0.02, "probability": 0.1, "servo": 5},
    ),
    _case(
        "every reply of servo 6 comes 9 ms late",
        _L,
        {"fault": "delay", "delay_s": 0.009, "servo": 6},
        reasons=("SERVO_SILENT",),
    ),
    _case(
        "every reply comes 25 ms late",
        _L,
        {"fault": "delay", "delay_s": 0.025},
        reasons=("BUS_SILENT", "SERVO_SILENT"),
    ),
    _case("half of the replies come twice", _T, {"fault": "duplicate", "probability": 0.5}),
    _case("noise before half of the replies", _T, {"fault": "noise", "probability": 0.5}),
    _case(
        "loss, wrong bytes, noise and doubles together",
        _D,
        {"fault": "drop", "probability": 0.03},
        {"fault": "corrupt", "probability": 0.03},
        {"fault": "noise", "probability": 0.2},
        {"fault": "duplicate", "probability": 0.1},
    ),
    # Servos that do not hear or say anything.
    _case(
        "every tenth instruction does not reach a servo", _D, {"fault": "deaf", "probability": 0.1}
    ),
    _case("servo 2 hears nothing", _L, {"fault": "deaf", "servo": 2}, reasons=("SERVO_SILENT",)),
    _case("servo 4 is silent for 20 ms", _D, {"fault": "mute", "servo": 4}, lasts_s=0.02),
    _case("servo 4 is silent", _L, {"fault": "mute", "servo": 4}, reasons=("SERVO_SILENT",)),
    _case(
        "the first and the last servo are silent",
        _L,
        {"fault": "mute", "servo": 1},
        {"fault": "mute", "servo": 6},
        reasons=("SERVO_SILENT",),
    ),
    _case(
        "all are silent for 100 ms",
        _H,
        *({"fault": "mute", "servo": i} for i in range(1, 7)),
        lasts_s=0.1,
    ),
    _case(
        "all are silent",
        _L,
        *({"fault": "mute", "servo": i} for i in range(1, 7)),
        reasons=("BUS_SILENT",),
    ),
    _case(
        "servo 4 takes the id of servo 3",
        _L,
        {"fault": "id_clash", "servo": 3, "other": 4},
        reasons=("SERVO_SILENT",),
        falls=frozenset({3}),
    ),
    # Servos in trouble.
    _case("the gripper's overload protection trips", _D, {"fault": "overload", "servo": 6}),
    _case(
        "shoulder_lift's overload protection trips",
        _D,
        {"fault": "overload", "servo": 2},
        falls=frozenset({1}),
    ),
    _case("servo 3 at 64 °C", _D, {"fault": "temperature", "servo": 3, "celsius": 64.0}),
    _case(
        "servo 3 at 69 °C for 12 s, a degree below its limit",
        _L,
        {"fault": "temperature", "servo": 3, "celsius": 69.0},
        lasts_s=12.0,
        reasons=("SERVO_HOT",),
    ),
    _case(
        "servo 3 at 85 °C for 1 s: it lets go by itself",
        _D,
        {"fault": "temperature", "servo": 3, "celsius": 85.0},
        reasons=("SERVO_HOT",),
        falls=frozenset({2}),
    ),
    _supply(4.1, 2.0, _D, ", a little above the limit"),
    _supply(3.5, 1.0, _D),
    _supply(3.5, 4.0, _L),
    _supply(15.0, 4.0, _L),
    _case(
        "elbow_flex is jammed for 3 s",
        _T,
        {"fault": "stuck", "servo": 3},
        lasts_s=3.0,
        falls=frozenset({2}),
    ),
    _case(
        "servo 2 loses its supply for 0.1 s",
        _L,
        {"fault": "power_cycle", "servo": 2, "for_s": 0.1},
        reasons=("POWER_CYCLED", "SERVO_SILENT"),
        falls=frozenset({1}),
    ),
    _case(
        "servo 5 loses its supply for 20 ms",
        _L,
        {"fault": "power_cycle", "servo": 5, "for_s": 0.02},
        reasons=("POWER_CYCLED",),
        falls=frozenset({4}),
    ),
    _case(
        "all lose their supply for 0.1 s",
        _L,
        {"fault": "brown_out", "for_s": 0.1},
        reasons=("POWER_CYCLED", "BUS_SILENT"),
        falls=_ALL,
    ),
    # The cable.
    _case("the cable is out for 50 ms", _H, {"fault": "unplug"}, lasts_s=0.05),
    _case("the cable is out for 1 s", _H, {"fault": "unplug"}, lasts_s=1.0),
    _case(
        "a loose plug: out three times",
        _H,
        {"fault": "unplug", "for_s": 0.1},
        {"fault": "unplug", "at_s": 0.4, "for_s": 0.1},
        {"fault": "unplug", "at_s": 0.7, "for_s": 0.1},
    ),
    _case(
        "the supply fails while the cable is out",
        _L,
        {"fault": "unplug"},
        {"fault": "brown_out", "at_s": 0.3, "for_s": 0.2},
        reasons=("POWER_CYCLED",),
        falls=_ALL,
    ),
)
