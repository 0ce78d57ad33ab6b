"""What may stand behind a virtual bus, and the simplest of it: servos without physics."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from so101_driver import registers as reg
from so101_driver.joints import SERVO_IDS
from so101_driver.sim.virtual_servo import IdealServo, VirtualServo


class ServoChain(Protocol):
    """What stands behind a bus: servos, the time they live in, and who may touch them.

    Attributes:
        servos: By their ids at the start.
        lock: Held while servos are read, written or moved.
    """

    servos: Mapping[int, VirtualServo]
    lock: threading.Lock

    @property
    def now_s(self) -> float:
        """Time of the servos' world."""

    def set_stuck(self, servo_id: int, stuck: bool) -> None:
        """Hold a joint where it is, or free it; the lock is held."""


class IdealArm:
    """Servos without a world: each is at its goal at once."""

    def __init__(self, ids: Sequence[int] = SERVO_IDS) -> None:
        self.servos: dict[int, VirtualServo] = {servo_id: IdealServo(servo_id) for servo_id in ids}
        self.lock = threading.Lock()
        self._begin_s = time.monotonic()

    @property
    def now_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._begin_s

    def set_stuck(self, servo_id: int, stuck: bool) -> None:
        """Hold a joint where it is, or free it."""
        self.servos[servo_id].stuck = stuck


class FactoryServos(IdealArm):
    """Servos fresh from the factory: id 1, return delay 0.5 ms, P gain 32, not calibrated.

    Several of them on one bus answer at once and garble each other, so they are connected one at a
    time: at first only the first one is. Its number in the chain, from 1 on, is its key in
    ``servos``, whatever id it is given.
    """

    def __init__(self, count: int = 1) -> None:
        super().__init__(range(1, count + 1))
        for number in self.servos:
            self.servos[number] = IdealServo(number, registers={reg.ID: reg.ID.default})
        self.connect({1})

    @property
    def connected(self) -> tuple[int, ...]:
        """Numbers of the connected servos."""
        return tuple(n for n, servo in self.servos.items() if servo.connected)

    def connect(self, numbers: Iterable[int]) -> None:
        """Connect exactly these servos; one without a cable has no supply either."""
        wanted = set(numbers)
        with self.lock:
            for number, servo in self.servos.items():
                servo.connect(number in wanted, self.now_s)
