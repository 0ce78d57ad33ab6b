"""Positions in time, height and width that Qwen2.5-VL's rotary embedding takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PADDING = 1


def mrope_positions(
    input_ids: NDArray[np.int64],
    attention_mask: NDArray[np.int64],
    merged_grids: NDArray[np.int64],
    image_pad: int,
) -> NDArray[np.int64]:
    """Return positions [3, batch, tokens].

    Text counts up on all three axes. An image stands at one time, its tokens at their row and
    column, and the text goes on after its largest position.

    Args:
        input_ids: [batch, tokens].
        attention_mask: [batch, tokens], 0 for padding.
        merged_grids: [images, 2], tokens in height and width, in the order of the batch.
        image_pad: Id of an image's tokens.
    """
    positions = np.full((3, *input_ids.shape), _PADDING, dtype=np.int64)
    image = 0
    for row, ids in enumerate(input_ids):
        tokens = np.flatnonzero(attention_mask[row])
        following, i = 0, 0
        while i < len(tokens):
            if ids[tokens[i]] != image_pad:
                positions[:, row, tokens[i]] = following
                following, i = following + 1, i + 1
                continue
            height, width = (int(n) for n in merged_grids[image])
            span = tokens[i : i + height * width]
            positions[0, row, span] = following
            positions[1, row, span] = following + np.repeat(np.arange(height), width)
            positions[2, row, span] = following + np.tile(np.arange(width), height)
            following += max(height, width)
            i += height * width
            image += 1
    return positions
