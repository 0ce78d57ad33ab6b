"""What the doctor reads of the machine, from files laid out as on a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from wallx_bringup.doctor.host import Host


def test_udev_rules_come_without_comments_and_the_users_file_wins(tmp_path: Path) -> None:
    own, shipped = tmp_path / "etc/udev/rules.d", tmp_path / "usr/lib/udev/rules.d"
    own.mkdir(parents=True)
    shipped.mkdir(parents=True)
    (own / "85-brltty.rules").write_text("# switched off\n")
    (shipped / "85-brltty.rules").write_text('ENV{PRODUCT}=="1a86/7523/*"\n')
    (shipped / "60-more.rules").write_text('SUBSYSTEM=="tty", \\\n MODE="0660"\n')
    rules = Host(tmp_path, {}).udev_rules()
    assert [(path.name, line.split()) for path, line in rules] == [
        ("60-more.rules", ['SUBSYSTEM=="tty",', 'MODE="0660"'])
    ]


def test_processes_are_found_by_name(tmp_path: Path) -> None:
    for pid, name in (("1", "systemd"), ("20", "ModemManager"), ("self", "brltty")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_text(name + "\n")
    assert Host(tmp_path, {}).processes(("ModemManager", "brltty")) == ["ModemManager"]


@pytest.mark.parametrize(("capabilities", "limit"), [("0000000000800000", 99), ("0", None)])
def test_the_right_to_real_time_priority_may_come_from_a_capability(
    tmp_path: Path, monkeypatch, capabilities: str, limit: int | None
) -> None:
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text(f"Name:\tpython\nCapEff:\t{capabilities}\n")
    monkeypatch.setattr("resource.getrlimit", lambda _which: (0, 7))
    assert Host(tmp_path, {}).realtime_limit() == (limit or 7)


def test_commands_that_fail_or_do_not_exist_say_nothing() -> None:
    host = Host()
    assert host.command(("echo", "yes")) == "yes\n"
    assert host.command(("false",)) is None
    assert host.command(("printf", "\\377")) is None
    assert host.command(("no-such-program-here",)) is None


def test_the_rights_on_a_file_name_its_group(tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.touch()
    rights = Host().rights(str(path))
    assert rights.may_use
    assert rights.in_group is (path.stat().st_gid in (*os.getgroups(), os.getegid()))
    assert not Host().rights(str(tmp_path / "no")).may_use
