"""The virtual arm as a program of its own: any SO-101 program can open its port."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from so101_driver.sim.chains import FactoryServos
from so101_driver.sim.faults import Fault, FaultScript
from so101_driver.sim.hands import Hand, RecordedHand, SineHand, StillHand
from so101_driver.sim.leader_arm import LeaderArm
from so101_driver.sim.loading import import_physics
from so101_driver.sim.parts import FOLLOWER_7V4, FOLLOWER_12V
from so101_driver.sim.realtime import RealTimeRunner
from so101_driver.sim.virtual_bus import VirtualBus

PROGRAM = "virtual_bus"
_GIL_INTERVAL_S = 0.0005
_LOOK_S = 0.1
_DESCRIPTION = """\
Runs a virtual SO-101 arm on a pseudo-terminal. Open the port it prints, or the link, with any
SO-101 program as if it were /dev/ttyACM0. Ctrl-C ends it and removes the link.
"""
_EPILOGUE = """\
examples:
  virtual_bus --link /tmp/so101/follower
  virtual_bus --leader --motion sine --link /tmp/so101/leader
  virtual_bus --faults faults.yaml --seed 3
  virtual_bus --factory 6              six fresh servos with id 1, connected one at a time

console (--console, and always with --factory), one line each on standard input:
  fault: mute, servo: 4, for_s: 2      lets something go wrong now
  clear                                ends all faults
  status                               prints what is wrong at the moment
  (an empty line)                      with --factory: connects the next servo instead
  connect 1 2 3                        with --factory: connects exactly these

