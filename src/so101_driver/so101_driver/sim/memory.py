"""The memory of one virtual servo: what a write changes and what survives a power cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping

from so101_driver import registers as reg
from so101_driver.registers import Memory, Register


class ServoMemory:
    """A control table with the STS3215's write rules.

    Read-only bytes ignore writes, values are clamped to the register's range, and what is written
    to the EEPROM while ``LOCK`` is 1 works until the next power cycle only.

    Args:
        initial: Where the EEPROM is not as from the factory.
        factory: Where the factory's values of this part are not the register table's.
    """

    def __init__(
        self, initial: Mapping[Register, int], factory: Mapping[Register, int] | None = None
    ) -> None:
        self._bytes = bytearray(reg.TABLE_SIZE)
        self._factory = dict(factory or {})
        self._pending: list[tuple[float, Register, bytes]] = []
        self._fill({**self._factory, **initial})

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

    def write(
        self, address: int, data: bytes, now_s: float = 0.0, saving_s: float = 0.0
    ) -> tuple[Register, ...]:
        """Write bytes as a WRITE does.

        Args:
            address: Of the first byte.
            data: The bytes.
            now_s: Time of the write.
            saving_s: How long an EEPROM cell takes to keep its value.

        Returns:
            The registers written, by address.
        """
        self._keep_saved(now_s)
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
                self.save(register, now_s + saving_s)
            written.append(register)
        return tuple(written)

    def save(self, register: Register, kept_from_s: float = -math.inf) -> None:
        """Let a register's present value outlast the supply if it fails after ``kept_from_s``."""
        part = slice(register.address, register.address + register.size)
        self._pending.append((kept_from_s, register, bytes(self._bytes[part])))

    def saving_until_s(self) -> float:
        """When the last write to the EEPROM is done."""
        return max((kept_from_s for kept_from_s, _, _ in self._pending), default=-math.inf)

    def power_cycle(self, now_s: float = math.inf) -> None:
        """Forget everything that was not saved, as when the supply fails for a moment."""
        self._keep_saved(now_s)
        self._pending.clear()
        self._bytes[:] = self._at_power_on
        self.put(reg.TORQUE_LIMIT, self.value(reg.MAX_TORQUE))

    def factory_reset(self) -> None:
        """Set everything but the id to the factory's values, and keep them."""
        self._fill({**self._factory, reg.ID: self.value(reg.ID)})

    def _keep_saved(self, now_s: float) -> None:
        for kept_from_s, register, data in self._pending:
            if kept_from_s <= now_s:
                part = slice(register.address, register.address + register.size)
                self._at_power_on[part] = data
        self._pending = [entry for entry in self._pending if entry[0] > now_s]

    def _fill(self, values: Mapping[Register, int]) -> None:
        for register in reg.REGISTERS:
            self.put(register, values.get(register, register.default))
        self._pending.clear()
        self._at_power_on = bytearray(self._bytes)
        self.put(reg.TORQUE_LIMIT, self.value(reg.MAX_TORQUE))
