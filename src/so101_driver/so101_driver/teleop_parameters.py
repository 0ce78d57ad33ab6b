"""Parameters of the teleoperation node."""

from so101_driver.parameter_spec import REQUIRED, NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "teleop",
    (
        Parameter("port", REQUIRED("/dev/ttyACM1"), "Serial port of the leader arm."),
        Parameter(
            "calibration",
            REQUIRED("my_leader.json"),
            "LeRobot's calibration file of the leader (teleoperators/so_leader/<id>.json).",
        ),
        Parameter(
            "follower_calibration",
            "",
            "Calibration file of the follower; with it a swapped pair of ports is named as such.",
        ),
        Parameter("source", "teleop", "Name under which safety knows the targets."),
        Parameter(
            "rate_hz",
            50.0,
            "How often the leader is read and a target is sent.",
            unit="Hz",
            minimum=20.0,
            maximum=100.0,
        ),
        Parameter(
            "clutch",
            "align",
            "How engaging avoids a jump: align refuses until the leader is within align_rad of the "
            "follower; offset takes any distance and lets it fade; relative takes any distance and "
            "keeps it.",
            choices=("align", "offset", "relative"),
            read_only=False,
        ),
        Parameter(
            "align_rad",
            0.2,
            "For clutch align: how far each joint of the leader may be from the follower's.",
            unit="rad",
            minimum=0.02,
            maximum=1.0,
        ),
        Parameter(
            "fade_rad_s",
            0.3,
            "For clutch align and offset: fastest motion of the follower while the distance at "
            "engaging fades.",
            unit="rad/s",
            minimum=0.02,
            maximum=1.0,
        ),
        Parameter(
            "leader_timeout_s",
            0.1,
            "A servo of the leader that is silent for longer ends the engagement.",
            unit="s",
            minimum=0.03,
            maximum=1.0,
        ),
        Parameter(
            "not_followed_s",
            1.0,
            "The engagement ends when safety has not followed its targets for this long.",
            unit="s",
            minimum=0.2,
            maximum=10.0,
        ),
        Parameter("frame_id", "base_link", "Frame of the follower's base, frame_id of targets."),
    ),
)
