"""The virtual servo's control table, row by row against the published one.

A driver that is right by luck here (a register that takes any value, a sign in the wrong bit, an
EEPROM that forgets nothing) fails on the first real servo.
"""

from __future__ import annotations

import pytest
from so101_driver.registers import Memory, Register
from so101_driver.sim.memory import ServoMemory
from so101_driver.sim.parts import FOLLOWER_7V4, FOLLOWER_12V
from so101_driver.sim.tick_scale import TickScale
from so101_driver.sim.virtual_servo import ServoFaults, VirtualServo

from so101_driver import registers as reg

# address, bytes, where, writable, sign bit, default, smallest, largest: typed from the vendor's
# memory table by hand, not derived from the code under test. None: no such rule.
TABLE = """
0   1 eeprom ro -  3    -     -
1   1 eeprom ro -  10   -     -
2   1 eeprom ro -  0    -     -
3   2 eeprom ro -  777  -     -
5   1 eeprom rw -  1    0     253
6   1 eeprom rw -  0    0     7
7   1 eeprom rw -  250  0     254
8   1 eeprom rw -  1    0     1
9   2 eeprom rw -  0    0     4095
11  2 eeprom rw -  4095 0     4095
13  1 eeprom rw -  70   0     100
14  1 eeprom rw -  80   0     254
15  1 eeprom rw -  40   0     254
16  2 eeprom rw -  1000 0     1000
18  1 eeprom rw -  0    0     255
19  1 eeprom rw -  44   0     255
20  1 eeprom rw -  47   0     255
21  1 eeprom rw -  32   0     254
22  1 eeprom rw -  32   0     254
23  1 eeprom rw -  0    0     254
24  2 eeprom rw -  16   0     1000
26  1 eeprom rw -  1    0     32
27  1 eeprom rw -  1    0     32
28  2 eeprom rw -  500  0     2047
30  1 eeprom rw -  1    1     128
31  2 eeprom rw 11 0    -2047 2047
33  1 eeprom rw -  0    0     3
34  1 eeprom rw -  20   0     100
35  1 eeprom rw -  200  0     254
36  1 eeprom rw -  80   0     100
37  1 eeprom rw -  10   0     254
38  1 eeprom rw -  200  0     254
39  1 eeprom rw -  10   0     254
40  1 ram    rw -  0    0     128
41  1 ram    rw -  0    0     254
42  2 ram    rw 15 0    -32767 32767
44  2 ram    rw -  0    0     1000
46  2 ram    rw 15 0    -32767 32767
48  2 ram    rw -  1000 0     1000
55  1 ram    rw -  1    0     1
56  2 ram    ro 15 0    -     -
58  2 ram    ro 15 0    -     -
60  2 ram    ro 10 0    -     -
62  1 ram    ro -  0    -     -
63  1 ram    ro -  0    -     -
64  1 ram    ro -  0    -     -
65  1 ram    ro -  0    -     -
66  1 ram    ro -  0    -     -
67  2 ram    ro 15 0    -     -
69  2 ram    ro 15 0    -     -
71  2 ram    ro 15 0    -     -
80  1 eeprom ro -  0    -     -
81  1 eeprom ro -  0    -     -
82  1 eeprom ro -  0    -     -
83  1 eeprom ro -  0    -     -
84  1 eeprom ro -  0    -     -
85  1 ram    rw -  0    0     254
86  1 eeprom ro -  0    -     -
"""
ROWS = [line.split() for line in TABLE.split("\n") if line]
WRITABLE = [register for register in reg.REGISTERS if not register.read_only]


def number(text: str) -> int | None:
    return None if text == "-" else int(text)


def named(register: Register) -> str:
    return register.name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row(row: list[str]) -> None:
    address, size, where, access, sign, default, low, high = row
    register = next(r for r in reg.REGISTERS if r.address == int(address))
    assert (register.size, register.memory.value) == (int(size), where)
    assert register.read_only == (access == "ro")
    assert register.sign_bit == number(sign)
    assert register.default == int(default)
    if access == "rw":
        assert (register.minimum, register.maximum) == (number(low), number(high))


