"""Distances between straight segments, and between a segment and a box; never NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PARALLEL = 1e-12
"""Squared sine below which two segments count as parallel."""
_TINY = 1e-30


def segment_parameters(
    along: Array, offset_1: Array, offset_2: Array, squared_1: Array, squared_2: Array
) -> tuple[Array, Array]:
    """Return where two segments come closest, as shares 0..1 of each.

    For segments p1 + s d1 and p2 + t d2, all of one shape that broadcasts.

    Args:
        along: d1 · d2.
        offset_1: d1 · (p1 - p2).
        offset_2: d2 · (p1 - p2).
        squared_1: d1 · d1; zero for a point.
        squared_2: d2 · d2; zero for a point.
    """
    product = squared_1 * squared_2
    determinant = np.maximum(product - along * along, _PARALLEL * product + _TINY)
    inverse_1, inverse_2 = (
        np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0.0)
        for squared in (squared_1, squared_2)
    )
    s = (along * offset_2 - offset_1 * squared_2) / determinant
    s = np.minimum(np.maximum(s, 0.0), 1.0)
    # The best t for this s, then the best s for that t: exact where one of them met an end, and
    # where the segments are parallel and the first s was arbitrary.
    t = (along * s + offset_2) * inverse_2
    t = np.minimum(np.maximum(t, 0.0), 1.0)
    s = (along * t - offset_1) * inverse_1
    return np.minimum(np.maximum(s, 0.0), 1.0), t


def segment_in_box(start: Array, direction: Array, half: Array) -> Array:
    """Return the share 0..1 of each segment at which its signed distance to a box is smallest.

    The distance is convex along the segment. Outside, its square is piecewise quadratic with a
    piecewise linear slope, whose zero is found between two of the six planes. Within, the distance
    is the largest of six linear functions.

    Args:
        start: [3, ...] in the box's frame.
        direction: [3, ...] to the segment's end.
        half: [3, ...] half edges of the box.
    """
    moving = np.where(np.abs(direction) > 1e-12, direction, np.inf)
    crossings = np.concatenate([(half - start) / moving, (-half - start) / moving])
    shares = np.zeros((8, *crossings.shape[1:]))
    shares[1:7] = np.minimum(np.maximum(crossings, 0.0), 1.0)
    shares[7] = 1.0
    shares.sort(axis=0)
    points = start + shares[:, None] * direction
    beyond = points - np.minimum(np.maximum(points, -half), half)
    slope = (beyond * direction).sum(axis=1)
    low = np.maximum((slope <= 0.0).sum(axis=0) - 1, 0)
    high = np.minimum(low + 1, 7)
    slope_low, slope_high, share_low, share_high = (
        np.take_along_axis(values, index[None], axis=0)[0]
        for values in (slope, shares)
        for index in (low, high)
    )
    rise = np.maximum(slope_high - slope_low, 0.0)
    part = np.divide(-slope_low, rise, out=np.zeros_like(rise), where=rise > _TINY)
    best = share_low + np.minimum(np.maximum(part, 0.0), 1.0) * (share_high - share_low)
    touching = (np.abs(start + best * direction) <= half).all(axis=0)
    if touching.any():
        best[touching] = _deepest(
            start[:, touching],
            direction[:, touching],
            np.broadcast_to(half, start.shape)[:, touching],
        )
    return best


def _deepest(start: Array, direction: Array, half: Array) -> Array:
    """Share at which the largest of the six functions ``±x_i - half_i`` is smallest; [3, n]."""
    value = np.concatenate([start - half, -start - half])
    slope = np.concatenate([direction, -direction])
    first, second = np.triu_indices(6, 1)
    against = slope[second] - slope[first]
    cross = np.divide(
        value[first] - value[second],
        against,
        out=np.zeros_like(against),
        where=np.abs(against) > 1e-12,
    )
    shares = np.concatenate([np.zeros_like(cross[:1]), cross, np.ones_like(cross[:1])])
    shares = np.minimum(np.maximum(shares, 0.0), 1.0)
    worst = (value[:, None] + shares * slope[:, None]).max(axis=0)
    return np.take_along_axis(shares, worst.argmin(axis=0)[None], axis=0)[0]


def box_distance(points: Array, half: Array) -> tuple[Array, Array]:
    """Return signed distance and outward unit normal of points [3, ...] against boxes.

    Within a box the distance is minus that to the nearest face.
    """
    beyond = np.abs(points) - half
    outside = np.maximum(beyond, 0.0)
    length = np.sqrt((outside * outside).sum(axis=0))
    nearest = beyond.argmax(axis=0)
    face = np.arange(3).reshape(3, *[1] * nearest.ndim) == nearest
    is_outside = length > 1e-12
    normal = np.where(is_outside, outside / np.where(is_outside, length, 1.0), face)
    distance = np.where(is_outside, length, beyond.max(axis=0))
    return distance, np.where(points < 0.0, -normal, normal)
