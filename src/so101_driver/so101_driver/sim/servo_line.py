"""The servos at the far end of a line: who hears an instruction, and what of the answers is left.

There is no clock and no terminal here; whoever has them puts the bytes on a wire.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from so101_driver import registers as reg
from so101_driver.protocol import InstructionPacket
from so101_driver.sim.chains import ServoChain
from so101_driver.sim.fault_injector import FaultInjector, Piece
from so101_driver.sim.instructions import execute
from so101_driver.sim.virtual_servo import VirtualServo

BITS_PER_BYTE = 10
_TURNAROUND_S = 50e-6
"""From an instruction's last byte to the reply's first, at return delay 0."""
_DELAY_UNIT_S = 2e-6
_BAUD_TOLERANCE = 0.03


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one instruction.

    Attributes:
        pieces: Bytes in the order of the wire.
        goals: Servos whose goal was written.
    """

    pieces: Sequence[Piece]
    goals: Sequence[VirtualServo]


class ServoLine:
    """Servos and their faults, as bytes; the chain's lock is held by the caller.

    Args:
        arm: The servos.
        injector: Their faults.
        seed: Of what collisions make of the bytes.
    """

    def __init__(self, arm: ServoChain, injector: FaultInjector, seed: int) -> None:
        self._arm = arm
        self._injector = injector
        self._collisions = random.Random(f"{seed} collisions")

    def carry_out(self, packet: InstructionPacket, baud: int = reg.BAUD_RATES[0]) -> Answer:
        """Let the servos that hear it at this speed carry out an instruction."""
        now_s = self._arm.now_s

        def hears(servo: VirtualServo) -> bool:
            speed = reg.BAUD_RATES[servo.memory.value(reg.BAUD_RATE)]
            return (
                abs(speed - baud) <= _BAUD_TOLERANCE * speed
                and servo.listens(now_s)
                and self._injector.reaches(servo.servo_id)
            )

        outcome = execute(self._arm, packet, hears)
        pieces: list[Piece] = []
        for same in outcome.replies:
            delay = max(servo.memory.value(reg.RETURN_DELAY) for servo, _ in same)
            data = self._collided([reply for _, reply in same])
            gap_s = _TURNAROUND_S + _DELAY_UNIT_S * delay
            for piece in self._injector.on_wire(same[0][0].servo_id, data):
                pieces.append(replace(piece, gap_s=gap_s))
                gap_s = 0.0
        return Answer(pieces, outcome.goals)

    def _collided(self, replies: Sequence[bytes]) -> bytes:
        """Return what servos that answer at once make of the wire: any 0 wins over the 1s.

        Their clocks differ, so the second one comes up to a byte later.
        """
        wire = bytearray(replies[0])
        for reply in replies[1:]:
            shifted = b"\xff" * self._collisions.randint(0, 1) + reply
            wire.extend(b"\xff" * (len(shifted) - len(wire)))
            for index, byte in enumerate(shifted):
                wire[index] &= byte
        return bytes(wire)
