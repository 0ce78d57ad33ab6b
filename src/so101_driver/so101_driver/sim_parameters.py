"""Parameters of the simulator's node."""

from so101_driver.parameter_spec import REQUIRED, NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "sim",
    (
        Parameter(
            "port_link",
            REQUIRED("/run/user/1000/so101/arm"),
            "Path of the link to the servos' pseudo-terminal; the driver opens it as its port.",
        ),
        Parameter(
            "calibration",
            "",
            "LeRobot calibration JSON of the virtual arm; empty takes the one that ships with it.",
        ),
        Parameter("seed", 0, "Seed of the cubes' positions at start.", minimum=0, maximum=2**31),
        Parameter("cameras", True, "Render and publish the cameras."),
        Parameter(
            "camera_rate_hz", 15.0, "Pictures per second.", unit="Hz", minimum=1.0, maximum=60.0
        ),
        Parameter("jpeg_quality", 90, "Quality of the pictures.", minimum=10, maximum=100),
        Parameter(
            "goal_write_enables_torque",
            True,
            "Whether writing a goal switches a servo's torque on, as several projects report.",
        ),
        Parameter(
            "faults",
            "",
            "YAML file of what goes wrong and when, see docs/virtual-arm.md; empty for nothing.",
        ),
        Parameter("frame_prefix", "", "Put before every frame id, e.g. left_."),
        Parameter(
            "ending_timeout_s",
            15.0,
            "How long the servos keep answering after a signal while a driver has the port open.",
            unit="s",
            minimum=0.0,
            maximum=60.0,
        ),
    ),
)
