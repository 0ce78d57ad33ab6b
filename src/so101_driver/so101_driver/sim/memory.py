"""The memory of one virtual servo: what a write changes and what survives a power cycle."""

from __future__ import annotations

from collections.abc import Mapping

from so101_driver import registers as reg
from so101_driver.registers import Memory, Register


class ServoMemory:
    """A control table with the STS3215's write rules.

    Read-only bytes ignore writes, values are clamped to the register's range, and what is written
    to the EEPROM while ``LOCK`` is 1 works until the next power cycle only.
    """

    def __init__(self, initial: Mapping[Register, int]) -> None:
        self._bytes = bytearray(reg.TABLE_SIZE)
        for register in reg.REGISTERS:
            self.put(register, initial.get(register, register.default))
        self._at_power_on = bytes(self._bytes)
        self.put(reg.TORQUE_LIMIT, self.value(reg.MAX_TORQUE))

    def value(self, register: Register) -> int:
        """Return a register's value."""
        return register.decode_from(self._bytes, 0)

    def put(self, register: Register, value: int) -> None:
        """Set a register from inside the servo, without any rule."""
        start = register.address
        self._bytes[start : start + register.size] = register.encode(value)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes as a READ does; beyond the table they are zero."""
        return bytes(self._bytes[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> tuple[Register, ...]:
        """Write bytes as a WRITE does; returns the registers written, by address."""
        locked = self.value(reg.LOCK) != 0
        end = address + len(data)
        written = []
        for register in reg.REGISTERS:
            first, last = register.address, register.address + register.size
            if register.read_only or last <= address or end <= first:
                continue
            start, stop = max(first, address), min(last, end)
            self._bytes[start:stop] = data[start - address : stop - address]
            value = self.value(register)
            self.put(register, max(register.minimum, min(register.maximum, value)))
            if register.memory is Memory.EEPROM and not locked:
                self._save(register)
            written.append(register)
        return tuple(written)

    def power_cycle(self) -> None:
        """Forget everything that was not saved, as when the supply fails for a moment."""
        self._bytes[:] = self._at_power_on
        self.put(reg.TORQUE_LIMIT, self.value(reg.MAX_TORQUE))

    def _save(self, register: Register) -> None:
        saved = bytearray(self._at_power_on)
        part = slice(register.address, register.address + register.size)
        saved[part] = self._bytes[part]
        self._at_power_on = bytes(saved)
