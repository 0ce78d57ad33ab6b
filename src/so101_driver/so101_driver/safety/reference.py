"""The path that a chunk describes: a smoothing spline through its points, at rest at its end."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.linalg import solve_banded

from so101_driver.safety.limits import Limits
from so101_driver.safety.types import Array

_WEIGHTS = np.concatenate(([0.0], np.logspace(-3.0, 4.0, 15)))
"""Smoothing weights that are tried; relative to the spacing of the points."""

FIT_SHARE = 0.6
"""Share of the acceleration and jerk limits that a path may need before it is smoothed; the limiter
follows so much exactly."""

EXCESS = 10.0
"""A joint that no feasible spline within the tolerance serves may deviate by this many tolerances:
following such points is beyond the limits anyway, and cutting them in the tracking law alone turns
noise into far larger swings. It is bounded because a spline begins a step before it is due."""

ENDING_SHARE = 0.5
"""Share of the acceleration and jerk limits that coming to rest at the last point may use."""


class ChunkPath:
    """C2 path through the points of a chunk.

    Each joint takes a cubic spline that minimises squared error plus a weight times squared
    curvature. Its first and last pieces are parabolas: a motion that is cut out of a longer one
    does not begin and end with constant velocity. The weight is as large as a feasible acceleration
    and jerk need, but the path stays within the tolerance of every point where that is feasible:
    exact interpolation of noisy points would ask for accelerations that no limit allows. Towards
    the end, path time slows down so that the last point is reached at rest.
    """

    def __init__(
        self,
        points_rad: Array,
        step_s: float,
        tolerance_rad: float,
        limits: Limits,
    ) -> None:
        """Fit ``points_rad`` [points, joints], ``step_s`` apart; the first is at time 0."""
        knots = _smoothed(
            points_rad, step_s, tolerance_rad, limits.acceleration_rad_s2, limits.jerk_rad_s3
        )
        self._step_s = step_s
        self._only = knots[0]
        self._last = len(knots) - 1
        self._end_s = self._last * step_s
        self._slowing_s = 0.0
        if self._last:
            self._pieces = _pieces(knots)
            end_velocity = self._pieces[-1, 1:].T @ (1.0, 2.0, 3.0) / step_s
            self._slowing_s = min(slowing_time_s(end_velocity, limits), self._end_s)

    @property
    def duration_s(self) -> float:
        """Time from the first point until the path is at rest."""
        return self._end_s + self._slowing_s

    @property
    def slows_s(self) -> float:
        """Time from the first point until the path begins to come to rest."""
        return self._end_s - self._slowing_s

    @property
    def end_s(self) -> float:
        """Time from the first to the last point."""
        return self._end_s

    def at(self, time_s: float, rests: bool = True) -> Array:
        """Position at a time since the first point; before and after the path, its ends.

        Without ``rests`` the path does not slow down towards its end.
        """
        if self._last == 0:
            return self._only
        if rests:
            time_s = self._path_time(time_s)
        along = min(max(time_s, 0.0), self._end_s) / self._step_s
        index = min(int(along), self._last - 1)
        x = along - index
        c0, c1, c2, c3 = self._pieces[index]
        return c0 + x * (c1 + x * (c2 + x * c3))

    def _path_time(self, time_s: float) -> float:
        start_s = self.slows_s
        if time_s <= start_s or self._slowing_s == 0.0:
            return time_s
        # Path speed 1 - (3u² - 2u³) falls from 1 to 0 while u goes from 0 to 1 in twice the time.
        u = min((time_s - start_s) / (2.0 * self._slowing_s), 1.0)
        return start_s + 2.0 * self._slowing_s * (u - u**3 + 0.5 * u**4)


def slowing_time_s(velocity_rad_s: Array, limits: Limits) -> float:
    """Path time before its end at which a motion of this velocity begins to slow down.

    Slowing over 2 x seconds of real time with a smooth step has the peak deceleration 0.75 v / x
    and the peak jerk 1.5 v / x².
    """
    speed = np.abs(velocity_rad_s)
    by_acceleration = 0.75 * speed / (ENDING_SHARE * limits.acceleration_rad_s2)
    by_jerk = np.sqrt(1.5 * speed / (ENDING_SHARE * limits.jerk_rad_s3))
    return float(np.maximum(by_acceleration, by_jerk).max())


def _pieces(knots: Array) -> Array:
    """Coefficients [pieces, 4, joints] of the cubic spline, in units of the spacing."""
    curvature = _second_differences(knots)
    begin, end = curvature[:-1], curvature[1:]
    slope = np.diff(knots, axis=0) - (2.0 * begin + end) / 6.0
    return np.stack((knots[:-1], slope, 0.5 * begin, (end - begin) / 6.0), axis=1)


def _smoothed(
    points: Array, step_s: float, tolerance: float, acceleration: Array, jerk: Array
) -> Array:
    """Knots of each column's spline: the least smoothing whose curvature and jerk are feasible.

    Where none within the tolerance is, smoothing goes on up to EXCESS tolerances.
    """
    if len(points) < 3:
        return points
    basis, stiffness, bend = _smoother(len(points))
    modes = (1.0 / (1.0 + _WEIGHTS[:, None] * stiffness))[:, :, None] * (basis.T @ points)
    candidates = basis @ modes
    curvature = bend @ modes
    # Both measures fall as the weight grows, while the deviation grows; weight 0 always qualifies.
    feasible = (np.abs(curvature).max(axis=1) <= FIT_SHARE * acceleration * step_s**2) & (
        np.abs(np.diff(curvature, axis=1)).max(axis=1) <= FIT_SHARE * jerk * step_s**3
    )
    deviation = np.abs(candidates - points).max(axis=1)
    allowed = tolerance * np.where((feasible & (deviation <= tolerance)).any(axis=0), 1.0, EXCESS)
    close = deviation <= allowed
    close[0] = True
    most = close.cumprod(axis=0).sum(axis=0) - 1
    enough = np.where(feasible.any(axis=0), feasible.argmax(axis=0), len(_WEIGHTS))
    return candidates[np.minimum(enough, most), :, np.arange(points.shape[1])].T


@lru_cache(maxsize=8)
def _smoother(count: int) -> tuple[Array, Array, Array]:
    """Eigenvectors and -values of a spline's curvature penalty, and their curvatures."""
    second = np.zeros((count, count - 2))
    inner = np.arange(count - 2)
    second[inner, inner] = second[inner + 2, inner] = 1.0
    second[inner + 1, inner] = -2.0
    gram = np.diag(np.full(count - 2, 2.0 / 3.0))
    gram[0, 0] += 1.0 / 6.0
    gram[-1, -1] += 1.0 / 6.0
    gram += np.diag(np.full(count - 3, 1.0 / 6.0), 1) + np.diag(np.full(count - 3, 1.0 / 6.0), -1)
    penalty = second @ np.linalg.solve(gram, second.T)
    stiffness, basis = np.linalg.eigh(0.5 * (penalty + penalty.T))
    return basis, np.maximum(stiffness, 0.0), _second_differences(basis)


def _second_differences(knots: Array) -> Array:
    """Second derivative, per squared spacing, of the cubic spline at its knots."""
    curvature = np.zeros_like(knots)
    if len(knots) > 2:
        right = knots[2:] - 2.0 * knots[1:-1] + knots[:-2]
        bands = np.full((3, len(right)), 1.0 / 6.0)
        bands[1] = 2.0 / 3.0
        bands[1, 0] += 1.0 / 6.0
        bands[1, -1] += 1.0 / 6.0
        curvature[1:-1] = solve_banded((1, 1), bands, right)
        curvature[0], curvature[-1] = curvature[1], curvature[-2]
    return curvature
