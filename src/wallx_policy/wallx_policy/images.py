"""Image messages' bytes to RGB arrays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A JPEG or PNG file in memory."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class RawImage:
    """An uncompressed image as sensor_msgs/Image holds it."""

    height: int
    width: int
    step: int
    encoding: str
    data: bytes | memoryview


def to_rgb(image: EncodedImage | RawImage) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3], red first.

    Raises:
        ValueError: for data that is no image of the kind it says.
    """
    if isinstance(image, RawImage):
        return _raw_to_rgb(image)
    data = np.frombuffer(image.data, np.uint8)
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    if bgr is None:
        raise ValueError(f"{data.size} bytes are neither JPEG nor PNG")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _raw_to_rgb(image: RawImage) -> NDArray[np.uint8]:
    channels = _CHANNELS.get(image.encoding)
    if channels is None:
        raise ValueError(f"encoding {image.encoding!r}; known are {', '.join(_CHANNELS)}")
    row = image.width * channels
    if image.height < 1 or row < 1 or image.step < row:
        raise ValueError(f"impossible size {image.width}x{image.height}, step {image.step}")
    data = np.frombuffer(image.data, np.uint8)
    if data.size != image.height * image.step:
        raise ValueError(f"{data.size} bytes instead of {image.height * image.step}")
    pixels = data.reshape(image.height, image.step)[:, :row]
    pixels = pixels.reshape(image.height, image.width, channels)
    if channels == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif image.encoding.startswith("bgr"):
        pixels = pixels[:, :, 2::-1]
    return np.ascontiguousarray(pixels[:, :, :3])
