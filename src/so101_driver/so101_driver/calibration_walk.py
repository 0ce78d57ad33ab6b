"""Walks a user through calibrating an arm; nothing is written to the servos meanwhile.

What the servos report has their present offsets in it; these are taken out by calculation, so an
arm that is abandoned half way is as it was, except that its torque is off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live

from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import JointCalibration
from so101_driver.calibration_dialog import Answers
from so101_driver.calibration_files import ArmKind
from so101_driver.calibration_report import DEGREE, MIDDLE_POSE, sweep_table
from so101_driver.calibration_servos import ServoCalibration, read_actual, release, standing
from so101_driver.calibration_sweep import (
    FULL_TURN_JOINT,
    Finding,
    StillPose,
    Sweep,
    expected_travel,
    homing_offset,
)
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_ID_OF
from so101_driver.readings import servo_name

_SAMPLES = 15
_PERIOD_S = 0.008
_SILENT_S = 1.0
_DRAW_EVERY_S = 0.1


class Cancelled(Exception):
    """The user does not want to go on."""


class Walk:
    """One calibration, from holding the arm to its numbers.

    Args:
        bus: The arm's servos, all known to answer.
        kind: Follower or leader.
        held: What the servos hold; only their offsets matter.
        answers: What the user says.
        console: Where to draw.
        assume_yes: Do not wait for someone to hold a standing arm.
        accept_unusual: Take travels that no other arm has.
        sleep: Waits between two readings.
    """

    def __init__(
        self,
        bus: ServoBus,
        kind: ArmKind,
        held: Mapping[str, ServoCalibration],
        answers: Answers,
        console: Console,
        *,
        assume_yes: bool = False,
        accept_unusual: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bus = bus
        self._kind = kind
        self._answers = answers
        self._console = console
        self._assume_yes = assume_yes
        self._accept_unusual = accept_unusual
        self._sleep = sleep
        self._offsets = {name: servo.homing_offset for name, servo in held.items()}
        self._heard_s: dict[str, float] = {}

    def run(self) -> dict[str, JointCalibration]:
        """Walk through it and return the calibration.

        Raises:
            UserError: A servo fell silent, or the answers ended.
            Cancelled: The user typed ``q``.
        """
        release_arm(self._bus, self._answers, self._console, self._assume_yes)
        while True:
            sweep = self._sweep(self._middle_pose())
            if sweep is not None:
                return sweep.joints()

    def _middle_pose(self) -> Mapping[str, int]:
        self._console.print("\nMiddle pose", style="bold")
        self._console.print(MIDDLE_POSE)
        while True:
            self._ask("Hold the arm there, still, and press Enter:")
            pose = StillPose.of(self._samples())
            beyond = [name for name in JOINT_NAMES if homing_offset(pose.actual[name]) is None]
            if pose.moving:
                self._say(f"{', '.join(pose.moving)} moved while the pose was read.")
            elif beyond:
                self._say(
                    f"The offset of {', '.join(beyond)} would be 2048, one more than a servo can "
                    "hold: turn the joint by a hair."
                )
            else:
                return pose.actual

    def _samples(self) -> list[Mapping[str, int]]:
        samples = []
        while len(samples) < _SAMPLES:
            readings = self._read()
            if len(readings) == len(JOINT_NAMES):
                samples.append(readings)
            self._sleep(_PERIOD_S)
        return samples

    def _sweep(self, mid: Mapping[str, int]) -> Sweep | None:
        """Return the sweep, or None when the middle pose must be taken again."""
        self._console.print("\nSweep", style="bold")
        self._console.print(
            "Move each joint slowly by hand from stop to stop, one after the other, in any order "
            f"({FULL_TURN_JOINT} has no stops: leave it alone)."
        )
        sweep = Sweep(mid)
        while True:
            self._follow(sweep)
            findings = sweep.findings(self._kind)
            if wrapped := _with(findings, Finding.WRAPPED):
                self._say(
                    f"{wrapped} passed the end of its encoder (0/4095), because it was too far "
                    "from the middle of its travel in the middle pose: take the pose again."
                )
                return None
            if still := _with(findings, Finding.NOT_MOVED):
                self._say(f"Not swept from stop to stop: {still}. Go on.")
                continue
            unusual = {
                name: finding
                for name, finding in findings.items()
                if finding in (Finding.TOO_SHORT, Finding.TOO_LONG)
            }
            if not unusual or self._keeps(sweep, unusual):
                return sweep

    def _keeps(self, sweep: Sweep, unusual: Mapping[str, Finding]) -> bool:
        for name, finding in unusual.items():
            expected = expected_travel(name, self._kind)
            if expected is None:
                continue
            why = (
                "did it reach both stops?"
                if finding is Finding.TOO_SHORT
                else "is its stop missing or the joint modified?"
            )
            self._say(
                f"{name} travelled {sweep.travel(name) * DEGREE:.0f}°, other arms "
                f"{expected[0] * DEGREE:.0f} to {expected[1] * DEGREE:.0f}°: {why}"
            )
        if self._accept_unusual:
            return True
        return self._ask("Press Enter to go on sweeping, or type keep to use it:") == "keep"

    def _follow(self, sweep: Sweep) -> None:
        """Record positions until a line is entered."""
        self._console.print("Press Enter when all of them are done.")
        drawn_s = 0.0
        with (
            self._answers.quiet(),
            Live(console=self._console, auto_refresh=False, transient=True) as live,
        ):
            while (line := self._answers.poll()) is None:
                sweep.add(self._read())
                now_s = time.monotonic()
                if self._console.is_terminal and now_s - drawn_s >= _DRAW_EVERY_S:
                    drawn_s = now_s
                    live.update(sweep_table(sweep, self._kind), refresh=True)
                self._sleep(_PERIOD_S)
            sweep.add(self._read())
        self._console.print(sweep_table(sweep, self._kind))
        _cancel_on_q(line)

    def _read(self) -> dict[str, int]:
        readings = read_actual(self._bus, self._offsets)
        now_s = time.monotonic()
        for name in JOINT_NAMES:
            heard_s = self._heard_s.setdefault(name, now_s)
            if name in readings:
                self._heard_s[name] = now_s
            elif now_s - heard_s > _SILENT_S:
                raise UserError(
                    f"{servo_name(SERVO_ID_OF[name])} has stopped answering: check the cable that "
                    "leads there and the arm's power, and start again."
                )
        return readings

    def _ask(self, question: str) -> str:
        answer = self._answers.ask(question).lower()
        # Nobody was asked anything meanwhile.
        self._heard_s.clear()
        _cancel_on_q(answer)
        return answer

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow")


def release_arm(bus: ServoBus, answers: Answers, console: Console, assume_yes: bool) -> None:
    """Switch the torque off, after a warning to whoever must hold the arm."""
    holding = standing(bus)
    if holding:
        console.print(
            "The arm is holding itself up and drops when its torque goes off.", style="bold yellow"
        )
        if not assume_yes:
            _cancel_on_q(answers.ask("Hold it with one hand and press Enter:").lower())
    try:
        release(bus)
    except BusError as error:
        raise UserError(
            f"the torque could not be switched off ({error}): hold the arm and switch its power "
            "off and on."
        ) from error
    console.print("The torque is off: the arm moves freely.")


def _with(findings: Mapping[str, Finding], wanted: Finding) -> str:
    return ", ".join(name for name, finding in findings.items() if finding is wanted)


def _cancel_on_q(answer: str) -> None:
    if answer.strip().lower() in ("q", "quit"):
        raise Cancelled
