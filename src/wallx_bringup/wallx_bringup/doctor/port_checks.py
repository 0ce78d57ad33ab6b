"""The serial port: is it there, is it an adapter, may we, who else wants it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from so101_driver.port_users import PortUser, port_users
from so101_driver.serial_ports import SerialPort, find_port, list_ports

from wallx_bringup.doctor.host import Host
from wallx_bringup.doctor.report import Check, Level, failed, passed, skipped, warned

OUR_NODES = ("driver_node", "teleop_node")
RULES_FILE = "/etc/udev/rules.d/60-so101.rules"


@dataclass(frozen=True, slots=True)
class PortState:
    """What is known of a port after its checks.

    Attributes:
        path: Empty if there is none.
        usable: Whether it may be opened now.
        users: Programs that have it open.
    """

    path: str = ""
    usable: bool = False
    users: tuple[PortUser, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether our own node has it."""
        return any(user.command in OUR_NODES for user in self.users)


def check_port(
    host: Host, wanted: str | None, label: str = "port"
) -> tuple[PortState, list[Check]]:
    """Check one port.

    Args:
        host: The machine.
        wanted: Its name; None for the only adapter there is.
        label: How the checks are called.
    """
    port, there = _find(host, wanted, label)
    checks = [there]
    if port is None:
        return PortState(), checks
    checks.append(_check_adapter(port, label))
    permission = _check_permission(host, port, label)
    checks.append(permission)
    users = tuple(port_users(port.path, host.proc))
    usable = permission.level is Level.PASS and not users
    state = PortState(port.path, usable, users)
    checks.append(_check_users(state, label))
    if port.usb_id:
        checks.append(_check_modem_manager(host, port, label))
        checks.append(_check_brltty(host, port, label))
    return state, checks


def _find(host: Host, wanted: str | None, label: str) -> tuple[SerialPort | None, Check]:
    ports = list_ports(host.dev, host.sys)
    adapters = [port for port in ports if port.adapter]
    if wanted is not None:
        if not os.path.exists(wanted):
            others = ", ".join(port.path for port in ports) or "none"
            return None, failed(
                label,
                f"{wanted} does not exist; the USB serial ports are: {others}.",
                "plug in the arm's USB cable, or give one of these with --port "
                "(`wallx find-port` says what answers on each).",
            )
        port = find_port(wanted, host.dev, host.sys) or SerialPort(wanted)
        return port, passed(label, f"{_named(port)} is there.")
    if len(adapters) == 1:
        return adapters[0], passed(label, f"{_named(adapters[0])} is there.")
    if adapters:
        names = ", ".join(port.path for port in adapters)
        return None, failed(
            label,
            f"several adapters are plugged in ({names}), and none was named.",
            "say which is the follower's with --port; `wallx find-port` says what answers on each.",
        )
    text = "no bus adapter is plugged in."
    if ports:
        others = ", ".join(f"{port.path} ({port.usb_id} {port.product})" for port in ports)
        text = f"no known bus adapter is plugged in; other serial ports: {others}."
    fix = (
        "plug in the arm's USB cable (some cables only charge: try another), or name the port with "
        "--port."
    )
    if _brltty_rules(host):
        fix += (
            " If it vanishes right after plugging in, brltty has taken it: sudo apt remove brltty."
        )
    return None, failed(label, text, fix)


def _named(port: SerialPort) -> str:
    return f"{port.path} ({port.links[0]})" if port.links else port.path


def _check_adapter(port: SerialPort, label: str) -> Check:
    name = f"{label} adapter"
    if port.adapter:
        return passed(name, f"{port.usb_id}, {port.adapter}.")
    if not port.usb_id:
        return skipped(name, f"{port.path} is not on USB: taken for a virtual arm.")
    return warned(
        name,
        f"{port.usb_id} ({port.product or 'unnamed'}) is no adapter known to drive a servo bus.",
        "check with `wallx find-port --unplug` that this is the arm's cable; bridges through a "
        "microcontroller are too slow (17 ms and more per reading).",
    )


