"""Overrides of a checkpoint's settings are read strictly, by the function that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_policy.backends.model_settings import parse_settings


def load(
    path: str,
    *,
    steps: int | None = None,
    end: float | None = None,
    resize: str | None = None,
    base: str | Path | None = None,
    cameras: Sequence[str] | None = None,
    graphs: bool | None = None,
) -> None:
    """Take settings as `load_policy` does."""


def test_values_have_the_types_of_the_function() -> None:
    text = "steps=9 end=0.5 resize=pil base='/a folder' cameras=top,left graphs=false"
    assert parse_settings(text, load) == {
        "steps": 9,
        "end": 0.5,
        "resize": "pil",
        "base": "/a folder",
        "cameras": ("top", "left"),
        "graphs": False,
    }
    assert parse_settings("", load) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stebs=9", "'stebs=9'; it must be name=value with one of: steps, end, resize"),
        ("path=/x", "'path=/x'"),
        ("steps", "'steps'"),
        ("steps=9 steps=10", "steps twice"),
        ("steps=9.5", "steps must be a whole number, not '9.5'"),
        ("end=x", "end must be a number"),
        ("graphs=yes", "graphs must be true or false"),
        ("base='/a", "open quote"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match="model_settings") as refusal:
        parse_settings(text, load)
    assert words in str(refusal.value)


def test_every_override_of_a_checkpoint_can_be_written() -> None:
    """Whoever adds an argument of another type must teach it to `parse_settings`."""
    from wallx_policy.model import load_policy

    settings = "num_steps=9 end_time=0.9 resize=torchvision cameras=face_view,wrist_view base=/b"
    assert parse_settings(settings, load_policy) == {
        "num_steps": 9,
        "end_time": 0.9,
        "resize": "torchvision",
        "cameras": ("face_view", "wrist_view"),
        "base": "/b",
    }
