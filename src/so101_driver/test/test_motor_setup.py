"""New motors get their ids one at a time, from wherever they are; several at once are refused."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from so101_driver.bus import ServoBus
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_ID_OF
from so101_driver.motor_setup import ORDER, WrongMotorsError, find_single, set_up
from so101_driver.servo_search import BAUD_RATES, Found, answering, search
from so101_driver.sim import FactoryServos, FaultKind, IdealArm, VirtualBus

from so101_driver import registers as reg

pytestmark = pytest.mark.bus


def quiet(_sentence: str) -> None:
    pass


@pytest.fixture
def factory() -> FactoryServos:
    return FactoryServos(6)


@pytest.fixture
def bus(factory: FactoryServos) -> Iterator[VirtualBus]:
    with VirtualBus(factory) as bus:
        yield bus


@pytest.fixture
def two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at two of the eight baud rates, where the others do not matter."""
    quick = functools.partial(search, baud_rates=BAUD_RATES[:2])
    monkeypatch.setattr("so101_driver.motor_setup.search", quick)


def test_the_walk_goes_from_the_gripper_to_the_base() -> None:
    assert ORDER[0] == "gripper"
    assert [SERVO_ID_OF[joint] for joint in ORDER] == [6, 5, 4, 3, 2, 1]


@pytest.mark.usefixtures("two_rates")
def test_six_factory_motors_become_an_arm(factory: FactoryServos, bus: VirtualBus) -> None:
    done: dict[int, str] = {}
    for number, joint in enumerate(ORDER, start=1):
        factory.connect({number})
        result = set_up(bus.port, joint, find_single(bus.port, quiet), done)
        assert result.changed is (joint != "shoulder_pan"), "a new motor has id 1 already"
        done[result.report.servo_id] = joint
    factory.connect(range(1, 7))
    with ServoBus(bus.port) as line:
        for servo_id in range(1, 7):
            assert line.read(servo_id, reg.ID) == servo_id
            assert line.read(servo_id, reg.LOCK) == 1


@pytest.mark.parametrize("code", range(len(BAUD_RATES)))
def test_a_motor_is_found_at_any_id_and_baud_rate(
    code: int, factory: FactoryServos, bus: VirtualBus
) -> None:
    servo = factory.servos[1]
    servo.memory.put(reg.ID, 177)
    servo.memory.put(reg.BAUD_RATE, code)
    found = find_single(bus.port, quiet)
    assert found == Found(177, BAUD_RATES[code])
    set_up(bus.port, "elbow_flex", found, {})
    factory.connect(())
    factory.connect({1})
    assert answering(bus.port, range(1, 7)) == (3,), "it forgot at power-off"


@pytest.mark.usefixtures("two_rates")
def test_a_motor_that_has_its_id_is_not_written(factory: FactoryServos, bus: VirtualBus) -> None:
    servo = factory.servos[1]
    servo.memory.put(reg.ID, 6)
    before = servo.read(0, reg.TABLE_SIZE)
    result = set_up(bus.port, "gripper", find_single(bus.port, quiet), {})
    assert not result.changed
    assert result.found == Found(6, 1_000_000)
    assert servo.read(0, reg.TABLE_SIZE) == before


def test_it_can_be_repeated_after_it_was_cut_off_between_id_and_baud_rate(
    factory: FactoryServos, bus: VirtualBus
) -> None:
    servo = factory.servos[1]
    servo.memory.put(reg.ID, 4)
    servo.memory.put(reg.BAUD_RATE, 4)
    result = set_up(bus.port, "wrist_flex", find_single(bus.port, quiet), {})
    assert result.changed
    assert answering(bus.port, (4,)) == (4,)


@pytest.mark.usefixtures("two_rates")
def test_two_new_motors_are_refused_though_they_have_the_same_id(
    factory: FactoryServos, bus: VirtualBus
) -> None:
    factory.connect({1, 2})
    with pytest.raises(WrongMotorsError, match="connect exactly one"):
        find_single(bus.port, quiet)
    assert all(servo.bus_id == 1 for servo in factory.servos.values())


def test_motors_at_two_baud_rates_are_refused(factory: FactoryServos, bus: VirtualBus) -> None:
    factory.connect({1, 2})
    factory.servos[2].memory.put(reg.BAUD_RATE, 4)
    factory.servos[2].memory.put(reg.ID, 9)
    with pytest.raises(WrongMotorsError, match=r"2 motors answer \(ids 1, 9\)"):
        find_single(bus.port, quiet)


@pytest.mark.usefixtures("two_rates")
def test_a_wired_arm_is_refused() -> None:
    with VirtualBus(IdealArm()) as bus:
        with pytest.raises(WrongMotorsError, match=r"6 motors answer .*wallx doctor"):
            find_single(bus.port, quiet)
        found = search(bus.port, range(1, 7), BAUD_RATES[:2])
        assert [servo.servo_id for servo in found.servos] == [1, 2, 3, 4, 5, 6]


def test_a_wired_arm_is_recognised_through_a_slow_adapter() -> None:
    with VirtualBus(IdealArm()) as bus, bus.fault(FaultKind.DELAY, delay_s=0.016):
        assert answering(bus.port, range(1, 7)) == (1, 2, 3, 4, 5, 6)


def test_the_motor_that_was_just_set_up_is_not_renamed(bus: VirtualBus) -> None:
    with pytest.raises(WrongMotorsError, match=r"still the gripper motor.*connect the wrist_roll"):
        set_up(bus.port, "wrist_roll", Found(6, 1_000_000), {6: "gripper"})


@pytest.mark.usefixtures("two_rates")
def test_another_joints_motor_is_renamed_only_when_asked(
    factory: FactoryServos, bus: VirtualBus
) -> None:
    factory.servos[1].memory.put(reg.ID, 3)
    found = find_single(bus.port, quiet)
    with pytest.raises(WrongMotorsError, match=r"id of elbow_flex \(3\).*--motor gripper"):
        set_up(bus.port, "gripper", found, {})
    assert factory.servos[1].bus_id == 3
    assert set_up(bus.port, "gripper", found, {}, force=True).report.servo_id == 6


@pytest.mark.usefixtures("two_rates")
def test_another_model_is_not_touched() -> None:
    factory = FactoryServos(1)
    with (
        VirtualBus(factory) as bus,
        bus.fault(FaultKind.WRONG_MODEL, servo=1, model=1029),
        pytest.raises(UserError, match=r"model 1029, not an STS3215.*nothing was written"),
    ):
        set_up(bus.port, "gripper", find_single(bus.port, quiet), {})
    assert factory.servos[1].bus_id == 1


@pytest.mark.usefixtures("two_rates")
def test_nobody_is_told_with_the_fix(
    factory: FactoryServos, bus: VirtualBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asking every id takes 15 s in earnest.
    monkeypatch.setattr("so101_driver.motor_setup.MAX_ID", 3)
    factory.connect(())
    told: list[str] = []
    with pytest.raises(WrongMotorsError, match="switch the power supply on"):
        find_single(bus.port, told.append)
    assert len(told) == 1


def test_a_pinged_line_hears_nothing_of_nobody(bus: VirtualBus, factory: FactoryServos) -> None:
    factory.connect(())
    result = search(bus.port, range(1, 7))
    assert result.servos == ()
    assert result.collided == ()
    assert not result.several
