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
            "calibration",
            REQUIRED("so101.json"),
            "LeRobot's calibration file of this arm; it narrows the position limits.",
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
    ),
)
