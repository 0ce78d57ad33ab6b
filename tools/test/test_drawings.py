"""The programs that draw the pictures of docs/ still fit the code that they draw."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("mujoco")

TOOLS = Path(__file__).resolve().parents[1]


def tool(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["draw_geometry", "draw_middle_pose"])
def test_a_picture_of_what_stands_still_is_drawn(name, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(path)])
    tool(name).main()
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_arms_that_are_recorded_move():
    """A part of a second of each: whole recordings take half a minute."""
    contact = tool("draw_contact")
    cell, recording = contact.Cell(), contact.Recording()
    for tick in range(1, 40):
        cell.step([contact.policy_chunk(0.01 * tick, tick)] if tick % 8 == 0 else [], recording)
    assert contact.State.TRACKING in recording.state
    teleop = tool("draw_teleop")
    leader = teleop.Cell(teleop.StoryHand(), "demo")
    for _ in range(20):
        leader.step()


def test_every_drawing_program_can_be_imported():
    names = [path.stem for path in TOOLS.glob("draw_*.py")]
    assert len(names) >= 5
    for name in names:
        assert callable(tool(name).main)
