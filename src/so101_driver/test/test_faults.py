"""Users write fault scripts and tests replay them: errors must point, seeds must repeat."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from so101_driver.sim.chains import IdealArm
from so101_driver.sim.fault_injector import FaultInjector, Piece
from so101_driver.sim.faults import Fault, FaultKind, FaultScript

from so101_driver import protocol

REPLY = protocol.status(3, 0, b"\x01\x02\x03\x04")
WIRE = [
    FaultKind.DROP,
    FaultKind.CORRUPT,
    FaultKind.CHECKSUM,
    FaultKind.TRUNCATE,
    FaultKind.DELAY,
    FaultKind.DUPLICATE,
    FaultKind.NOISE,
    FaultKind.DEAF,
]


def injector(*faults: Fault, seed: int = 0) -> FaultInjector:
    made = FaultInjector(IdealArm(), FaultScript(faults, seed))
    made.start(0.0)
    made.update(0.0)
    return made


def test_a_script_is_read_with_its_seed_and_every_option(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(
        "seed: 7\n"
        "faults:\n"
        "  - {at_s: 2.0, for_s: 0.5, fault: mute, servo: 4}\n"
        "  - {fault: delay, probability: 0.1, delay_s: 0.03}\n"
        "  - fault: unplug\n"
        "    at_s: 10\n"
        "    for_s: 3\n"
    )
    script = FaultScript.from_file(path)
    assert script.seed == 7
    assert script.faults == (
        Fault(kind=FaultKind.MUTE, at_s=2.0, for_s=0.5, servo=4),
        Fault(kind=FaultKind.DELAY, probability=0.1, delay_s=0.03),
        Fault(kind=FaultKind.UNPLUG, at_s=10, for_s=3),
    )
    assert FaultScript.from_file(path, seed=9).seed == 9
    assert FaultScript.from_text("- fault: brown_out\n").faults[0].duration_s == 0.1
    assert math.isinf(FaultScript.from_text("- fault: drop\n").faults[0].duration_s)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- fault: mute\n", ("line 1", "servo", "needs the id")),
        ("\n# x\n- fault: drop\n- fault: mutes\n", ("line 4", "'mutes'", "mute")),
        ("- {fault: mute, servo: 4, sevro: 3}\n", ("line 1", "sevro", "at_s")),
        ("- {fault: mute, servo: 4, probability: 0.5}\n", ("line 1", "probability", "servo")),
        ("- {fault: drop, probability: 1.5}\n", ("line 1", "probability", "0..1")),
        ("- {fault: drop, probability: .nan}\n", ("probability", "0..1")),
        ("- {fault: drop, probability: often}\n", ("probability", "'often'")),
        ("- {fault: drop, servo: 4.5}\n", ("servo", "whole number")),
        ("- {fault: delay, delay_s: 9}\n", ("delay_s", "0..2")),
        ("- {fault: drop, at_s: -1}\n", ("at_s", "0..inf")),
        ("- {fault: id_clash, servo: 3}\n", ("other", "second servo")),
        ("- {fault: id_clash, servo: 3, other: 3}\n", ("other", "second servo")),
        ("- {servo: 3}\n", ("line 1", "fault: mute")),
        ("- mute\n", ("line 1", "'mute'")),
        ("fault: mute\n", ("fault", "seed and faults")),
        ("seed: x\nfaults: []\n", ("seed", "'x'")),
        ("faults: 3\n", ("expected a list",)),
        ("", ("expected a list",)),
        ("- {fault: mute\n", ("not YAML",)),
        ("- {fault: [mute], servo: 4}\n", ("line 1", "['mute']", "is none of")),
        ("- {fault: mute, servo: 4, at_s: 2026-13-01}\n", ("not YAML", "month")),
        ("[" * 2000, ("not YAML",)),
        ("seed: -1\nfaults: []\n", ("seed", "from 0 on")),
        ("<<: {faults: [{fault: drop}]}\n", ("expected a list",)),
        ("faults: []\nfaults: [{fault: mute}]\n", ("line 2", "needs the id")),
    ],
)
def test_wrong_scripts_are_refused_by_line_and_key(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        FaultScript.from_text(text, "faults.yaml")
    for word in ("faults.yaml", *words):
        assert word in str(error.value), str(error.value)


def test_the_documentation_lists_every_fault_with_its_options_and_its_example_works() -> None:
    text = (Path(__file__).parents[3] / "docs" / "virtual-arm.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(" `"): {option.strip(" *").split(" ")[0] for option in cells[2].split(",")}
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| `"))
        if len(cells) == 5
    }
    for kind in FaultKind:
        with pytest.raises(UserError) as error:
            Fault.from_mapping({"fault": kind.value, "no_such_option": 1})
        options = set(str(error.value).rstrip(".").split(" has ")[1].split(", "))
        assert rows[kind.value] - {""} == options - {"at_s", "for_s"}, kind
    example = text.split("```yaml")[1].split("```")[0]
    assert len(FaultScript.from_text(example).faults) == 4


def test_an_absent_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml"):
        FaultScript.from_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "text",
    ["mute", "", "fault: [", "{", "servo: 3", "fault: 2026-13-01", "fault: mute, servo: 0x_"],
)
def test_a_line_that_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no fault"):
        Fault.from_text(text)


def test_a_servo_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"no servo 9 .* 1, 2, 3, 4, 5, 6"):
        injector(Fault(kind=FaultKind.MUTE, servo=9))
    with pytest.raises(UserError, match="no servo 8"):
        injector().add(Fault(kind=FaultKind.ID_CLASH, servo=1, other=8), 0.0)


def test_faults_begin_and_end_when_the_script_says() -> None:
    made = FaultInjector(
        IdealArm(), FaultScript((Fault(kind=FaultKind.MUTE, servo=4, at_s=2.0, for_s=0.5),))
    )
    made.start(100.0)
    seen = []
    for now_s in (100.0, 101.99, 102.0, 102.49, 102.5, 200.0):
        made.update(now_s)
        seen.append(len(made.active))
    assert seen == [0, 0, 1, 1, 0, 0]
    assert made.next_change_s() == math.inf
    assert made.counts[FaultKind.MUTE] == 1


def test_overlapping_faults_of_a_servo_end_one_by_one() -> None:
    arm = IdealArm()
    made = FaultInjector(arm, FaultScript())
    first = made.add(Fault(kind=FaultKind.MUTE, servo=4), 0.0)
    made.add(Fault(kind=FaultKind.MUTE, servo=4, for_s=1.0), 0.0)
    made.update(0.0)
    made.clear(first, 0.5)
    assert arm.servos[4].faults.mute
    made.update(1.0)
    assert not arm.servos[4].faults.mute


def test_cleared_before_it_began_it_never_does() -> None:
    made = injector(Fault(kind=FaultKind.MUTE, servo=4, at_s=5.0))
    made.clear(None, 1.0)
    made.update(6.0)
    assert made.active == ()
    assert made.counts[FaultKind.MUTE] == 0


def fate(kind: FaultKind, **options: float) -> list[Piece]:
    return injector(Fault(kind=kind, **options)).on_wire(3, REPLY)


def test_each_fault_of_the_wire_does_what_it_says() -> None:
    assert fate(FaultKind.DROP) == []
    assert fate(FaultKind.DUPLICATE) == [Piece(REPLY + REPLY)]
    assert fate(FaultKind.DELAY, delay_s=0.03) == [Piece(REPLY, 0.03)]
    assert fate(FaultKind.DROP, servo=4) == [Piece(REPLY)]
    assert fate(FaultKind.DEAF) == [Piece(REPLY)]

    (checksum,) = fate(FaultKind.CHECKSUM)
    assert checksum.data[:-1] == REPLY[:-1]
    assert checksum.data[-1] != REPLY[-1]
    (corrupt,) = fate(FaultKind.CORRUPT)
    assert sum(a != b for a, b in zip(corrupt.data, REPLY, strict=True)) == 1
    (truncated,) = fate(FaultKind.TRUNCATE)
    assert 0 < len(truncated.data) < len(REPLY)
    assert REPLY.startswith(truncated.data)
    noise, reply = fate(FaultKind.NOISE)
    assert 1 <= len(noise.data) <= 8
    assert reply == Piece(REPLY)


def test_deafness_hits_instructions_by_servo() -> None:
    made = injector(Fault(kind=FaultKind.DEAF, servo=3))
    assert not made.reaches(3)
    assert made.reaches(4)


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.value)
def test_probability_is_a_share_and_the_seed_repeats_it(kind: FaultKind) -> None:
    def outcomes(seed: int) -> list[object]:
        made = injector(Fault(kind=kind, probability=0.3), seed=seed)
        results: list[object] = []
        for _ in range(300):
            if kind is FaultKind.DEAF:
                results.append(made.reaches(3))
            else:
                results.append(tuple(made.on_wire(3, REPLY)))
        results.append(made.counts[kind])
        return results

    first = outcomes(1)
    assert 60 < first[-1] < 120
    assert first == outcomes(1)
    assert first != outcomes(2)


def test_all_faults_of_the_wire_at_once_break_nothing() -> None:
    made = injector(*(Fault(kind=kind, probability=0.5) for kind in WIRE))
    for _ in range(3000):
        pieces = made.on_wire(3, REPLY)
        assert all(piece.data for piece in pieces)


def test_states_reach_the_servos_and_leave_them_as_they_were() -> None:
    arm = IdealArm()
    made = FaultInjector(arm, FaultScript())
    faults = (
        Fault(kind=FaultKind.TEMPERATURE, servo=1, celsius=75.0),
        Fault(kind=FaultKind.VOLTAGE, volts=9.0),
        Fault(kind=FaultKind.OVERLOAD, servo=2),
        Fault(kind=FaultKind.STUCK, servo=3),
        Fault(kind=FaultKind.WRONG_MODEL, servo=4, model=1234),
        Fault(kind=FaultKind.WRONG_FIRMWARE, servo=5, minor=3),
        Fault(kind=FaultKind.ID_CLASH, servo=1, other=6),
        Fault(kind=FaultKind.UNPLUG),
    )
    for fault in faults:
        made.add(fault, 0.0)
    made.update(0.0)
    servos = arm.servos
    assert (servos[1].temperature_c, servos[6].voltage_v) == (75.0, 9.0)
    assert servos[2].error & 32
    assert servos[3].stuck
    assert servos[4].read(3, 2) == (1234).to_bytes(2, "little")
    assert servos[5].read(1, 1) == b"\x03"
    assert servos[6].bus_id == 1
    assert not made.plugged

    made.clear(None, 1.0)
    assert servos[1].temperature_c < 40.0
    assert servos[6].voltage_v == servos[6].supply_v
    assert not servos[3].stuck
    assert servos[4].read(3, 2) == b"\x09\x03"
    assert servos[5].read(1, 1) == b"\x0a"
    assert servos[6].bus_id == 6
    assert made.plugged
    # An overload trip outlasts its cause, until a goal.
    assert servos[2].error & 32
    servos[2].write(42, b"\x00\x08", 1.0)
    assert servos[2].error == 0


def test_a_held_overload_is_not_cleared_by_goals() -> None:
    arm = IdealArm()
    made = FaultInjector(arm, FaultScript((Fault(kind=FaultKind.OVERLOAD, servo=2, for_s=1.0),)))
    made.start(0.0)
    made.update(0.0)
    arm.servos[2].write(42, b"\x00\x08", 0.5)
    assert arm.servos[2].error & 32
    assert arm.servos[2].overload_trips == 1


def test_a_held_overload_outlasts_the_supply() -> None:
    arm = IdealArm()
    made = FaultInjector(arm, FaultScript())
    made.add(Fault(kind=FaultKind.OVERLOAD, servo=2), 0.0)
    made.add(Fault(kind=FaultKind.BROWN_OUT, at_s=1.0), 0.0)
    for now_s in (0.0, 1.0, 2.0):
        made.update(now_s)
    assert arm.servos[2].error & 32
    assert arm.servos[1].error == 0


def test_supply_faults_leave_power_on_registers() -> None:
    arm = IdealArm()
    for servo in arm.servos.values():
        servo.write(42, b"\x00\x08", 0.0)
    made = FaultInjector(arm, FaultScript())
    made.add(Fault(kind=FaultKind.POWER_CYCLE, servo=3), 0.0)
    made.update(0.0)
    assert [servo.settings.enabled for servo in arm.servos.values()] == [1, 1, 0, 1, 1, 1]
    assert not arm.servos[3].listens(0.05)
    made.update(0.2)
    assert arm.servos[3].listens(0.2)
    made.add(Fault(kind=FaultKind.BROWN_OUT), 1.0)
    made.update(1.0)
    assert not any(servo.settings.enabled for servo in arm.servos.values())
    made.update(2.0)
    assert all(servo.listens(2.0) for servo in arm.servos.values())


def test_busy_eeprom_is_silent_and_forgets_when_cut() -> None:
    arm = IdealArm()
    made = FaultInjector(arm, FaultScript())
    made.add(Fault(kind=FaultKind.EEPROM_LATENCY, delay_s=0.2), 0.0)
    made.update(0.0)
    servo = arm.servos[1]
    servo.write(55, b"\x00", 1.0)
    assert servo.listens(1.0)
    servo.write(21, b"\x10", 1.0)
    assert not servo.listens(1.19)
    assert servo.listens(1.2)
    servo.write(21, b"\x11", 2.0)
    servo.power_cycle(2.1)
    assert servo.read(21, 1) == b"\x10"
