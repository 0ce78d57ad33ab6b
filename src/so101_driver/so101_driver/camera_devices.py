"""Which cameras the kernel knows, and which formats, sizes and rates each of them offers (V4L2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# Requests and structures of linux/videodev2.h; their sizes are part of the request numbers.
_QUERYCAP = 0x80685600
_ENUM_FMT = 0xC0405602
_ENUM_FRAMESIZES = 0xC02C564A
_ENUM_FRAMEINTERVALS = 0xC034564B
_CAPABILITY = struct.Struct("=16s32s32sIII3I")
_FORMAT = struct.Struct("=III32sII3I")
_SIZE = struct.Struct("=III6I2I")
_INTERVAL = struct.Struct("=IIIII6I2I")
_VIDEO_CAPTURE = 1
_BUFFER_TYPE_CAPTURE = 1
_HAS_DEVICE_CAPS = 0x80000000
_DISCRETE = 1
_MOST = 64
"""More formats, sizes or rates than any camera has, for drivers whose lists never end."""

Ioctl = Callable[[int, int, bytearray], object]


@dataclass(frozen=True, slots=True)
class Mode:
    """One size of one format.

    Attributes:
        fourcc: Four letters of the pixel format, e.g. ``MJPG``.
        width: In pixels.
        height: In pixels.
        rates_hz: Pictures per second it can be asked for, fastest first; empty if it does not say.
    """

    fourcc: str
    width: int
    height: int
    rates_hz: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """One device file that can capture pictures, or one that could not be asked.

    Attributes:
        path: For example ``/dev/video0``; it may change when cables are plugged in another order.
        name: What the camera calls itself.
        bus: Where it is plugged in.
        links: Names that stay the same: by serial number and by USB port.
        modes: What it offers, in the driver's order.
        problem: One sentence if it could not be asked, otherwise empty.
    """

    path: str
    name: str = ""
    bus: str = ""
    links: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ()
    problem: str = ""


def list_cameras(
    device_dir: Path = Path("/dev"), ioctl: Ioctl = fcntl.ioctl
) -> tuple[CameraDevice, ...]:
    """Return every camera, in the order of the device numbers.

    Device files that carry no pictures (a camera has one more for its metadata) are left out.
    """
    paths = [p for p in device_dir.glob("video*") if p.name.removeprefix("video").isdigit()]
    paths.sort(key=lambda path: int(path.name.removeprefix("video")))
    links = _stable_links(device_dir / "v4l")
    found = []
    for path in paths:
        device = probe(str(path), links.get(path.resolve(), ()), ioctl)
        if device is not None:
            found.append(device)
    return tuple(found)


def probe(
    path: str, links: tuple[str, ...] = (), ioctl: Ioctl = fcntl.ioctl
) -> CameraDevice | None:
    """Ask one device what it is and offers; None if it is no camera. It may be in use meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return CameraDevice(path, links=links, problem=_open_problem(path, error))
    try:
        data = bytearray(_CAPABILITY.size)
        ioctl(handle, _QUERYCAP, data)
        _driver, card, bus, _version, capabilities, own, *_ = _CAPABILITY.unpack(data)
        if not (own if capabilities & _HAS_DEVICE_CAPS else capabilities) & _VIDEO_CAPTURE:
            return None
        modes = tuple(
            Mode(fourcc_letters(code), width, height, _rates_hz(handle, ioctl, code, width, height))
            for code in _formats(handle, ioctl)
            for width, height in _sizes(handle, ioctl, code)
        )
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        return CameraDevice(path, links=links, problem=f"{path} cannot be asked: {error.strerror}")
    finally:
        os.close(handle)
    return CameraDevice(path, _text(card), _text(bus), links, modes)


def describe_modes(modes: Iterable[Mode], most: int = 8) -> str:
    """Return sizes and fastest rates by format, largest first, in one short line."""
    sizes: dict[str, list[Mode]] = {}
    for mode in modes:
        sizes.setdefault(mode.fourcc, []).append(mode)
    parts = []
    for fourcc, of_format in sizes.items():
        ordered = sorted(of_format, key=lambda m: m.width * m.height, reverse=True)
        names = [
            f"{m.width}x{m.height}" + (f"@{max(m.rates_hz):g}" if m.rates_hz else "")
            for m in ordered
        ]
        if len(names) > most:
            names = [*names[:most], "..."]
        parts.append(f"{fourcc} {', '.join(names)}")
    return "; ".join(parts)


def fourcc_letters(code: int) -> str:
    """Return the letters of a pixel format's number, e.g. ``MJPG``."""
    return struct.pack("<I", code & 0x7FFFFFFF).decode("ascii", errors="replace").rstrip("\0 ")


def _open_problem(path: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{path} may not be opened by you: join the group video (sudo usermod -aG video "
            "$USER, then log in again)"
        )
    return f"{path} cannot be opened: {error.strerror}"


def _formats(handle: int, ioctl: Ioctl) -> list[int]:
    codes = []
    for index in range(_MOST):
        data = bytearray(_FORMAT.pack(index, _BUFFER_TYPE_CAPTURE, 0, b"", 0, 0, 0, 0, 0))
        if not _asked(handle, ioctl, _ENUM_FMT, data):
            break
        codes.append(_FORMAT.unpack(data)[4])
    return codes


def _sizes(handle: int, ioctl: Ioctl, code: int) -> list[tuple[int, int]]:
    sizes = []
    for index in range(_MOST):
        data = bytearray(_SIZE.pack(index, code, *[0] * 9))
        if not _asked(handle, ioctl, _ENUM_FRAMESIZES, data):
            break
        _index, _code, kind, a, b, _step, _low, high, _rest, *_ = _SIZE.unpack(data)
        if kind != _DISCRETE:
            # Any size up to the largest, which is the second number of each range.
            return [(b, high)]
        sizes.append((a, b))
    return sizes


def _rates_hz(handle: int, ioctl: Ioctl, code: int, width: int, height: int) -> tuple[float, ...]:
    rates = []
    for index in range(_MOST):
        data = bytearray(_INTERVAL.pack(index, code, width, height, *[0] * 9))
        if not _asked(handle, ioctl, _ENUM_FRAMEINTERVALS, data):
            break
        _index, _code, _w, _h, kind, numerator, denominator, *_ = _INTERVAL.unpack(data)
        if numerator:
            # Of a range the first interval is the shortest one, hence the fastest rate.
            rates.append(denominator / numerator)
        if kind != _DISCRETE:
            break
    return tuple(sorted(set(rates), reverse=True))


def _asked(handle: int, ioctl: Ioctl, request: int, data: bytearray) -> bool:
    """Whether the device has an answer; EINVAL is how a list ends."""
    try:
        ioctl(handle, request, data)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def _stable_links(folder: Path) -> dict[Path, tuple[str, ...]]:
    links: dict[Path, list[str]] = {}
    for kind in ("by-id", "by-path"):
        for link in sorted((folder / kind).glob("*")):
            links.setdefault(link.resolve(), []).append(str(link))
    return {path: tuple(names) for path, names in links.items()}


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="replace").strip()
