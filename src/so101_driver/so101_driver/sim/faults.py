"""What may go wrong on the virtual bus, when and for how long: values, and their YAML file.

``docs/virtual-arm.md`` lists every fault with its options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Self

import yaml

from so101_driver.errors import UserError
from so101_driver.protocol import MAX_ID

MAX_DELAY_S = 2.0
"""The bus is busy while it delays a reply; a longer silence is ``mute``."""
SUPPLY_GAP_S = 0.1
"""How long a power cycle or a brown-out lasts unless ``for_s`` says otherwise."""


class FaultKind(Enum):
    """Kinds of faults; the comment is what happens while one is active."""

    # On the wire, each time with a probability.
    DROP = "drop"
    """A reply is lost."""
    CORRUPT = "corrupt"
    """One byte of a reply is another one."""
    CHECKSUM = "checksum"
    """The checksum of a reply is wrong, the rest is right."""
    TRUNCATE = "truncate"
    """The end of a reply is missing."""
    DELAY = "delay"
    """A reply comes late, and what is behind it too."""
    DUPLICATE = "duplicate"
    """A reply comes twice."""
    NOISE = "noise"
    """Random bytes come before a reply."""
    DEAF = "deaf"
    """An instruction does not reach a servo."""
    # In a servo.
    MUTE = "mute"
    """A servo ignores every packet; it goes on holding."""
    OVERLOAD = "overload"
    """A servo's overload protection has tripped, and no goal clears it."""
    TEMPERATURE = "temperature"
    """A servo is as hot as ``celsius`` says."""
    VOLTAGE = "voltage"
    """The supply at a servo, or at all, is ``volts``."""
    STUCK = "stuck"
    """A joint does not move."""
    POWER_CYCLE = "power_cycle"
    """A servo has no supply; afterwards its registers are those of power-on."""
    BROWN_OUT = "brown_out"
    """No servo has a supply; afterwards all registers are those of power-on."""
    ID_CLASH = "id_clash"
    """The servo ``other`` has the id of ``servo`` as well."""
    EEPROM_LATENCY = "eeprom_latency"
    """After a write to the EEPROM a servo is silent for ``delay_s``, and only then is it saved."""
    WRONG_MODEL = "wrong_model"
    """A servo says that it is another model."""
    WRONG_FIRMWARE = "wrong_firmware"
    """A servo says that it has another minor version of the firmware."""
    # Of the cable.
    UNPLUG = "unplug"
    """The serial port is gone; afterwards it is back, under the same link."""


_WIRE = frozenset(
    {
        FaultKind.DROP,
        FaultKind.CORRUPT,
        FaultKind.CHECKSUM,
        FaultKind.TRUNCATE,
        FaultKind.DELAY,
        FaultKind.DUPLICATE,
        FaultKind.NOISE,
        FaultKind.DEAF,
    }
)
_OPTIONS: Mapping[FaultKind, frozenset[str]] = {
    **{kind: frozenset({"servo", "probability"}) for kind in _WIRE},
    FaultKind.DELAY: frozenset({"servo", "probability", "delay_s"}),
    FaultKind.TEMPERATURE: frozenset({"servo", "celsius"}),
    FaultKind.VOLTAGE: frozenset({"servo", "volts"}),
    FaultKind.ID_CLASH: frozenset({"servo", "other"}),
    FaultKind.EEPROM_LATENCY: frozenset({"servo", "delay_s"}),
    FaultKind.WRONG_MODEL: frozenset({"servo", "model"}),
    FaultKind.WRONG_FIRMWARE: frozenset({"servo", "minor"}),
    **{
        kind: frozenset({"servo"})
        for kind in (FaultKind.MUTE, FaultKind.OVERLOAD, FaultKind.STUCK, FaultKind.POWER_CYCLE)
    },
    FaultKind.BROWN_OUT: frozenset(),
    FaultKind.UNPLUG: frozenset(),
}
_NEEDS_SERVO = frozenset(
    {
        FaultKind.MUTE,
        FaultKind.OVERLOAD,
        FaultKind.TEMPERATURE,
        FaultKind.STUCK,
        FaultKind.POWER_CYCLE,
        FaultKind.ID_CLASH,
        FaultKind.WRONG_MODEL,
        FaultKind.WRONG_FIRMWARE,
    }
)
_DEFAULT_FOR_S = {FaultKind.BROWN_OUT: SUPPLY_GAP_S, FaultKind.POWER_CYCLE: SUPPLY_GAP_S}
_RANGES: Mapping[str, tuple[float, float, type]] = {
    "at_s": (0.0, math.inf, float),
    "for_s": (0.0, math.inf, float),
    "servo": (0, MAX_ID, int),
    "other": (0, MAX_ID, int),
    "probability": (0.0, 1.0, float),
    "delay_s": (0.0, MAX_DELAY_S, float),
    "celsius": (-20.0, 255.0, float),
    "volts": (0.0, 25.5, float),
    "model": (0, 0xFFFF, int),
    "minor": (0, 255, int),
}
_ALWAYS = frozenset({"at_s", "for_s"})
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""ValueError: a date that is none, e.g. 2026-13-01; RecursionError: endless brackets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. Options that a kind does not have must stay at their defaults.

    Attributes:
        kind: What goes wrong.
        at_s: When it begins: seconds after the bus started, or after ``VirtualBus.inject``.
        for_s: How long it lasts; None until it is cleared (0.1 s for those of the supply).
        servo: Which servo (its id at the start of the bus); None for all.
        other: The servo that has the id of ``servo`` too (``id_clash``).
        probability: Of each single reply or instruction (faults of the wire).
        delay_s: Of a late reply, or of a write to the EEPROM.
        celsius: Temperature (``temperature``).
        volts: Supply (``voltage``).
        model: Model number (``wrong_model``); the default is an SCS0009.
        minor: Minor version of the firmware (``wrong_firmware``).

    Raises:
        UserError: From ``__init__``, when the options make no sense together.
    """

    kind: FaultKind
    at_s: float = 0.0
    for_s: float | None = None
    servo: int | None = None
    other: int | None = None
    probability: float = 1.0
    delay_s: float = 0.02
    celsius: float = 85.0
    volts: float = 3.5
    model: int = 1284
    minor: int = 9

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        allowed = _OPTIONS[self.kind] | _ALWAYS
        for option in fields(self)[1:]:
            value = getattr(self, option.name)
            if value == option.default:
                continue
            if option.name not in allowed:
                raise UserError(
                    f"{option.name}: a fault '{self.kind.value}' has no such option; it has "
                    f"{', '.join(sorted(allowed))}."
                )
            _check_number(option.name, value)
        if self.kind in _NEEDS_SERVO and self.servo is None:
            raise UserError(f"servo: a fault '{self.kind.value}' needs the id of a servo.")
        if self.kind is FaultKind.ID_CLASH and (self.other is None or self.other == self.servo):
            raise UserError("other: an id clash needs the id of a second servo.")

    @property
    def duration_s(self) -> float:
        """How long it lasts, infinite until it is cleared."""
        if self.for_s is not None:
            return self.for_s
        return _DEFAULT_FOR_S.get(self.kind, math.inf)

    @property
    def on_the_wire(self) -> bool:
        """Whether it happens to single packets, with a probability."""
        return self.kind in _WIRE

    def concerns(self, servo_id: int) -> bool:
        """Whether a servo has this fault."""
        return self.servo is None or self.servo == servo_id

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Make a fault from one line, e.g. ``fault: mute, servo: 4``.

        Raises:
            UserError: It is not such a line, or names a key that is wrong.
        """
        try:
            entry = yaml.safe_load("{" + text.strip() + "}")
        except _NOT_YAML:
            entry = {}
        if not isinstance(entry, dict) or "fault" not in entry:
            raise UserError(f"'{text.strip()}' is no fault; write e.g. 'fault: mute, servo: 4'.")
        return cls.from_mapping(entry)

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> Self:
        """Make a fault from an entry of a script, e.g. ``{"fault": "mute", "servo": 4}``.

        Raises:
            UserError: Naming the key.
        """
        entry = dict(entry)
        name = entry.pop("fault", None)
        if name is None:
            raise UserError("fault: the entry does not say which; e.g. 'fault: mute'.")
        known = {kind.value: kind for kind in FaultKind}
        if not isinstance(name, str) or name not in known:
            raise UserError(f"fault: '{name}' is none of {', '.join(known)}.")
        options = {option.name for option in fields(cls)} - {"kind"}
        for key in entry:
            if key not in options:
                raise UserError(
                    f"{key}: no such key; a fault '{name}' has "
                    f"{', '.join(sorted(_OPTIONS[known[name]] | _ALWAYS))}."
                )
        return cls(kind=known[name], **entry)


