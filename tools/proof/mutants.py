"""Generates mutants: every small change of a kind, at every place of a module where it applies.

A mutant is a source file with exactly one change, made on its syntax tree. Its number is stable for
an unchanged file. Annotations, decorators and the texts of messages are left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FACTOR = 1.05

LIMITS = frozenset(
    {
        "lower_rad",
        "upper_rad",
        "velocity_rad_s",
        "acceleration_rad_s2",
        "jerk_rad_s3",
        "tip_speed_m_s",
        "following_slow_rad",
        "following_stop_rad",
        "recoverable_violation_rad",
        "recoverable_m",
        "via_rad",
        "rest_rad",
        "ready_rad",
    }
)
"""Fields of Limits (and of a geometry) that are numbers."""

SETTINGS = frozenset(
    {
        "period_s",
        "scale",
        "chunk_timeout_s",
        "max_clock_skew_s",
        "joint_state_timeout_s",
        "fit_tolerance_rad",
        "state_lookahead_s",
        "scaled_radius_rad",
        "join_s",
        "ensemble_decay_per_s",
        "half_share",
        "servo_dead_time_s",
        "servo_lag_s",
        "skew_warning_s",
    }
)
"""Fields of Settings that are numbers."""

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}

SWAPPED = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "floor": "ceil",
    "ceil": "floor",
    "any": "all",
    "all": "any",
    "argmin": "argmax",
    "argmax": "argmin",
}

OPERATORS = (
    "limit",
    "constant",
    "comparison",
    "boolean",
    "swap",
    "sign",
    "return",
    "count",
    "call",
    "assignment",
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        number: Which of the module's mutants.
        operator: One of OPERATORS.
        line: Where it begins.
        last_line: Where it ends.
        change: What, for people.
    """

    number: int
    operator: str
    line: int
    last_line: int
    change: str


