"""The cameras: are there any, may we, and do they show anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from so101_driver.camera_devices import CameraDevice, describe_modes
from so101_driver.camera_health import Finding
from so101_driver.camera_preview import Preview
from so101_driver.errors import UserError
from so101_driver.port_users import port_users

from wallx_bringup.doctor.report import Check, failed, passed, skipped, warned

_SLOW_SHARE = 0.8
"""A camera that gives less than this of its rate lacks light (long exposure) or bandwidth."""

Look = Callable[[str], Preview]


def check_cameras(
    devices: Sequence[CameraDevice],
    named: Sequence[str],
    look: Look,
    proc: Path = Path("/proc"),
) -> list[Check]:
    """Check every camera, or those that were named.

    Args:
        devices: Every camera of this machine.
        named: Devices, videos or folders to check instead.
        look: Takes pictures.
        proc: Where processes are listed.
    """
    if named:
        return [_check_named(name, devices, look, proc) for name in named]
    if not devices:
        return [
            skipped(
                "cameras",
                "no camera is plugged in.",
                "an arm moves without; policies that look need theirs: see docs/cameras.md.",
            )
        ]
    return [_check_device(device, look, proc) for device in devices]


def _check_named(name: str, devices: Sequence[CameraDevice], look: Look, proc: Path) -> Check:
    for device in devices:
        if name == device.path or name in device.links:
            return _check_device(device, look, proc)
    return _look_at(f"camera {name}", name, look, proc)


def _check_device(device: CameraDevice, look: Look, proc: Path) -> Check:
    name = f"camera {device.path}"
    if device.problem:
        return failed(name, f"{device.problem}.", "`wallx find-cameras` lists them again.")
    if device.modes and not any(mode.fourcc == "MJPG" for mode in device.modes):
        return warned(
            name,
            f"{device.name} does not offer MJPG, only {describe_modes(device.modes, most=3)}.",
            "one such camera fills a USB 2 bus: give each its own controller.",
        )
    return _look_at(name, device.path, look, proc, device.name)


def _look_at(name: str, source: str, look: Look, proc: Path, title: str = "") -> Check:
    users = port_users(source, proc) if source.startswith("/dev/") else []
    if users:
        return skipped(name, f"in use by {', '.join(map(str, users))}, so not opened.")
    try:
        shown = look(source)
    except UserError as error:
        return failed(name, str(error), "`wallx find-cameras` lists the cameras.")
    if shown.problem or shown.description is None:
        return failed(
            name, shown.problem, "unplug it and plug it in again, at another USB port if it stays."
        )
    d = shown.description
    facts = f"{d.width}x{d.height} {d.fourcc} at {d.rate_hz:g} Hz"
    if title:
        facts = f"{title}, {facts}"
    if shown.finding is not Finding.GOOD:
        state, _, fix = shown.finding.value.partition(": ")
        return warned(name, f"the picture is {state} ({facts}).", f"{fix}." if fix else "")
    if shown.rate_hz is not None and shown.rate_hz < _SLOW_SHARE * d.rate_hz:
        return warned(
            name,
            f"{facts}, but only {shown.rate_hz:.1f} pictures per second come.",
            "add light (a long exposure slows it down) or use a USB port of its own.",
        )
    return passed(name, f"{facts}, the picture is good.")
