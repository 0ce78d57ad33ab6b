"""A virtual bus in a process of its own: a client's CPU time, memory and threads are its own then.

As a program it serves until its input ends, taking one JSON command per line; ``BusProcess`` starts
it and talks to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from so101_driver.joints import SERVO_IDS
from so101_driver.sim import Fault, VirtualBus
from so101_driver.sim.virtual_servo import VirtualServo

from so101_driver import registers as reg

_MS_PER_TURN = 4096


class ClockServo(VirtualServo):
    """Its position is the time in ms at which it was read, modulo a turn: values tell their age."""

    def read(self, address: int, size: int) -> bytes:
        """Return registers; the position is the clock's."""
        self.memory.put(reg.PRESENT_POSITION, clock_ticks())
        return self.memory.read(address, size)


def clock_ticks() -> int:
    """Return the time as a ClockServo shows it; the clock is the same in all processes."""
    return time.monotonic_ns() // 1_000_000 % _MS_PER_TURN


def age_ms(ticks: int, at_ticks: int) -> int:
    """Return how much older a position is than a time, up to one turn of 4 s."""
    return (at_ticks - ticks) % _MS_PER_TURN


class ClockArm:
    """Six clock servos."""

    def __init__(self) -> None:
        # Replies at once, as drivers set it: the factory waits half a millisecond.
        registers = {reg.RETURN_DELAY: 0}
        self.servos = {i: ClockServo(i, registers=registers) for i in SERVO_IDS}
        self.lock = threading.Lock()

    @property
    def now_s(self) -> float:
        """The same clock."""
        return time.monotonic()

    def set_stuck(self, servo_id: int, stuck: bool) -> None:
        """Hold a joint; these have none."""
        self.servos[servo_id].stuck = stuck


class BusProcess:
    """Starts a virtual bus in another process; a context manager.

    Args:
        arm: ``clock`` for servos that show the time, ``plant`` for the simulated arm in real time.
        link: Where the port is linked, if it shall survive being unplugged.

    Attributes:
        port: What a client opens.
    """

    def __init__(self, arm: str, link: Path | None = None) -> None:
        command = [sys.executable, "-m", "bus_proof.bus_process", "--arm", arm]
        if link is not None:
            command += ["--link", str(link)]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port: str = self._answer()["port"]

    def inject(self, **fault: Any) -> None:
        """Begin a fault, given as in a fault script."""
        self._ask("inject", fault=fault)

    def clear(self) -> None:
        """End all faults."""
        self._ask("clear")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Mapping[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the virtual bus has ended")
        return json.loads(line)


def main() -> int:
    """Serve one bus."""
    parser = argparse.ArgumentParser(description="A virtual bus for benchmarks and long runs.")
    parser.add_argument("--arm", choices=("clock", "plant"), required=True)
    parser.add_argument("--link", type=Path)
    options = parser.parse_args()
    runner = None
    if options.arm == "plant":
        from so101_driver.sim.arm_simulation import ArmSimulation
        from so101_driver.sim.realtime import RealTimeRunner

        from bus_proof.set_up import RAISED_RAD, set_up_servos

        arm: Any = ArmSimulation(start_rad=RAISED_RAD)
        set_up_servos(arm)
        runner = RealTimeRunner(arm)
        runner.start()
    else:
        arm = ClockArm()
    with VirtualBus(arm, link=options.link) as bus:
        _say({"port": str(options.link or bus.port)})
        for line in sys.stdin:
            _say(_obey(bus, json.loads(line)))
    if runner is not None:
        runner.stop()
    return 0


def _obey(bus: VirtualBus, command: Mapping[str, Any]) -> Mapping[str, Any]:
    match command["do"]:
        case "inject":
            bus.inject(Fault.from_mapping(command["fault"]))
            return {}
        case "clear":
            bus.clear()
            return {}
    raise ValueError(f"unknown command {command['do']}")


def _say(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
