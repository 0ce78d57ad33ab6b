"""The driver core on a real bus: a 100 Hz thread that reads and watches, commands that write.

No ROS here; the node passes messages in and publishes what comes out. A lost port does not end the
thread: it holds, tries to open the port again, and goes on with an arm that stands as it was left.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from so101_driver import registers as reg
from so101_driver.bus import UNICAST_DEADLINE_S, BusError, PortLostError, ServoBus
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_reasons import Reason, ReasonCode, port_lost
from so101_driver.driver_types import (
    Command,
    CommandResult,
    DriverSnapshot,
    JointSample,
    StartAction,
    TorquePhase,
    Write,
)
from so101_driver.errors import UserError
from so101_driver.estop_latch import SafetyPhase
from so101_driver.joints import SERVO_IDS
from so101_driver.period_statistics import PeriodStatistics
from so101_driver.protocol import ServoError
from so101_driver.readings import STATE_ADDRESS, STATE_SIZE, Reading, ServoState
from so101_driver.takeover import Takeover

PERIOD_NS = 10_000_000
_SWEEP_EVERY = 10
"""Every so many cycles the read brings all diagnostics, and the servos' state is checked."""
_MOTION_SIZE = 4
"""Present position and velocity."""
_SIZES = 5
"""Nothing in a reply says which question it answers. So after a missing reply the next reads are
longer by a byte, up to four: the missing one, should it come late, does not fit."""
_CYCLE_DEADLINE_S = 0.008
"""As long as the cycle allows: replies that are only a little late are still a measurement."""
_PATIENT_DEADLINE_S = 0.02
"""After a read that nobody answered: the machine or the adapter may be busy, and asking again
before the answer is there would only make it worthless. Costs cycles, not fresh values."""
_PATIENT_CYCLES = 20
_READ_AFTER_COMMAND_NS = 2_000_000
_PHASE_STEP_NS = 100_000
"""Reads move by this per cycle until they follow the commands."""
_STREAM_NS = 5 * PERIOD_NS
_REOPEN_EVERY = 50
"""Cycles between two attempts to open a lost port."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a request, with a sentence for the user."""

    success: bool
    message: str