def udev_rules(port: SerialPort, group: str = "dialout") -> str:
    """Return commands that let the user of the desktop use an adapter and keep others off it."""
    vendor, _, product = port.usb_id.partition(":")
    usb = f'ATTR{{idVendor}}=="{vendor}", ATTR{{idProduct}}=="{product}"'
    tty = f'ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}"'
    usb_rule = f'SUBSYSTEM=="usb", {usb}, ENV{{ID_MM_DEVICE_IGNORE}}="1"'
    tty_rule = f'SUBSYSTEM=="tty", {tty}, MODE="0660", GROUP="{group}", TAG+="uaccess"'
    # Lines that may be copied with the spaces before them, unlike a here-document.
    return "\n".join(
        (
            f"echo '{usb_rule}' | sudo tee {RULES_FILE}",
            f"echo '{tty_rule}' | sudo tee -a {RULES_FILE}",
            "sudo udevadm control --reload && sudo udevadm trigger",
        )
    )


def _check_permission(host: Host, port: SerialPort, label: str) -> Check:
    name = f"{label} permission"
    rights = host.rights(port.path)
    if rights.may_use:
        return passed(name, f"you may use {port.path}.")
    group = rights.group or "dialout"
    text = f"you may not use {port.path}, which belongs to the group {group}."
    if rights.listed and not rights.in_group:
        return failed(
            name,
            f"you are in the group {group}, but logged in before you joined it.",
            f"log out and in again (or, for one shell: newgrp {group}).",
        )
    fix = f"sudo usermod -aG {group} $USER, then log out and in again."
    if port.usb_id:
        fix += " Or, without logging out, a udev rule:\n" + udev_rules(port, group)
    return failed(name, text, fix)


def _check_users(state: PortState, label: str) -> Check:
    name = f"{label} users"
    if not state.users:
        return passed(name, "no other program has the port open (as far as you may see).")
    who = ", ".join(map(str, state.users))
    if state.ours and len(state.users) == 1:
        return passed(name, f"open in {who} of a running graph, as it should be.")
    kind = "another program has" if len(state.users) == 1 else "several programs have"
    # Our own driver is ended by ending its graph, which parks the arm first.
    pids = " ".join(str(user.pid) for user in state.users if user.command not in OUR_NODES)
    fix = f"end it: kill {pids}" if pids else "end one of the graphs with Ctrl-C."
    if any("lerobot" in user.command for user in state.users):
        fix = f"end LeRobot first (it lets the arm drop when it ends, so support it): kill {pids}"
    elif any(user.command == "ModemManager" for user in state.users):
        fix = "wait 30 s until ModemManager has given up, and keep it away with the rule below."
    return failed(name, f"{kind} the port open: {who}.", fix)


def _check_modem_manager(host: Host, port: SerialPort, label: str) -> Check:
    name = f"{label} ModemManager"
    if not host.processes(("ModemManager",)):
        return passed(name, "ModemManager does not run.")
    vendor = port.usb_id.partition(":")[0]
    kept_off = any(
        re.search(r"ID_MM_(DEVICE|PORT)_IGNORE", line) and vendor in line.lower()
        for _, line in host.udev_rules()
    )
    if kept_off:
        return passed(name, "ModemManager runs, and a udev rule keeps it off this adapter.")
    return warned(
        name,
        "ModemManager runs and may talk to the adapter for some seconds after it is plugged in.",
        "keep it off with a udev rule:\n" + udev_rules(port),
    )


def _check_brltty(host: Host, port: SerialPort, label: str) -> Check:
    name = f"{label} brltty"
    vendor, _, product = port.usb_id.partition(":")
    # Written as in the PRODUCT variable (no leading zeros), or as two attributes.
    product_rule = f"{vendor.lstrip('0')}/{product.lstrip('0')}/"
    taken = any(
        product_rule in line.lower() or (vendor in line.lower() and product in line.lower())
        for line in _brltty_rules(host)
    )
    if taken:
        return warned(
            name,
            "brltty (braille displays) claims adapters of this kind, which makes the port vanish.",
            "if you need no braille display: sudo apt remove brltty, then plug the arm in again.",
        )
    if host.processes(("brltty",)):
        return passed(name, "brltty runs but does not claim this kind of adapter.")
    return passed(name, "brltty does not claim this adapter.")


def _brltty_rules(host: Host) -> Sequence[str]:
    return [line for path, line in host.udev_rules() if "brltty" in path.name]
