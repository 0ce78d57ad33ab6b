"""Lets the faults of a script begin and end, and does to packets what the active ones say."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from so101_driver.errors import UserError
from so101_driver.sim.chains import ServoChain
from so101_driver.sim.faults import Fault, FaultKind, FaultScript
from so101_driver.sim.virtual_servo import ServoFaults

_MAX_NOISE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes on the wire.

    Attributes:
        data: The bytes.
        late_s: How much later than normal they come.
        gap_s: How long the wire is silent before them.
    """

    data: bytes
    late_s: float = 0.0
    gap_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Entry:
    fault: Fault
    begin_s: float
    end_s: float
    random: random.Random
    active: bool = field(default=False)


class FaultInjector:
    """The state of all faults of a bus. Time and the chain's lock are the caller's business.

    Args:
        chain: The servos.
        script: Faults from the start on.

    Attributes:
        counts: How often each kind began (states) or struck a packet (faults of the wire).
        plugged: Whether the cable is in.
    """

    def __init__(self, chain: ServoChain, script: FaultScript) -> None:
        self.counts: Counter[FaultKind] = Counter()
        self.plugged = True
        self._chain = chain
        self._seed = script.seed
        self._entries: dict[int, _Entry] = {}
        self._made = 0
        self._stuck: set[int] = set()
        self._wire: list[_Entry] = []
        self._script = script.faults
        for fault in script.faults:
            self._check(fault)

    @property
    def active(self) -> tuple[Fault, ...]:
        """Faults of this moment."""
        return tuple(entry.fault for entry in self._entries.values() if entry.active)

    def start(self, now_s: float) -> None:
        """Let the script's time begin."""
        for fault in self._script:
            self.add(fault, now_s)

    def add(self, fault: Fault, now_s: float) -> int:
        """Add a fault whose ``at_s`` counts from now on; returns a handle for ``clear``.

        Raises:
            UserError: There is no such servo.
        """
        self._check(fault)
        self._made += 1
        begin_s = now_s + fault.at_s
        self._entries[self._made] = _Entry(
            fault,
            begin_s,
            begin_s + fault.duration_s,
            random.Random(f"{self._seed} {self._made} {fault.kind.value}"),
        )
        return self._made

    def _check(self, fault: Fault) -> None:
        for servo_id in (fault.servo, fault.other):
            if servo_id is not None and servo_id not in self._chain.servos:
                raise UserError(
                    f"fault '{fault.kind.value}': there is no servo {servo_id} on this bus; it has "
                    f"{', '.join(map(str, self._chain.servos))}."
                )

    def clear(self, handle: int | None, now_s: float) -> None:
        """End one fault, or all."""
        entries = self._entries.values() if handle is None else [self._entries.get(handle)]
        for entry in entries:
            if entry is not None:
                entry.end_s = min(entry.end_s, now_s)
                # One that has not begun never will.
                entry.begin_s = entry.begin_s if entry.active else math.inf
        self.update(now_s)

    def next_change_s(self) -> float:
        """When the next fault begins or ends; infinite if none will."""
        return min(
            (e.end_s if e.active else e.begin_s for e in self._entries.values()), default=math.inf
        )

    def update(self, now_s: float) -> None:
        """Let faults begin and end that are due."""
        if self.next_change_s() > now_s:
            return
        for handle, entry in tuple(self._entries.items()):
            if not entry.active and entry.begin_s <= now_s:
                entry.active = True
                if not entry.fault.on_the_wire:
                    self.counts[entry.fault.kind] += 1
                    self._apply(now_s)
            if entry.end_s <= now_s:
                del self._entries[handle]
                if entry.active:
                    self._apply(now_s)
        self._wire = [e for e in self._entries.values() if e.active and e.fault.on_the_wire]

    # Packets.

    def reaches(self, servo_id: int) -> bool:
        """Whether an instruction reaches a servo."""
        return not any(self._strikes(servo_id, deaf=True))

    def on_wire(self, servo_id: int, data: bytes) -> list[Piece]:
        """Return what a servo's reply becomes on the wire; nothing when it is lost."""
        pieces: list[Piece] = []
        late_s, copies, lost = 0.0, 1, False
        for entry in self._strikes(servo_id, deaf=False):
            match entry.fault.kind:
                case FaultKind.DROP:
                    lost = True
                case FaultKind.DELAY:
                    late_s += entry.fault.delay_s
                case FaultKind.DUPLICATE:
                    copies += 1
                case FaultKind.NOISE:
                    count = entry.random.randint(1, _MAX_NOISE_BYTES)
                    pieces.append(Piece(entry.random.randbytes(count)))
                case FaultKind.CORRUPT:
                    data = _with_other_byte(data, entry.random.randrange(len(data)), entry)
                case FaultKind.CHECKSUM:
                    data = _with_other_byte(data, len(data) - 1, entry)
                case FaultKind.TRUNCATE:
                    data = data[: entry.random.randrange(1, max(2, len(data)))]
        if not lost:
            pieces.append(Piece(data * copies, late_s))
        return pieces

    def _strikes(self, servo_id: int, *, deaf: bool) -> Iterator[_Entry]:
        for entry in self._wire:
            if (entry.fault.kind is FaultKind.DEAF) != deaf or not entry.fault.concerns(servo_id):
                continue
            if entry.random.random() < entry.fault.probability:
                self.counts[entry.fault.kind] += 1
                yield entry

    # States.

    def _apply(self, now_s: float) -> None:
        """Give every servo the state that the active faults make together."""
        active = self.active
        self.plugged = not any(fault.kind is FaultKind.UNPLUG for fault in active)
        clashes = {f.other: f.servo for f in active if f.kind is FaultKind.ID_CLASH}
        for servo_id, servo in self._chain.servos.items():
            faults = [fault for fault in active if fault.concerns(servo_id)]
            state = _servo_state(
                [fault for fault in faults if fault.kind is not FaultKind.ID_CLASH]
            )
            if servo_id in clashes:
                state.answers_as = self._chain.servos[clashes[servo_id]].bus_id
            servo.set_faults(state, now_s)
        stuck = {fault.servo for fault in active if fault.kind is FaultKind.STUCK}
        for servo_id in stuck ^ self._stuck:
            self._chain.set_stuck(servo_id, servo_id in stuck)
        self._stuck = stuck


def _servo_state(faults: Sequence[Fault]) -> ServoFaults:
    """What faults mean for one servo that has them all."""
    state = ServoFaults()
    for fault in faults:
        match fault.kind:
            case FaultKind.MUTE:
                state.mute = True
            case FaultKind.OVERLOAD:
                state.overload = True
            case FaultKind.TEMPERATURE:
                state.temperature_c = fault.celsius
            case FaultKind.VOLTAGE:
                state.supply_v = fault.volts
            case FaultKind.POWER_CYCLE | FaultKind.BROWN_OUT:
                state.unpowered = True
            case FaultKind.EEPROM_LATENCY:
                state.eeprom_s = fault.delay_s
            case FaultKind.WRONG_MODEL:
                state.model = fault.model
            case FaultKind.WRONG_FIRMWARE:
                state.firmware_minor = fault.minor
    return state


def _with_other_byte(data: bytes, index: int, entry: _Entry) -> bytes:
    other = data[index] ^ entry.random.randint(1, 255)
    return data[:index] + bytes((other,)) + data[index + 1 :]
