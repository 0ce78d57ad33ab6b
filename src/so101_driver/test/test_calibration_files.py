"""A calibration looked for in the wrong folder, or lost while written, costs an afternoon."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest
from so101_driver.calibration_files import (
    ArmKind,
    backups,
    calibration_path,
    calibration_root,
    check_writable,
    find_calibrations,
    save,
)
from so101_driver.calibration_options import choose_path, parser
from so101_driver.errors import UserError


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_LEROBOT_CALIBRATION": "/c", "HF_LEROBOT_HOME": "/h"}, "/c"),
        ({"HF_LEROBOT_HOME": "/h", "HF_HOME": "/f"}, "/h/calibration"),
        ({"HF_HOME": "/f", "XDG_CACHE_HOME": "/x"}, "/f/lerobot/calibration"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/lerobot/calibration"),
        ({}, "~/.cache/huggingface/lerobot/calibration"),
        ({"HF_LEROBOT_CALIBRATION": ""}, "~/.cache/huggingface/lerobot/calibration"),
        ({"HF_LEROBOT_CALIBRATION": "~/c"}, "~/c"),
    ],
)
def test_root_is_where_lerobot_has_it(environment, expected):
    assert calibration_root(environment) == Path(expected).expanduser()


def test_all_folder_names_are_searched_the_present_first(tmp_path):
    environment = {"HF_LEROBOT_CALIBRATION": str(tmp_path)}
    assert find_calibrations("follower", environment) == []
    names = (
        "robots/so100_follower/z.json",
        "robots/so101_follower/b.json",
        "robots/so_follower/b.json",
        "robots/so_follower/a.json",
        "robots/koch_follower/k.json",
        "robots/so_follower/a.json.2026.bak",
        "robots/so_follower/notes.txt",
        "teleoperators/so101_leader/l.json",
        "teleoperators/so_leader/m.json",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not read")
    (tmp_path / "robots/so_follower/folder.json").mkdir()
    found = [
        path.relative_to(tmp_path).as_posix() for path in find_calibrations("follower", environment)
    ]
    assert found == [names[3], names[2], names[1], names[0]]
    leaders = find_calibrations(ArmKind.LEADER, environment)
    assert [path.stem for path in leaders] == ["m", "l"]
    with pytest.raises(ValueError, match="robot"):
        find_calibrations("robot", environment)


@pytest.mark.parametrize("name", ["", " a", "a/b", "..", ".hidden", 'a"b', "a\nb", "a\\b"])
def test_impossible_names_are_refused(name):
    with pytest.raises(UserError, match="cannot be the name of a file"):
        calibration_path("follower", name)


def test_saving_keeps_what_was_there(tmp_path):
    path = tmp_path / "new/folder/arm.json"
    assert save(path, "one", "d") is None
    assert path.read_text() == "one"
    first = save(path, "two", "d")
    second = save(path, "three", "d")
    assert (path.read_text(), first.read_text(), second.read_text()) == ("three", "one", "two")
    assert sorted(backups(path)) == sorted([first, second])
    assert backups(tmp_path / "absent/arm.json") == []
    assert len(list(path.parent.iterdir())) == 3


def test_mode_and_link_survive(tmp_path):
    target = tmp_path / "real.json"
    target.write_text("one")
    target.chmod(0o640)
    link = tmp_path / "arm.json"
    link.symlink_to(target)
    save(link, "two", "d")
    assert link.is_symlink()
    assert target.read_text() == "two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        save(tmp_path / "fresh.json", "text", "d")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh.json").stat().st_mode) == 0o640


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "arm.json"
    path.write_text("one")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save(path, "two", "d")
    assert path.read_text() == "one"
    assert not list(tmp_path.glob(".arm*"))


def test_names_with_wildcards_are_themselves(tmp_path):
    star, other = tmp_path / "[a]*.json", tmp_path / "ab.json"
    save(star, "1", "d")
    save(other, "1", "d")
    save(star, "2", "d")
    save(other, "2", "d")
    assert len(backups(star)) == len(backups(other)) == 1


def test_places_that_cannot_be_written_are_named_and_nothing_is_made(tmp_path):
    check_writable(tmp_path / "deep/er/arm.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file where a folder is needed"):
        check_writable(tmp_path / "file/arm.json")
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)


@contextlib.contextmanager
def shut_out(folder):
    """Let nobody, root included, look into a folder."""
    folder.chmod(0)
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)
    else:
        yield
    folder.chmod(0o700)


def test_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch):
    """As ~/.cache/huggingface of root's, after something was run with sudo."""
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "shut"))
    path = tmp_path / "shut/robots/so_follower/arm.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    options = parser().parse_args(["--name", "arm"])
    with shut_out(tmp_path / "shut"):
        with pytest.raises(UserError, match="there is no calibration of a follower"):
            choose_path(options, ArmKind.FOLLOWER, writes=False)
        assert find_calibrations(ArmKind.FOLLOWER) == []
        assert backups(path) == []
        for act in (lambda: check_writable(path), lambda: save(path, "{}", "d")):
            with pytest.raises(UserError, match=r"no permission to write in .*chown"):
                act()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_forbidden_places_are_named(tmp_path):
    path = tmp_path / "arm.json"
    path.write_text("")
    path.chmod(0o400)
    with pytest.raises(UserError, match="write-protected"):
        check_writable(path)
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        check_writable(tmp_path / "other.json")
    tmp_path.chmod(0o700)
