"""The mutants are what they say, one change each; and the suite kills one of each kind.

A generator that changed nothing would report survivors only, one that broke every module would
report none.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from proof.mutants import OPERATORS, mutants_of, mutated
from proof.mutation_run import SAFETY

REPOSITORY = Path(__file__).parents[2]

SOURCE = '''
"""Text with 3 numbers and min."""

TOP = 2.0


class Guard:
    """Text."""

    def __init__(self, limits: float = 1.0) -> None:
        self._top = limits.velocity_rad_s

    def legal(self, value: float, seen: bool) -> bool:
        """Text."""
        self._act(3)
        self.count += 1
        self.value = value
        if seen and not value < self._top:
            raise ValueError(f"{value:.3f} is beyond {2 * self._top}")
        return min(value, -self._top) + 1.0 > 0.0

    def problem(self) -> str:
        self.note("text")
        return "too fast"
'''


def changes(operator: str) -> set[str]:
    return {m.change for m in mutants_of(SOURCE) if m.operator == operator}


def test_every_operator_finds_its_places():
    assert changes("limit") == {"velocity_rad_s → 1.05 velocity_rad_s"}
    assert changes("constant") == {
        "2 → 2.1",
        "1 → 1.05",
        "3 → 4",
        "3 → 2",
        "1 → 2",
        "1 → 0",
        "0 → 0.05",
    }
    assert changes("comparison") == {
        "value < self._top → value >= self._top",
        "min(value, -self._top) + 1.0 > 0.0 → min(value, -self._top) + 1.0 <= 0.0",
    }
    assert changes("boolean") == {"and → or", "not value < self._top → value < self._top"}
    assert changes("swap") == {"min → max in min(value, -self._top)"}
    assert changes("sign") == {
        "-self._top → self._top",
        "+ → - in min(value, -self._top) + 1.0",
    }
    assert changes("count") == {"without self._act(3)", "without self.count += 1"}
    assert changes("call") == {"without self.note('text')"}
    assert changes("assignment") == {
        "without self._top = limits.velocity_rad_s",
        "without self.value = value",
    }
    assert "return 'too fast' → ''" in changes("return")
    assert {m.operator for m in mutants_of(SOURCE)} == set(OPERATORS)


@pytest.mark.parametrize("number", range(len(mutants_of(SOURCE))))
def test_a_mutant_is_exactly_one_change_and_compiles(number):
    before = ast.unparse(ast.parse(SOURCE)).splitlines()
    tree = mutated(SOURCE, number)
    compile(tree, "mutant", "exec")
    after = ast.unparse(tree).splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_there_is_no_mutant_beyond_the_last():
    with pytest.raises(IndexError):
        mutated(SOURCE, len(mutants_of(SOURCE)))


def test_messages_annotations_and_docstrings_are_left_alone():
    for mutant in mutants_of(SOURCE):
        text = ast.unparse(mutated(SOURCE, mutant.number))
        assert "is beyond {2 * self._top}" in text
        assert "Text with 3 numbers and min." in text
        assert "limits: float=" in text


@pytest.mark.parametrize("path", sorted(SAFETY.glob("*.py")), ids=lambda path: path.name)
def test_every_mutant_of_the_safety_core_compiles(path):
    source = path.read_text(encoding="utf-8")
    # Each takes a parse of its own: a few of them are enough to see that every operator works.
    for mutant in mutants_of(source)[::41]:
        compile(mutated(source, mutant.number), path.name, "exec")


def test_one_mutant_of_each_operator_is_killed():
    command = [sys.executable, "tools/mutate_safety.py", "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
