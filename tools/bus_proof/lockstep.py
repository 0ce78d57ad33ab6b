"""The real bus and driver loop against the simulated arm, in simulated time and one thread.

What the loop sees of the operating system (clock, port, waiting, threads) is replaced by the
simulation; the loop, the bus, the core and the plant are the real ones. A run depends on nothing
but its arguments.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from so101_driver.arm_driver import Answer, ArmDriver
from so101_driver.calibration import Calibration
from so101_driver.driver import DriverCore
from so101_driver.driver_types import Command, DriverConfig, DriverSnapshot, JointSample
from so101_driver.joints import JOINT_NAMES, data_path
from so101_driver.safety.limits import Limits
from so101_driver.sim.arm_simulation import ArmSimulation

from bus_proof.set_up import RAISED_RAD, set_up_servos
from bus_proof.wire import Wire
from so101_driver import arm_driver, bus

PORT = "/dev/ttySimulated"
BEGIN_NS = 1_000_000_000_000
ROS_OFFSET_NS = 10**18
COMMAND_PERIOD_NS = 10_000_000
_FIRST_DESCRIPTOR = 10_000


class Stop(BaseException):
    """The scenario is over; ends the driver's loop."""


class Lockstep:
    """An arm in mid-air, its servos set up and holding, and the driver that takes it over.

    Args:
        wanted: Called for each command of the 100 Hz source with the seconds since it began;
            returns six positions, or None for no command.
        seed: Of the simulation and of the faults.
        start_rad: Where the arm stands.

    Attributes:
        arm: The simulation.
        wire: The line, where faults are set.
        truth: (time in ns, true joint positions, positions that the encoders show) after every
            physics step.
        tip_m: Height of the true tip after every physics step.
        samples: (time in ns, measurement) of every cycle.
        snapshots: (time in ns, state of the driver) after every cycle.
        refusals: (time in ns, reason or None) of every command.
        revived: (time in ns, servo id) when a servo that had lost its supply got torque again.
    """

    def __init__(
        self,
        wanted: Callable[[float], np.ndarray | None],
        seed: int = 0,
        start_rad: tuple[float, ...] = RAISED_RAD,
    ) -> None:
        self.arm = ArmSimulation(seed=seed, start_rad=start_rad)
        set_up_servos(self.arm)
        self._begin_steps_s = self.arm.now_s
        self.now_ns = BEGIN_NS
        self.wire = Wire(self.arm, self.advance, lambda: self.now_ns, seed)
        self.truth: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.tip_m: list[float] = []
        self.samples: list[tuple[int, JointSample | None]] = []
        self.snapshots: list[tuple[int, DriverSnapshot]] = []
        self.refusals: list[tuple[int, Any]] = []
        self.lost: list[str] = []
        self.revived: list[tuple[int, int]] = []
        self._unpowered: set[int] = set()
        self.wanted = wanted
        self.source_begin_ns = BEGIN_NS
        self._command_ns = BEGIN_NS
        self._events: list[tuple[int, Callable[[], None]]] = []
        self._end_ns = BEGIN_NS
        self._descriptors: dict[int, int] = {}
        self._record()
        self.calibration = Calibration.load(data_path("sim_calibration.json"))
        self.limits = Limits.from_file(data_path("so101_limits.yaml"), "demo")
        self.driver: ArmDriver | None = None

    # Time.

    def advance(self, until_ns: int) -> None:
        """Let time pass; the physics keeps up."""
        while True:
            step_ns = BEGIN_NS + round(
                (self.arm.now_s - self._begin_steps_s + self.arm.timestep_s) * 1e9
            )
            if step_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, step_ns)
            self.wire.update()
            self.arm.step()
            self._record()
        self.now_ns = max(self.now_ns, until_ns)
        self.wire.update()

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something at a time, seconds after the beginning."""
        self._events.append((BEGIN_NS + round(seconds * 1e9), action))
        self._events.sort(key=lambda event: event[0])

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return (self.now_ns - BEGIN_NS) * 1e-9

    # Running.

    def run(self, seconds: float) -> None:
        """Start the driver and let its loop run until ``seconds`` after the beginning."""
        self._end_ns = BEGIN_NS + round(seconds * 1e9)
        with self._simulated():
            core = DriverCore(
                DriverConfig(
                    position_limits_rad=np.stack(
                        [self.limits.lower_rad, self.limits.upper_rad], axis=-1
                    ),
                    max_speed_rad_s=self.limits.velocity_rad_s,
                ),
                self.calibration,
            )
            self.driver = ArmDriver(
                bus.ServoBus(PORT), core, self.calibration, self._on_cycle, self.lost.append
            )
            self.driver.start()
            self._command_ns = self.source_begin_ns = self.now_ns
            loop = self.driver._thread.target
            with suppress(Stop):
                loop()

    def ask_for_torque(self) -> Future[Answer]:
        """Do what the service ``driver/set_torque`` does."""
        return self._ask(self.driver._give_torque)

    def ask_for_release(self, duration_s: float) -> Future[Answer]:
        """Do what ``driver/release`` does."""
        return self._ask(lambda: self.driver._release(duration_s))

    def _ask(self, work: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.driver._requests.put((work, future))
        return future

    def start_source_anew(self) -> None:
        """Let commands begin again, as safety does when it is armed."""
        self.source_begin_ns = self.now_ns

    def _record(self) -> None:
        shown = [servo.position_rad for servo in self.arm.servos.values()]
        true = np.array(self.arm.world.joint_positions_rad())
        self.truth.append((self.now_ns, true, np.array(shown)))
        self.tip_m.append(float(self.arm.tip_pose()[2, 3]))
        for servo_id, servo in self.arm.servos.items():
            if servo.faults.unpowered:
                self._unpowered.add(servo_id)
            elif servo_id in self._unpowered and servo.settings.enabled:
                self._unpowered.remove(servo_id)
                self.revived.append((self.now_ns, servo_id))

    def _on_cycle(self, sample: JointSample | None) -> None:
        self.samples.append((self.now_ns, sample))
        self.snapshots.append((self.now_ns, self.driver.snapshot()))
        self._between()

    def _between(self) -> None:
        """What happens beside the loop: events and commands that are due."""
        while self._events and self._events[0][0] <= self.now_ns:
            self._events.pop(0)[1]()
        if self._command_ns <= self.now_ns:
            while self._command_ns <= self.now_ns:
                self._command_ns += COMMAND_PERIOD_NS
            self._command()

    def _command(self) -> None:
        position = self.wanted((self.now_ns - self.source_begin_ns) * 1e-9)
        if position is None:
            return
        stamp_ns = self.now_ns + ROS_OFFSET_NS
        command = Command(JOINT_NAMES, stamp_ns, tuple(map(float, position)))
        try:
            result = self.driver.command(command, stamp_ns, 1)
        except bus.BusError:
            # The node counts it; the loop meets the same error.
            self.refusals.append((self.now_ns, "bus error"))
            return
        self.refusals.append((self.now_ns, result.refusal))

    # What the driver takes for the operating system.

    @contextmanager
    def _simulated(self) -> Iterator[None]:
        clock = _Overlay(
            time,
            monotonic=lambda: self.now_ns * 1e-9,
            monotonic_ns=lambda: self.now_ns,
            sleep=lambda seconds: self.advance(self.now_ns + round(seconds * 1e9)),
        )
        threads = _Overlay(
            threading, Thread=_StillThread, Event=lambda: _SimulatedEvent(self), Timer=None
        )
        system = _Overlay(
            os,
            read=lambda fd, _size: self.wire.read(self._generation(fd)),
            write=lambda fd, data: self.wire.write(self._generation(fd), bytes(data)),
            stat=self._stat,
            fstat=lambda fd: self._node(self._generation(fd)),
            path=_Overlay(os.path, exists=lambda _path: self.wire.plugged),
        )
        waiting = _Overlay(select, select=self._select)
        ports = _Overlay(bus.serial, Serial=self._open)
        with ExitStack() as patches:
            for module in _with_a_clock():
                patches.enter_context(mock.patch.object(module, "time", clock))
            for module, names in (
                (bus, {"os": system, "select": waiting, "serial": ports}),
                (arm_driver, {"threading": threads}),
            ):
                patches.enter_context(mock.patch.multiple(module, **names))
            yield

    def _generation(self, descriptor: int) -> int:
        return self._descriptors.get(descriptor, -1)

    def _select(self, reading: list[int], *_others: Any) -> tuple[list[int], list[int], list[int]]:
        ready = self.wire.wait(self._generation(reading[0]), _others[-1])
        return (reading if ready else []), [], []

    def _stat(self, *_arguments: Any, **_keys: Any) -> SimpleNamespace:
        if not self.wire.plugged:
            raise FileNotFoundError(2, "No such file or directory", PORT)
        return self._node(self.wire.generation)

    def _node(self, generation: int) -> SimpleNamespace:
        return SimpleNamespace(st_rdev=generation, st_ino=generation, st_dev=0, st_mode=0o20600)

    def _open(self, *_arguments: Any, **_keys: Any) -> SimpleNamespace:
        if not self.wire.plugged:
            raise bus.serial.SerialException(2, f"could not open port {PORT}")
        self.wire.opened += 1
        descriptor = _FIRST_DESCRIPTOR + self.wire.opened
        self._descriptors[descriptor] = self.wire.generation
        return SimpleNamespace(
            fileno=lambda: descriptor, close=lambda: self._descriptors.pop(descriptor, None)
        )

    def wait_in_loop(self, seconds: float) -> None:
        """Let the loop wait; commands and events come meanwhile."""
        end_ns = self.now_ns + round(seconds * 1e9)
        while True:
            self._between()
            if self.now_ns >= self._end_ns:
                raise Stop
            due_ns = min(end_ns, self._command_ns, self._events[0][0] if self._events else end_ns)
            if self.now_ns >= end_ns:
                return
            self.advance(max(due_ns, self.now_ns))


def _with_a_clock() -> list[Any]:
    """Modules of the driver that look at the clock."""
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("so101_driver.") and getattr(module, "time", None) is time
    ]


class _Overlay:
    """A module with some names replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _StillThread:
    """Keeps its target instead of running it."""

    def __init__(self, target: Callable[[], None], **_keys: Any) -> None:
        self.target = target

    def start(self) -> None:
        """Do nothing: the test calls the target."""

    def is_alive(self) -> bool:
        """Claim to run."""
        return True

    def join(self, _timeout_s: float | None = None) -> None:
        """Do nothing."""


class _SimulatedEvent:
    """An event that nobody sets; waiting for it lets simulated time pass."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep
        self._set = False

    def is_set(self) -> bool:
        """End the scenario when its time is over."""
        if self._lockstep.now_ns >= self._lockstep._end_ns:
            raise Stop
        return self._set

    def set(self) -> None:
        """Set it."""
        self._set = True

    def clear(self) -> None:
        """Clear it."""
        self._set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Let time pass."""
        self._lockstep.wait_in_loop(timeout_s or 0.0)
        return self._set
