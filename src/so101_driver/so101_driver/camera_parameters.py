"""Parameters of a camera node."""

from so101_driver.parameter_spec import REQUIRED, NodeParameters, Parameter

PARAMETERS = NodeParameters(
    "camera",
    (
        Parameter(
            "device",
            REQUIRED("/dev/video0"),
            "Camera device (best a link below /dev/v4l/by-id or by-path), video file, or folder of "
            "pictures.",
        ),
        Parameter("view", REQUIRED("face_view"), "Name of the view: topics are camera/<view>/…"),
        Parameter(
            "width",
            0,
            "Width of the pictures; 0 takes 640 of a device, a file's own.",
            unit="px",
            minimum=0,
            maximum=8192,
        ),
        Parameter(
            "height",
            0,
            "Height of the pictures; 0 takes 480 of a device, a file's own.",
            unit="px",
            minimum=0,
            maximum=8192,
        ),
        Parameter(
            "rate_hz",
            0.0,
            "Pictures per second; 0 takes 30 of a device, a video's own, 15 of a folder.",
            unit="Hz",
            minimum=0.0,
            maximum=240.0,
        ),
        Parameter(
            "pixel_format",
            "MJPG",
            "What the device shall send; MJPG is passed on as it is, YUYV is compressed here.",
            choices=("MJPG", "YUYV"),
        ),
        Parameter(
            "jpeg_quality",
            90,
            "Quality of pictures that are compressed here.",
            minimum=10,
            maximum=100,
        ),
        Parameter(
            "latency_s",
            0.04,
            "From exposure to arrival; subtracted where the device does not stamp its pictures.",
            unit="s",
            minimum=0.0,
            maximum=1.0,
        ),
        Parameter("autofocus", False, "Whether the camera may focus by itself while it runs."),
        Parameter("focus", -1, "Fixed focus in the camera's own units; -1 leaves it.", minimum=-1),
        Parameter(
            "exposure_s",
            0.0,
            "Fixed exposure time; 0 is automatic.",
            unit="s",
            minimum=0.0,
            maximum=1.0,
        ),
        Parameter(
            "white_balance_k",
            0,
            "Fixed white balance; 0 is automatic.",
            unit="K",
            minimum=0,
            maximum=10000,
        ),
        Parameter(
            "calibration",
            "",
            "File that ROS's camera_calibration wrote, for camera_info; empty: not calibrated.",
        ),
        Parameter("frame_prefix", "", "Put before the frame id, e.g. left_."),
        Parameter(
            "reconnect_s",
            1.0,
            "How often a camera that was unplugged is looked for.",
            unit="s",
            minimum=0.1,
            maximum=60.0,
        ),
        Parameter(
            "frozen_after_s",
            5.0,
            "Pictures that stay identical for so long are reported as frozen; 0 never.",
            unit="s",
            minimum=0.0,
            maximum=600.0,
        ),
    ),
)
