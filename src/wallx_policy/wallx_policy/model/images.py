"""From camera images to patches, step by step as the references do it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from so101_driver.errors import UserError
from torch.nn.functional import interpolate

from wallx_policy.lerobot_files import read_json

_FIRST_MIN_PIXELS = 4 * 28 * 28
_FIRST_MAX_PIXELS = 16384 * 28 * 28
_MAX_ASPECT = 200
# What the file may say, with the one value that is implemented; 3 is bicubic.
_FLAGS: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
}


class Resize(Enum):
    """Which bicubic kernel resamples the images."""

    PIL = "pil"
    TORCHVISION = "torchvision"
    MIXED = "mixed"
    """PIL's to the long side, torchvision's to whole tokens, as LeRobot's ``wall_oss_05``."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What ``preprocessor_config.json`` says.

    Attributes:
        min_pixels: Least area of an image.
        max_pixels: Largest area of an image.
        patch_size: Pixels of a patch's side.
        temporal_patch_size: Frames of a patch; a still image is repeated.
        merge_size: Patches of a token's side.
        mean: Of the normalisation, by colour.
        std: Of the normalisation, by colour.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def factor(self) -> int:
        """Sides of an image are multiples of this."""
        return self.patch_size * self.merge_size

    def check_against(self, folder: Path, vision: Mapping[str, Any]) -> None:
        """Refuse patches that are not the vision tower's."""
        own = (self.patch_size, self.temporal_patch_size, self.merge_size)
        names = ("patch_size", "temporal_patch_size", "spatial_merge_size")
        towers = tuple(vision.get(name) for name in names)
        if own != towers:
            raise UserError(
                f"{folder / 'preprocessor_config.json'} has patches of {own}, vision_config of "
                f"{towers} ({', '.join(names)}): it is another model's"
            )


@dataclass(frozen=True, slots=True)
class Patches:
    """Images of one inference.

    Attributes:
        pixel_values: [patches, channels · temporal · patch²], f32; grouped by 2×2 patches.
        grid_thw: [images, 3], patches in time, height and width.
    """

    pixel_values: NDArray[np.float32]
    grid_thw: NDArray[np.int64]


def read_image_settings(folder: Path) -> ImageSettings:
    """Read ``preprocessor_config.json``; UserError names what is missing."""
    path = folder / "preprocessor_config.json"
    content = read_json(path)
    for flag, value in _FLAGS.items():
        if content.get(flag, value) != value:
            raise UserError(f"{path}: {flag} = {content[flag]!r} is not implemented, only {value}")
    if not math.isclose(content.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise UserError(f"{path}: rescale_factor must be 1/255, not {content['rescale_factor']}")
    size = content.get("size", {})
    try:
        return ImageSettings(
            min_pixels=int(content.get("min_pixels") or size["shortest_edge"]),
            max_pixels=int(content.get("max_pixels") or size["longest_edge"]),
            patch_size=int(content["patch_size"]),
            temporal_patch_size=int(content["temporal_patch_size"]),
            merge_size=int(content["merge_size"]),
            mean=tuple(float(v) for v in content["image_mean"]),
            std=tuple(float(v) for v in content["image_std"]),
        )
    except KeyError as error:
        raise UserError(f"{path} lacks {error}") from error


def first_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Return (width, height) with the long side at ``resolution``; −1 leaves it."""
    if resolution == -1:
        return width, height
    if width > height:
        return resolution, int(resolution * height / width)
    return int(resolution * width / height), resolution


def smart_size(
    width: int, height: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the nearest (width, height) in multiples of ``factor`` within an area's bounds.

    Raises:
        UserError: for an image more than 200 times as long as wide.
    """
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise UserError(f"an image of {width}x{height} is too long for its width")
    new_width = max(factor, round(width / factor) * factor)
    new_height = max(factor, round(height / factor) * factor)
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width = math.ceil(width * grow / factor) * factor
        new_height = math.ceil(height * grow / factor) * factor
    return new_width, new_height


def resized(image: NDArray[np.uint8], size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    """Resample [H, W, 3] to ``size`` = (width, height) by an antialiased bicubic kernel."""
    width, height = size
    if (image.shape[1], image.shape[0]) == size:
        return image
    if resize is not Resize.TORCHVISION:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    tensor = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    small = interpolate(tensor, (height, width), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


class ImagePreprocessor:
    """Resizes, normalises and cuts images."""

    def __init__(
        self, settings: ImageSettings, resize: Resize, resolution: Mapping[str, int], default: int
    ) -> None:
        """Take ``resolution`` by view and ``default`` for the others."""
        self._settings = settings
        self._resize = resize
        self._resolution = dict(resolution)
        self._default = default
        scale = 1.0 / (255.0 * np.asarray(settings.std))
        self._scale = scale.astype(np.float32)
        self._shift = (np.asarray(settings.mean) / np.asarray(settings.std)).astype(np.float32)

    def __call__(self, images: Mapping[str, NDArray[np.uint8]]) -> Patches:
        """Return the patches of all images in their order."""
        rows, grids = [], []
        for view, image in images.items():
            patches, grid = self._patches(self._resized(view, image))
            rows.append(patches)
            grids.append(grid)
        return Patches(np.concatenate(rows), np.asarray(grids, dtype=np.int64))

    def tokens(self, patches: Patches) -> list[int]:
        """Return how many tokens each image becomes."""
        merge = self._settings.merge_size**2
        return [int(t * h * w) // merge for t, h, w in patches.grid_thw]

    def _resized(self, view: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        s = self._settings
        height, width = image.shape[:2]
        size = first_size(width, height, self._resolution.get(view, self._default))
        if min(size) < 1:
            raise UserError(f"view {view} of {width}x{height} is too long for its width")
        image = resized(image, size, self._resize)
        bounds = [(_FIRST_MIN_PIXELS, _FIRST_MAX_PIXELS), (s.min_pixels, s.max_pixels)]
        kernel = self._resize
        if kernel is Resize.MIXED:  # the image processor alone makes whole tokens
            bounds, kernel = bounds[1:], Resize.TORCHVISION
        for minimum, maximum in bounds:
            size = smart_size(image.shape[1], image.shape[0], s.factor, minimum, maximum)
            image = resized(image, size, kernel)
        return image

    def _patches(
        self, image: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        s = self._settings
        height, width = image.shape[0] // s.patch_size, image.shape[1] // s.patch_size
        m, p, t = s.merge_size, s.patch_size, s.temporal_patch_size
        values = image.astype(np.float32) * self._scale - self._shift
        blocks = values.reshape(height // m, m, p, width // m, m, p, 3)
        # To rows of one patch each, neighbours of a merged token together, colours outermost.
        rows = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(height * width, 3, 1, p * p)
        rows = np.broadcast_to(rows, (height * width, 3, t, p * p))
        return rows.reshape(height * width, -1), (1, height, width)
