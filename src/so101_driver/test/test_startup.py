"""A program whose imports are missing must name the command that brings them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from so101_driver.startup import start

from so101_driver import startup

SETUP = (Path(__file__).parents[1] / "setup.py").read_text()
ENTRIES = re.findall(r"so101_driver\.startup:(\w+)", SETUP)


def module_that_imports(tmp_path, monkeypatch, name: str) -> str:
    (tmp_path / "some_node.py").write_text(f"import {name}\n\ndef main():\n    print('runs')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_node", raising=False)
    return "some_node"


@pytest.mark.parametrize(
    ("name", "fix"), [("no_such_physics", "make ros-env"), ("wallx_msgs.nothing", "make build")]
)
def test_missing_module_is_one_sentence_with_the_command(tmp_path, monkeypatch, name, fix):
    with pytest.raises(SystemExit) as ended:
        start(module_that_imports(tmp_path, monkeypatch, name))
    sentence = str(ended.value)
    assert name.split(".")[0] in sentence
    assert fix in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_program_calls_itself_as_it_was_called(entry, monkeypatch):
    def missing(_module):
        raise ModuleNotFoundError(name="no_such_physics")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SystemExit, match=f"^{entry}: the Python module"):
        getattr(startup, entry)()


def test_a_node_with_everything_there_runs(tmp_path, monkeypatch, capsys):
    start(module_that_imports(tmp_path, monkeypatch, "json"))
    assert capsys.readouterr().out == "runs\n"


def test_a_module_missing_at_work_is_not_mistaken_for_a_missing_installation(tmp_path, monkeypatch):
    name = module_that_imports(tmp_path, monkeypatch, "json")
    (tmp_path / "some_node.py").write_text("def main():\n    import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError):
        start(name)
