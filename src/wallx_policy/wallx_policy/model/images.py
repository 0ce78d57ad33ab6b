"""From camera images to patches, step by step as the references do it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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

from wallx_policy.checkpoint_kinds import IMAGES
from wallx_policy.json_shapes import check
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
    check(path, content, IMAGES)
    for flag, value in _FLAGS.items():
        if content.get(flag, value) != value:
            raise UserError(f"{path}: {flag} = {content[flag]!r} is not implemented, only {value}")
    scale = content.get("rescale_factor")
    if scale is not None and not math.isclose(scale, 1 / 255, rel_tol=1e-6):
        raise UserError(f"{path}: rescale_factor must be 1/255, not {scale}")
    size = content.get("size") or {}
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


@dataclass(frozen=True, slots=True)
class _Step:
    """One resampling: to (width, height), by PIL or by torch."""

    size: tuple[int, int]
    pil: bool


class ImagePreprocessor:
    """Resizes, normalises and cuts images, each on a thread of its own."""

    def __init__(
        self, settings: ImageSettings, resize: Resize, resolution: Mapping[str, int], default: int
    ) -> None:
        """Take ``resolution`` by view and ``default`` for the others."""
        self._settings = settings
        self._resize = resize
        self._resolution = dict(resolution)
        self._default = default
        scale = 1.0 / (255.0 * np.asarray(settings.std))
        shift = np.asarray(settings.mean) / np.asarray(settings.std)
        self._scale = scale.astype(np.float32)[:, None]
        self._shift = shift.astype(np.float32)[:, None]
        # PIL, torch and numpy let other threads run while they compute.
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "images")

    def __call__(self, images: Mapping[str, NDArray[np.uint8]]) -> Patches:
        """Return the patches of all images in their order.

        Raises:
            UserError: for an image that is too long for its width.
        """
        s = self._settings
        plans = [self._steps(view, image.shape) for view, image in images.items()]
        grids = [(1, h // s.patch_size, w // s.patch_size) for (w, h), _ in plans]
        counts = [height * width for _, height, width in grids]
        numbers = 3 * s.temporal_patch_size * s.patch_size**2
        rows = np.empty((sum(counts), numbers), dtype=np.float32)
        jobs = [
            (image, steps, part)
            for image, (_, steps), part in zip(
                images.values(), plans, np.split(rows, np.cumsum(counts)[:-1]), strict=True
            )
        ]
        others = [self._threads.submit(self._fill, *job) for job in jobs[1:]]
        self._fill(*jobs[0])
        for other in others:
            other.result()
        return Patches(rows, np.asarray(grids, dtype=np.int64))

    def tokens(self, patches: Patches) -> list[int]:
        """Return how many tokens each image becomes."""
        merge = self._settings.merge_size**2
        return [int(t * h * w) // merge for t, h, w in patches.grid_thw]

    def sizes(self, patches: Patches) -> list[tuple[int, int]]:
        """Return (width, height) in pixels of each image after resizing."""
        side = self._settings.patch_size
        return [(int(w) * side, int(h) * side) for _, h, w in patches.grid_thw]

    def _steps(self, view: str, shape: tuple[int, ...]) -> tuple[tuple[int, int], list[_Step]]:
        """Return the final (width, height) of a view, and the resamplings on the way."""
        s = self._settings
        height, width = shape[:2]
        size = first_size(width, height, self._resolution.get(view, self._default))
        if min(size) < 1:
            raise UserError(f"view {view} of {width}x{height} is too long for its width")
        sizes = [size]
        bounds = [(_FIRST_MIN_PIXELS, _FIRST_MAX_PIXELS), (s.min_pixels, s.max_pixels)]
        if self._resize is Resize.MIXED:  # the image processor alone makes whole tokens
            bounds = bounds[1:]
        for minimum, maximum in bounds:
            sizes.append(smart_size(*sizes[-1], s.factor, minimum, maximum))
        last = (width, height)
        steps = []
        for n, size in enumerate(sizes):
            pil = self._resize is Resize.PIL or (self._resize is Resize.MIXED and n == 0)
            if size != last:
                steps.append(_Step(size, pil))
            last = size
        return last, steps

    def _fill(
        self, image: NDArray[np.uint8], steps: list[_Step], rows: NDArray[np.float32]
    ) -> None:
        """Write the patches of an image into rows of one patch each."""
        image = _resampled(image, steps)
        s = self._settings
        m, p, t = s.merge_size, s.patch_size, s.temporal_patch_size
        height, width = image.shape[0] // p, image.shape[1] // p
        blocks = image.reshape(height // m, m, p, width // m, m, p, 3)
        # Neighbours of a merged token together, colours outermost; as bytes, which are few.
        cut = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(height * width, 3, p * p)
        frames = rows.reshape(height * width, 3, t, p * p)
        first = frames[:, :, 0]
        np.multiply(cut, self._scale, out=first)
        np.subtract(first, self._shift, out=first)
        frames[:, :, 1:] = first[:, :, None]


def _resampled(image: NDArray[np.uint8], steps: list[_Step]) -> NDArray[np.uint8]:
    """Return [H, W, 3] after the steps; PIL's own format is kept between its steps."""
    now: NDArray[np.uint8] | Image.Image = image
    for step in steps:
        if step.pil:
            pil = now if isinstance(now, Image.Image) else Image.fromarray(now)
            now = pil.resize(step.size, Image.Resampling.BICUBIC)
        else:
            now = _resampled_by_torch(np.asarray(now), step.size)
    return np.asarray(now)


def _resampled_by_torch(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = size
    tensor = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    small = interpolate(tensor, (height, width), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()
