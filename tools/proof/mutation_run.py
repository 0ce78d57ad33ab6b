"""Runs tests against a mutant in a forked process; nothing is ever written into the sources.

Which tests reach which line is measured once. A mutant meets only the tests that reach it, the
quickest first, until one fails.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from proof.mutants import mutated

REPOSITORY = Path(__file__).resolve().parents[2]
SAFETY = REPOSITORY / "src" / "so101_driver" / "so101_driver" / "safety"
PROOF = Path(__file__).resolve().parent
TESTS = REPOSITORY / "src" / "so101_driver" / "test"
PACKAGE = "so101_driver.safety"

PYTEST = (
    "-q",
    "--no-header",
    "--import-mode=importlib",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:warnings",
    "-m",
    "not ros and not e2e and not bus",
    f"--rootdir={REPOSITORY}",
)
PRELOADED = ("numpy", "scipy.linalg", "ruckig", "yaml", "hypothesis", "_pytest.assertion.rewrite")
"""Imported before forking, because every mutant needs them; nothing of the code under test."""

MEMORY_BYTES = 8 << 30
SLACK = 2.0
"""A mutant may take this many times as long as its tests did when traced, plus a fixed time."""
FIXED_S = 15.0
WIDE = "test_safety_invariants.py::test_random_input"
WIDE_RUNS = 3


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timed out"
    SURVIVED = "survived"
    UNREACHED = "not reached by any test"


@dataclass(frozen=True, slots=True)
class Reach:
    """Which tests reach which lines.

    Attributes:
        seconds: Duration by test.
        lines: Lines by test and file name.
        failed: Tests that fail or are skipped without any mutant; they judge nothing.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, set[int]]]
    failed: list[str]

    def tests_of(self, file: str, first: int, last: int) -> list[str]:
        """Tests that reach any of the lines, the quickest first."""
        span = set(range(first, last + 1))
        found = [test for test, files in self.lines.items() if files.get(file, set()) & span]
        return sorted(found, key=lambda test: self.seconds[test])

    def quickest(self, tests: list[str], budget_s: float) -> list[str]:
        """As many of the sorted tests as fit into the time for one mutant.

        A few of the long random runs, which see most, are always among them.
        """
        spent_s, chosen = 0.0, []
        for test in tests:
            spent_s += self.seconds[test]
            if chosen and spent_s > budget_s:
                break
            chosen.append(test)
        wide = [test for test in tests if WIDE in test and test not in chosen]
        return chosen + wide[-WIDE_RUNS:]

    def users_of(self, file: str) -> list[str]:
        """Tests that reach anything of a file, for what runs on import."""
        found = [test for test, files in self.lines.items() if file in files]
        return sorted(found or self.lines, key=lambda test: self.seconds[test])


