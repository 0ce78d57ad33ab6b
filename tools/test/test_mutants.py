"""The mutants are what they say, one change each; and the suite kills one of each kind.

A generator that changed nothing would report survivors only, one that broke every module would
report none.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import mutate_safety
import pytest
from proof import mutation_run
from proof.mutants import OPERATORS, mutants_of, mutated
from proof.mutation_run import SAFETY, Fate
from rich.console import Console

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


def test_tests_that_do_not_exist_are_no_judges(monkeypatch, capsys):
    """A mutant that meets no test at all must not pass for killed."""
    assert mutation_run.exist(["tools/test/test_setup_env.py"])
    renamed = "tools/test/test_setup_env.py::test_renamed"
    monkeypatch.setattr(mutate_safety, "QUICK_TESTS", [renamed])
    assert mutate_safety.quick(1, Console()) == 1
    assert "not all of these tests exist" in capsys.readouterr().out


def test_survivors_are_known_only_by_the_tests_that_they_survived(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    survivor, killed, other = mutate_safety.all_jobs(["brake.py"], None)[:3]
    monkeypatch.setattr(mutate_safety, "tests_digest", lambda: "old")
    fates = {survivor.name: Fate.SURVIVED, killed.name: Fate.KILLED}
    mutate_safety.write_results(path, [survivor, killed], fates)
    assert mutate_safety.read_results(path) == fates
    # Another mutant under newer tests says nothing about those before.
    monkeypatch.setattr(mutate_safety, "tests_digest", lambda: "new")
    mutate_safety.write_results(path, [other], {other.name: Fate.SURVIVED})
    assert mutate_safety.read_results(path) == {
        killed.name: Fate.KILLED,
        other.name: Fate.SURVIVED,
    }
    # In a changed file a number is another mutant.
    monkeypatch.setattr(mutate_safety, "source_digest", lambda _file: "changed")
    assert mutate_safety.read_results(path) == {}
    assert len(json.loads(path.read_text())["mutants"]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--files", "brakes.py"], "the safety core has no brakes.py"),
        (["--sample", "-1"], "at least 1"),
        (["--processes", "0"], "at least 1"),
        (["--budget", "0"], "must be positive"),
    ],
)
def test_what_cannot_be_meant_is_refused(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["mutate_safety.py", *words])
    with pytest.raises(SystemExit):
        mutate_safety.main()
    assert said in capsys.readouterr().err
