"""How a servo protects itself: from overload, current, heat and a wrong supply."""

from __future__ import annotations

from so101_driver import registers as reg
from so101_driver.protocol import ServoError
from so101_driver.sim.memory import ServoMemory


class Protections:
    """What has tripped, and how much output is left.

    Overload leaves ``PROTECTIVE_TORQUE``, the others nothing. A trip of overload or current lasts
    until the next goal, heat and supply until they are back in range. The bits of
    ``UNLOAD_CONDITION`` say which of them there are; heat and supply set their error bits in any
    case.

    Attributes:
        overloaded: Whether the overload protection has tripped.
        overcurrent: Whether the current protection has tripped.
        trips: How often the overload protection has tripped.
    """

    def __init__(self) -> None:
        self.overloaded = False
        self.overcurrent = False
        self.trips = 0
        self._overload_s = 0.0
        self._overcurrent_s = 0.0

    def configure(self, memory: ServoMemory) -> None:
        """Take over what the registers say."""
        unload = memory.value(reg.UNLOAD_CONDITION)
        self._cuts_overload = bool(unload & ServoError.OVERLOAD)
        self._cuts_current = bool(unload & ServoError.CURRENT)
        self._cuts_hot = bool(unload & ServoError.TEMPERATURE)
        self._cuts_voltage = bool(unload & ServoError.VOLTAGE)
        self._protective_share = memory.value(reg.PROTECTIVE_TORQUE) / 100.0
        self._overload_duty = memory.value(reg.OVERLOAD_TORQUE) / 100.0
        self._overload_time_s = memory.value(reg.PROTECTION_TIME) * reg.PROTECTION_TIME_S
        self._limit_a = memory.value(reg.PROTECTION_CURRENT) * reg.CURRENT_A
        self._overcurrent_time_s = memory.value(reg.OVERCURRENT_TIME) * reg.PROTECTION_TIME_S
        self._max_c = memory.value(reg.MAX_TEMPERATURE)
        self._volts = (
            memory.value(reg.MIN_VOLTAGE) * reg.VOLTAGE_V,
            memory.value(reg.MAX_VOLTAGE) * reg.VOLTAGE_V,
        )

    def error(self, temperature_c: float, supply_v: float) -> ServoError:
        """Return the error bits of this moment."""
        error = ServoError(0)
        if self.overloaded:
            error |= ServoError.OVERLOAD
        if self.overcurrent:
            error |= ServoError.CURRENT
        if temperature_c > self._max_c:
            error |= ServoError.TEMPERATURE
        if not self._volts[0] <= supply_v <= self._volts[1]:
            error |= ServoError.VOLTAGE
        return error

    def share(self, temperature_c: float, supply_v: float) -> float:
        """Return the largest duty that is left, 0..1."""
        cut = (
            (self.overcurrent and self._cuts_current)
            or (temperature_c > self._max_c and self._cuts_hot)
            or (self._cuts_voltage and not self._volts[0] <= supply_v <= self._volts[1])
        )
        if cut:
            return 0.0
        # A trip that was forced from outside weakens whatever the register says.
        return self._protective_share if self.overloaded else 1.0

    def step(self, dt_s: float, duty: float, current_a: float) -> None:
        """Let ``dt_s`` pass with this output."""
        if abs(duty) > self._overload_duty and not self.overloaded:
            self._overload_s += dt_s
            if self._overload_s >= self._overload_time_s and self._cuts_overload:
                self.trip()
        else:
            self._overload_s = 0.0
        if current_a > self._limit_a and not self.overcurrent:
            self._overcurrent_s += dt_s
            if self._overcurrent_s >= self._overcurrent_time_s:
                self.overcurrent = self._cuts_current
        else:
            self._overcurrent_s = 0.0

    def trip(self) -> None:
        """Let the overload protection trip."""
        self.overloaded = True
        self.trips += 1
        self._overload_s = 0.0

    def clear(self) -> None:
        """Forget trips, as a goal makes a servo do; the load's time goes on."""
        self.overloaded = self.overcurrent = False

    def restart(self) -> None:
        """Forget trips and times, as without a supply."""
        self.clear()
        self._overload_s = self._overcurrent_s = 0.0