class ArmDriver:
    """Runs a DriverCore against a ServoBus; usable from several threads.

    Args:
        bus: Open bus.
        core: Fresh core.
        calibration: The one that the core has.
        on_cycle: Called by the thread after every cycle, with the measurement or None.
        on_failure: Called by the thread, which then ends, when it fails (a bug).
        allow_mixed_firmware: Whether servos may have different firmware.

    Attributes:
        details: Newest diagnostics by servo id, blocks of 15 bytes from 56.
        missed_cycles: Cycles that were skipped because one before took too long.
        cycle_times: How long the transactions of a cycle took.
    """

    def __init__(
        self,
        bus: ServoBus,
        core: DriverCore,
        calibration: Calibration,
        on_cycle: Callable[[JointSample | None], None],
        on_failure: Callable[[str], None],
        allow_mixed_firmware: bool = False,
    ) -> None:
        self.details: dict[int, Reading] = {}
        self.missed_cycles = 0
        self._bus = bus
        self._core = core
        self._on_cycle = on_cycle
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._takeover = Takeover(
            bus, core, calibration, self._lock, lambda: time.monotonic_ns(), allow_mixed_firmware
        )
        self.cycle_times = PeriodStatistics(PERIOD_NS * 1e-9)
        self._errors: dict[int, ServoError] = {}
        self._extra_bytes = 0
        self._patience = 0
        self._port_lost = False
        self._command_ns = 0
        self._stop = threading.Event()
        self._requests: queue.SimpleQueue[tuple[Callable[[], Answer], Future[Answer]]] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="servo loop", daemon=True)

    # Life.

    def start(self) -> StartAction:
        """Take over the arm or switch it on, start the thread; raises as ``Takeover.begin``."""
        action = self._takeover.begin()
        # Voltages are looked at before the arm is armed, so they are there from the beginning.
        address, size = reg.DIAGNOSTICS_ADDRESS, reg.DIAGNOSTICS_SIZE
        self.details.update(self._bus.sync_read(address, size, UNICAST_DEADLINE_S))
        self._thread.start()
        return action

    def stop(self) -> None:
        """End the thread; the servos keep doing what they were told last."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    # From other threads.

    def command(self, command: Command, ros_now_ns: int, sources: int) -> CommandResult:
        """Judge a command and, if it is good, write its goals at once."""
        with self._lock:
            result = self._core.command(command, ros_now_ns, time.monotonic_ns(), sources)
            if result.write is not None:
                self._write(result.write)
                self._command_ns = time.monotonic_ns()
        return result

    def estop(self) -> None:
        """Take a pressed emergency stop."""
        with self._lock:
            self._core.estop(time.monotonic_ns())

    def safety(self, phase: SafetyPhase) -> None:
        """Take the safety layer's state."""
        with self._lock:
            self._core.safety(phase)

    def snapshot(self) -> DriverSnapshot:
        """Return the core's state."""
        with self._lock:
            return self._core.snapshot(time.monotonic_ns())

    def counters(self) -> Mapping[str, int]:
        """Return all counters; those of the bus are prefixed."""
        with self._lock:
            counters = Counter(self._core.counters)
        # Copied at once: the bus counts in other threads.
        bus_counters = dict(self._bus.counters)
        counters.update({f"bus_{name}": count for name, count in bus_counters.items()})
        counters["missed_cycles"] = self.missed_cycles
        return counters

    def take_errors(self) -> dict[int, ServoError]:
        """Return, by servo id, all error bits of the replies since this was called last."""
        errors, self._errors = self._errors, {}
        return errors

    @property
    def port_lost(self) -> bool:
        """Whether the port is gone at the moment."""
        return self._port_lost

    def commands_stopped(self) -> bool:
        """Return whether no acceptable command has come for a while."""
        with self._lock:
            return self._core.commands_stopped(time.monotonic_ns())

    def settled(self) -> bool:
        """Return whether torque is neither rising nor falling."""
        with self._lock:
            return self._core.settled()

    def estopped(self) -> bool:
        """Return whether an emergency stop is latched."""
        with self._lock:
            return self._core.estopped()

    def give_torque(self, timeout_s: float) -> Answer:
        """Switch a limp arm on where it is, or try to take it over again after a fault."""
        return self._ask(self._give_torque, timeout_s)

    def release(self, duration_s: float, timeout_s: float) -> Answer:
        """Let the arm go limp slowly."""
        return self._ask(lambda: self._release(duration_s), timeout_s)

    def _ask(self, work: Callable[[], Answer], timeout_s: float) -> Answer:
        """Have the thread do something between two cycles."""
        if not self._thread.is_alive():
            return Answer(False, "the driver is not running")
        future: Future[Answer] = Future()
        self._requests.put((work, future))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                return Answer(False, "the servo loop did not come to it in time; it is not done")
            return Answer(False, "the servos take long over it: see driver/status for what comes")

    # In the thread.

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            # A bug: end with a trace instead of leaving a driver that looks alive.
            traceback.print_exc()
            sentence = (
                f"the servo loop failed with {type(error).__name__}: {error}; restart the driver"
            )
            with self._lock:
                self._core.set_fault(Reason(ReasonCode.INTERNAL, sentence))
            self._on_failure(sentence)

    def _loop(self) -> None:
        due_ns = time.monotonic_ns()
        cycle = 0
        while not self._stop.is_set():
            sample = None
            try:
                if not self._port_lost:
                    sample = self._cycle(cycle)
                elif cycle % _REOPEN_EVERY == 0:
                    self._port_lost = not self._takeover.resume()
                self._serve_requests()
            except PortLostError as error:
                self._lose_port(error)
            except BusError:
                # A servo fell silent again while the arm was being taken back.
                self._bus.close()
            self._on_cycle(sample)
            cycle += 1
            due_ns += PERIOD_NS
            if time.monotonic_ns() - self._command_ns < _STREAM_NS:
                due_ns += phase_step_ns(due_ns, self._command_ns)
            late_ns = time.monotonic_ns() - due_ns
            if late_ns > 0:
                skipped = late_ns // PERIOD_NS
                self.missed_cycles += skipped
                due_ns += skipped * PERIOD_NS
            else:
                self._stop.wait(-late_ns * 1e-9)

    def _lose_port(self, error: PortLostError) -> None:
        self._port_lost = True
        self._bus.close()
        with self._lock:
            self._core.lose_port(port_lost(str(error)))

    def _cycle(self, cycle: int) -> JointSample | None:
        begin_ns = time.monotonic_ns()
        detailed = cycle % _SWEEP_EVERY == 0
        size = reg.DIAGNOSTICS_SIZE if detailed else _MOTION_SIZE + self._extra_bytes
        deadline_s = _PATIENT_DEADLINE_S if self._patience else _CYCLE_DEADLINE_S
        readings = self._bus.sync_read(reg.PRESENT_POSITION.address, size, deadline_s)
        self._patience = max(0, self._patience - 1) if readings else _PATIENT_CYCLES
        if not readings and self._bus.replaced():
            raise PortLostError(
                f"the port {self._bus.port} is gone, or leads to another device now: check the USB "
                "cable and power"
            )
        if detailed:
            self.details.update(readings)
        missing = len(readings) < len(SERVO_IDS)
        states: dict[int, Reading] = {}
        if cycle % _SWEEP_EVERY == _SWEEP_EVERY // 2 or not self._core.unverified.isdisjoint(
            readings
        ):
            size = STATE_SIZE + self._extra_bytes
            states = self._bus.sync_read(STATE_ADDRESS, size, deadline_s)
            missing = missing or len(states) < len(SERVO_IDS)
        if missing:
            self._extra_bytes = (self._extra_bytes + 1) % _SIZES
        for reading in (*readings.values(), *states.values()):
            if reading.error:
                self._errors[reading.servo_id] = (
                    self._errors.get(reading.servo_id, ServoError(0)) | reading.error
                )
        self.cycle_times.add(time.monotonic_ns() - begin_ns)
        with self._lock:
            now_ns = time.monotonic_ns()
            sample = self._core.observe(readings, now_ns)
            writes = self._core.check_states(
                {i: ServoState.from_reading(reading) for i, reading in states.items()}, now_ns
            )
            for write in (*writes, *self._core.tick(now_ns)):
                self._write(write)
        return sample

    def _serve_requests(self) -> None:
        while not self._requests.empty():
            work, future = self._requests.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except PortLostError as error:
                future.set_result(Answer(False, str(error)))
                raise
            except (BusError, UserError) as error:
                with self._lock:
                    self._core.set_fault(Reason(ReasonCode.SETUP_FAILED, str(error).rstrip(".")))
                future.set_result(Answer(False, str(error)))

    def _give_torque(self) -> Answer:
        if self._port_lost:
            return self._no_port()
        with self._lock:
            torque, fault = self._core.torque, self._core.fault
        if torque is TorquePhase.FALLING:
            return Answer(False, "the arm is being released: wait until its torque is off")
        if fault is None and torque is not TorquePhase.OFF:
            return Answer(True, "torque is on or rising already")
        action = self._takeover.begin()
        if action is StartAction.FAULT:
            fault = self._core.fault
            return Answer(False, fault.sentence if fault else "")
        return Answer(True, "torque is on" if action is StartAction.ADOPT else "torque is rising")

    def _no_port(self) -> Answer:
        return Answer(False, self.snapshot().reason.sentence)

    def _release(self, duration_s: float) -> Answer:
        if self._port_lost:
            return self._no_port()
        with self._lock:
            if self._core.torque is TorquePhase.OFF:
                return Answer(True, "torque is off already")
            self._core.release(duration_s, time.monotonic_ns())
        return Answer(True, f"torque falls to nothing within {duration_s:g} s: support the arm")

    def _write(self, write: Write) -> None:
        self._bus.sync_write(write.register, write.values)


def phase_step_ns(due_ns: int, command_ns: int) -> int:
    """Return by how much a read should move, so that reads come just after commands.

    A command that arrives while servos are answering has to wait for them; with both at 100 Hz and
    an unlucky phase that would be every command.

    Args:
        due_ns: When the next read is due.
        command_ns: When the last command was written.
    """
    early_ns = (command_ns + _READ_AFTER_COMMAND_NS - due_ns) % PERIOD_NS
    if early_ns > PERIOD_NS // 2:
        early_ns -= PERIOD_NS
    return max(-_PHASE_STEP_NS, min(_PHASE_STEP_NS, early_ns))
