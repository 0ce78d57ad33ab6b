"""Only `nodes/` may need ROS: the rest must import on a machine that has none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wallx_bringup"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent.name != "nodes")


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_no_module_outside_nodes_imports_ros_when_it_is_imported(module: Path) -> None:
    tree = ast.parse(module.read_text())
    names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] == "rclpy"]
    at_import = [n.module or "" for n in tree.body if isinstance(n, ast.ImportFrom)]
    assert not [name for name in at_import if ".nodes" in name]
