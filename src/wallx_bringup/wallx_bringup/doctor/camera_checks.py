"""The cameras: are there any, may we, and do they show anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from so101_driver.camera_devices import CameraDevice, describe_modes
from so101_driver.camera_health import Finding
from so101_driver.camera_preview import Preview
from so101_driver.errors import UserError
from so101_driver.port_users import port_users

from wallx_bringup.doctor.report import Check, failed, passed, skipped, warned

_NAME = "camera"
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
                _NAME,
                "no camera is plugged in.",
                "an arm moves without; policies that look need theirs: see docs/cameras.md.",
            )
        ]
    return [_check_device(device, look, proc) for device in devices]


def _check_named(name: str, devices: Sequence[CameraDevice], look: Look, proc: Path) -> Check:
    for device in devices:
        if name == device.path or name in device.links:
            return _check_device(device, look, proc)
    return _look_at(name, look, proc)


def _check_device(device: CameraDevice, look: Look, proc: Path) -> Check:
    if device.problem:
        return failed(_NAME, f"{device.problem}.", "then `wallx find-cameras` lists it in full.")
    if device.modes and not any(mode.fourcc == "MJPG" for mode in device.modes):
        return warned(
            _NAME,
            f"{device.path} ({device.name}) does not offer MJPG, only "
            f"{describe_modes(device.modes, most=3)}.",
            "one such camera fills a USB 2 bus: give each its own controller.",
        )
    return _look_at(device.path, look, proc, device.name)


def _look_at(source: str, look: Look, proc: Path, title: str = "") -> Check:
    named = f"{source} ({title})" if title else source
    users = port_users(source, proc) if source.startswith("/dev/") else []
    if users:
        return skipped(_NAME, f"{named} is in use by {', '.join(map(str, users))}: not opened.")
    try:
        shown = look(source)
    except UserError as error:
        return failed(_NAME, _sentence(str(error)), "`wallx find-cameras` lists the cameras.")
    if shown.problem or shown.description is None:
        fix = "unplug it and plug it in again, at another USB port if it stays so."
        if not os.path.exists(source):
            fix = "plug it in; `wallx find-cameras` lists the cameras."
        return failed(_NAME, _sentence(shown.problem), fix)
    d = shown.description
    facts = f"{named} gives {d.width}x{d.height} {d.fourcc} at {d.rate_hz:g} Hz"
    if shown.finding is not Finding.GOOD:
        state, _, fix = shown.finding.value.partition(": ")
        text = f"{facts}, but the picture is {state}."
        if shown.finding in (Finding.DARK, Finding.OVEREXPOSED):
            return warned(_NAME, text, f"{fix}.")
        return failed(_NAME, text, f"{fix}.")
    if shown.rate_hz is not None and shown.rate_hz < _SLOW_SHARE * d.rate_hz:
        return warned(
            _NAME,
            f"{facts}, but only {shown.rate_hz:.1f} pictures per second come.",
            "add light (a long exposure slows it down) or use a USB port of its own.",
        )
    return passed(_NAME, f"{facts}, the picture is good.")


def _sentence(text: str) -> str:
    """Return a source's sentence without the word that names the check already."""
    return text.removeprefix("camera ")
