"""Reads the file that ROS's camera_calibration writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so101_driver.errors import UserError
from so101_driver.yaml_fields import number, read_yaml

_MODELS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
"""Coefficients of each distortion model, as sensor_msgs names them."""


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """What sensor_msgs/CameraInfo says of a camera's optics; all zero if it is not calibrated.

    Attributes:
        distortion_model: As sensor_msgs names it.
        distortion: Its coefficients.
        camera_matrix: 3 x 3, row by row.
        rectification: 3 x 3, row by row.
        projection: 3 x 4, row by row.
    """

    distortion_model: str = ""
    distortion: tuple[float, ...] = ()
    camera_matrix: tuple[float, ...] = (0.0,) * 9
    rectification: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    projection: tuple[float, ...] = (0.0,) * 12

    @classmethod
    def pinhole(cls, fx: float, fy: float, cx: float, cy: float) -> Intrinsics:
        """An ideal camera; focal lengths and centre in pixels."""
        return cls(
            "plumb_bob",
            (0.0,) * 5,
            (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0),
            projection=(fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0),
        )


def load_intrinsics(path: str | Path, width: int, height: int) -> Intrinsics:
    """Read a calibration of pictures of this size.

    Raises:
        UserError: The file is missing, is no camera calibration, or belongs to another size.
    """
    name = f"the camera calibration {path}"
    content = read_yaml(path, "camera calibration", "face_view.yaml")
    if not isinstance(content, dict):
        raise UserError(f"{name} is empty: give the file that camera_calibration wrote.")
    size = content.get("image_width"), content.get("image_height")
    if size != (width, height):
        raise UserError(
            f"{name} is for {size[0]}x{size[1]}, the pictures have {width}x{height}: calibrate the "
            "camera at this size."
        )
    model = content.get("distortion_model")
    if not isinstance(model, str) or model not in _MODELS:
        raise UserError(
            f"{name}: distortion_model must be one of {', '.join(_MODELS)}, not {model!r}."
        )
    numbers = {
        key: _numbers(content, key, count, name)
        for key, count in (
            ("distortion_coefficients", _MODELS[model]),
            ("camera_matrix", 9),
            ("rectification_matrix", 9),
            ("projection_matrix", 12),
        )
    }
    return Intrinsics(
        model,
        numbers["distortion_coefficients"],
        numbers["camera_matrix"],
        numbers["rectification_matrix"],
        numbers["projection_matrix"],
    )


def _numbers(content: dict[str, Any], key: str, count: int, name: str) -> tuple[float, ...]:
    entry = content.get(key)
    data = entry.get("data") if isinstance(entry, dict) else None
    if not isinstance(data, list) or len(data) != count:
        raise UserError(f"{name}: {key} must hold data: a list of {count} numbers.")
    return tuple(number(value, f"a number of {key}", name) for value in data)