docs/virtual-arm.md says what is modelled and lists the faults.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--link", metavar="PATH", help="make a link to the port at this path")
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="LeRobot calibration JSON that the servos hold (default: one that ships with us)",
    )
    parser.add_argument("--faults", metavar="FILE", help="YAML file of what goes wrong, and when")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of everything random (default: the file's, or 0)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--leader", action="store_true", help="a leader arm that a hand moves")
    kind.add_argument(
        "--factory",
        type=int,
        nargs="?",
        const=1,
        metavar="COUNT",
        help="servos fresh from the factory, all with id 1, the first one connected (default: 1)",
    )
    parser.add_argument(
        "--motion",
        metavar="FILE|sine|still",
        help="with --leader: what the hand does; FILE is a CSV of t_s and six joints in rad",
    )
    parser.add_argument(
        "--servos",
        choices=("12V", "7.4V"),
        help="servos of the follower and their supply (default: 12V)",
    )
    parser.add_argument(
        "--no-wire-timing",
        action="store_true",
        help="answer at once instead of after the time that the bytes take",
    )
    parser.add_argument("--console", action="store_true", help="take lines of standard input")
    return parser


def build(options: argparse.Namespace) -> tuple[Any, VirtualBus, RealTimeRunner | None]:
    """Make what the options ask for.

    Raises:
        UserError: They make no sense, or a file is wrong.
    """
    if options.motion is not None and not options.leader:
        raise UserError("--motion moves a leader arm: give --leader too.")
    if options.factory is not None and options.calibration:
        raise UserError("--calibration: servos fresh from the factory have none; leave it out.")
    if options.servos is not None and (options.leader or options.factory is not None):
        raise UserError("--servos chooses a follower's: leave it out.")
    if options.seed is not None and options.seed < 0:
        raise UserError("--seed: give a whole number from 0 on.")
    script = FaultScript(seed=options.seed or 0)
    if options.faults:
        script = FaultScript.from_file(options.faults, options.seed)
    calibration = Calibration.load(options.calibration or data_path("sim_calibration.json"))
    arm: Any
    if options.factory is not None:
        if not 1 <= options.factory <= 20:
            raise UserError("--factory: give a count from 1 to 20.")
        arm, runner = FactoryServos(options.factory), None
    elif options.leader:
        arm = LeaderArm(
            calibration=calibration, hand=_hand(options.motion or "still"), seed=script.seed
        )
        runner = RealTimeRunner(arm)
    else:
        part = FOLLOWER_7V4 if options.servos == "7.4V" else FOLLOWER_12V
        arm = import_physics().ArmSimulation(script.seed, calibration=calibration, part=part)
        runner = RealTimeRunner(arm)
    link = Path(options.link).expanduser() if options.link else None
    bus = VirtualBus(arm, wire_timing=not options.no_wire_timing, faults=script, link=link)
    return arm, bus, runner


def _hand(motion: str) -> Hand:
    if motion == "sine":
        return SineHand()
    return StillHand() if motion == "still" else RecordedHand.from_file(motion)


class Console:
    """Carries out the lines that a user types, or a program sends."""

    def __init__(self, arm: Any, bus: VirtualBus) -> None:
        self._arm = arm
        self._bus = bus

    def carry_out(self, line: str) -> str:
        """Carry out one line; returns what to print.

        Raises:
            UserError: It is none of the lines of ``--help``.
        """
        words = line.split()
        fresh = isinstance(self._arm, FactoryServos)
        if not words:
            return self._connect_next() if fresh else ""
        if words == ["clear"]:
            self._bus.clear()
            return "no faults"
        if words == ["status"]:
            return self._status()
        if fresh and words[0] == "connect":
            return self._connect(words[1:])
        fault = Fault.from_text(line)
        self._bus.inject(fault)
        return f"fault {fault.kind.value}"

    def _status(self) -> str:
        active = ", ".join(fault.kind.value for fault in self._bus.active_faults) or "none"
        return f"port: {self._bus.port or 'unplugged'}; faults: {active}"

    def _connect_next(self) -> str:
        connected = self._arm.connected
        return self._connect([str(max(connected, default=0) % len(self._arm.servos) + 1)])

    def _connect(self, words: Sequence[str]) -> str:
        if not all(word.isdigit() and int(word) in self._arm.servos for word in words):
            raise UserError(f"connect: give numbers from 1 to {len(self._arm.servos)}.")
        self._arm.connect(int(word) for word in words)
        ids = [f"{n} (id {self._arm.servos[n].bus_id})" for n in self._arm.connected]
        return f"connected: servo {', '.join(ids) or 'none'}"


def _converse(console: Console, stop: threading.Event, standard_input: int) -> None:
    """Carry out lines until their end, which is not the end of the arm, or until ``stop``."""
    rest = b""
    while not stop.is_set():
        if not select.select([standard_input], [], [], _LOOK_S)[0]:
            continue
        data = os.read(standard_input, 4096)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines if data else [rest]:
            try:
                answer = console.carry_out(line.decode(errors="replace")) if data or line else ""
            except UserError as error:
                print(f"{PROGRAM}: {error}", file=sys.stderr, flush=True)
            else:
                print(answer, end="\n" if answer else "", flush=True)
        if not data:
            return


def run(options: argparse.Namespace, stop: threading.Event, standard_input: int) -> None:
    """Answer until ``stop`` is set."""
    arm, bus, runner = build(options)
    console = Console(arm, bus)
    with contextlib.ExitStack() as stack:
        stack.callback(bus.close)
        if runner is not None:
            stack.enter_context(runner)
        bus.start()
        print(f"port: {bus.port}", flush=True)
        if bus.link is not None:
            print(f"link: {bus.link}", flush=True)
        if options.factory is not None:
            print(console.carry_out("connect 1"), flush=True)
        if options.console or options.factory is not None:
            _converse(console, stop, standard_input)
        stop.wait()
    struck = ", ".join(f"{kind.value} {count}" for kind, count in bus.fault_counts.items())
    print(f"{bus.goal_writes} goal writes; faults: {struck or 'none'}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; ends with status 0 on Ctrl-C or SIGTERM, 1 on bad input."""
    options = make_parser().parse_args(arguments)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    # The bus must answer while the physics computes (default: after 5 ms).
    sys.setswitchinterval(_GIL_INTERVAL_S)
    try:
        run(options, stop, sys.stdin.fileno())
    except UserError as error:
        sys.exit(f"{PROGRAM}: {error}")


if __name__ == "__main__":
    main()
