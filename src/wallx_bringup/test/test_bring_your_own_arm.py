"""The commands of docs/bring-your-own-arm.md, as they stand there, in the order of the page."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wallx_bringup.domain import isolated_environment, lock_free_domain

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = REPOSITORY / "docs" / "bring-your-own-arm.md"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def commands_of(heading: str) -> list[list[str]]:
    """The indented lines of one section."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    return [shlex.split(line) for line in lines]


def found(words: list[str]) -> list[str]:
    """The command with the programs of this environment."""
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    path = shutil.which(words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{words[0]} is not installed")
    return [path, *words[1:]]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a user on a ROS domain that nobody else uses."""
    (tmp_path / "runtime").mkdir(mode=0o700)
    with lock_free_domain(None) as domain:
        yield {
            **isolated_environment(os.environ, domain.id),
            "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        }


def test_the_example_does_what_the_page_says(environment: dict[str, str], tmp_path: Path) -> None:
    export, *commands = commands_of("Try the example")
    environment |= [export[1].split("=")]
    background, foreground = commands[:3], commands[3:]
    running: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "log"

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            found(words),
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def call(words: list[str]) -> str:
        # A person is slower than the arm comes to rest; this test is not.
        deadline_s = time.monotonic() + 20.0
        while (done := run(words)).returncode and time.monotonic() < deadline_s:
            time.sleep(0.2)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{log.read_text()}"
        return done.stdout

    try:
        with log.open("wb") as output:
            running += [
                subprocess.Popen(
                    found(words),
                    cwd=REPOSITORY,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for words in background
            ]
        said = [call(words) for words in foreground[:6]]
        assert "mode: 1" in said[1]  # SHADOW
        assert "following chunks of 'stand_in_policy'" in said[1]
        assert "name: [joint_1" in said[5]
        # "The same three calls with mode:=full".
        for words in foreground[2:5]:
            call([word.replace("scaled", "full") for word in words])
        running[2].send_signal(signal.SIGINT)
        assert running[2].wait(15) == 0
        for words in foreground[6:]:
            call(words)
        running[1].send_signal(signal.SIGINT)
        assert running[1].wait(20) == 0
        written = log.read_text()
        assert "(RETURNING)" in written
        assert "(PARKED)" in written
        # Geometry is on, and nothing was refused.
        complaints = ("WARN", "ERROR")
        assert not [
            line
            for line in written.splitlines()
            if "[safety]" in line and any(word in line for word in complaints)
        ]
    finally:
        for process in running:
            process.kill()
            process.wait(10)
