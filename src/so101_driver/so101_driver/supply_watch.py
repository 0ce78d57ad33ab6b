"""Recognises servos that have lost their supply, and suspects those that missed an answer.

A servo whose supply failed comes back limp and with its power-on registers: the next goal would
switch it on with full torque, wherever it has fallen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from so101_driver.joints import SERVO_IDS
from so101_driver.readings import ServoState


class SupplyWatch:
    """Remembers whose state must be read before it is written a goal; not thread-safe.

    Attributes:
        suspects: Servos that missed an answer and whose state has not been read since.
    """

    def __init__(self) -> None:
        self.suspects: set[int] = set()
        self._accelerations: dict[int, int] = {}

    def start(self, states: Sequence[ServoState]) -> None:
        """Take servos as found, in the order of SERVO_IDS."""
        self.suspects.clear()
        self._accelerations = {
            servo_id: state.acceleration for servo_id, state in zip(SERVO_IDS, states, strict=True)
        }

    def answered(self, servo_ids: Collection[int]) -> None:
        """Take who answered in a cycle."""
        self.suspects.update(servo_id for servo_id in SERVO_IDS if servo_id not in servo_ids)

    def clear(self, servo_ids: Iterable[int]) -> None:
        """Trust servos whose state has been read."""
        self.suspects.difference_update(servo_ids)

    def fallen(self, states: Mapping[int, ServoState]) -> list[int]:
        """Return servos that should hold and have no torque, or the power-on acceleration."""
        return [
            servo_id
            for servo_id, state in states.items()
            if not state.torque_enabled
            or self._accelerations.get(servo_id, state.acceleration) != state.acceleration
        ]
