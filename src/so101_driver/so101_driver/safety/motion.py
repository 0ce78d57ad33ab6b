"""What the commanded state does in one tick: brake, follow a chunk, or park."""

from __future__ import annotations

from collections import deque

import numpy as np

from so101_driver.safety.chunk_gate import AcceptedChunk
from so101_driver.safety.follower import Follower, ScaledReference
from so101_driver.safety.limiter import Limiter
from so101_driver.safety.limits import Limits
from so101_driver.safety.parking import ParkingPath
from so101_driver.safety.reference import ChunkPath
from so101_driver.safety.settings import Settings
from so101_driver.safety.types import Array, Limit

CLIPPED_WINDOW_S = 1.0
PARKED_RAD = 0.002
GRIPPER_NAME = "gripper"


class Motion:
    """The limiter and the path it follows; exactly one of the verbs is called per tick."""

    def __init__(self, limits: Limits, settings: Settings) -> None:
        self._limits = limits
        self._settings = settings
        self._limiter = Limiter(limits, settings.period_s)
        self._lower, self._upper = limits.lower_rad, limits.upper_rad
        self._scale: Array | None = None
        self._follower: Follower | None = None
        self._scaled: ScaledReference | None = None
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
    def intent_clipped(self) -> float:
        """Share of the wanted motion that limits removed over the last second."""
        wanted = sum(self._wanted)
        return min(sum(self._removed) / wanted, 1.0) if wanted > 0.0 else 0.0

    def start(self, position_rad: Array, scale: float | None) -> None:
        """Begin a new armed segment at rest; see ``rescale``."""
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

    def follow(self, chunk: AcceptedChunk, steady_ns: int) -> None:
        """Take a chunk's path from this tick on."""
        path = ChunkPath(
            chunk.points_rad,
            chunk.step_s,
            self._settings.fit_tolerance_rad,
            self._limits.acceleration_rad_s2,
            self._limits.jerk_rad_s3,
        )
        time_s = (steady_ns - chunk.first_due_ns) * 1e-9
        self._follower = Follower(path, time_s, self._settings.period_s)
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
        self._follower = self._scaled = None

    def brake(self) -> Limit:
        """Go on with the verified brake, which ends in holding."""
        self._limiter.brake()
        self._wanted.append(0.0)
        self._removed.append(0.0)
        return Limit(0)

    def track(self) -> Limit:
        """Follow the chunk's path for one tick; returns the limits that acted."""
        if self._follower is None:
            return self.brake()
        if self._scaled is None:
            acted = self._track(self._follower)
        else:
            self._scaled.advance(self._follower)
            acted = self._track(self._scaled)
        self._follower.advance()
        return acted

    def park(self) -> tuple[Limit, bool]:
        """Brake, then follow the parking path; returns the limits that acted, and True at its end.

        The path must have been forgotten when parking begins.
        """
        follower = self._follower
        if follower is None:
            acted = self.brake()
            if self.at_rest:
                # Parking leaves the neighbourhood that SCALED mode is confined to.
                self._limiter.set_bounds(self._limits.lower_rad, self._limits.upper_rad)
                path = ParkingPath(self.position_rad, self._limits)
                self._follower = Follower(path, 0.0, self._settings.period_s)
            return acted, False
        acted = self._track(follower)
        follower.advance()
        error_rad = float(np.abs(follower.now - self.position_rad).max())
        return acted, follower.ended and error_rad <= PARKED_RAD

    def _track(self, reference: Follower | ScaledReference) -> Limit:
        step = self._limiter.track(reference.before, reference.now, reference.next)
        self._wanted.append(step.wanted_rad_s)
        self._removed.append(step.removed_rad_s)
        return step.acted
