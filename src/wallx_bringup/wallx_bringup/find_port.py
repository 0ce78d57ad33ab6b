"""``wallx find-port``: which serial port is the arm's."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Callable, Sequence

from so101_driver.arm_identity import CalibrationFile, judge, read_files
from so101_driver.arm_inspection import ArmReport, inspect
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration_files import ArmKind, find_calibrations
from so101_driver.errors import UserError
from so101_driver.port_users import port_users
from so101_driver.registers import MODEL_NUMBER
from so101_driver.serial_ports import SerialPort, find_port, list_ports

from wallx_bringup.doctor.port_checks import OUR_NODES
from wallx_bringup.prompts import wait_for_enter

_UNPLUG_S = 3.0
"""The kernel needs a moment to drop a port whose cable was pulled."""
_LOOK_S = 0.2

_ASK = "wallx find-port"

ListPorts = Callable[[], tuple[SerialPort, ...]]


def run(options: argparse.Namespace) -> int:
    """List the ports, or find the one that is unplugged; returns the exit status."""

    def listed() -> tuple[SerialPort, ...]:
        return with_named(list_ports(), options.ports)

    if options.unplug:
        return find_unplugged(listed)
    for name in options.ports:
        if not os.path.exists(name):
            raise UserError(f"the port {name} does not exist: check its name and the USB cable.")
    return show_ports(listed(), options.ports)


def with_named(ports: Sequence[SerialPort], names: Sequence[str]) -> tuple[SerialPort, ...]:
    """Return ports and those of some names that exist besides, which may be virtual arms."""
    known = {os.path.realpath(port.path) for port in ports}
    more = []
    for name in names:
        if os.path.exists(name) and os.path.realpath(name) not in known:
            known.add(os.path.realpath(name))
            more.append(find_port(name) or SerialPort(name))
    return (*ports, *more)


def show_ports(ports: Sequence[SerialPort], named: Sequence[str] = ()) -> int:
    """Print each port and what answers there; returns 0 if an arm was found.

    Args:
        ports: What to list.
        named: Ports to ask whatever they are. Others are asked only if they are known adapters:
            opening its port resets many a device.
    """
    if not ports:
        print(
            "no USB serial port: plug in the arm's USB cable; if it is plugged in, try another "
            "cable (some only charge) and look at `sudo dmesg -w` while you plug it in."
        )
        return 1
    files = read_files((kind, path) for kind in ArmKind for path in find_calibrations(kind))
    meant = {os.path.realpath(name) for name in named}
    arms = 0
    for port in ports:
        print(f"{port.path}  {_what(port)}")
        for link in port.links:
            print(f"    also {link}")
        if port.adapter or os.path.realpath(port.path) in meant:
            answer, is_arm = ask(port.path, files)
        else:
            answer = f"not asked: no known bus adapter; to ask it: {_ASK} {port.path}"
            is_arm = False
        arms += is_arm
        print(f"    {answer}", flush=True)
    return 0 if arms else 1


def find_unplugged(listed: ListPorts, wait_s: float = _UNPLUG_S) -> int:
    """Ask to unplug the cable, and print which port has gone."""
    before = listed()
    if not before:
        raise UserError("there is no USB serial port to unplug: plug in the arm first.")
    print("Ports: " + ", ".join(port.path for port in before))
    wait_for_enter("Pull out the USB cable of the arm and press Enter:")
    gone: list[SerialPort] = []
    deadline_s = time.monotonic() + wait_s
    while not gone and time.monotonic() < deadline_s:
        there = {port.path for port in listed()}
        gone = [port for port in before if port.path not in there]
        if not gone:
            time.sleep(_LOOK_S)
    if not gone:
        raise UserError(
            "no port has gone: pull out the USB cable (not the power) of the arm you mean, and "
            "start again."
        )
    if len(gone) > 1:
        names = ", ".join(port.path for port in gone)
        raise UserError(f"several ports have gone ({names}): pull out one cable only, start again.")
    port = gone[0]
    print(f"The port is {port.path}")
    if port.links:
        print(f"Better give its lasting name: {port.lasting_name}")
    print("Plug the cable in again.")
    return 0


def ask(path: str, files: Sequence[CalibrationFile]) -> tuple[str, bool]:
    """Return a sentence about what answers on a port, and whether it is an SO-101."""
    users = port_users(path)
    if users:
        ours = any(user.command in OUR_NODES for user in users)
        return f"in use by {', '.join(map(str, users))}; not asked", ours
    if not os.access(path, os.R_OK | os.W_OK):
        return "not asked: you may not open it; `wallx doctor` says how to get permission", False
    try:
        with ServoBus(path) as bus:
            arm = inspect(bus)
    except (UserError, BusError) as error:
        return f"not asked: {error}", False
    return describe(path, arm, files), bool(arm.servos)


def describe(path: str, arm: ArmReport, files: Sequence[CalibrationFile]) -> str:
    """Say in one sentence what answers."""
    if not arm.servos:
        return (
            "nobody answers as an SO-101 at 1,000,000 baud (another device, no supply, or motors "
            "that `wallx setup-motors` has not set up)"
        )
    more = shlex.join(("wallx", "doctor", "--port", path))
    if strange := [servo for servo in arm.servos if servo.model != MODEL_NUMBER]:
        models = ", ".join(f"{servo.name} is model {servo.model}" for servo in strange)
        return f"no SO-101: {models}; `{more}` says more"
    if arm.silent:
        ids = ", ".join(str(servo.servo_id) for servo in arm.servos)
        return f"an incomplete SO-101: of ids 1 to 6 only {ids}; `{more}` says more"
    supply_v = sum(servo.voltage_v for servo in arm.servos) / len(arm.servos)
    identity = judge(arm, files)
    if identity.kind is None:
        kind = f"leader or follower is not known: {identity.because}"
    elif identity.certain:
        kind = f"the {identity.kind}: {identity.because}"
    else:
        kind = f"probably the {identity.kind}: {identity.because}"
    return f"SO-101, supply {supply_v:.1f} V, firmware {arm.servos[0].firmware}; {kind}"


def _what(port: SerialPort) -> str:
    if not port.usb_id:
        return "no USB port (a virtual arm?)" if "pts" in os.path.realpath(port.path) else "not USB"
    what = port.adapter or port.product or "unknown device"
    serial = f", serial number {port.serial}" if port.serial else ""
    return f"{port.usb_id}  {what}{serial}"