@dataclass(frozen=True, slots=True)
class _Site:
    """A place and a change there; ``replace`` puts the mutated node into the tree."""

    operator: str
    node: ast.AST
    change: str
    replace: Callable[[], None]


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module."""
    return [
        Mutant(number, site.operator, site.node.lineno, site.node.end_lineno, site.change)
        for number, site in enumerate(_sites(ast.parse(source)))
    ]


def mutated(source: str, number: int) -> ast.Module:
    """The syntax tree of one mutant, ready to compile."""
    tree = ast.parse(source)
    for index, site in enumerate(_sites(tree)):
        if index == number:
            site.replace()
            return ast.fix_missing_locations(tree)
    raise IndexError(f"there is no mutant {number}")


def _sites(tree: ast.Module) -> Iterator[_Site]:
    """Every site, in an order that depends on the source alone. Take one, or none is changed."""
    sites: list[_Site] = []
    _visit(tree, sites, "")
    return iter(sites)


def _visit(node: ast.AST, sites: list[_Site], returns: str) -> None:
    if isinstance(node, ast.FunctionDef):
        returns = ast.unparse(node.returns) if node.returns is not None else ""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Raise):
                continue
            put = _putter(node, field, index if isinstance(value, list) else None)
            for operator, change, replacement in _changes(child, returns):
                sites.append(_Site(operator, child, change, lambda p=put, r=replacement: p(r)))
            _visit(child, sites, returns)


def _putter(node: ast.AST, field: str, index: int | None) -> Callable[[ast.AST], None]:
    def put(new: ast.AST) -> None:
        if index is None:
            setattr(node, field, new)
        else:
            getattr(node, field)[index] = new

    return put


def _changes(node: ast.AST, returns: str) -> Iterator[tuple[str, str, ast.AST]]:
    """(operator, description, node to put in its place) for everything done to one node."""
    match node:
        case ast.Constant(value=bool() | str() | None):
            return
        case ast.Constant(value=int() as number):
            for other in (number + 1, number - 1):
                yield "constant", f"{number} → {other}", ast.Constant(other)
        case ast.Constant(value=float() as number):
            other = number * FACTOR if number else FACTOR - 1.0
            yield "constant", f"{number:g} → {other:g}", ast.Constant(other)
        case ast.Attribute(attr=name, ctx=ast.Load()) if _is_limit(node):
            product = ast.BinOp(ast.Constant(FACTOR), ast.Mult(), node)
            yield "limit", f"{name} → {FACTOR} {name}", product
        case ast.Compare(ops=operators):
            yield from _flips(node, operators)
        case ast.BoolOp(op=operator):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            words = "and → or" if isinstance(operator, ast.And) else "or → and"
            yield "boolean", words, ast.BoolOp(other, node.values)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            yield "boolean", f"not {_short(inner)} → {_short(inner)}", inner
        case ast.UnaryOp(op=ast.USub(), operand=inner) if not isinstance(inner, ast.Constant):
            yield "sign", f"-{_short(inner)} → {_short(inner)}", inner
        case ast.UnaryOp(op=ast.Invert(), operand=inner):
            yield "boolean", f"~{_short(inner)} → {_short(inner)}", inner
        case ast.BinOp(left=left, op=operator, right=right):
            for kind, words, other in _other_operators(operator):
                yield kind, f"{words} in {_short(node)}", ast.BinOp(left, other, right)
        case ast.Call(func=function):
            yield from _swaps(node, function)
        case ast.Return(value=value) if value is not None:
            yield from _returns(value, returns)
        case ast.Expr(value=ast.Call()):
            counts = re.search(r"\bact\(|_act\(|count", _short(node))
            name = "count" if counts else "call"
            yield name, f"without {_short(node)}", ast.Pass()
        case ast.AugAssign():
            yield "count", f"without {_short(node)}", ast.Pass()
        case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"))]):
            yield "assignment", f"without {_short(node)}", ast.Pass()


def _is_limit(node: ast.Attribute) -> bool:
    owner = ast.unparse(node.value)
    of_limits = node.attr in LIMITS and owner.endswith(("limits", "_limits", "geometry"))
    return of_limits or (node.attr in SETTINGS and owner.endswith("settings"))


def _flips(node: ast.Compare, operators: list[ast.cmpop]) -> Iterator[tuple[str, str, ast.AST]]:
    for index, operator in enumerate(operators):
        other = list(operators)
        other[index] = FLIPPED[type(operator)]()
        new = ast.Compare(node.left, other, node.comparators)
        yield "comparison", f"{_short(node)} → {_short(new)}", new


def _other_operators(operator: ast.operator) -> Iterator[tuple[str, str, ast.operator]]:
    match operator:
        case ast.BitAnd():
            yield "boolean", "& → |", ast.BitOr()
        case ast.BitOr():
            yield "boolean", "| → &", ast.BitAnd()
        case ast.Add():
            yield "sign", "+ → -", ast.Sub()
        case ast.Sub():
            yield "sign", "- → +", ast.Add()


def _swaps(node: ast.Call, function: ast.expr) -> Iterator[tuple[str, str, ast.AST]]:
    if isinstance(function, ast.Name) and function.id in SWAPPED:
        other = SWAPPED[function.id]
        swapped: ast.expr = ast.Name(other, ast.Load())
        words = f"{function.id} → {other}"
    elif isinstance(function, ast.Attribute) and function.attr in SWAPPED:
        other = SWAPPED[function.attr]
        swapped = ast.Attribute(function.value, other, ast.Load())
        words = f"{function.attr} → {other}"
    else:
        return
    yield "swap", f"{words} in {_short(node)}", ast.Call(swapped, node.args, node.keywords)


def _returns(value: ast.expr, returns: str) -> Iterator[tuple[str, str, ast.AST]]:
    """A guard's answer, turned into its opposite."""
    inverted: ast.expr | None = None
    if returns == "bool":
        inverted = ast.UnaryOp(ast.Not(), value)
    elif returns == "str":
        empty = isinstance(value, ast.Constant) and value.value == ""
        inverted = ast.Constant("mutated" if empty else "")
    elif returns == "Limit":
        inverted = ast.Call(ast.Name("Limit", ast.Load()), [ast.Constant(0)], [])
    elif returns.endswith("| None") and not (isinstance(value, ast.Constant)):
        inverted = ast.Constant(None)
    if inverted is not None and _short(inverted) != _short(value):
        yield "return", f"return {_short(value)} → {_short(inverted)}", ast.Return(inverted)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + "..."
