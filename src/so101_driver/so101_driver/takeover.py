"""Taking an arm over: at the start, on request, and after its port was lost and came back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from so101_driver import arm_setup
from so101_driver.bus import ServoBus
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_types import StartAction
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, servo_name


class Takeover:
    """The longer transactions with a whole arm; used by one thread at a time.

    Args:
        bus: Open bus.
        core: Told of what is found.
        calibration: Must be the one in the servos.
        lock: Guards the core.
        clock_ns: Steady time.
        allow_mixed_firmware: Whether servos may have different firmware.
    """

    def __init__(
        self,
        bus: ServoBus,
        core: DriverCore,
        calibration: Calibration,
        lock: threading.Lock,
        clock_ns: Callable[[], int],
        allow_mixed_firmware: bool = False,
    ) -> None:
        self._bus = bus
        self._core = core
        self._calibration = calibration
        self._lock = lock
        self._clock_ns = clock_ns
        self._allow_mixed_firmware = allow_mixed_firmware

    def begin(self) -> StartAction:
        """Check the servos, then adopt a standing arm, switch a limp one on, or leave it alone.

        Raises:
            UserError: Silent or foreign servos, another arm's calibration.
            BusError: A servo that answered before failed while being set up.
        """
        bus = self._bus
        self._check()
        standing = any(state.torque_enabled for state in arm_setup.read_states(bus))
        missing = arm_setup.differences(bus)
        if missing and not standing:
            arm_setup.apply(bus, missing)
        arm_setup.lock(bus)
        ratings = arm_setup.read_ratings(bus)
        states = arm_setup.read_states(bus)
        with self._lock:
            action = self._core.start(
                states,
                [servo.full_limit for servo in ratings],
                self._clock_ns(),
                [servo.overload for servo in ratings],
                [servo.health for servo in ratings],
                # Other gains would let a standing arm sag or jerk, and so would changing them.
                other_setting=str(missing[0]) if missing and standing else "",
            )
        if action is StartAction.GIVE_TORQUE:
            goals = arm_setup.give_torque(bus, self._calibration, states)
            with self._lock:
                self._core.torque_given(goals, self._clock_ns())
        return action

    def resume(self) -> bool:
        """Try to open a lost port anew and to take the arm back; returns whether that ended.

        It ends in holding, or in a fault where the arm is not as it was left; nothing is written.

        Raises:
            PortLostError: It was lost again meanwhile.
        """
        bus = self._bus
        try:
            bus.reopen()
        except UserError as error:
            self._wait(str(error).rstrip("."))
            return False
        found = bus.sync_read(STATE_ADDRESS, STATE_SIZE)
        silent = [servo_name(servo_id) for servo_id in SERVO_IDS if servo_id not in found]
        if silent:
            self._wait(f"the port {bus.port} is back, but {', '.join(silent)} is not: check cables")
            return False
        problem = None
        try:
            self._check()
        except UserError as error:
            problem = Reason(ReasonCode.SETUP_FAILED, str(error).rstrip("."))
        states = arm_setup.read_states(bus)
        with self._lock:
            self._core.regain_port(states, self._clock_ns(), problem)
        return True

    def _check(self) -> None:
        arm_setup.identify(self._bus, self._allow_mixed_firmware)
        arm_setup.check_calibration(self._bus, self._calibration)

    def _wait(self, sentence: str) -> None:
        with self._lock:
            self._core.lose_port(port_lost(sentence))
