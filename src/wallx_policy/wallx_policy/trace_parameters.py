"""Parameters of the trace node."""

from so101_driver.parameter_spec import NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "trace",
    (
        Parameter(
            "urdf", "", "Robot description for forward kinematics; empty: the SO-101 of this suite."
        ),
        Parameter("frame_prefix", "", "Put before base_link, for several arms in one scene."),
        Parameter(
            "rate_hz",
            10.0,
            "How often the trace is published.",
            unit="Hz",
            minimum=1.0,
            maximum=50.0,
        ),
        Parameter(
            "executed_s",
            5.0,
            "How much of the executed path is shown.",
            unit="s",
            minimum=0.1,
            maximum=60.0,
        ),
    ),
)
