"""The doctor's look at the port, on a made-up machine: every way in which a port can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from wallx_bringup.doctor.host import Host, Rights
from wallx_bringup.doctor.port_checks import PortState, check_port
from wallx_bringup.doctor.report import Check, Level


class Machine(Host):
    """A machine in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, {})
        object.__setattr__(self, "may_use", Rights(True, "dialout", True, True))
        for folder in ("dev", "proc", "sys/class/tty", "etc/udev/rules.d", "lib/udev/rules.d"):
            (root / folder).mkdir(parents=True)

    def rights(self, path: str) -> Rights:
        return self.may_use

    def plug(self, name: str = "ttyACM0", usb_id: str = "1a86:55d3") -> str:
        vendor, _, product = usb_id.partition(":")
        device = self.root / "sys/devices" / name
        device.mkdir(parents=True)
        (device / "idVendor").write_text(vendor)
        (device / "idProduct").write_text(product)
        (self.root / "sys/class/tty" / name).mkdir()
        (self.root / "sys/class/tty" / name / "device").symlink_to(device)
        (self.dev / name).touch()
        return str(self.dev / name)

    def run(self, pid: int, command: str, opens: str = "") -> None:
        process = self.proc / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "comm").write_text(Path(command).name[:15] + "\n")
        (process / "cmdline").write_bytes(command.encode() + b"\0")
        if opens:
            (process / "fd" / "7").symlink_to(opens)

    def rule(self, name: str, line: str, folder: str = "etc/udev/rules.d") -> None:
        (self.root / folder / name).write_text(f"# a comment about 1a86\n{line}\n")

    def check(self, wanted: str | None = None) -> tuple[PortState, dict[str, Check]]:
        state, checks = check_port(self, wanted)
        return state, {check.name: check for check in checks}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_good_port_passes_everything(machine: Machine) -> None:
    path = machine.plug()
    state, checks = machine.check()
    assert (state.path, state.usable) == (path, True)
    assert {check.level for check in checks.values()} == {Level.PASS}
    assert "CH343" in checks["port adapter"].text


def test_no_port_at_all_fails_with_what_to_do(machine: Machine) -> None:
    state, checks = machine.check()
    assert not state.path
    assert checks["port"].level is Level.FAIL
    assert "no bus adapter is plugged in" in checks["port"].text
    assert "brltty" not in checks["port"].fix


def test_brltty_is_suspected_of_a_missing_port_where_it_is_installed(machine: Machine) -> None:
    machine.rule("85-brltty.rules", 'ENV{PRODUCT}=="1a86/7523/*"', "lib/udev/rules.d")
    _, checks = machine.check()
    assert "sudo apt remove brltty" in checks["port"].fix


def test_a_port_that_does_not_exist_names_those_that_do(machine: Machine) -> None:
    there = machine.plug("ttyACM1")
    state, checks = machine.check("/dev/no_such_port")
    assert not state.usable
    assert checks["port"].level is Level.FAIL
    assert there in checks["port"].text


def test_two_adapters_must_be_told_apart_by_the_user(machine: Machine) -> None:
    machine.plug("ttyACM0")
    second = machine.plug("ttyACM1")
    assert machine.check()[1]["port"].level is Level.FAIL
    state, checks = machine.check(second)
    assert state.usable
    assert checks["port"].level is Level.PASS


def test_other_serial_devices_are_named_but_not_taken(machine: Machine) -> None:
    path = machine.plug("ttyACM0", "2341:0043")
    _, checks = machine.check()
    assert checks["port"].level is Level.FAIL
    assert "2341:0043" in checks["port"].text
    assert machine.check(path)[1]["port adapter"].level is Level.WARN


def test_a_forbidden_port_gets_the_group_and_a_udev_rule_to_copy(machine: Machine) -> None:
    machine.plug()
    object.__setattr__(machine, "may_use", Rights(False, "dialout", False, False))
    state, checks = machine.check()
    check = checks["port permission"]
    assert check.level is Level.FAIL
    assert not state.usable
    assert "usermod -aG dialout" in check.fix
    assert 'ATTRS{idVendor}=="1a86", ATTRS{idProduct}=="55d3"' in check.fix
    assert "sudo tee /etc/udev/rules.d/60-so101.rules" in check.fix