def test_no_row_is_missing_and_none_overlaps() -> None:
    assert len(reg.REGISTERS) == len(ROWS)
    ends = [register.address + register.size for register in reg.REGISTERS]
    starts = [register.address for register in reg.REGISTERS[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] == reg.TABLE_SIZE


@pytest.mark.parametrize("register", reg.REGISTERS, ids=named)
def test_read_only_registers_ignore_writes_and_others_keep_their_range(register: Register) -> None:
    for value in (register.minimum, register.maximum, register.minimum - 1, register.maximum + 1):
        memory = ServoMemory({})
        before = memory.value(register)
        try:
            data = register.encode(value)
        except ValueError:
            continue
        written = memory.write(register.address, data)
        if register.read_only:
            assert (written, memory.value(register)) == ((), before)
        else:
            assert written == (register,)
            clamped = max(register.minimum, min(register.maximum, value))
            assert memory.value(register) == clamped


@pytest.mark.parametrize("register", [r for r in reg.REGISTERS if r.sign_bit], ids=named)
def test_signs_are_a_bit_beside_the_magnitude(register: Register) -> None:
    raw = int.from_bytes(register.encode(-300), "little")
    assert raw == 300 | 1 << register.sign_bit
    assert register.decode(register.encode(-300)) == -300
    with pytest.raises(ValueError):
        register.encode(1 << register.sign_bit)


@pytest.mark.parametrize("register", WRITABLE, ids=named)
@pytest.mark.parametrize("locked", [True, False])
def test_eeprom_outlasts_the_supply_only_when_written_unlocked(
    register: Register, locked: bool
) -> None:
    memory = ServoMemory({})
    at_power_on = memory.value(register)
    other = register.maximum if at_power_on != register.maximum else register.minimum
    memory.write(reg.LOCK.address, reg.LOCK.encode(int(locked)))
    memory.write(register.address, register.encode(other))
    assert memory.value(register) == other
    memory.power_cycle()
    kept = register.memory is Memory.EEPROM and not locked
    assert memory.value(register) == (other if kept else at_power_on)


def test_one_write_over_several_registers_skips_the_read_only_ones() -> None:
    memory = ServoMemory({})
    # 54 is no register, 55 is the lock, 56..57 the position.
    written = memory.write(54, bytes((9, 0, 1, 2)))
    assert written == (reg.LOCK,)
    assert memory.read(54, 4) == bytes((0, 0, 0, 0))


def test_half_a_register_is_written_as_its_byte() -> None:
    memory = ServoMemory({reg.GOAL_POSITION: 0x0203})
    memory.write(reg.GOAL_POSITION.address + 1, b"\x04")
    assert memory.value(reg.GOAL_POSITION) == 0x0403


def test_torque_limit_is_the_eeproms_after_power_on() -> None:
    memory = ServoMemory({reg.MAX_TORQUE: 500})
    assert memory.value(reg.TORQUE_LIMIT) == 500
    memory.write(reg.TORQUE_LIMIT.address, reg.TORQUE_LIMIT.encode(100))
    memory.power_cycle()
    assert memory.value(reg.TORQUE_LIMIT) == 500


def test_a_value_is_lost_when_the_supply_fails_before_it_is_saved() -> None:
    memory = ServoMemory({reg.LOCK: 0})
    memory.write(reg.P_GAIN.address, b"\x10", now_s=1.0, saving_s=0.5)
    memory.write(reg.D_GAIN.address, b"\x11", now_s=2.0, saving_s=0.5)
    memory.power_cycle(2.2)
    assert (memory.value(reg.P_GAIN), memory.value(reg.D_GAIN)) == (0x10, 32)


def write(servo: VirtualServo, register: Register, value: int) -> None:
    servo.write(register.address, register.encode(value), 0.0)


def test_both_limits_zero_let_goals_through_unclamped() -> None:
    servo = VirtualServo(1, registers={reg.MIN_POSITION: 1000, reg.MAX_POSITION: 3000})
    write(servo, reg.GOAL_POSITION, 5000)
    assert servo.goal_ticks == 3000
    write(servo, reg.MIN_POSITION, 0)
    write(servo, reg.MAX_POSITION, 0)
    write(servo, reg.GOAL_POSITION, -5000)
    assert servo.goal_ticks == -5000


def test_positions_are_within_one_turn_unless_the_phase_says_otherwise() -> None:
    servo = VirtualServo(1, scale=TickScale(zero_tick=4500.0))
    assert abs(servo.present_ticks() - 404) <= 1
    # The controller compares within the turn too: holding the present position moves nothing.
    write(servo, reg.GOAL_POSITION, servo.present_ticks())
    assert servo.goal_rad() == pytest.approx(0.0, abs=0.003)
    write(servo, reg.PHASE, 0x10)
    assert abs(servo.present_ticks() - 4500) <= 1


def test_a_position_beyond_its_register_reads_as_the_largest_one() -> None:
    servo = VirtualServo(1, registers={reg.MAX_POSITION: 0, reg.PHASE: 0x10})
    for sign in (1, -1):
        servo.position_rad = sign * 60.0
        data = servo.read(reg.PRESENT_POSITION.address, 2)
        assert reg.PRESENT_POSITION.decode(data) == sign * 32767


def test_128_in_torque_enable_makes_here_the_middle_for_good() -> None:
    servo = VirtualServo(1, position_rad=0.4)
    write(servo, reg.TORQUE_ENABLE, 128)
    assert abs(servo.present_ticks() - 2048) <= 1
    assert servo.memory.value(reg.TORQUE_ENABLE) == 0
    servo.power_cycle()
    assert abs(servo.present_ticks() - 2048) <= 1


def test_only_position_mode_with_torque_1_drives() -> None:
    for mode, torque, drives in ((0, 1, True), (0, 0, False), (0, 2, False), (1, 1, False)):
        servo = VirtualServo(1, goal_write_enables_torque=False)
        write(servo, reg.OPERATING_MODE, mode)
        write(servo, reg.TORQUE_ENABLE, torque)
        write(servo, reg.GOAL_POSITION, 3000)
        largest = max(abs(servo.torque_nm(0.004 * tick, 0.004)) for tick in range(100))
        assert (largest > 0.5) == drives, (mode, torque)


def test_recovery_keeps_the_id_and_nothing_else() -> None:
    servo = VirtualServo(5, registers={reg.P_GAIN: 16, reg.HOMING_OFFSET: 500, reg.MAX_TORQUE: 400})
    write(servo, reg.TORQUE_ENABLE, 1)
    servo.factory_reset()
    value = servo.memory.value
    assert (value(reg.ID), value(reg.P_GAIN), value(reg.HOMING_OFFSET)) == (5, 32, 0)
    assert (value(reg.TORQUE_ENABLE), value(reg.TORQUE_LIMIT)) == (0, 1000)
    assert value(reg.MAX_VOLTAGE) == 140


def test_parts_know_their_supply() -> None:
    for part, largest in ((FOLLOWER_12V, 140), (FOLLOWER_7V4, 80)):
        servo = VirtualServo(1, part=part)
        assert servo.memory.value(reg.MAX_VOLTAGE) == largest
        assert servo.error == 0
    servo.supply_v = 12.2
    assert servo.error == 1


@pytest.mark.parametrize(
    ("faults", "share"),
    [
        (ServoFaults(temperature_c=85.0), 0.0),
        (ServoFaults(overload=True), 0.2),
        (ServoFaults(supply_v=3.0), 1.0),
    ],
)
def test_protections_leave_this_share_of_the_duty(faults: ServoFaults, share: float) -> None:
    servo = VirtualServo(1)
    write(servo, reg.TORQUE_ENABLE, 1)
    write(servo, reg.GOAL_POSITION, 3500)
    servo.set_faults(faults, 0.0)
    duties = []
    for tick in range(200):
        servo.torque_nm(0.004 * tick, 0.004)
        duties.append(abs(servo.plant.duty))
    assert max(duties) == pytest.approx(share, abs=0.01)
    # Unless the register says that this protection does not cut the output.
    if faults.temperature_c is not None:
        write(servo, reg.UNLOAD_CONDITION, 0)
        servo.torque_nm(1.0, 0.004)
        assert abs(servo.plant.duty) > 0.9
        assert servo.error == 4


def test_without_their_bits_overload_and_current_neither_cut_nor_show() -> None:
    off = {reg.UNLOAD_CONDITION: 0, reg.PROTECTION_CURRENT: 250}
    servo = VirtualServo(1, registers=off)
    write(servo, reg.GOAL_POSITION, 3500)
    for tick in range(1000):
        servo.torque_nm(0.004 * tick, 0.004)
    assert (servo.error, servo.overload_trips) == (0, 0)
    assert abs(servo.plant.duty) > 0.9


def test_current_protection_trips_after_its_time_and_ends_with_a_goal() -> None:
    servo = VirtualServo(1, registers={reg.PROTECTION_CURRENT: 250, reg.OVERLOAD_TORQUE: 100})
    write(servo, reg.GOAL_POSITION, 3500)
    ticks = 0
    while servo.error == 0:
        servo.torque_nm(0.004 * ticks, 0.004)
        ticks += 1
    assert servo.error == 8
    assert 2.0 < 0.004 * ticks < 2.3
    servo.torque_nm(0.004 * ticks, 0.004)
    assert servo.plant.duty == 0.0
    write(servo, reg.GOAL_POSITION, 2048)
    assert servo.error == 0
