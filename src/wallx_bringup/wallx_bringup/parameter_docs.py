"""Writes the parameter file and the reference pages from the one place where each fact stands.

Run from the top of the repository: ``python -m wallx_bringup.parameter_docs`` (`make docs`).
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from so101_driver.parameter_spec import COMMON, NodeParameters, Parameter

from wallx_bringup import state_diagram, state_docs
from wallx_bringup.arguments import ARGUMENTS, EMPTY, Argument, Value, as_text

_NODES = (
    ("so101_driver", "sim", "sim"),
    ("so101_driver", "driver", "driver"),
    ("so101_driver", "safety", "safety"),
    ("so101_driver", "camera", "face_camera"),
    ("so101_driver", "camera", "wrist_camera"),
    ("so101_driver", "teleop", "teleop"),
    ("wallx_policy", "policy", "policy"),
    ("wallx_policy", "trace", "trace"),
    ("wallx_policy", "recorder", "recorder"),
)
"""Package, program (``<program>_node``, parameters in ``<program>_parameters``) and node name."""
_REGENERATE = "`make docs` writes this file from the nodes' parameter tables"


def all_parameters() -> tuple[tuple[str, NodeParameters], ...]:
    """Return program and parameters of every node, in the order in which the graph starts them."""
    return tuple(
        (
            f"{package} {program}_node",
            replace(import_module(f"{package}.{program}_parameters").PARAMETERS, node=node),
        )
        for package, program, node in _NODES
    )


def generate() -> dict[str, str]:
    """Return the generated files: path from the top of the repository, and text."""
    return {
        "src/wallx_bringup/config/so101.yaml": _parameter_file(),
        "docs/reference/parameters.md": _parameter_page(),
        "docs/reference/arguments.md": _argument_page(),
        "docs/states.md": state_docs.page(),
        "docs/states.svg": state_diagram.draw(),
    }


def main() -> int:
    """Write the generated files below the current folder."""
    root = Path.cwd()
    if not (root / "src" / "wallx_bringup").is_dir():
        print("parameter_docs: run this at the top of the repository.", file=sys.stderr)
        return 1
    for name, text in generate().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


def _parameter_file() -> str:
    lines = [
        "# Every parameter of every node with its default. Copy this file, keep what you change,",
        "# start with params_file:=<your copy>. Parameters without a default are commented out:",
        "# the launch arguments give them, and win over this file for everything they set.",
        f"# {_REGENERATE}; a test fails when it is stale.",
    ]
    for _program, spec in all_parameters():
        # `/**/` finds the node in any namespace; a bare node name would silently miss it there.
        lines += ["", f"/**/{spec.node}:", "  ros__parameters:"]
        for parameter in (*COMMON, *spec.parameters):
            lines += [f"    # {line}" for line in _wrapped(_comment(parameter))]
            entry = f"{parameter.name}: {_yaml(parameter.example)}"
            # ROS cannot tell what type an empty list has.
            unset = parameter.required or parameter.example == ()
            lines.append(f"    # {entry}" if unset else f"    {entry}")
    return "\n".join(lines) + "\n"


def _comment(parameter: Parameter) -> str:
    facts = [fact for fact in (_type(parameter), _range(parameter)) if fact]
    if parameter.required:
        facts.append("required, for example")
    return f"{parameter.description} ({'; '.join(facts)})"


def _parameter_page() -> str:
    lines = [
        "# Parameters of the nodes",
        "",
        f"{_REGENERATE}.",
        "",
        "Give them with `params_file:=my.yaml` (start from "
        "[so101.yaml](../../src/wallx_bringup/config/so101.yaml)), or to a single node with "
        "`--ros-args -p name:=value`. A node refuses unknown names and values outside the range.",
        "",
        "## Every node",
        "",
        *_parameter_table(COMMON),
    ]
    for program, spec in all_parameters():
        lines += ["", f"## {spec.node} (`{program}`)", ""]
        lines += _parameter_table(spec.parameters)
    return "\n".join(lines) + "\n"


def _parameter_table(parameters: tuple[Parameter, ...]) -> list[str]:
    if not parameters:
        return ["None of its own."]
    rows = [
        "| name | type | default | range | at run time | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for p in parameters:
        default = "required" if p.required else f"`{_yaml(p.example)}`"
        change = "fixed" if p.read_only else "can change"
        cells = (f"`{p.name}`", _type(p), default, _range(p), change, p.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _argument_page() -> str:
    lines = [
        "# Launch arguments",
        "",
        f"{_REGENERATE} and `wallx_bringup/arguments.py`.",
        "",
        "The same for `wallx up name:=value` and `ros2 launch wallx_bringup so101.launch.py "
        "name:=value`. Unknown names are refused. Text arrives as it is written, also `no`, `12` "
        f"or `put: cube`; write {EMPTY} (quoted for the shell) for an empty text.",
        "",
        "| name | values | default in simulation | default with `sim:=false` | meaning |",
        "|---|---|---|---|---|",
    ]
    for a in ARGUMENTS:
        cells = (f"`{a.name}`", _values(a), _default(a.sim), _default(a.real), a.description)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _values(argument: Argument) -> str:
    if argument.choices:
        return ", ".join(argument.choices)
    if isinstance(argument.sim, bool):
        return "true, false"
    if isinstance(argument.sim, (int, float)):
        return f"{argument.minimum:.10g} … {argument.maximum:.10g}"
    if argument.is_path:
        return f"path, {argument.instead}" if argument.instead else "path"
    return "name" if argument.is_topic else "text"


def _default(value: Value) -> str:
    return f"`{as_text(value)}`" if value != "" else ""


def _type(parameter: Parameter) -> str:
    example = parameter.example
    if isinstance(example, tuple):
        return f"list of {type(example[0]).__name__}" if example else "list"
    return {bool: "bool", int: "int", float: "float", str: "text"}[type(example)]


def _range(parameter: Parameter) -> str:
    if parameter.choices:
        return "one of: " + ", ".join(choice or EMPTY for choice in parameter.choices)
    low, high = parameter.minimum, parameter.maximum
    unit = f" {parameter.unit}" if parameter.unit else ""
    if low is not None and high is not None:
        return f"{low:.10g} … {high:.10g}{unit}"
    if low is not None:
        return f"≥ {low:.10g}{unit}"
    if high is not None:
        return f"≤ {high:.10g}{unit}"
    return parameter.unit


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("\n").removesuffix("\n...")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 92)


if __name__ == "__main__":
    sys.exit(main())
