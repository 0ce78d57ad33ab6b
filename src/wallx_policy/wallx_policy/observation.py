"""Puts one observation together from images, joint states and object poses, by their stamps.

All stamps are ROS time in nanoseconds and are passed on as they came: nothing is restamped.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import JOINT_NAMES

from wallx_policy.backends.base import CameraImage, ObjectPose, Observation

STATES_KEPT = 50
CLOCK_JUMP_NS = 500_000_000
"""A stamp this much older than the newest one means that the clock was set back."""


class Gap(Enum):
    """Why there is no observation."""

    MISSING = auto()
    """An input has not come yet."""
    LATE = auto()
    """An input is too old, or the inputs do not belong together."""
    UNCHANGED = auto()
    """Nothing newer than the last observation has come."""
    INVALID = auto()
    """An input is unusable, e.g. a joint without a reading."""


@dataclass(frozen=True, slots=True)
class NoObservation:
    """Why there is no observation, for counters and for the user."""

    gap: Gap
    reason: str


@dataclass(frozen=True, slots=True)
class AssemblerSettings:
    """What an observation consists of.

    Attributes:
        views: Cameras that must be there.
        needs_objects: Whether object poses must be there.
        image_age_s: How old an image was when the training data paired it with a state.
        max_skew_s: Most time between the oldest and the newest part of one observation.
        max_age_s: Most time between the oldest part and now; older inputs have stopped coming.
    """

    views: tuple[str, ...]
    needs_objects: bool
    image_age_s: float
    max_skew_s: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class _Stamped:
    stamp_ns: int
    payload: Any


@dataclass(slots=True)
class ObservationAssembler:
    """Keeps the newest inputs and combines them on request.

    Images are kept as they came; only those of an observation that is used are decoded.
    """

    settings: AssemblerSettings
    decode: Callable[[Any], NDArray[np.uint8]]
    _images: dict[str, _Stamped] = field(default_factory=dict)
    _states: deque[tuple[int, NDArray[np.float64]]] = field(
        default_factory=lambda: deque(maxlen=STATES_KEPT)
    )
    _objects: _Stamped | None = None
    _last_stamp_ns: int | None = None

    def add_image(self, view: str, stamp_ns: int, payload: Any) -> None:
        """Keep an image of a view, encoded or not; an older one than the newest is ignored."""
        newest = self._images.get(view)
        if newest is None or _replaces(stamp_ns, newest.stamp_ns):
            self._images[view] = _Stamped(stamp_ns, payload)

    def add_state(self, stamp_ns: int, position_rad: NDArray[np.float64]) -> None:
        """Keep a joint state in the order of JOINT_NAMES; NaN marks a joint without a reading."""
        if self._states:
            newest_ns = self._states[-1][0]
            if not _replaces(stamp_ns, newest_ns):
                return
            if stamp_ns < newest_ns:
                self._states.clear()
        self._states.append((stamp_ns, np.array(position_rad, dtype=np.float64)))

    def set_objects(self, stamp_ns: int, objects: Mapping[str, ObjectPose]) -> None:
        """Keep the newest object poses."""
        if self._objects is None or _replaces(stamp_ns, self._objects.stamp_ns):
            self._objects = _Stamped(stamp_ns, dict(objects))

    def images(self, views: Sequence[str], now_ns: int) -> dict[str, CameraImage] | NoObservation:
        """Return the newest images of some views, for looking at; nothing is used up."""
        found = {}
        for view in views:
            image = self._images.get(view)
            if image is None:
                return NoObservation(Gap.MISSING, f"no image of camera {view} yet")
            age_s = (now_ns - image.stamp_ns) * 1e-9
            if age_s > self.settings.max_age_s:
                return NoObservation(Gap.LATE, f"nothing from camera {view} for {age_s:.1f} s")
            try:
                found[view] = CameraImage(self.decode(image.payload), image.stamp_ns)
            except ValueError as error:
                return NoObservation(Gap.INVALID, f"image of camera {view}: {error}")
        return found

    def assemble(self, now_ns: int, instruction: str) -> Observation | NoObservation:
        """Return the newest consistent observation, or why there is none.

        The stamps of successive observations increase, except after the clock was set back.
        """
        images = {view: self._images.get(view) for view in self.settings.views}
        for view, image in images.items():
            if image is None:
                return NoObservation(Gap.MISSING, f"no image of camera {view} yet")
        if not self._states:
            return NoObservation(Gap.MISSING, "no joint_states yet")
        if self.settings.needs_objects and self._objects is None:
            return NoObservation(Gap.MISSING, "no object poses on sim/objects yet")

        newest_state_ns = self._states[-1][0]
        stamps = {f"camera {view}": image.stamp_ns for view, image in images.items() if image}
        stamp_ns = max(stamps.values()) if stamps else newest_state_ns
        stamps["joint_states"] = newest_state_ns
        if self.settings.needs_objects and self._objects is not None:
            stamps["sim/objects"] = self._objects.stamp_ns
        if problem := self._too_old(now_ns, stamp_ns, stamps):
            return NoObservation(Gap.LATE, problem)
        if self._last_stamp_ns is not None and not _replaces(stamp_ns, self._last_stamp_ns):
            return NoObservation(Gap.UNCHANGED, "no newer image or joint state")

        wanted_ns = stamp_ns + round(self.settings.image_age_s * 1e9)
        state = self._state_at(wanted_ns)
        if state is None:
            return NoObservation(Gap.LATE, "the joint_states kept do not reach back to the image")
        state_ns, state_rad = state
        for name, value in zip(JOINT_NAMES, state_rad, strict=True):
            if not math.isfinite(value):
                return NoObservation(Gap.INVALID, f"joint {name} has no valid reading")

        decoded = {}
        for view, image in images.items():
            try:
                decoded[view] = CameraImage(self.decode(image.payload), image.stamp_ns)
            except ValueError as error:
                return NoObservation(Gap.INVALID, f"image of camera {view}: {error}")
        self._last_stamp_ns = stamp_ns
        # A policy that does not need the objects must not see them: a real arm has none.
        sees_objects = self.settings.needs_objects and self._objects is not None
        return Observation(
            stamp_ns=stamp_ns,
            images=decoded,
            state_rad=state_rad,
            state_stamp_ns=state_ns,
            instruction=instruction,
            objects=self._objects.payload if sees_objects else {},
        )

    def _too_old(self, now_ns: int, stamp_ns: int, stamps: Mapping[str, int]) -> str | None:
        oldest = min(stamps, key=lambda name: stamps[name])
        age_s = (now_ns - stamps[oldest]) * 1e-9
        if age_s > self.settings.max_age_s:
            return f"nothing from {oldest} for {age_s:.1f} s"
        # Only inputs older than the observation's own stamp are a problem.
        skew_s = (stamp_ns - stamps[oldest]) * 1e-9
        if skew_s > self.settings.max_skew_s:
            return (
                f"{oldest} is {skew_s * 1e3:.0f} ms older than the newest input "
                f"({self.settings.max_skew_s * 1e3:.0f} ms allowed)"
            )
        return None

    def _state_at(self, wanted_ns: int) -> tuple[int, NDArray[np.float64]] | None:
        """Interpolate the joint state; the newest measurement bounds it from above."""
        newer_ns, newer_rad = self._states[-1]
        if wanted_ns >= newer_ns:
            return newer_ns, newer_rad
        for older_ns, older_rad in list(self._states)[-2::-1]:
            if older_ns <= wanted_ns:
                share = (wanted_ns - older_ns) / (newer_ns - older_ns)
                return wanted_ns, older_rad + share * (newer_rad - older_rad)
            newer_ns, newer_rad = older_ns, older_rad
        return None


def _replaces(stamp_ns: int, newest_ns: int) -> bool:
    """Whether a stamp is newer, or so much older that the clock must have been set back."""
    return stamp_ns > newest_ns or stamp_ns < newest_ns - CLOCK_JUMP_NS


def observation_sha256(observation: Observation) -> str:
    """Hash what the backend sees: images with their views and shapes, state, objects, instruction.

    Equal inputs give equal hashes on every machine; stamps are left out, so that a replay can be
    compared with the original.
    """
    digest = hashlib.sha256()

    def add(label: str, data: bytes) -> None:
        # Lengths keep neighbouring fields apart.
        digest.update(f"{label}:{len(data)};".encode())
        digest.update(data)

    for view in sorted(observation.images):
        rgb = observation.images[view].rgb
        add(f"image {view} {rgb.shape}", np.ascontiguousarray(rgb).tobytes())
    add("state", np.ascontiguousarray(observation.state_rad, dtype="<f8").tobytes())
    for name in sorted(observation.objects):
        pose = observation.objects[name]
        values: Sequence[Any] = (pose.position_m, pose.quaternion_xyzw, pose.size_m)
        add(f"object {name}", np.concatenate(values).astype("<f8").tobytes())
    add("instruction", observation.instruction.encode())
    return digest.hexdigest()
