"""What the commanded state does in one tick: brake, follow chunks, or follow a planned path."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import numpy as np

from so101_driver.safety.blending import Blender
from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.follower import Follower, Path, ScaledReference
from so101_driver.safety.limiter import Limiter
from so101_driver.safety.limits import Limits, ServoPart
from so101_driver.safety.readiness import start_problem
from so101_driver.safety.settings import Settings
from so101_driver.safety.shaping import Guarded
from so101_driver.safety.types import Array, Limit

CLIPPED_WINDOW_S = 1.0
PATH_END_RAD = 0.002
"""A planned path has been followed when the command is this close to its end."""

GRIPPER_NAME = "gripper"


class Reference(Protocol):
    """Wanted positions of three successive ticks."""

    before: Array
    now: Array
    next: Array


class Motion:
    """The limiter and the path it follows; exactly one of the verbs is called per tick."""

    def __init__(self, limits: Limits, settings: Settings, geometry: Guarded | None = None) -> None:
        self._limits = limits
        self._settings = settings
        self._geometry = geometry
        self._limiter = Limiter(limits, settings.period_s, geometry)
        self._lower, self._upper = limits.lower_rad, limits.upper_rad
        self._scale: Array | None = None
        self._blender = Blender(limits, settings)
        self._scaled: ScaledReference | None = None
        self._planned: Follower | None = None
        window = max(round(CLIPPED_WINDOW_S / settings.period_s), 1)
        self._wanted: deque[float] = deque(maxlen=window)
        self._removed: deque[float] = deque(maxlen=window)

    @property
    def position_rad(self) -> Array:
        """Commanded position."""
        return self._limiter.position_rad

    @property
    def velocity_rad_s(self) -> Array:
        """Finite difference of the last two commanded positions."""
        return self._limiter.velocity_rad_s

    @property
    def at_rest(self) -> bool:
        """Whether the commanded state no longer changes."""
        return self._limiter.at_rest

    @property
    def resting_rad(self) -> Array:
        """Where braking from now on ends."""
        return self._limiter.resting_rad

    @property
    def intent_clipped(self) -> float:
        """Share of the wanted motion that limits removed over the last second."""
        wanted = sum(self._wanted)
        return min(sum(self._removed) / wanted, 1.0) if wanted > 0.0 else 0.0

    def start_problem(self, position_rad: Array) -> str:
        """Why the arm cannot be armed in a pose, or ""."""
        problem = start_problem(position_rad, self._limits)
        if problem or self._geometry is None:
            return problem
        clearances = self._geometry.clearances(position_rad[None])[0]
        worst = int(np.argmin(clearances))
        # Written so that NaN is refused too.
        if not clearances[worst] >= -self._geometry.recoverable_m:
            return (
                f"{self._geometry.names[worst]} is {-1e3 * clearances[worst]:.0f} mm too close; "
                f"only {1e3 * self._geometry.recoverable_m:.0f} can be recovered: move the arm by "
                "hand or check the geometry file"
            )
        return ""

    def clearance(self) -> tuple[float, str]:
        """Smallest clearance of the commanded pose in metres, and of what; NaN without geometry."""
        if self._geometry is None:
            return math.nan, ""
        clearances = self._geometry.clearances(self.position_rad[None])[0]
        least = int(np.argmin(clearances))
        return float(clearances[least]), self._geometry.names[least]

    def start(self, position_rad: Array, scale: float | None, part: ServoPart | None) -> None:
        """Begin a new armed segment at rest, with the speeds of a servo part; see ``rescale``."""
        self._limiter = Limiter(
            self._limits.for_part(part), self._settings.period_s, self._geometry
        )
        self._limiter.start(position_rad, self._limits.lower_rad, self._limits.upper_rad)
        self._wanted.clear()
        self._removed.clear()
        self.rescale(scale)

    def rescale(self, scale: float | None) -> None:
        """Follow chunks at a share of their speed around the present pose; None: as they are.

        Only for an arm at rest, because the bounds change.
        """
        self.forget_path()
        self._scale = None
        self._blender.steps_only = scale is not None
        self._lower, self._upper = self._limits.lower_rad, self._limits.upper_rad
        if scale is not None:
            moves = np.array(
                [
                    name != GRIPPER_NAME or self._settings.scaled_gripper
                    for name in self._limits.joint_names
                ]
            )
            self._scale = np.where(moves, scale, 0.0)
            radius = self._settings.scaled_radius_rad
            self._lower = np.maximum(self._lower, self.position_rad - radius)
            self._upper = np.minimum(self._upper, self.position_rad + radius)
        self._limiter.set_bounds(self._lower, self._upper)

    def target_rad(self, chunk: AcceptedChunk, steady_ns: int) -> Array:
        """Where following a chunk would lead the command: to its end, or a share of its own way."""
        end_rad = chunk.points_rad[-1]
        if self._scale is None:
            return end_rad
        return self.position_rad + self._scale * (end_rad - chunk.due_rad(steady_ns))

    def follow(self, chunk: AcceptedChunk, steady_ns: int) -> None:
        """Take a chunk's path from this tick on."""
        self._blender.add(chunk, steady_ns)
        if self._scale is not None and self._scaled is None:
            self._scaled = ScaledReference(
                self.position_rad,
                self.velocity_rad_s,
                self._scale,
                self._lower,
                self._upper,
                self._settings.period_s,
            )

    def forget_path(self) -> None:
        """Follow nothing any more."""
        self._blender.clear()
        self._scaled = self._planned = None

    def halt(self) -> None:
        """Rest where the command is: for a motion that the arm no longer follows."""
        self.forget_path()
        self._limiter.start(self.position_rad, self._lower, self._upper)

    def brake(self) -> None:
        """Go on with the verified brake, which ends in holding."""
        self._limiter.brake()
        self._wanted.append(0.0)
        self._removed.append(0.0)

    def track(self, rate: float = 1.0) -> Limit:
        """Follow the chunks for one tick, at a share of their speed; returns limits that acted."""
        if self._blender.empty:
            self.brake()
            return Limit(0)
        if self._scaled is None:
            acted = self._track(self._blender)
        else:
            self._scaled.advance(self._blender, self.position_rad)
            acted = self._track(self._scaled)
        self._blender.advance(rate)
        return acted

    def plan(self, path: Path) -> None:
        """Leave the chunks for a planned path from the present pose; only at rest."""
        self.forget_path()
        # A planned path leaves the neighbourhood that SCALED mode is confined to.
        self._limiter.set_bounds(self._limits.lower_rad, self._limits.upper_rad)
        self._planned = Follower(path, 0.0, self._settings.period_s)

    @property
    def planned(self) -> bool:
        """Whether a planned path is followed."""
        return self._planned is not None

    def heading_rad(self, time_s: float) -> Array | None:
        """Where the planned path leads within some time; None while none is followed."""
        return None if self._planned is None else self._planned.ahead(time_s)

    def go(self, rate: float = 1.0) -> tuple[Limit, bool]:
        """Follow the planned path for one tick; returns limits that acted, and True at its end."""
        follower = self._planned
        if follower is None:
            self.brake()
            return Limit(0), False
        acted = self._track(follower)
        follower.advance(rate)
        error_rad = float(np.abs(follower.now - self.position_rad).max())
        return acted, follower.ended and error_rad <= PATH_END_RAD

    def _track(self, reference: Reference) -> Limit:
        step = self._limiter.track(reference.before, reference.now, reference.next)
        self._wanted.append(step.wanted_rad_s)
        self._removed.append(step.removed_rad_s)
        return step.acted
