"""Parameters of the safety node."""

from so101_driver.parameter_spec import REQUIRED, NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "safety",
    (
        Parameter(
            "limits_file",
            REQUIRED("so101_limits.yaml"),
            "Limits of the arm; give the driver and the safety node the same.",
        ),
        Parameter("limits_profile", REQUIRED("cautious"), "Which profile of the limits file."),
        Parameter(
            "driver",
            "so101",
            "Who moves the servos: the suite's driver node (so101), or a controller that only "
            "publishes joint_states (none), as other arms have.",
            choices=("so101", "none"),
        ),
        Parameter(
            "calibration",
            "",
            "LeRobot's calibration file of this arm; it narrows the position limits. An SO-101 "
            "needs it, other arms leave it empty.",
        ),
        Parameter(
            "urdf",
            "",
            "The arm's URDF; it narrows the position limits and carries the geometry. Empty: the "
            "SO-101's own, or none for another arm.",
        ),
        Parameter("base_link", "base_link", "First link of the arm in the URDF of another arm."),
        Parameter(
            "tip_link",
            "gripper_frame_link",
            "Link whose speed is limited, in the URDF of another arm.",
        ),
        Parameter(
            "geometry_file",
            "",
            "Table, workspace and capsules of the arm, e.g. so101_geometry.yaml; empty switches "
            "geometry and the limit of the tip's speed off, which diagnostics warn of.",
        ),
        Parameter(
            "mode",
            "shadow",
            "How far chunks reach the arm at start; safety/set_mode changes it.",
            choices=("shadow", "scaled", "full"),
        ),
        Parameter(
            "scale",
            0.15,
            "Share of a chunk's speed in mode scaled.",
            minimum=0.1,
            maximum=0.2,
        ),
        Parameter(
            "scaled_radius_rad",
            0.5,
            "How far a joint goes from the arming pose in mode scaled.",
            unit="rad",
            minimum=0.05,
            maximum=3.0,
        ),
        Parameter("scaled_gripper", False, "Whether the gripper moves in mode scaled."),
        Parameter(
            "arm",
            "manual",
            "auto arms once, as soon as everything is ready and chunks come; manual waits for "
            "safety/arm.",
            choices=("manual", "auto"),
        ),
        Parameter(
            "deadman",
            False,
            "Move only while safety/deadman keeps saying true, ten times a second or more.",
        ),
        Parameter(
            "source",
            "",
            "Whose chunks are followed; empty takes the first that come after arming.",
        ),
        Parameter(
            "rate_hz",
            100.0,
            "Commands per second.",
            unit="Hz",
            minimum=50.0,
            maximum=250.0,
        ),
        Parameter(
            "realtime_priority",
            0,
            "Real-time priority (SCHED_FIFO) of the loop; 0 for ordinary scheduling.",
            minimum=0,
            maximum=99,
        ),
        Parameter("lock_memory", False, "Keep the node's memory from being paged out."),
        Parameter(
            "forward_topic",
            "",
            "Also send commands as Float64MultiArray, in the order of the limits file, e.g. to "
            "forward_position_controller/commands; empty for not.",
        ),
        Parameter(
            "trajectory_topic",
            "",
            "Also send commands as JointTrajectory of one point, e.g. to "
            "joint_trajectory_controller/joint_trajectory; empty for not.",
        ),
        Parameter(
            "blend",
            "latest",
            "How overlapping chunks are combined: the newest takes over (latest), all count with "
            "weights that fall with their age (ensemble), or a share of each is executed before "
            "the next (half). Committed steps are always kept.",
            choices=("latest", "ensemble", "half"),
        ),
        Parameter(
            "join_s",
            0.1,
            "Time over which a newer chunk takes over from the one before.",
            unit="s",
            minimum=0.02,
            maximum=1.0,
        ),
        Parameter(
            "ensemble_decay_per_s",
            1.0,
            "For blend ensemble: how fast a chunk's weight falls with its age.",
            unit="1/s",
            minimum=0.0,
            maximum=100.0,
        ),
        Parameter(
            "half_share",
            0.5,
            "For blend half: share of a chunk that is executed before the next is taken.",
            minimum=0.1,
            maximum=1.0,
        ),
        Parameter(
            "chunk_timeout_s",
            0.0,
            "Age at which the newest chunk is stale and the arm stops; 0 takes the shorter of the "
            "horizon and twice the measured interval plus the latency.",
            unit="s",
            minimum=0.0,
            maximum=10.0,
        ),
        Parameter(
            "joint_state_timeout_s",
            0.2,
            "Without good joint states for this long an armed arm brakes and faults.",
            unit="s",
            minimum=0.03,
            maximum=1.0,
        ),
        Parameter(
            "max_clock_skew_s",
            0.05,
            "Stamps this far in the future count as now; beyond it they are refused.",
            unit="s",
            minimum=0.001,
            maximum=0.5,
        ),
        Parameter(
            "skew_warning_s",
            0.01,
            "Difference between the policy's clock and this one that diagnostics warn of.",
            unit="s",
            minimum=0.001,
            maximum=0.5,
        ),
        Parameter(
            "fit_tolerance_rad",
            0.005,
            "How far the followed path may pass from a chunk's points to be feasible.",
            unit="rad",
            minimum=0.0,
            maximum=0.1,
        ),
        Parameter(
            "state_lookahead_s",
            0.115,
            "The servos' dead time plus lag: chunks of reached positions are executed this early.",
            unit="s",
            minimum=0.0,
            maximum=0.5,
        ),
        Parameter(
            "watch_following",
            True,
            "Slow down, then stop, when a joint hangs behind as the limits file does not allow.",
        ),
        Parameter(
            "servo_dead_time_s",
            0.085,
            "Time from a command to the first measured motion; for watch_following.",
            unit="s",
            minimum=0.0,
            maximum=0.5,
        ),
        Parameter(
            "servo_lag_s",
            0.03,
            "Time constant with which a servo follows after that; for watch_following.",
            unit="s",
            minimum=0.0,
            maximum=1.0,
        ),
    ),
)
