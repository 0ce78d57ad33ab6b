"""The driver's part of docs/states.md is true: its core makes no change that is not in it."""

from __future__ import annotations

import random

from bus_proof.driver_bench import DriverBench
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_transitions import DRIVER_TRANSITIONS, driver_allowed
from so101_driver.driver_types import Command, StartAction
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import Reading, ServoState
from so101_driver.safety import DriverState

from so101_driver import registers as reg

OFFSET_NS = 1_700_000_000_000_000_000
Change = tuple[DriverState, DriverState, ReasonCode]


class Bench:
    """A core that random things happen to; remembers every change that its snapshots show."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.core = DriverCore(DriverBench.CONFIG, DriverBench.CALIBRATION)
        self.now_ns = 10**10
        self.state = (DriverState.INACTIVE, ReasonCode.NOT_ACTIVE)
        self.seen: set[Change] = set()
        self.start()

    def look(self) -> None:
        snapshot = self.core.snapshot(self.now_ns)
        state = DriverState[snapshot.state.name]
        if (state, snapshot.reason.code) != self.state:
            self.seen.add((self.state[0], state, snapshot.reason.code))
            self.state = (state, snapshot.reason.code)

    def servos(self, enabled: list[bool], away: int = 0) -> tuple[ServoState, ...]:
        return DriverBench.states(enabled=enabled, sag=away)

    def start(self) -> None:
        """Activation, or set_torque: what the node does for each way in which the arm is found."""
        if self.core.start(*self.found(), self.now_ns) is StartAction.GIVE_TORQUE:
            self.look()
            if self.dice.random() < 0.2:
                self.core.set_fault(Reason(ReasonCode.SETUP_FAILED, "made up"))
            else:
                self.core.torque_given(DriverBench.HOME.tolist(), self.now_ns)
        self.look()

    def found(self) -> tuple[tuple[ServoState, ...], tuple[int, ...]]:
        kind = self.dice.choice(["standing", "standing", "limp", "partly", "away"])
        partly = [True] * 5 + [False]
        enabled = {"limp": [False] * 6, "partly": partly}.get(kind, [True] * 6)
        return self.servos(enabled, away=400 if kind == "away" else 0), DriverBench.FULL

    def cycle(self, silent: tuple[int, ...] = ()) -> None:
        self.now_ns += 10_000_000
        data = {
            i: reg.PRESENT_POSITION.encode(int(t)) + reg.PRESENT_VELOCITY.encode(0)
            for i, t in zip(SERVO_IDS, DriverBench.HOME, strict=True)
            if i not in silent
        }
        readings = {i: Reading(i, d, ServoError(0), self.now_ns) for i, d in data.items()}
        self.core.observe(readings, self.now_ns)
        self.core.tick(self.now_ns)
        self.look()

    def heat(self, temperature_c: int, voltage_v: float) -> None:
        for _ in range(self.dice.choice([5, 150])):
            self.now_ns += 100_000_000
            self.core._torque.health.observe(1, temperature_c, voltage_v, self.now_ns)
            self.stream(1)
        self.core._torque.health.observe(1, 40.0, 12.0, self.now_ns)

    def send(self, away_rad: float = 0.0, sources: int = 1) -> None:
        ros_ns = self.now_ns + OFFSET_NS
        goal = DriverBench.CALIBRATION.ticks_to_rad(DriverBench.HOME) + away_rad
        command = Command(JOINT_NAMES, ros_ns, tuple(goal.tolist()))
        self.core.command(command, ros_ns, self.now_ns, sources)
        self.look()

    def stream(self, cycles: int) -> None:
        for _ in range(cycles):
            self.send()
            self.cycle()

    def happen(self) -> None:
        dice = self.dice
        for _ in range(dice.choice([0, 1, 3, 30])):
            self.cycle()
        self.stream(dice.choice([0, 1, 20]))
        match dice.randrange(14):
            case 0 | 1 if self.core.fault is not None or self.core.limp():
                self.start()
            case 2:
                self.send(away_rad=0.5)
            case 3:
                self.send(sources=2)
            case 4:
                self.core.estop(self.now_ns)
            case 5 | 6:
                self.core.safety(dice.choice(list(SafetyPhase)))
            case 7:
                self.core.release(1.0, self.now_ns)
                for _ in range(dice.choice([1, 120])):
                    self.cycle()
                self.core.check_states(
                    dict(zip(SERVO_IDS, self.servos([False] * 6), strict=True))
                    if self.core.torque.value == "off"
                    else {}
                )
            case 8 if dice.random() < 0.3:
                for _ in range(5):
                    self.cycle(silent=(3,))
            case 9 if dice.random() < 0.3:
                for _ in range(25):
                    self.cycle(silent=SERVO_IDS)
            case 10 if dice.random() < 0.3:
                self.core.check_states({2: ServoState(False, 0, 1000, 0)})
            case 11 if dice.random() < 0.5:
                self.core.lose_port(port_lost("gone"))
                self.look()
                self.stream(dice.choice([0, 3]))
                if dice.random() < 0.2:
                    self.core.set_fault(Reason(ReasonCode.SETUP_FAILED, "made up"))
                self.core.regain_port(self.found()[0], self.now_ns)
            case 12 if dice.random() < 0.5:
                self.heat(dice.choice([40, 62, 69]), dice.choice([5.0, 3.9, 12.0]))
            case _:
                pass
        self.look()


def test_random_events_make_no_change_outside_the_table():
    seen: set[Change] = set()
    for seed in range(30):
        bench = Bench(random.Random(seed))
        for _ in range(60):
            bench.happen()
        seen |= bench.seen
    assert [change for change in sorted(seen, key=str) if not driver_allowed(*change)] == []
    assert len(seen) > 25


def test_every_code_of_the_driver_is_in_the_table():
    assert {code for row in DRIVER_TRANSITIONS for code in row.codes} == set(ReasonCode)