def pure_tests() -> list[Path]:
    """Test files of the safety core: those that use it and need neither ROS nor the simulator."""
    found = []
    for path in sorted(TESTS.glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        pure = "rclpy" not in text and "mujoco" not in text and "nodes" not in text
        if pure and ("so101_driver.safety" in text or "from proof." in text):
            found.append(path)
    return found


def tests_digest() -> str:
    """Hash of everything that judges: the tests, and what they are made of."""
    return digest([*pure_tests(), *sorted(PROOF.glob("*.py"))])


def source_digest(file: Path) -> str:
    """Hash of everything that a mutant's number stands for: its file, and what makes mutants."""
    return digest([file, PROOF / "mutants.py"])


def digest(paths: list[Path]) -> str:
    """Hash of some files' content."""
    state = hashlib.sha256()
    for path in paths:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def preload() -> None:
    """Import what every child needs; call it once before ``judge``."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    from hypothesis import Phase, settings

    # Finding a failure is enough; the smallest one does not matter.
    settings.register_profile(
        "mutants", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
    )
    settings.load_profile("mutants")


def measure_reach(cache: Path) -> Reach:
    """Run all tests once, or read what an earlier run found for the same files.

    Raises:
        RuntimeError: No test passes without a mutant. Those that fail are left out.
    """
    key = tests_digest() + digest(sorted(SAFETY.glob("*.py")))
    if not cache.exists() or json.loads(cache.read_text())["key"] != key:
        cache.parent.mkdir(parents=True, exist_ok=True)
        status = _forked(lambda: _trace(cache, key), limit_s=3600.0, quiet=True)
        if status != 0:
            raise RuntimeError(f"the tests cannot run without any mutant (status {status})")
    content = json.loads(cache.read_text())
    lines = {
        test: {file: set(numbers) for file, numbers in files.items()}
        for test, files in content["lines"].items()
    }
    return Reach(content["seconds"], lines, content["failed"])


def judge(file: Path, number: int, first: int, last: int, reach: Reach, budget_s: float) -> Fate:
    """Run the tests that reach a mutant against it, as many as the budget (traced) allows."""
    source = file.read_text(encoding="utf-8")
    tests = reach.tests_of(file.name, first, last) or _around(source, first, file, reach)
    if not tests:
        return Fate.UNREACHED
    tests = reach.quickest(tests, budget_s)
    limit_s = FIXED_S + SLACK * sum(reach.seconds[test] for test in tests)
    return fate_of(file, source, number, tests, limit_s)


def exist(tests: list[str]) -> bool:
    """Whether all these tests are found, without any mutant."""
    collect = [*PYTEST, "--collect-only", *tests]
    return _forked(lambda: int(pytest.main(collect)), limit_s=120.0, quiet=True) == 0


def fate_of(file: Path, source: str, number: int, tests: list[str], limit_s: float) -> Fate:
    """Run these tests against a mutant; those that do not exist would pass for having failed."""
    status = _forked(lambda: _run_mutant(file, source, number, tests), limit_s, quiet=True)
    if status == -signal.SIGALRM:
        return Fate.TIMEOUT
    return Fate.SURVIVED if status == 0 else Fate.KILLED


def _around(source: str, line: int, file: Path, reach: Reach) -> list[str]:
    """For a line that no test was seen on: those of its function, or of the file if it has none.

    A continued line of a statement is not always seen, and what is outside functions runs on
    import, before any test.
    """
    around: ast.FunctionDef | None = None
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line <= node.end_lineno:
            around = node
    if around is None:
        return reach.users_of(file.name)
    return reach.tests_of(file.name, around.body[0].lineno, around.end_lineno)


def _run_mutant(file: Path, source: str, number: int, tests: list[str]) -> int:
    tree = mutated(source, number)
    name = PACKAGE if file.stem == "__init__" else f"{PACKAGE}.{file.stem}"
    sys.meta_path.insert(0, _Mutator(name, str(file), tree))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return int(pytest.main([*PYTEST, "-x", *tests]))


class _Mutator(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree instead of its file."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        """Claim the mutated module."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutant."""
        module.__file__ = self._path
        exec(compile(self._tree, self._path, "exec"), module.__dict__)


def _forked(work: Callable[[], int], limit_s: float, quiet: bool) -> int:
    """Exit status of some work in a child process; minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            # The default action of this signal ends the child, whatever it is doing.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            os.chdir(REPOSITORY)
            # The suite's conftest locks a ROS domain where it can; nothing here needs one.
            sys.modules["wallx_bringup.domain"] = None  # type: ignore[assignment]
            if quiet:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            os._exit(work())
        except BaseException:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _trace(cache: Path, key: str) -> int:
    plugin = _Tracer()
    files = [str(path.relative_to(REPOSITORY)) for path in pure_tests()]
    pytest.main([*PYTEST, *files], plugins=[plugin])
    lines = {
        test: {file: sorted(numbers) for file, numbers in found.items()}
        for test, found in plugin.lines.items()
        if test not in plugin.failed
    }
    cache.write_text(
        json.dumps(
            {
                "key": key,
                "seconds": plugin.seconds,
                "lines": lines,
                "failed": sorted(plugin.failed),
            }
        )
    )
    return 0 if lines else 1


class _Tracer:
    """A pytest plugin that notes which lines of the safety core each test runs."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[str, set[int]]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails, or is skipped."""
        if report.outcome != "passed":
            self.failed.add(report.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Trace a test with its fixtures."""
        found: dict[str, set[int]] = {}

        def on_line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                found[os.path.basename(frame.f_code.co_filename)].add(frame.f_lineno)
            return on_line

        def on_call(frame: FrameType, _event: str, _: Any) -> Any:
            folder, file = os.path.split(frame.f_code.co_filename)
            if not folder.endswith("so101_driver/safety"):
                return None
            found.setdefault(file, set()).add(frame.f_lineno)
            return on_line

        begun_s = time.perf_counter()
        sys.settrace(on_call)
        yield
        sys.settrace(None)
        # Tracing slows down; as an order, and with its slack as a limit, this is good enough.
        self.seconds[item.nodeid] = time.perf_counter() - begun_s
        self.lines[item.nodeid] = found
