"""Parameters of the driver node."""

from so101_driver.parameter_spec import REQUIRED, NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "driver",
    (
        Parameter(
            "port",
            REQUIRED("/dev/ttyACM0"),
            "Serial port of the arm, or the simulator's link to its pseudo-terminal.",
        ),
        Parameter(
            "port_wait_s",
            0.0,
            "How long a port that does not exist yet is waited for; the simulator makes its own.",
            unit="s",
            minimum=0.0,
            maximum=600.0,
        ),
        Parameter(
            "calibration",
            "",
            "LeRobot's calibration file of this arm; empty looks for it where LeRobot keeps them.",
        ),
        Parameter(
            "robot_id",
            "",
            "LeRobot's id of this arm, if there are calibrations of several to choose from.",
        ),
        Parameter(
            "limits_file",
            REQUIRED("so101_limits.yaml"),
            "Limits of the arm; give the driver and the safety node the same.",
        ),
        Parameter("limits_profile", REQUIRED("cautious"), "Which profile of the limits file."),
        Parameter(
            "allow_mixed_firmware",
            False,
            "Accept servos with different firmware, which may move differently.",
        ),
        Parameter(
            "command_max_age_s",
            0.1,
            "Commands whose stamp is older are refused.",
            unit="s",
            minimum=0.02,
            maximum=0.5,
        ),
        Parameter(
            "command_timeout_s",
            0.1,
            "Without a command for this long the driver reports that it holds.",
            unit="s",
            minimum=0.02,
            maximum=1.0,
        ),
        Parameter(
            "desync_rad",
            0.35,
            "A command further than this from the last goal makes the driver hold (DESYNC).",
            unit="rad",
            minimum=0.05,
            maximum=1.0,
        ),
        Parameter(
            "adopt_rad",
            0.25,
            "How far a standing arm may hang from its goals to be taken over at start.",
            unit="rad",
            minimum=0.05,
            maximum=0.5,
        ),
        Parameter(
            "max_bad_cycles",
            3,
            "Consecutive missing replies of one servo that are tolerated before a fault.",
            minimum=0,
            maximum=50,
        ),
        Parameter(
            "bus_silence_s",
            0.2,
            "How long all servos may be silent at once, while they are asked, before a fault.",
            unit="s",
            minimum=0.05,
            maximum=2.0,
        ),
        Parameter(
            "torque_ramp_s",
            0.5,
            "Time in which torque rises when it is switched on.",
            unit="s",
            minimum=0.1,
            maximum=10.0,
        ),
        Parameter(
            "gripper_torque",
            0.2,
            "Share of full torque with which the gripper goes on gripping after about a second.",
            minimum=0.05,
            maximum=0.24,
        ),
        Parameter(
            "release_s",
            3.0,
            "Time in which driver/release lets the arm go limp.",
            unit="s",
            minimum=0.5,
            maximum=30.0,
        ),
        Parameter(
            "on_exit",
            "hold",
            "What a standing arm does when the driver ends: it keeps holding, or is let down.",
            choices=("hold", "ramp_down"),
        ),
    ),
)