@dataclass(frozen=True, slots=True)
class FaultScript:
    """Faults over time.

    Attributes:
        faults: In any order.
        seed: Of everything random in them: the same seed and packets give the same faults.
    """

    faults: tuple[Fault, ...] = field(default=())
    seed: int = 0

    @classmethod
    def from_file(cls, path: str | Path, seed: int | None = None) -> Self:
        """Read a script: a YAML list of faults, or a mapping of ``seed`` and ``faults``.

        Args:
            path: Of the file.
            seed: In place of the file's.

        Raises:
            UserError: Naming the file, the line and the key.
        """
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(
                f"cannot read the fault script {path} ({why}): give the path of a YAML file."
            ) from error
        return cls.from_text(text, str(path), seed)

    @classmethod
    def from_text(cls, text: str, name: str = "faults", seed: int | None = None) -> Self:
        """Read a script from its text; ``name`` is for error messages."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text)
        except _NOT_YAML as error:
            raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
        file_seed = 0
        if isinstance(content, dict):
            _refuse_unknown(content, name)
            file_seed = content.get("seed", 0)
            if type(file_seed) is not int or file_seed < 0:
                raise UserError(
                    f"{name}: seed must be a whole number from 0 on, not {file_seed!r}."
                )
            nodes = [value for key, value in root.value if key.value == "faults"]
            # Of a key that is given twice the last one holds.
            content, root = content.get("faults"), nodes[-1] if nodes else None
        if not isinstance(content, list) or root is None:
            raise UserError(
                f"{name}: expected a list of faults, e.g. '- {{at_s: 2.0, fault: mute, servo: 4}}'."
            )
        faults = []
        for entry, node in zip(content, root.value, strict=True):
            line = node.start_mark.line + 1
            if not isinstance(entry, dict):
                raise UserError(f"{name}, line {line}: expected 'fault: …', not {entry!r}.")
            try:
                faults.append(Fault.from_mapping(entry))
            except UserError as error:
                raise UserError(f"{name}, line {line}: {error}") from error
        return cls(tuple(faults), file_seed if seed is None else seed)


def _refuse_unknown(content: Mapping[Any, Any], name: str) -> None:
    unknown = [str(key) for key in content if key not in ("seed", "faults")]
    if unknown:
        raise UserError(f"{name}: {unknown[0]}: no such key; a script has seed and faults.")


def _check_number(name: str, value: Any) -> None:
    low, high, kind = _RANGES[name]
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(f"{name}: must be a {'whole ' if whole else ''}number, not {value!r}.")
    if not low <= value <= high:
        raise UserError(f"{name}: {value} is outside {low:g}..{high:g}.")
