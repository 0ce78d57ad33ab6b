"""``wallx find-cameras``: which cameras there are and what they see."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from so101_driver.camera_devices import CameraDevice, describe_modes, list_cameras
from so101_driver.camera_preview import Preview, contact_sheet, preview
from so101_driver.camera_source import SourceSettings
from so101_driver.errors import UserError
from so101_driver.port_users import port_users

_SHEET = "cameras.png"

Look = Callable[[str, SourceSettings | None], Preview]


def run(options: argparse.Namespace) -> int:
    """List the cameras, look through each and save what is seen; returns the exit status."""
    settings = _settings(options.size, options.rate)
    devices = () if options.sources else list_cameras()
    names = options.sources or [device.path for device in devices]
    if not names:
        print(
            "no camera: plug one in; if it is plugged in, see whether `sudo dmesg` names it, and "
            "try another cable or port. Without a camera, give a video or a folder of pictures."
        )
        return 1
    return show(names, devices, settings, None if options.no_pictures else options.out)


def show(
    names: Sequence[str],
    devices: Sequence[CameraDevice],
    settings: SourceSettings,
    out: Path | None,
    look: Look = preview,
) -> int:
    """Print every camera and save its picture; returns 0 if each shows something.

    Args:
        names: Devices, videos and folders.
        devices: What is known of the devices.
        settings: What to ask of them.
        out: Folder for the pictures; None opens nothing.
        look: Takes the pictures.
    """
    if out is not None:
        _make_folder(out)
    known = {device.path: device for device in devices}
    seen: list[tuple[Preview, str]] = []
    failed = False
    for number, name in enumerate(names):
        device = known.get(name)
        print(f"{name}{f'  {device.name}' if device and device.name else ''}")
        if device is not None:
            _print_device(device)
            failed |= bool(device.problem)
        if out is None or (device is not None and device.problem):
            continue
        users = port_users(name) if name.startswith("/dev/") else []
        if users:
            shown = Preview(name, problem=f"in use by {', '.join(map(str, users))}; not opened")
        else:
            shown = look(name, settings)
        failed |= not shown.good
        _print_preview(shown)
        if shown.bgr is not None:
            path = out / f"{number}_{_file_name(name)}.jpg"
            _save(path, shown.bgr)
            print(f"    picture: {path}", flush=True)
        seen.append((shown, name if device is None else f"{name}  {device.name}"))
    if out is not None and any(shown.bgr is not None for shown, _ in seen):
        _save(out / _SHEET, contact_sheet(seen))
        print(f"all pictures: {out / _SHEET}")
    if good := [shown.name for shown, _ in seen if shown.good]:
        print("give cameras to the graph by names that last (by-id or by-path), for example:")
        print(f"  wallx up face_camera:={_lasting(good[0], known)}")
    return 1 if failed else 0


def _print_device(device: CameraDevice) -> None:
    for link in device.links:
        print(f"    also {link}")
    if device.problem:
        print(f"    {device.problem}")
    elif device.modes:
        print(f"    offers {describe_modes(device.modes)}")
        if not any(mode.fourcc == "MJPG" for mode in device.modes):
            print("    does not offer MJPG: two such cameras need separate USB controllers")


def _print_preview(shown: Preview) -> None:
    if shown.description is not None:
        d = shown.description
        measured = "" if shown.rate_hz is None else f" ({shown.rate_hz:.1f} measured)"
        print(f"    gives {d.width}x{d.height} {d.fourcc} at {d.rate_hz:g} Hz{measured}")
        for note in d.notes:
            print(f"    note: {note}")
    if shown.problem:
        print(f"    {shown.problem}")
    else:
        print(f"    the picture is {shown.finding.value}")


def _lasting(name: str, known: dict[str, CameraDevice]) -> str:
    device = known.get(name)
    return device.links[0] if device is not None and device.links else name


def _settings(size: str, rate_hz: float) -> SourceSettings:
    width = height = 0
    if size:
        match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", size)
        if match is None:
            raise UserError(f"--size must be like 640x480, not '{size}'.")
        width, height = int(match[1]), int(match[2])
    if not 0 <= rate_hz <= 1000:
        raise UserError(f"--rate must be from 0 (the default) to 1000 Hz, not {rate_hz:g}.")
    return SourceSettings(width=width, height=height, rate_hz=rate_hz)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {out} ({error.strerror}): give another with --out."
        ) from error


def _save(path: Path, bgr: NDArray[np.uint8]) -> None:
    _, data = cv2.imencode(path.suffix, bgr)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): give another folder with --out."
        ) from error


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem or "camera")
