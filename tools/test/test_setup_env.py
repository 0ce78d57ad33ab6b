"""The set-up's decisions, without installing anything: what a fresh machine would be told."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "setup_env.py"


@pytest.fixture(scope="module")
def setup_env():
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_is_pinned_exactly(setup_env):
    """An unpinned ROS wheel would silently be Kilted's, an unpinned torch a CUDA build."""
    for requirement in setup_env.pins("runtime", "torch", "test", "build", "ros-jazzy"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[\w+\])?==[0-9.]+", requirement), requirement


def test_wheel_builder_paths_are_replaced_and_nothing_else(setup_env, tmp_path):
    export = tmp_path / "share" / "rcl" / "cmake" / "rclExport.cmake"
    export.parent.mkdir(parents=True)
    export.write_text(
        'INCLUDE "/opt/python/cp311-cp311/include/python3.11;/usr/include/rcl"\n'
        'NUMPY "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"\n'
    )
    changed = setup_env.repair_wheel_paths(tmp_path, Path("/headers"), Path("/np/include"))
    assert changed == 1
    assert export.read_text() == 'INCLUDE "/headers;/usr/include/rcl"\nNUMPY "/np/include"\n'
    assert setup_env.repair_wheel_paths(tmp_path, Path("/headers"), Path("/np/include")) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('NAME="Debian GNU/Linux"\nID=debian\n', True),
        ("ID=ubuntu\nID_LIKE=debian\n", True),
        ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', True),
        ("ID=fedora\n", False),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', False),
    ],
)
def test_apt_is_used_only_where_the_package_names_hold(setup_env, text, expected):
    assert setup_env.is_debian_or_ubuntu(text) is expected


def test_missing_system_packages_are_named_in_one_line_to_copy(setup_env, monkeypatch):
    monkeypatch.setattr(
        setup_env,
        "SYSTEM_NEEDS",
        (
            ("EGL", lambda: False, lambda: "libegl1"),
            ("a C++ compiler", lambda: False, lambda: "g++"),
            ("make", lambda: True, lambda: "make"),
        ),
    )
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup_env, "is_debian_or_ubuntu", lambda text: True)
    with pytest.raises(setup_env.SetupError) as error:
        setup_env.ensure_system_packages()
    assert "\n" not in str(error.value)
    assert "sudo apt-get install -y --no-install-recommends g++ libegl1" in str(error.value)


def test_downloads_are_added_up_from_pip_output(setup_env):
    downloads = setup_env.Downloads()
    for line in (
        "  Downloading mujoco-4.0.0-cp311-cp311-manylinux_2_28_x86_64.whl (7.0 MB)\n",
        "Downloading a-1.0-py3-none-any.whl.metadata (500 kB)\n",
        "Using cached b-1.0-py3-none-any.whl (9.0 MB)\n",
    ):
        downloads.read(line)
    assert downloads.files == 2
    assert downloads.megabytes == pytest.approx(7.5)


def test_ros_env_refuses_without_a_ros_installation(setup_env, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    with pytest.raises(setup_env.SetupError, match=r"source /opt/ros/jazzy/setup\.bash"):
        setup_env.ros_env()
