"""Clock, ROS, room on the disk and real-time rights of this machine."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from so101_driver.errors import UserError

from wallx_bringup.command_line import find_executable
from wallx_bringup.doctor.host import Host
from wallx_bringup.doctor.report import Check, failed, passed, skipped, warned
from wallx_bringup.domain import DOMAINS

NEEDED = (
    ("so101_driver", "driver_node"),
    ("so101_driver", "safety_node"),
    ("wallx_policy", "policy_node"),
)
"""Executables without which nothing runs."""

RECORDING_BYTES_PER_H = 11e9
"""Two cameras of 640x480 MJPG at 30 Hz, about 50 kB each picture."""
_LEAST_BYTES = 1e9
_REALTIME_PRIORITY = 50
_OFFSET_S = 0.02


def check_clock(host: Host) -> Check:
    """Whether something keeps this machine's clock right."""
    name = "clock"
    tracking = host.command(("chronyc", "-n", "tracking"))
    if tracking is not None:
        return _from_chrony(name, tracking)
    properties = host.command(
        ("timedatectl", "show", "--property=NTPSynchronized", "--property=NTP")
    )
    if properties is None:
        return skipped(
            name,
            "neither chrony nor timedatectl answers here, so nobody knows.",
            "matters only if the policy runs on another machine: then install chrony on both.",
        )
    if "NTPSynchronized=yes" in properties:
        return passed(name, "synchronised with a time server (timedatectl).")
    return warned(
        name,
        "not synchronised with a time server (timedatectl).",
        "sudo timedatectl set-ntp true, or for two machines better: sudo apt install chrony.",
    )


def _from_chrony(name: str, tracking: str) -> Check:
    synchronised = re.search(r"Leap status\s*:\s*Normal", tracking) is not None
    offset = re.search(r"System time\s*:\s*([0-9.]+) seconds", tracking)
    if not synchronised:
        return warned(
            name,
            "chrony runs but is not synchronised.",
            "chronyc sources shows the servers; check the network or name a server of your own.",
        )
    if offset is not None and float(offset[1]) > _OFFSET_S:
        return warned(
            name,
            f"chrony is still {float(offset[1]) * 1e3:.0f} ms off.",
            "wait some minutes, or at once: sudo chronyc makestep",
        )
    within = f" within {float(offset[1]) * 1e3:.1f} ms" if offset is not None else ""
    return passed(name, f"synchronised by chrony{within}.")


def check_ros(
    host: Host,
    find: Callable[[str, str], object] | None = None,
    has_module: Callable[[str], bool] | None = None,
) -> list[Check]:
    """Check ROS: installed, built, and its variables.

    Args:
        host: The machine.
        find: Finds an executable of a package; UserError if it is not installed.
        has_module: Whether a Python module can be imported.
    """
    if find is None:

        def find(package: str, executable: str) -> object:
            return find_executable(package, executable, host.environ)

    has_module = has_module or _has_module
    return [_check_packages(find, has_module), _check_rmw(host, has_module), _check_domain(host)]


def _has_module(name: str) -> bool:
    # A name from an environment variable may be anything.
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _check_packages(find: Callable[[str, str], object], has_module: Callable[[str], bool]) -> Check:
    name = "ROS packages"
    missing = [module for module in ("rclpy", "wallx_msgs") if not has_module(module)]
    if missing:
        return failed(
            name,
            f"Python cannot import {' and '.join(missing)}.",
            "run `make setup`; with your own ROS: source its setup.bash, then build the workspace.",
        )
    for package, executable in NEEDED:
        try:
            find(package, executable)
        except UserError as error:
            return failed(name, str(error), "run `make build`.")
    return passed(name, f"rclpy, messages and {len(NEEDED)} nodes are installed.")


def _check_rmw(host: Host, has_module: Callable[[str], bool]) -> Check:
    name = "ROS middleware"
    rmw = host.environ.get("RMW_IMPLEMENTATION", "")
    if not rmw:
        return passed(name, "RMW_IMPLEMENTATION is not set: the default, rmw_fastrtps_cpp.")
    prefixes = [p for p in host.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    marks = [Path(p) / "share/ament_index/resource_index/rmw_typesupport" / rmw for p in prefixes]
    if has_module(rmw) or any(mark.exists() for mark in marks) or rmw == "rmw_fastrtps_cpp":
        return passed(name, f"{rmw}; it must be the same on every machine.")
    return failed(
        name,
        f"RMW_IMPLEMENTATION asks for {rmw}, which is not found here.",
        "unset RMW_IMPLEMENTATION, or install that package.",
    )


def _check_domain(host: Host) -> Check:
    name = "ROS domain"
    text = host.environ.get("ROS_DOMAIN_ID", "")
    local = host.environ.get("ROS_LOCALHOST_ONLY", "0") not in ("", "0") or (
        host.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() in ("LOCALHOST", "OFF")
    )
    reach = "this machine only (by its variables)" if local else "every machine of the network"
    if not text:
        return warned(
            name,
            f"ROS_DOMAIN_ID is not set: domain 0, as everybody's; reaches {reach}.",
            "on a shared network choose your own, e.g. export ROS_DOMAIN_ID=42, on all machines of "
            "this arm.",
        )
    if not (text.isascii() and text.isdigit()) or int(text) not in (0, *DOMAINS):
        return failed(
            name,
            f"ROS_DOMAIN_ID is '{text}', which is no domain.",
            f"export ROS_DOMAIN_ID=42 (0 to {DOMAINS[-1]}).",
        )
    return passed(name, f"{text}; reaches {reach}.")


def check_disk(host: Host, folder: Path) -> Check:
    """Whether there is room to record."""
    name = "disk"
    try:
        free = host.free_bytes(folder)
    except OSError as error:
        return failed(
            name,
            f"{folder} cannot be looked at ({error.strerror}).",
            "name an existing folder with --record-dir.",
        )
    if not host.may_write(folder):
        return failed(name, f"you may not write in {folder}.", "name another with --record-dir.")
    hours = free / RECORDING_BYTES_PER_H
    text = (
        f"{free / 1e9:.1f} GB free in {folder.absolute()}, about {hours:.1f} h of recording with "
        "two cameras."
    )
    if free < _LEAST_BYTES:
        return failed(name, text, "delete what you do not need, or record elsewhere.")
    if hours < 1.0:
        return warned(name, text, "make room before you record for long.")
    return passed(name, text)


def check_realtime(host: Host) -> Check:
    """Whether the control loop may have real-time priority."""
    name = "real time"
    limit = host.realtime_limit()
    if limit >= _REALTIME_PRIORITY:
        return passed(name, f"priorities up to {limit} may be asked for (realtime_priority).")
    return warned(
        name,
        "you may not ask for real-time priority; on a busy machine the 100 Hz loop will be late.",
        f"add these lines, then log out and in:\n"
        f'echo "$USER - rtprio {_REALTIME_PRIORITY}" | sudo tee -a /etc/security/limits.conf\n'
        f'echo "$USER - memlock unlimited" | sudo tee -a /etc/security/limits.conf',
    )
