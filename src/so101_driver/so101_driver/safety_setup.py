"""Builds what the safety node needs from its parameters: limits, geometry, settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so101_driver.calibration import Calibration
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from so101_driver.kinematics import Kinematics
from so101_driver.safety import Blend, Limits, Mode, Settings, effective_limits
from so101_driver.safety.geometry import Geometry
from so101_driver.safety.geometry_file import load_geometry

DRIVER_SO101 = "so101"
DRIVER_NONE = "none"


@dataclass(frozen=True, slots=True)
class SafetySetup:
    """What a Supervisor is made of.

    Attributes:
        limits: The effective ones.
        geometry: None when it is off.
        settings: How the core behaves.
        warnings: One sentence for each protection that is off.
    """

    limits: Limits
    geometry: Geometry | None
    settings: Settings
    warnings: tuple[str, ...]


def build_setup(p: Any) -> SafetySetup:
    """Read every file that the node's parameters ``p`` name.

    Raises:
        UserError: A file is unusable, or parameters do not go together.
    """
    limits, kinematics = _so101(p) if p.driver == DRIVER_SO101 else _other_arm(p)
    warnings = []
    geometry = None
    if not p.geometry_file:
        lost = "commands are not kept from the table, the arm itself or a workspace's walls"
        if math.isfinite(limits.tip_speed_m_s):
            lost += ", and the tip's speed is not limited"
        warnings.append(f"geometry is off: {lost} (geometry_file)")
    elif kinematics is None:
        raise UserError(
            "parameter 'geometry_file' needs a URDF to know where the links are: give 'urdf' too, "
            "or leave both empty."
        )
    else:
        geometry = load_geometry(p.geometry_file, kinematics, limits.joint_names)
    if not p.watch_following:
        warnings.append("a joint that is blocked goes unnoticed (watch_following)")
    return SafetySetup(limits, geometry, _settings(p), tuple(warnings))


def _so101(p: Any) -> tuple[Limits, Kinematics]:
    if not p.calibration:
        raise UserError(
            "parameter 'calibration' is missing: give the arm's LeRobot calibration file, e.g. "
            "calibration:=so101.json, or driver:=none for an arm that is no SO-101."
        )
    urdf = Path(p.urdf) if p.urdf else data_path("so101.urdf")
    calibration = Calibration.load(p.calibration)
    limits = effective_limits(p.limits_file, p.limits_profile, urdf, calibration)
    return limits, Kinematics.from_urdf(urdf)


def _other_arm(p: Any) -> tuple[Limits, Kinematics | None]:
    if p.calibration:
        raise UserError(
            "parameter 'calibration' is for an SO-101: with driver:=none leave it empty and put "
            "the arm's own position limits into the limits file."
        )
    limits = Limits.from_file(p.limits_file, p.limits_profile)
    if not p.urdf:
        return limits, None
    kinematics = Kinematics.from_urdf(
        p.urdf, joint_names=limits.joint_names, base=p.base_link, tip=p.tip_link
    )
    ranges = np.stack([limits.lower_rad, limits.upper_rad], axis=-1)
    urdf_ranges = kinematics.position_limits_rad
    # A continuous joint has no ends in the URDF.
    return limits.intersected(np.where(np.isinf(urdf_ranges), ranges, urdf_ranges)), kinematics


def _settings(p: Any) -> Settings:
    return Settings(
        period_s=1.0 / p.rate_hz,
        mode=Mode[p.mode.upper()],
        scale=p.scale,
        auto_arm=p.arm == "auto",
        deadman_required=p.deadman,
        source=p.source,
        chunk_timeout_s=p.chunk_timeout_s,
        max_clock_skew_s=p.max_clock_skew_s,
        joint_state_timeout_s=p.joint_state_timeout_s,
        fit_tolerance_rad=p.fit_tolerance_rad,
        state_lookahead_s=p.state_lookahead_s,
        scaled_radius_rad=p.scaled_radius_rad,
        scaled_gripper=p.scaled_gripper,
        blend=Blend(p.blend),
        join_s=p.join_s,
        ensemble_decay_per_s=p.ensemble_decay_per_s,
        half_share=p.half_share,
        servo_dead_time_s=p.servo_dead_time_s,
        servo_lag_s=p.servo_lag_s,
        watch_following=p.watch_following,
        skew_warning_s=p.skew_warning_s,
        needs_driver=p.driver == DRIVER_SO101,
    )
