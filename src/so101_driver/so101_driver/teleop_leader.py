"""The leader arm on its bus: checked, read, never moved.

A leader is an SO-101 with other gears (1/147 to 1/345) and six of the same servos. The encoder sits
behind the gears, so ticks turn into joint angles as the follower's do, by the leader's own
calibration; the trigger's calibrated range becomes 0..100 percent of the gripper. Nothing is ever
written to it.
"""

from __future__ import annotations

import numpy as np

from so101_driver import arm_setup
from so101_driver import registers as reg
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import JOINT_NAMES, SERVO_IDS
from so101_driver.protocol import ServoError
from so101_driver.readings import servo_name
from so101_driver.teleop_smoothing import HandFilter, Play
from so101_driver.teleop_types import LeaderSample

FASTEST_RAD_S = 30.0
"""No hand is faster (recorded ones peak at 16 rad/s); an encoder that passes its end is."""

MOST_JUMPS = 3
"""Consecutive impossible positions after which they are no single bad readings any more."""

_SIZES = (2, 4)
"""Bytes of position, and of position and velocity."""


class LeaderReader:
    """Checks and reads an open leader.

    Args:
        bus: Open bus of the leader.
        calibration: The leader's own.
        follower: The follower's calibration, to tell a swapped pair of ports.

    Attributes:
        jumps: Readings with an impossible position.
        incomplete: Readings in which a servo was missing.
        errors: Error bits of the newest reply of each servo, by id.

    Raises:
        UserError: Not a leader arm, or not this one.
    """

    def __init__(
        self, bus: ServoBus, calibration: Calibration, follower: Calibration | None
    ) -> None:
        self.jumps = 0
        self.incomplete = 0
        self.errors: dict[int, ServoError] = {}
        self._bus = bus
        self._calibration = calibration
        self._play = Play()
        self._filter = HandFilter()
        self._last: LeaderSample | None = None
        self._jumped = ""
        self._jumps_in_a_row = 0
        self._size = _SIZES[0]
        self._heard_ns: dict[int, int] = {}
        try:
            # Servos with other gears often have other firmware; reading them is the same.
            arm_setup.identify(bus, allow_mixed_firmware=True)
            _check_identity(bus, calibration, follower)
            _check_limp(bus)
        except BusError as error:
            raise UserError(f"{error}: check the leader's cables and its power supply.") from error

    def read(self) -> LeaderSample | None:
        """Read all joints once; None when a servo is missing or its position is impossible.

        Raises:
            PortLostError: The leader was unplugged.
        """
        readings = self._bus.sync_read(reg.PRESENT_POSITION.address, self._size)
        for servo_id, reading in readings.items():
            self._heard_ns[servo_id] = reading.stamp_ns
            self.errors[servo_id] = reading.error
        if len(readings) < len(SERVO_IDS):
            self.incomplete += 1
            # A reply that is only late has the wrong length for the next question.
            self._size = _SIZES[self._size == _SIZES[0]]
            return None
        ticks = np.array(
            [
                readings[servo_id].value(reg.PRESENT_POSITION, reg.PRESENT_POSITION.address)
                for servo_id in SERVO_IDS
            ],
            dtype=np.float64,
        )
        stamp_ns = min(reading.stamp_ns for reading in readings.values())
        sample = LeaderSample(stamp_ns, self._calibration.ticks_to_rad(self._play.update(ticks)))
        if not self._plausible(sample):
            return None
        return LeaderSample(stamp_ns, self._filter.update(sample.position_rad, stamp_ns))

    def silent(self, now_ns: int, longer_than_s: float) -> str:
        """Name the servos that have been silent for longer; empty when all answer."""
        silent = [
            servo_name(servo_id)
            for servo_id in SERVO_IDS
            if self.age_s(servo_id, now_ns) > longer_than_s
        ]
        return "all six servos" if len(silent) == len(SERVO_IDS) else " and ".join(silent)

    def age_s(self, servo_id: int, now_ns: int) -> float:
        """Age of a servo's newest reply; infinite before the first."""
        heard_ns = self._heard_ns.get(servo_id)
        return np.inf if heard_ns is None else (now_ns - heard_ns) * 1e-9

    def take_jump(self) -> str:
        """Name the joint that keeps reporting impossible motion, once; empty when there is none."""
        jumped, self._jumped = self._jumped, ""
        return jumped

    def _plausible(self, sample: LeaderSample) -> bool:
        """Whether a hand can have moved so since the last good reading."""
        last = self._last
        if last is not None:
            moved_rad = np.abs(sample.position_rad - last.position_rad)
            worst = int(moved_rad.argmax())
            seconds = (sample.stamp_ns - last.stamp_ns) * 1e-9
            if moved_rad[worst] > FASTEST_RAD_S * seconds:
                self.jumps += 1
                self._jumps_in_a_row += 1
                if self._jumps_in_a_row < MOST_JUMPS:
                    return False
                self._jumped = JOINT_NAMES[worst]
                self._filter = HandFilter()
        self._jumps_in_a_row = 0
        self._last = sample
        return True


def _check_identity(bus: ServoBus, calibration: Calibration, follower: Calibration | None) -> None:
    try:
        arm_setup.check_calibration(bus, calibration)
    except UserError:
        if follower is not None and _holds(bus, follower):
            raise UserError(
                f"the arm on {bus.port} is the follower, by the calibration in its servos: swap "
                "the ports of leader and follower."
            ) from None
        raise


def _holds(bus: ServoBus, calibration: Calibration) -> bool:
    try:
        arm_setup.check_calibration(bus, calibration)
    except UserError:
        return False
    return True


def _check_limp(bus: ServoBus) -> None:
    holding = [
        servo_name(servo_id) for servo_id in SERVO_IDS if bus.read(servo_id, reg.TORQUE_ENABLE)
    ]
    if holding:
        raise UserError(
            f"{holding[0]} on {bus.port} has its torque on, which nobody's hand can lead: if this "
            "is the follower, swap the ports; else end the program that holds the leader and "
            "switch its power off and on."
        )
