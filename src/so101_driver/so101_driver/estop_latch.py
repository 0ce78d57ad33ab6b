"""The driver's own view of the emergency stop, beside the safety layer's."""

from __future__ import annotations

from enum import Enum


class SafetyPhase(Enum):
    """What the driver needs to know about the safety layer's state."""

    DISARMED = "disarmed"
    HOLD = "hold"
    MOVING = "moving"
    STOPPED = "stopped"
    """ESTOP or FAULT: latched there."""


class EstopLatch:
    """Latches a pressed button and says whether the arm must freeze.

    While the safety layer reacts, its braking is followed. The arm freezes when safety falls
    silent, or goes on as if nothing had happened. The latch opens when safety, having seen the stop
    (or having been restarted), is armed again: that takes an operator's reset and arm.
    """

    def __init__(self, acknowledge_s: float) -> None:
        self._acknowledge_ns = int(acknowledge_s * 1e9)
        self._since_ns: int | None = None
        self._acknowledged = False
        self._frozen = False

    @property
    def pressed(self) -> bool:
        """Whether a stop is latched."""
        return self._since_ns is not None

    def press(self, now_ns: int) -> None:
        """Take a ``true``; a ``false`` never clears anything."""
        if self._since_ns is None:
            self._since_ns = now_ns
            self._acknowledged = False
            self._frozen = False

    def safety(self, phase: SafetyPhase) -> None:
        """Take the safety layer's state, as received after the press."""
        if self._since_ns is None:
            return
        if phase in (SafetyPhase.STOPPED, SafetyPhase.DISARMED):
            self._acknowledged = True
        elif self._acknowledged and phase is SafetyPhase.HOLD:
            self._since_ns = None

    def frozen(self, now_ns: int, commands_silent: bool) -> bool:
        """Return whether commands must be refused; stays so until the latch opens."""
        if self._since_ns is None:
            return False
        ignored = not self._acknowledged and now_ns - self._since_ns > self._acknowledge_ns
        self._frozen = self._frozen or commands_silent or ignored
        return self._frozen
