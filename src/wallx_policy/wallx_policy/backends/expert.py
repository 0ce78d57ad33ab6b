"""Scripted expert: picks the red cube and places it in the tray, as a policy would: by chunks.

It reads the objects' poses from the simulator and the measured joints, nothing else; its clock is
the observations' stamps. It plans ahead of the latency, so that overlapping chunks agree, and adds
an integral correction, so that an arm that hangs below its goals still gets where it shall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from so101_driver.joints import ARM, GRIPPER, data_path
from so101_driver.kinematics import Kinematics

from wallx_policy.backends.base import (
    Backend,
    BackendNeeds,
    BackendSettings,
    Observation,
    Prediction,
)
from wallx_policy.backends.joint_path import Bounds, JointPath, Segment
from wallx_policy.backends.pick_place import CARRY_M, HOVER_M, RELEASE_M, Grasp, PickPlanner
from wallx_policy.backends.reach import Reach, Unreachable
from wallx_policy.backends.scripted import (
    HORIZON,
    LATENCY_S,
    PERIOD_S,
    scripted_contract,
    scripted_description,
)
from wallx_policy.success import cube_in_tray

Array = NDArray[np.float64]

CUBE = "red_cube"
TRAY = "tray"
OPEN_RAD = 0.60
CLOSED_RAD = 0.0
"""Tighter than a cube (the pads are parallel at 0.14), so that the servo keeps squeezing."""
HOME_RAD = np.array([0.0, -1.2, 0.6, 1.2, 0.0, 0.14])
"""Where it waits: tip 17 cm above the table."""

FAST = Bounds(1.4, 6.0, 80.0)
SLOW = Bounds(0.7, 6.0, 80.0)
"""Within the limits profile ``cautious``, so that safety need not clip what the expert wants."""

LEAD_S = 0.2
"""A motion starts this long after the observation that led to it: once its chunk is in effect."""
BLEND_FROM_S = 0.12
RESPONSE_S = 0.15
"""What is measured now was asked for this long ago: dead time, lag and transport."""
INTEGRAL_PER_S = 2.0
CORRECTION_LIMIT_RAD = 0.2
CORRECTED_M = 0.0015
"""Below this tip error nothing is corrected: friction would make it hunt."""
LONGEST_STEP_S = 0.2
STRAYED_RAD = 0.4
"""Further off its path the arm is not following: plan anew from where it is."""
SETTLE_S = 0.25
IN_PLACE_M = 0.004
LONGEST_SETTLE_S = 1.6

LIFTED_M = 0.03
IN_HAND_M = 0.04
"""A cube whose centre is further than this from the tip is lost."""


class Phase(Enum):
    """What the expert is doing; the value is the chunk's subtask."""

    START = "start"
    APPROACH = "move above the cube"
    DESCEND = "lower to the cube"
    GRASP = "close the gripper"
    LIFT = "lift the cube"
    CARRY = "carry the cube to the tray"
    LOWER = "lower the cube into the tray"
    RELEASE = "open the gripper"
    RETREAT = "back off"
    HOME = "go home"
    DONE = "hold at home"


SETTLING = frozenset({Phase.APPROACH, Phase.DESCEND, Phase.GRASP, Phase.LOWER, Phase.RELEASE})
"""Phases that end only when the tip is in place, or when that takes too long."""


