#!/usr/bin/env python3
"""Set up everything that `make demo` and `make test` need, and nothing twice.

    setup_env.py            system packages, .venv (ROS 2 from wheels, CPU torch), colcon build
    setup_env.py build      only the colcon build
    setup_env.py ros-env    .ros-env beside a sourced ROS installation (torch, mujoco …)

Needs only the standard library. Pins stand in pyproject.toml.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
ROS_ENV = ROOT / ".ros-env"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
FRESH_DOWNLOAD_MB = 320  # 130 of packages, 190 of CPU torch: empty cache, Python 3.11, x86-64


class SetupError(Exception):
    """Something the user has to do; the text is one sentence."""


def say(text: str) -> None:
    """Print one line at once."""
    print(f"setup: {text}", flush=True)


def pins(*groups: str) -> list[str]:
    """Return the pinned requirements of dependency groups in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["dependency-groups"]
    return [requirement for group in groups for requirement in table[group]]


# ------------------------------------------------------------------ what only apt can bring


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _has_software_rasteriser() -> bool:
    folders = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64")]
    return any(
        next(folder.glob(pattern), None) is not None
        for folder in folders
        for pattern in ("dri/swrast_dri.so", "dri/*swrast*", "libgallium*")
    )


def _has_venv_module() -> bool:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return False
    return True


def _python_package() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # A distribution's own interpreter is /usr/bin/python3; others (deadsnakes) carry the version.
    default = Path("/usr/bin/python3").resolve().name
    return "python3" if default == f"python{version}" else f"python{version}"


SYSTEM_NEEDS: tuple[tuple[str, Callable[[], bool], Callable[[], str]], ...] = (
    ("a C++ compiler", lambda: shutil.which("c++") is not None, lambda: "g++"),
    ("make", lambda: shutil.which("make") is not None, lambda: "make"),
    ("CMake", lambda: shutil.which("cmake") is not None, lambda: "cmake"),
    (
        "Python's headers",
        lambda: Path(sysconfig.get_path("include"), "Python.h").exists(),
        lambda: f"{_python_package()}-dev",
    ),
    ("Python's venv module", _has_venv_module, lambda: f"{_python_package()}-venv"),
    ("EGL (renders the simulated cameras)", lambda: _has_library("libEGL.so.1"), lambda: "libegl1"),
    ("Mesa's software rasteriser", _has_software_rasteriser, lambda: "libgl1-mesa-dri"),
)


def is_debian_or_ubuntu(os_release: str) -> bool:
    """Tell from the text of /etc/os-release whether apt package names are Debian's."""
    names = re.findall(r'^(?:ID|ID_LIKE)="?([^"\n]*)"?$', os_release, flags=re.MULTILINE)
    return bool({"debian", "ubuntu"} & {word for line in names for word in line.split()})