def test_the_rule_names_the_group_of_this_system(machine: Machine) -> None:
    machine.plug()
    object.__setattr__(machine, "may_use", Rights(False, "uucp", False, False))
    assert 'GROUP="uucp"' in machine.check()[1]["port permission"].fix


def test_who_joined_the_group_after_logging_in_is_told_to_log_in_again(machine: Machine) -> None:
    machine.plug()
    object.__setattr__(machine, "may_use", Rights(False, "uucp", False, True))
    check = machine.check()[1]["port permission"]
    assert check.level is Level.FAIL
    assert "log out and in again" in check.fix
    assert "usermod" not in check.fix


def test_another_program_on_the_port_fails_and_is_named(machine: Machine) -> None:
    path = machine.plug()
    machine.run(321, "/usr/bin/lerobot-teleoperate", opens=path)
    state, checks = machine.check()
    assert checks["port users"].level is Level.FAIL
    assert "lerobot-teleoperate (process 321)" in checks["port users"].text
    assert "support it" in checks["port users"].fix
    assert not state.usable
    assert not state.ours


def test_our_own_driver_may_have_the_port(machine: Machine) -> None:
    path = machine.plug()
    machine.run(5, "/opt/lib/so101_driver/driver_node", opens=path)
    state, checks = machine.check()
    assert checks["port users"].level is Level.PASS
    assert state.ours
    assert not state.usable, "a second program would spoil its packets"


def test_our_driver_beside_another_program_fails(machine: Machine) -> None:
    path = machine.plug()
    machine.run(5, "/opt/lib/so101_driver/driver_node", opens=path)
    machine.run(7, "/usr/bin/screen", opens=path)
    check = machine.check()[1]["port users"]
    assert check.level is Level.FAIL
    assert "kill 7" in check.fix
    assert "5" not in check.fix, "the arm would not be parked"


def test_two_drivers_on_one_port_fail(machine: Machine) -> None:
    path = machine.plug()
    for pid in (5, 6):
        machine.run(pid, "/opt/lib/so101_driver/driver_node", opens=path)
    check = machine.check()[1]["port users"]
    assert check.level is Level.FAIL
    assert "kill" not in check.fix


def test_modem_manager_that_runs_is_warned_of_unless_a_rule_keeps_it_off(machine: Machine) -> None:
    machine.plug()
    machine.run(9, "/usr/sbin/ModemManager")
    check = machine.check()[1]["port ModemManager"]
    assert check.level is Level.WARN
    assert 'ENV{ID_MM_DEVICE_IGNORE}="1"' in check.fix
    machine.rule("60-so101.rules", 'ATTR{idVendor}=="1a86", ENV{ID_MM_DEVICE_IGNORE}="1"')
    assert machine.check()[1]["port ModemManager"].level is Level.PASS


def test_a_rule_that_is_a_comment_keeps_nobody_off(machine: Machine) -> None:
    machine.plug()
    machine.run(9, "/usr/sbin/ModemManager")
    machine.rule("60-x.rules", '# ATTR{idVendor}=="1a86", ENV{ID_MM_DEVICE_IGNORE}="1"')
    assert machine.check()[1]["port ModemManager"].level is Level.WARN


def test_brltty_matters_only_where_it_claims_this_adapter(machine: Machine) -> None:
    machine.rule("85-brltty.rules", 'ENV{PRODUCT}=="1a86/7523/*"', "lib/udev/rules.d")
    machine.plug("ttyACM0", "1a86:55d3")
    assert machine.check()[1]["port brltty"].level is Level.PASS
    path = machine.plug("ttyUSB0", "1a86:7523")
    assert machine.check(path)[1]["port brltty"].level is Level.WARN


def test_a_port_that_is_not_on_usb_is_taken_for_a_virtual_arm(
    machine: Machine, tmp_path: Path
) -> None:
    link = tmp_path / "arm"
    link.touch()
    state, checks = machine.check(str(link))
    assert state.usable
    assert checks["port adapter"].level is Level.SKIP
    assert "port ModemManager" not in checks
