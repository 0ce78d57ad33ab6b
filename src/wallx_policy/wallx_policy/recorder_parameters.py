"""Parameters of the recorder node."""

from so101_driver.parameter_spec import NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "recorder",
    (
        Parameter("directory", "out/bags", "Folder in which bags are written."),
        Parameter(
            "bag_name",
            "",
            "Folder name of the first bag; later ones get _2, _3 ... Empty: date and time.",
        ),
        Parameter("record_on_start", True, "Begin the first bag when the node is activated."),
        Parameter("task", "", "Text stored with the bag that record_on_start begins."),
        Parameter("camera_names", ("face_view", "wrist_view"), "Views to record."),
        Parameter(
            "image_transport",
            "compressed",
            "Which images are recorded; the policy should see the same ones.",
            choices=("compressed", "raw"),
        ),
        Parameter("estop_topic", "estop", "Where emergency-stop buttons publish."),
        Parameter(
            "checkpoint_period_s",
            0.5,
            "How often the bag on disk is completed: what a kill or a power cut may lose.",
            unit="s",
            minimum=0.05,
            maximum=10.0,
        ),
        Parameter(
            "minimum_free_mb",
            200.0,
            "Recording stops, keeping what is written, when the disk has less room than this.",
            unit="MB",
            minimum=0.0,
        ),
        Parameter(
            "stop_timeout_s",
            12.0,
            "After SIGINT or SIGTERM recording goes on while the arm still moves, at most so long.",
            unit="s",
            minimum=0.0,
            maximum=60.0,
        ),
    ),
)
