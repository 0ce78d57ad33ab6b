"""From a node of the graph to the process that runs it on a machine without `launch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from so101_driver.errors import UserError

from wallx_bringup.graph import NodeProcess
from wallx_bringup.processes import Process

OUR_PACKAGES = ("so101_driver", "wallx_policy")


class _TypedDumper(yaml.SafeDumper):
    """Quotes every text: ROS reads plain scalars by rules of its own (``1e3``, ``no``, ``y``)."""


_TypedDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def parameter_yaml(node: NodeProcess) -> str:
    """Return the parameters of one node as a ROS parameter file."""
    # `/**/` reaches the node in whatever namespace; a bare name would silently miss it there.
    content: dict[str, Any] = {f"/**/{node.name}": {"ros__parameters": dict(node.parameters)}}
    return yaml.dump(content, Dumper=_TypedDumper, allow_unicode=True, sort_keys=False, width=2**20)


def find_executable(package: str, executable: str, environment: Mapping[str, str]) -> Path:
    """Return where ``ros2 run`` would find an executable.

    Raises:
        UserError: It is not installed.
    """
    prefixes = [p for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*prefixes, sys.prefix):
        path = Path(prefix) / "lib" / package / executable
        if os.access(path, os.X_OK):
            return path
    raise UserError(
        f"executable '{executable}' of package '{package}' is not installed: run `make build` "
        "(or colcon build and source install/setup.bash)."
    )


def process_of(node: NodeProcess, run_dir: Path, environment: Mapping[str, str]) -> Process:
    """Write the node's parameter file into ``run_dir`` and return its process.

    Raises:
        UserError: Its executable is not installed.
    """
    parameter_file = run_dir / f"{node.name}.params.yaml"
    parameter_file.write_text(parameter_yaml(node), encoding="utf-8")
    argv = ["nice", "-n", str(node.nice)] if node.nice else []
    argv.append(str(find_executable(node.package, node.executable, environment)))
    argv += [*node.arguments, "--ros-args"]
    argv += ["-r", f"__node:={node.name}", "-r", f"__ns:={node.namespace}"]
    for path in (*node.parameter_files, str(parameter_file)):
        argv += ["--params-file", path]
    for source, target in node.remappings:
        argv += ["-r", f"{source}:={target}"]
    ours = node.package in OUR_PACKAGES
    return Process(node.name, tuple(argv), node.environment, node.on_death, defers_signals=ours)
