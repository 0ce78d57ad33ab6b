"""Which serial ports there are, and which of them are USB adapters of servo buses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from so101_driver.errors import UserError

ADAPTERS: Mapping[str, str] = {
    "1a86:55d3": "CH343, the chip of the SO-101's bus adapter",
    "1a86:55d4": "CH9102, on some bus adapters",
    "1a86:55d2": "CH342, on some bus adapters",
    "1a86:7523": "CH340, on Feetech's FE-URT-1",
    "1a86:7522": "CH340, on some bus adapters",
    "10c4:ea60": "CP210x, on some bus adapters",
    "0403:6001": "FT232R, on some bus adapters",
    "0403:6014": "FT232H, on some bus adapters",
}
"""USB ids behind which a servo bus may be."""

_PREFIXES = ("ttyACM", "ttyUSB")


@dataclass(frozen=True, slots=True)
class SerialPort:
    """One serial port.

    Attributes:
        path: For example ``/dev/ttyACM0``; it may change when cables are plugged in another order.
        usb_id: Vendor and product, e.g. ``1a86:55d3``; empty if it is not on USB.
        product: What the device calls itself.
        serial: Its serial number, which tells two equal adapters apart; empty if it has none.
        links: Names that stay the same: by serial number, then by USB port.
    """

    path: str
    usb_id: str = ""
    product: str = ""
    serial: str = ""
    links: tuple[str, ...] = ()

    @property
    def adapter(self) -> str:
        """Which known adapter this is; empty if none."""
        return ADAPTERS.get(self.usb_id, "")

    @property
    def lasting_name(self) -> str:
        """The name to write down: a link that stays the same where there is one."""
        return self.links[0] if self.links else self.path


def list_ports(dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> tuple[SerialPort, ...]:
    """Return the USB serial ports, ordered by name and number."""
    tty = sys / "class" / "tty"
    names = []
    if tty.is_dir():
        names = [entry.name for entry in tty.iterdir() if entry.name.startswith(_PREFIXES)]
    return tuple(_port(name, dev, tty) for name in sorted(names, key=_number))


def find_port(name: str, dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> SerialPort | None:
    """Return what is known of a port given by any of its names; None if it is no USB port."""
    target = Path(name).resolve()
    for port in list_ports(dev, sys):
        if Path(port.path).resolve() == target:
            return port
    return None


def only_adapter(dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> SerialPort:
    """Return the one bus adapter that is plugged in.

    Raises:
        UserError: There is none, or more than one.
    """
    adapters = [port for port in list_ports(dev, sys) if port.adapter]
    if not adapters:
        raise UserError(
            "no bus adapter is plugged in: connect its USB cable, or name the port with --port."
        )
    if len(adapters) > 1:
        names = ", ".join(port.path for port in adapters)
        raise UserError(
            f"several adapters are plugged in ({names}): say which with --port; "
            "`wallx find-port --unplug` tells which is which."
        )
    return adapters[0]


def _port(name: str, dev: Path, tty: Path) -> SerialPort:
    path = dev / name
    device = _usb_device(tty / name / "device")
    links = tuple(
        str(link)
        for kind in ("by-id", "by-path")
        for link in sorted((dev / "serial" / kind).glob("*"))
        if link.resolve() == path.resolve()
    )
    if device is None:
        return SerialPort(str(path), links=links)
    return SerialPort(
        str(path),
        f"{_text(device / 'idVendor')}:{_text(device / 'idProduct')}".lower(),
        _text(device / "product"),
        _text(device / "serial"),
        links,
    )


def _usb_device(interface: Path) -> Path | None:
    """Return the USB device above an interface, which is the one that knows its ids."""
    try:
        folder = interface.resolve(strict=True)
    except OSError:
        return None
    for parent in (folder, *folder.parents):
        if (parent / "idVendor").is_file():
            return parent
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(name: str) -> tuple[str, int]:
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)
