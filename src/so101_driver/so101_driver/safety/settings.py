"""How the safety core behaves, limits apart."""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver.safety.types import Blend, Mode


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a Supervisor; the defaults are the node's.

    Attributes:
        period_s: Time between two steps and thus between two commands.
        mode: Mode at the start.
        scale: Share of a chunk's speed in SCALED mode.
        auto_arm: Arm once, as soon as everything is ready and chunks come.
        deadman_required: Move only while a deadman switch is pressed.
        source: Publisher whose chunks are followed; empty takes the first after arming.
        chunk_timeout_s: Age at which a chunk is stale; 0 derives it from what is measured.
        max_clock_skew_s: A stamp this far in the future counts as now; also the largest step of
            ROS time against the steady clock that is no jump.
        joint_state_timeout_s: Without a good measurement for so long the arm brakes and faults.
        fit_tolerance_rad: How far the followed path may pass from a chunk's points.
        state_lookahead_s: The plant's dead time plus lag, by which chunks of reached positions
            are executed early.
        scaled_radius_rad: How far a joint goes from the arming pose in SCALED mode.
        scaled_gripper: Whether the gripper moves in SCALED mode.
        blend: How overlapping chunks are combined; chunks with committed steps always keep them.
        join_s: Time over which a newer chunk takes over from the one before.
        ensemble_decay_per_s: For ENSEMBLE, how fast the weight of a chunk falls with its age.
        half_share: For HALF, share of a chunk that is executed before the next is taken.
        servo_dead_time_s: Time before a servo begins to follow a command.
        servo_lag_s: Time constant with which it follows then.
        watch_following: Watch how far joints hang behind, as the limits file allows.
        skew_warning_s: Difference between the policy's clock and this one that is reported.
        needs_driver: Arm and move only with a driver that reports; False for arms whose controller
            does not, which are then armed where they are measured.
    """

    period_s: float = 0.01
    mode: Mode = Mode.SHADOW
    scale: float = 0.15
    auto_arm: bool = False
    deadman_required: bool = False
    source: str = ""
    chunk_timeout_s: float = 0.0
    max_clock_skew_s: float = 0.05
    joint_state_timeout_s: float = 0.2
    fit_tolerance_rad: float = 0.005
    state_lookahead_s: float = 0.115
    scaled_radius_rad: float = 0.5
    scaled_gripper: bool = False
    blend: Blend = Blend.LATEST
    join_s: float = 0.1
    ensemble_decay_per_s: float = 1.0
    half_share: float = 0.5
    servo_dead_time_s: float = 0.085
    servo_lag_s: float = 0.03
    watch_following: bool = True
    skew_warning_s: float = 0.01
    needs_driver: bool = True
