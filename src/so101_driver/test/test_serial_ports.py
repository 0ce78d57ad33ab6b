"""Ports are told apart by USB ids and lasting links, read from a made-up /sys and /dev."""

from __future__ import annotations

from pathlib import Path

import pytest
from so101_driver.errors import UserError
from so101_driver.serial_ports import SerialPort, find_port, list_ports, only_adapter


def plug(root: Path, name: str, usb_id: str, product: str = "", serial: str = "") -> None:
    """Make a USB serial port as the kernel shows it."""
    vendor, _, number = usb_id.partition(":")
    device = root / "sys/devices/usb1" / f"1-{name}"
    interface = device / f"1-{name}:1.0"
    interface.mkdir(parents=True)
    for file, text in (
        ("idVendor", vendor),
        ("idProduct", number),
        ("product", product),
        ("serial", serial),
    ):
        if text:
            (device / file).write_text(text + "\n")
    tty = root / "sys/class/tty" / name
    tty.mkdir(parents=True)
    (tty / "device").symlink_to(interface)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / name).touch()
    if serial:
        link = root / "dev/serial/by-id" / f"usb-{serial}-if00"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(root / "dev" / name)


def listed(root: Path) -> tuple[SerialPort, ...]:
    return list_ports(root / "dev", root / "sys")


def test_a_port_is_known_by_its_ids_and_its_lasting_link(tmp_path: Path) -> None:
    plug(tmp_path, "ttyACM0", "1a86:55d3", "USB Single Serial", "5A46085")
    (port,) = listed(tmp_path)
    assert port.path == str(tmp_path / "dev/ttyACM0")
    assert (port.usb_id, port.product, port.serial) == ("1a86:55d3", "USB Single Serial", "5A46085")
    assert "CH343" in port.adapter
    assert port.lasting_name == str(tmp_path / "dev/serial/by-id/usb-5A46085-if00")


def test_ports_come_by_number_and_others_than_usb_ones_not_at_all(tmp_path: Path) -> None:
    for number in (10, 2):
        plug(tmp_path, f"ttyACM{number}", "1a86:55d3")
    (tmp_path / "sys/class/tty/ttyS0").mkdir()
    assert [Path(port.path).name for port in listed(tmp_path)] == ["ttyACM2", "ttyACM10"]


def test_a_port_without_links_is_named_by_its_path(tmp_path: Path) -> None:
    plug(tmp_path, "ttyUSB0", "dead:beef")
    (port,) = listed(tmp_path)
    assert port.adapter == ""
    assert port.lasting_name == port.path


def test_a_port_is_found_under_its_link_too(tmp_path: Path) -> None:
    plug(tmp_path, "ttyACM0", "1a86:55d3", serial="77")
    dev, sys = tmp_path / "dev", tmp_path / "sys"
    found = find_port(str(dev / "serial/by-id/usb-77-if00"), dev, sys)
    assert found is not None
    assert found.path == str(dev / "ttyACM0")
    assert find_port("/dev/null", dev, sys) is None


def test_the_only_adapter_is_taken_and_several_are_named(tmp_path: Path) -> None:
    dev, sys = tmp_path / "dev", tmp_path / "sys"
    with pytest.raises(UserError, match="no bus adapter is plugged in"):
        only_adapter(dev, sys)
    plug(tmp_path, "ttyUSB0", "2341:0043", "Arduino Uno")
    plug(tmp_path, "ttyACM0", "1a86:55d3")
    assert only_adapter(dev, sys).path == str(dev / "ttyACM0")
    plug(tmp_path, "ttyACM1", "1a86:55d3")
    with pytest.raises(UserError, match=r"ttyACM0, .*ttyACM1.*find-port --unplug"):
        only_adapter(dev, sys)
