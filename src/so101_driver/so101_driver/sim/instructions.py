"""What the servos of a bus do with one instruction, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from so101_driver import protocol
from so101_driver import registers as reg
from so101_driver.protocol import BROADCAST_ID, Instruction, InstructionPacket
from so101_driver.sim.chains import ServoChain
from so101_driver.sim.virtual_servo import VirtualServo

RECOVERY = 0x06
"""Factory values for everything but the id."""
REBOOT = 0x08
"""Known from the HLS family; taken for a power cycle without an answer."""
RESET_TURNS = 0x0A
"""Clears the count of turns; there is none to clear here."""
CALIBRATE_OFFSET = 0x0B
"""The present position reads 2048, or the two bytes that come with it, from now on."""


@dataclass(slots=True)
class Outcome:
    """What one instruction led to.

    Attributes:
        replies: In wire order, by servo; several at the same place garble each other.
        goals: Servos whose goal was written.
    """

    replies: list[list[tuple[VirtualServo, bytes]]] = field(default_factory=list)
    goals: list[VirtualServo] = field(default_factory=list)


def execute(
    chain: ServoChain,
    packet: InstructionPacket,
    hears: Callable[[VirtualServo], bool],
) -> Outcome:
    """Carry out an instruction; the chain's lock is held.

    Args:
        chain: The servos.
        packet: The instruction.
        hears: Whether a servo receives it: powered, same baud rate, not busy.
    """
    outcome = Outcome()
    by_id: dict[int, list[VirtualServo]] = {}
    for servo in chain.servos.values():
        by_id.setdefault(servo.bus_id, []).append(servo)

    def hearing(servo_id: int) -> list[VirtualServo]:
        return [servo for servo in by_id.get(servo_id, ()) if hears(servo)]

    parameters = packet.parameters
    broadcast = packet.servo_id == BROADCAST_ID

    if packet.instruction == Instruction.SYNC_READ:
        if broadcast and _is_read(parameters[:2]):
            for servo_id in parameters[2:]:
                same = hearing(servo_id)
                _add(outcome, servo_id, [(servo, servo.read(*parameters[:2])) for servo in same])
    elif packet.instruction == Instruction.SYNC_WRITE:
        if broadcast and len(parameters) >= 2:
            address, size = parameters[:2]
            for start in range(2, len(parameters) - size, size + 1):
                for servo in hearing(parameters[start]):
                    data = parameters[start + 1 : start + 1 + size]
                    if servo.write(address, data, chain.now_s):
                        outcome.goals.append(servo)
    else:
        for servo_id in sorted(by_id) if broadcast else (packet.servo_id,):
            answers = [
                (servo, answer)
                for servo in hearing(servo_id)
                if (answer := _unicast(servo, packet, chain.now_s, outcome.goals)) is not None
                and (not broadcast or packet.instruction == Instruction.PING)
                and _acknowledges(servo, packet)
            ]
            _add(outcome, servo_id, answers)
    return outcome


def _unicast(
    servo: VirtualServo, packet: InstructionPacket, now_s: float, goals: list[VirtualServo]
) -> bytes | None:
    """Let one servo carry out an instruction; returns its answer, None if it does not know it."""
    parameters = packet.parameters
    match packet.instruction:
        case Instruction.PING:
            return b""
        case Instruction.READ if _is_read(parameters):
            return servo.read(*parameters)
        case Instruction.WRITE if len(parameters) >= 2:
            if servo.write(parameters[0], parameters[1:], now_s):
                goals.append(servo)
        case Instruction.REG_WRITE if len(parameters) >= 2:
            servo.reg_write(parameters[0], parameters[1:])
        case Instruction.ACTION:
            if servo.action(now_s):
                goals.append(servo)
        case code if code == RECOVERY:
            servo.factory_reset()
        case code if code == CALIBRATE_OFFSET and len(parameters) in (0, 2):
            target = int.from_bytes(parameters, "little") if parameters else reg.TICKS_PER_TURN // 2
            servo.recentre(min(target, reg.MAX_TICK))
        case code if code == RESET_TURNS:
            pass
        case code if code == REBOOT:
            servo.power_cycle(now_s)
            return None
        case _:
            return None
    return b""


def _acknowledges(servo: VirtualServo, packet: InstructionPacket) -> bool:
    asks = packet.instruction in (Instruction.PING, Instruction.READ)
    return asks or servo.memory.value(reg.RESPONSE_LEVEL) != 0


def _add(outcome: Outcome, servo_id: int, answers: Iterable[tuple[VirtualServo, bytes]]) -> None:
    # Under the id that was asked: a servo that was just given another one acknowledges with it too.
    replies = [(servo, protocol.status(servo_id, servo.error, answer)) for servo, answer in answers]
    if replies:
        outcome.replies.append(replies)


def _is_read(parameters: bytes) -> bool:
    """Whether these are an address and a size that fits into one reply."""
    return len(parameters) == 2 and parameters[1] <= protocol.MAX_LENGTH - 2
