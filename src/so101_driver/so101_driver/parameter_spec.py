"""What a node's parameters are: declared once as data for nodes, YAML files and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ParameterValue = bool | int | float | str | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class REQUIRED:
    """Marks a parameter without a default; ``example`` gives its type and appears in the docs."""

    example: ParameterValue


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of one node.

    Attributes:
        name: As in ``--ros-args -p name:=value``.
        default: Its default, whose Python type is the parameter's type, or ``REQUIRED(example)``.
        description: One sentence for a user; says what happens, not how.
        unit: ``s``, ``Hz``, ``rad`` ...; empty for plain numbers and text.
        minimum: Smallest legal value of a number.
        maximum: Largest legal value of a number.
        choices: Legal values of a text, empty for any.
        read_only: Whether it is fixed once the node runs.
    """

    name: str
    default: ParameterValue | REQUIRED
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = True

    @property
    def example(self) -> ParameterValue:
        """A value of the parameter's type: the default where there is one."""
        return self.default.example if isinstance(self.default, REQUIRED) else self.default

    @property
    def required(self) -> bool:
        """Whether the user must give a value."""
        return isinstance(self.default, REQUIRED)

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with ``value``, or None if it is legal."""
        kind = type(self.example)
        if kind is tuple:
            value = tuple(value)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            return f"{self.name} must be a {kind.__name__}, not {value!r}"
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(self.choices)}, not {value!r}"
        if kind in (int, float):
            # Written so that NaN fails too.
            if self.minimum is not None and not value >= self.minimum:
                return f"{self.name} must be at least {self.minimum} {self.unit}, not {value}"
            if self.maximum is not None and not value <= self.maximum:
                return f"{self.name} must be at most {self.maximum} {self.unit}, not {value}"
        return None


@dataclass(frozen=True, slots=True)
class NodeParameters:
    """All parameters of one node."""

    node: str
    parameters: tuple[Parameter, ...]

    def named(self, name: str) -> Parameter:
        """Return one parameter; KeyError if the node has none of that name."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(f"node {self.node} has no parameter {name}")


COMMON: tuple[Parameter, ...] = (
    Parameter(
        "autostart",
        True,
        "Configure and activate at start; a failure prints one sentence and exits with status 1.",
    ),
    Parameter(
        "graph_timeout_s",
        10.0,
        "How long configuring and activating wait for other nodes before they fail.",
        unit="s",
        minimum=0.1,
        maximum=600.0,
    ),
)
"""Parameters that every node of the suite has."""