def ensure_system_packages() -> None:
    """Check what pip cannot bring; install it as root on Debian or Ubuntu, else name it."""
    missing = [(what, package()) for what, present, package in SYSTEM_NEEDS if not present()]
    if not missing:
        return
    packages = sorted({package for _, package in missing})
    what = ", ".join(name for name, _ in missing)
    os_release = Path("/etc/os-release")
    debian = os_release.exists() and is_debian_or_ubuntu(os_release.read_text())
    line = "apt-get install -y --no-install-recommends " + " ".join(packages)
    if not debian:
        raise SetupError(f"missing: {what}; install your distribution's packages for: {line}")
    if os.geteuid() != 0:
        raise SetupError(f"missing: {what}; run:  sudo {line}")
    say(f"missing: {what}; running {line}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    subprocess.run(line.split(), check=True, env=environment)


# ------------------------------------------------------------------ pip


MEGABYTES = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


class Downloads:
    """Adds up what pip says it downloads."""

    def __init__(self) -> None:
        self.files = 0
        self.megabytes = 0.0

    def read(self, line: str) -> None:
        """Count one line of pip's output."""
        match = re.search(r"Downloading \S+ \(([\d.]+) (B|kB|MB|GB)\)", line)
        if match:
            self.files += 1
            self.megabytes += float(match[1]) * MEGABYTES[match[2]]


def pip_install(python: Path, arguments: Sequence[str], what: str, downloads: Downloads) -> None:
    """Run pip install with a progress line; on failure show the end of its output."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    started_s = time.monotonic()
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            downloads.read(line)
            tail = [*tail[-30:], line.rstrip()]
            if sys.stdout.isatty():
                done = f"{downloads.files} files, {downloads.megabytes:.0f} MB downloaded"
                seconds = time.monotonic() - started_s
                print(f"\rsetup: {what}: {seconds:4.0f} s, {done}\033[K", end="", flush=True)
    if sys.stdout.isatty():
        print()
    if process.returncode != 0:
        print("\n".join(tail), file=sys.stderr)
        raise SetupError(
            f"pip could not install {what} (see above); check the network connection and that "
            f"this is Python 3.11 or 3.12 on 64-bit x86 Linux, then run the command again"
        )
    say(f"{what}: done in {time.monotonic() - started_s:.0f} s")


def has_module_version(python: Path, requirement: str) -> bool:
    """Tell whether an environment already satisfies ``name==version``."""
    name, version = requirement.split("==")
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.strip().split("+")[0] == version


def torch_arguments(python: Path, flavour: str) -> list[str]:
    """Return pip's arguments for torch: a CPU build, a local one first, or what pip would choose.

    A plain ``pip install torch`` takes a CUDA build of several GB on Linux. pip's own configuration
    may know a local CPU build; a dry run tells.
    """
    (requirement,) = pins("torch")
    if flavour == "cuda":
        say("torch: the CUDA build, several GB")
        return [requirement]
    report = subprocess.run(
        [
            *[str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"],
            *["--dry-run", "--ignore-installed", "--no-deps", "--report", "-", requirement],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if report.returncode == 0:
        (item,) = json.loads(report.stdout)["install"]
        if "+cpu" in item["metadata"]["version"]:
            say(f"torch: CPU build {item['metadata']['version']} known to pip's configuration")
            return [f"torch=={item['metadata']['version']}"]
    say("torch: CPU build from PyTorch's own package index (about 200 MB)")
    return ["--index-url", TORCH_CPU_INDEX, requirement]


def repair_wheel_paths(prefix: Path, include: Path, numpy_include: Path) -> int:
    """Replace the wheel builder's paths that are baked into CMake files; returns how many files.

    The ROS wheels name the Python headers and NumPy headers of the machine that built them.
    """
    changed = 0
    for path in prefix.glob("share/*/cmake/*Export.cmake"):
        text = path.read_text()
        repaired = re.sub(
            r"/opt/python/[^\";]*?/numpy/(?:_core|core)/include", str(numpy_include), text
        )
        repaired = re.sub(r"/opt/python/[^\";/]+/include/python3\.\d+", str(include), repaired)
        if repaired != text:
            path.write_text(repaired)
            changed += 1
    return changed


# ------------------------------------------------------------------ steps


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def ensure_venv(torch_flavour: str) -> None:
    """Create or refresh .venv; does nothing when pins, Python and this file are unchanged."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise SetupError(
            f"this is Python {sys.version.split()[0]}; use 3.11 or 3.12: make PYTHON=python3.12 …"
        )
    stamp = VENV / "wallx-setup.sha256"
    wanted = _digest(
        [
            (ROOT / "pyproject.toml").read_bytes(),
            Path(__file__).read_bytes(),
            sys.version.encode(),
            torch_flavour.encode(),
        ]
    )
    if stamp.exists() and stamp.read_text() == wanted:
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        say(
            "creating .venv; a fresh machine downloads about "
            f"{FRESH_DOWNLOAD_MB} MB (ROS 2 Jazzy wheels, CPU torch, MuJoCo, OpenCV …)"
        )
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    # colcon would otherwise crawl the environment for packages.
    (VENV / "COLCON_IGNORE").touch()
    downloads = Downloads()
    if torch_flavour != "none" and not has_module_version(python, *pins("torch")):
        pip_install(python, torch_arguments(python, torch_flavour), "torch", downloads)
    pip_install(
        python,
        pins("ros-jazzy", "build", "runtime", "test"),
        "ROS 2 Jazzy and Python packages",
        downloads,
    )
    query = "import sysconfig, numpy; print(sysconfig.get_path('include')); "
    query += "print(numpy.get_include())"
    paths = subprocess.run(
        [str(python), "-c", query], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    repaired = repair_wheel_paths(VENV, Path(paths[0]), Path(paths[1]))
    say(
        f"downloaded {downloads.files} files, {downloads.megabytes:.0f} MB; "
        f"repaired {repaired} CMake files of the ROS wheels"
    )
    stamp.write_text(wanted)


def _sources() -> list[Path]:
    return sorted(
        path
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "test" not in path.parts
    )


def build() -> None:
    """Build the workspace into .venv with colcon; does nothing when no source changed."""
    stamp = VENV / "wallx-build.sha256"
    meta = ROOT / "colcon.meta"
    wanted = _digest(
        part
        for path in [meta, *_sources()]
        for part in (str(path.relative_to(ROOT)).encode(), path.read_bytes())
    )
    if stamp.exists() and stamp.read_text() == wanted:
        return
    started_s = time.monotonic()
    say("building the workspace (wallx_msgs takes about half a minute the first time)")
    environment = {
        **os.environ,
        "VIRTUAL_ENV": str(VENV),
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(VENV),
        "CMAKE_PREFIX_PATH": str(VENV),
    }
    environment.pop("PYTHONPATH", None)
    log = ROOT / "log" / "build.txt"
    log.parent.mkdir(exist_ok=True)
    (log.parent / "COLCON_IGNORE").touch()
    with log.open("w") as file:
        result = subprocess.run(
            [
                *[str(VENV / "bin" / "colcon"), "build", "--base-paths", "src"],
                *["--metas", "colcon.meta", "--merge-install", "--install-base", str(VENV)],
                *["--event-handlers", "console_direct+"],
            ],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if result.returncode != 0:
        print("".join(log.read_text().splitlines(keepends=True)[-40:]), file=sys.stderr)
        raise SetupError(f"the build failed; its whole output is in {log.relative_to(ROOT)}")
    stamp.write_text(wanted)
    say(f"built in {time.monotonic() - started_s:.0f} s")


def ros_env() -> None:
    """Create .ros-env: torch, mujoco and what apt has not, beside a sourced ROS installation."""
    distro = os.environ.get("ROS_DISTRO")
    if not distro:
        raise SetupError(
            "no ROS installation is sourced: run  source /opt/ros/jazzy/setup.bash  first, or use "
            "`make demo`, which needs none"
        )
    python = ROS_ENV / "bin" / "python"
    if not python.exists():
        subprocess.run(
            [sys.executable, "-m", "venv", "--system-site-packages", str(ROS_ENV)], check=True
        )
    (ROS_ENV / "COLCON_IGNORE").touch()
    constraints = ROS_ENV / "constraints.txt"
    constraints.write_text("\n".join(numpy_constraint()) + "\n")
    downloads = Downloads()
    limit = ["--constraint", str(constraints)]
    if not has_module_version(python, *pins("torch")):
        flavour = os.environ.get("TORCH", "cuda")
        pip_install(python, [*limit, *torch_arguments(python, flavour)], "torch", downloads)
    # What apt brings (package.xml) stays apt's: cv_bridge is built against that NumPy and OpenCV.
    apt = ("numpy", "opencv", "matplotlib", "scipy", "pyserial", "pyyaml", "psutil", "pillow")
    wanted = [pin for pin in pins("runtime") if not pin.startswith(apt)]
    pip_install(python, [*limit, *wanted], "Python packages", downloads)
    say(f"downloaded {downloads.megabytes:.0f} MB into .ros-env for ROS 2 {distro}; now run:")
    print("  source .ros-env/bin/activate && colcon build && source install/setup.bash")
    print("  ros2 launch wallx_bringup so101.launch.py")


def numpy_constraint() -> list[str]:
    """Return the constraint that keeps the NumPy that the distribution's cv_bridge needs."""
    code = "import numpy; print(numpy.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    version = result.stdout.strip()
    return [f"numpy=={version}"] if version else ["numpy<2"]


def main() -> int:
    """Run the steps named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", nargs="?", choices=("all", "build", "ros-env"), default="all")
    parser.add_argument("--torch", choices=("cpu", "cuda", "none"), default="cpu")
    arguments = parser.parse_args()
    try:
        if arguments.step == "ros-env":
            ros_env()
            return 0
        if arguments.step == "all":
            ensure_system_packages()
            ensure_venv(arguments.torch)
        build()
    except SetupError as error:
        print(f"setup: {error}.", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"setup: {' '.join(map(str, error.cmd))} failed (see above).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
