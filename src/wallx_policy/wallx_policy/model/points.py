"""Points in words: pixels of the camera's image become pixels of the image that the model sees."""

from __future__ import annotations

import re

from so101_driver.errors import UserError

Size = tuple[int, int]
"""Width and height in pixels."""
_POINT = re.compile(r"<point>(.*?)</point>", re.DOTALL)
_NUMBERS = re.compile(r"\s*[\[(]?\s*(\d+(?:[,\s]+\d+)*)\s*[\])]?\s*")


def rescaled_points(text: str, camera: Size, model: Size) -> str:
    """Return a text whose ``<point>[x, y]</point>`` are those of the resized image.

    A point has two numbers, or four for two corners.

    Args:
        text: Instruction or question.
        camera: Size of the image as given.
        model: Its size after resizing.

    Raises:
        UserError: when a point holds anything else.
    """

    def rescaled(found: re.Match[str]) -> str:
        numbers = _NUMBERS.fullmatch(found[1])
        values = [int(number) for number in re.findall(r"\d+", found[1])] if numbers else []
        if len(values) not in (2, 4):
            raise UserError(
                f"{found[0]} is no point: write <point>[x, y]</point> with pixels, or four numbers "
                "for two corners"
            )
        moved = []
        for i, value in enumerate(values):
            old, new = camera[i % 2], model[i % 2]
            moved.append(min(round(value * (new / old)), new - 1))
        return f"<point>{moved}</point>"

    return _POINT.sub(rescaled, text)
