"""Where this package's files and its Python are, installed or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from so101_driver.errors import UserError


def share_dir(environment: Mapping[str, str]) -> Path:
    """Return the folder with this package's ``config`` and ``rviz``, installed or in the source.

    Raises:
        UserError: It is nowhere.
    """
    prefixes = [p for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [Path(p) / "share" / "wallx_bringup" for p in (*prefixes, sys.prefix)]
    candidates.append(Path(__file__).resolve().parent.parent)
    for candidate in candidates:
        if (candidate / "config" / "fastdds_loopback.xml").is_file():
            return candidate
    raise UserError("package wallx_bringup is not installed: run `make build` (or colcon build).")


def with_own_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with this Python first on the PATH.

    Installed executables begin with ``#!/usr/bin/env python3``, which would find the system's
    Python when the virtual environment is not activated.
    """
    own = str(Path(sys.executable).parent)
    path = environment.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] == own:
        return dict(environment)
    return {**environment, "PATH": f"{own}{os.pathsep}{path}"}
