"""The policy machine imports this package's pure modules: they must not need the arm's software."""

import ast
import subprocess
import sys
from pathlib import Path

import so101_driver

PACKAGE = Path(so101_driver.__file__).parent
PURE = (
    "calibration",
    "calibration_compare",
    "calibration_files",
    "calibration_servos",
    "calibration_sweep",
    "driver",
    "driver_parameters",
    "kinematics",
    "lerobot_units",
    "port_users",
    "protocol",
    "readings",
    "registers",
    "safety",
    "safety.geometry_file",
    "table_plane",
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_only_nodes_import_rclpy_and_nothing_imports_torch():
    files = [path for path in PACKAGE.rglob("*.py") if "test" not in path.parts]
    assert len(files) > 10
    for path in files:
        names = imported(path)
        assert "torch" not in names, path
        if "nodes" not in path.relative_to(PACKAGE).parts:
            assert not names & {"rclpy", "wallx_msgs"}, path


def test_pure_modules_import_without_pyserial_mujoco_and_rclpy():
    program = "import sys\n"
    for name in ("serial", "mujoco", "rclpy", "torch"):
        program += f"sys.modules[{name!r}] = None\n"
    for name in PURE:
        program += f"import so101_driver.{name}\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