class ExpertBackend(Backend):
    """State machine over observations; see the module's text.

    Attributes:
        phase: What it is doing.
        attempts: How many times it went for the cube.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.name = "expert"
        self.contract = scripted_contract()
        self.description = scripted_description(f"scripted pick and place: {CUBE} into {TRAY}")
        self.needs = BackendNeeds(images=False, objects=True)
        self.latency_s = LATENCY_S
        self._reach = Reach(Kinematics.from_urdf(data_path("so101.urdf")))
        self._planner = PickPlanner(self._reach)
        keep_open = bool(settings.options.get("expert_keep_gripper_open", False))
        self._closed_rad = OPEN_RAD if keep_open else CLOSED_RAD
        self._after: dict[Phase, Callable[[Observation], None]] = {
            Phase.START: self._begin,
            Phase.APPROACH: self._descend,
            Phase.DESCEND: self._close,
            Phase.GRASP: self._lift,
            Phase.LIFT: self._carry,
            Phase.CARRY: self._lower,
            Phase.LOWER: self._open,
            Phase.RELEASE: self._retreat,
            Phase.RETREAT: self._go_home,
            Phase.HOME: self._rest,
            Phase.DONE: self._watch,
        }
        self.reset()

    def reset(self) -> None:
        """Begin anew, from wherever the arm is at the next observation."""
        self.phase = Phase.START
        self.attempts = 0
        self._path = JointPath(HOME_RAD)
        self._correction_rad = np.zeros(6)
        self._last_ns: int | None = None
        self._grasp: Grasp | None = None

    def predict(self, observation: Observation) -> Prediction:
        """Return the next second of the motion."""
        missing = [name for name in (CUBE, TRAY) if name not in observation.objects]
        if missing:
            raise ValueError(f"sim/objects has no {' and no '.join(missing)}")
        before_rad = self._correction_rad.copy()
        if self._last_ns is None or self._strayed(observation):
            self._path = JointPath(observation.state_rad)
            self._correction_rad = before_rad = np.zeros(6)
            self.phase = Phase.START
            self.attempts = 0
        else:
            self._correct(observation, (observation.stamp_ns - self._last_ns) * 1e-9)
        self._last_ns = observation.stamp_ns
        trouble = ""
        if self._arrived(observation):
            try:
                self._after[self.phase](observation)
            except Unreachable as error:
                trouble = f" ({error})"
        times_s = PERIOD_S * np.arange(HORIZON)
        actions_rad = np.array(
            [self._path.at(observation.stamp_ns + round(time_s * 1e9)) for time_s in times_s]
        )
        # The last chunk's correction stays until this one is in effect, then changes smoothly.
        share = np.clip((times_s - BLEND_FROM_S) / (LEAD_S - BLEND_FROM_S), 0.0, 1.0)[:, None]
        actions_rad += before_rad + share * (self._correction_rad - before_rad)
        attempt = f", attempt {self.attempts}" if self.attempts > 1 else ""
        return Prediction(actions_rad, PERIOD_S, subtask=self.phase.value + attempt + trouble)

    # Following the measurement.

    def _answered_rad(self, observation: Observation) -> Array:
        """Return where the path was when the arm was told to be where it is now."""
        return self._path.at(observation.stamp_ns - round(RESPONSE_S * 1e9))

    def _strayed(self, observation: Observation) -> bool:
        error_rad = (self._answered_rad(observation) - observation.state_rad)[ARM]
        return float(np.abs(error_rad).max()) > STRAYED_RAD

    def _tip_error_m(self, observation: Observation) -> float:
        wanted_m = self._reach.tip_m(self._answered_rad(observation))
        return float(np.linalg.norm(wanted_m - self._reach.tip_m(observation.state_rad)))

    def _correct(self, observation: Observation, step_s: float) -> None:
        """Integrate the joints' errors while the tip is off; slow against the dead time."""
        if self._tip_error_m(observation) < CORRECTED_M:
            return
        error_rad = (self._answered_rad(observation) - observation.state_rad)[ARM]
        gain = INTEGRAL_PER_S * min(step_s, LONGEST_STEP_S)
        self._correction_rad[ARM] = np.clip(
            self._correction_rad[ARM] + gain * error_rad,
            -CORRECTION_LIMIT_RAD,
            CORRECTION_LIMIT_RAD,
        )

    def _arrived(self, observation: Observation) -> bool:
        """Whether this phase's motion is over and, where it matters, the tip in place."""
        if self._path.end_ns is None:
            return True
        rest_s = (observation.stamp_ns - self._path.end_ns) * 1e-9
        if self.phase not in SETTLING:
            return rest_s >= -LEAD_S
        in_place = rest_s >= SETTLE_S and self._tip_error_m(observation) < IN_PLACE_M
        return in_place or rest_s >= LONGEST_SETTLE_S

    def _cube_in_hand(self, observation: Observation) -> bool:
        tip_m = self._reach.tip_m(observation.state_rad)
        cube_m = observation.objects[CUBE].position_m
        return float(np.linalg.norm(cube_m - tip_m)) < IN_HAND_M

    # Motions.

    def _move(
        self, observation: Observation, phase: Phase, knots_rad: Sequence[Array], bounds: Bounds
    ) -> None:
        start_ns = observation.stamp_ns + round(LEAD_S * 1e9)
        if self._path.end_ns is not None:
            start_ns = max(start_ns, self._path.end_ns)
        knots = [self._path.end_rad, *knots_rad]
        self._path.append(Segment.through(knots, start_ns, bounds))
        self.phase = phase

    def _move_gripper(self, observation: Observation, phase: Phase, gripper_rad: float) -> None:
        pose_rad = self._path.end_rad.copy()
        pose_rad[GRIPPER] = gripper_rad
        self._move(observation, phase, [pose_rad], FAST)

    def _move_tip_to_height(self, observation: Observation, phase: Phase, height_m: float) -> None:
        tip_m = self._reach.tip_m(self._path.end_rad)
        tip_m[2] = height_m
        knots = self._planner.line(self._path.end_rad, tip_m)[1:]
        self._move(observation, phase, knots, SLOW)

    # What follows each phase.

    def _begin(self, observation: Observation) -> None:
        if cube_in_tray(observation.objects, CUBE, TRAY):
            self._go_home(observation)
        else:
            self._approach(observation)

    def _approach(self, observation: Observation) -> None:
        self._grasp = self._planner.grasp(observation.objects, CUBE, OPEN_RAD)
        self.attempts += 1
        self._move(observation, Phase.APPROACH, [self._grasp.hover_rad], FAST)

    def _descend(self, observation: Observation) -> None:
        if self._grasp is None:
            raise RuntimeError("descending without a grasp")
        self._move(observation, Phase.DESCEND, self._grasp.descent_rad[1:], SLOW)

    def _close(self, observation: Observation) -> None:
        self._move_gripper(observation, Phase.GRASP, self._closed_rad)

    def _lift(self, observation: Observation) -> None:
        self._move_tip_to_height(observation, Phase.LIFT, HOVER_M)

    def _carry(self, observation: Observation) -> None:
        if not self._cube_in_hand(observation):
            self._try_again(observation)
            return
        gripper_rad = float(self._path.end_rad[GRIPPER])
        above_rad = self._planner.above(observation.objects[TRAY], CARRY_M, gripper_rad)
        self._move(observation, Phase.CARRY, [above_rad], FAST)

    def _lower(self, observation: Observation) -> None:
        if not self._cube_in_hand(observation):
            self._try_again(observation)
            return
        self._move_tip_to_height(observation, Phase.LOWER, RELEASE_M)

    def _open(self, observation: Observation) -> None:
        self._move_gripper(observation, Phase.RELEASE, OPEN_RAD)

    def _try_again(self, observation: Observation) -> None:
        self._move_gripper(observation, Phase.START, OPEN_RAD)

    def _retreat(self, observation: Observation) -> None:
        self._move_tip_to_height(observation, Phase.RETREAT, CARRY_M)

    def _go_home(self, observation: Observation) -> None:
        self._move(observation, Phase.HOME, [HOME_RAD], FAST)

    def _rest(self, observation: Observation) -> None:
        self.phase = Phase.DONE

    def _watch(self, observation: Observation) -> None:
        if not cube_in_tray(observation.objects, CUBE, TRAY):
            self._approach(observation)
