"""A hand that calibrates an arm: it answers the program's questions and moves virtual servos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from so101_driver.bus import ServoBus
from so101_driver.calibrate import run
from so101_driver.calibration_servos import ServoCalibration, read_servos
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.sim import IdealArm, VirtualBus
from so101_driver.sim.virtual_servo import IdealServo, TickScale

from so101_driver import registers as reg

TRAVEL = dict(zip(JOINT_NAMES, (2500, 2360, 2200, 2208, 4096, 1485), strict=True))
"""Between the stops, in ticks."""
RAD_PER_STEP = 2 * np.pi / 4096


class MountedServo(IdealServo):
    """Its position is an angle from the middle of the joint's travel; its encoder wraps."""

    def present_ticks(self) -> int:
        """Return its reading."""
        return super().present_ticks() % 4096


class Hand:
    """Answers the program's questions, and moves the arm before it does.

    Attributes:
        pose: Where it holds each joint as the middle pose, in ticks from the middle of the travel.
        answers: What it says to every question, in order; "" is Enter.
        sweeps: For each sweep, by joint, the ends as shares of half the travel.
        before: Called with the question before it is answered.
        while_sweeping: Called with the number of the step.
    """

    def __init__(
        self,
        servos: Mapping[int, IdealServo],
        answers: Sequence[str] = ("", "y"),
        sweeps: Sequence[Mapping[str, tuple[float, float]]] | None = None,
    ) -> None:
        self.servos = servos
        self.answers = list(answers)
        self.sweeps = list(sweeps or [dict.fromkeys(JOINT_NAMES, (-1, 1))])
        self.pose = dict.fromkeys(JOINT_NAMES, 0)
        self.questions: list[str] = []
        self.before: Callable[[str], object] = lambda _question: None
        self.while_sweeping: Callable[[int], object] = lambda _step: None
        self._moves: Iterator[tuple[str, int]] | None = None
        self._step = 0

    def put(self, name: str, ticks: int) -> None:
        """Turn a joint."""
        self.servos[JOINT_NAMES.index(name) + 1].position_rad = ticks * RAD_PER_STEP

    def ask(self, question: str) -> str:
        """Answer a question."""
        self.questions.append(question)
        self.before(question)
        if "still" in question:
            for name, ticks in self.pose.items():
                self.put(name, ticks)
        if not self.answers:
            raise UserError("the script ended before the last question was answered.")
        return self.answers.pop(0)

    def poll(self) -> str | None:
        """Move on by a step; Enter at the end of a sweep."""
        if self._moves is None:
            self._moves = self.path()
        self.while_sweeping(self._step)
        self._step += 1
        move = next(self._moves, None)
        if move is None:
            self._moves = None
            return ""
        self.put(*move)
        return None

    def path(self) -> Iterator[tuple[str, int]]:
        """Return the places of the next sweep."""
        for name, (low, high) in (self.sweeps.pop(0) if self.sweeps else {}).items():
            half = TRAVEL[name] // 2
            start = self.pose[name]
            places = [low * half, high * half] if name != "wrist_roll" else [-900, 900]
            for begin, end in ((start, places[0]), (places[0], places[1]), (places[1], start)):
                steps = max(2, round(abs(end - begin) / 700))
                for share in np.linspace(0, 1, steps + 1)[1:]:
                    yield name, round(begin + share * (end - begin))
                # A hand rests at the stops.
                yield name, end
                yield name, end

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """Type nothing that would show."""
        return contextlib.nullcontext()


def mounted_arm(
    middles: Sequence[int], offsets: Sequence[int] = (0,) * 6, torque: bool = False
) -> IdealArm:
    """Return six servos whose middles lie at given encoder readings, with given offsets in them."""
    arm = IdealArm()
    for servo_id, middle, offset in zip(SERVO_IDS, middles, offsets, strict=True):
        arm.servos[servo_id] = MountedServo(
            servo_id,
            scale=TickScale(zero_tick=middle),
            registers={reg.HOMING_OFFSET: offset},
        )
        if torque:
            arm.servos[servo_id].memory.put(reg.TORQUE_ENABLE, 1)
    return arm


def eeprom(bus: VirtualBus) -> dict[str, ServoCalibration]:
    """Return what the servos hold."""
    with ServoBus(bus.port) as opened:
        return read_servos(opened)


def calibrate(bus: VirtualBus, hand: Hand, *words: str, name: str = "arm") -> int:
    """Run the program with a hand at the arm; returns its exit status."""
    return run(["--port", bus.port, "--name", name, *words], hand)
