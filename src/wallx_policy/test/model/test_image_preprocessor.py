"""Images prepared side by side come out as one by one, and as the plain formula says."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from so101_driver.errors import UserError
from wallx_policy.model.images import ImagePreprocessor, ImageSettings, Resize

MEAN, STD = (0.48, 0.45, 0.40), (0.27, 0.26, 0.28)
SETTINGS = ImageSettings(56 * 56, 16384 * 784, 14, 2, 2, MEAN, STD)
SIZES = {"front": (480, 640), "wrist": (100, 90), "square": (256, 256), "whole": (252, 252)}


def pictures() -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return {v: random.integers(0, 256, (*s, 3), dtype=np.uint8) for v, s in SIZES.items()}


def preprocessor(resize: Resize = Resize.PIL) -> ImagePreprocessor:
    return ImagePreprocessor(SETTINGS, resize, {"square": -1}, 256)


@pytest.mark.parametrize("resize", list(Resize))
def test_images_side_by_side_equal_images_one_by_one(resize: Resize) -> None:
    prepare, images = preprocessor(resize), pictures()
    together = prepare(images)
    alone = [prepare({view: image}) for view, image in images.items()]
    assert np.array_equal(together.pixel_values, np.concatenate([p.pixel_values for p in alone]))
    assert np.array_equal(together.grid_thw, np.concatenate([p.grid_thw for p in alone]))
    assert together.grid_thw.tolist() == [[1, 14, 18], [1, 18, 16], [1, 18, 18], [1, 18, 18]]
    assert prepare.tokens(together) == [63, 72, 81, 81]
    assert prepare.sizes(together)[0] == (252, 196)


def test_patches_are_those_of_the_plain_formula() -> None:
    image = pictures()["front"]
    small = Image.fromarray(image).resize((256, 192), Image.Resampling.BICUBIC)
    small = small.resize((252, 196), Image.Resampling.BICUBIC)
    values = (np.asarray(small) / 255.0 - MEAN) / STD
    rows = preprocessor()({"front": image}).pixel_values.reshape(7, 9, 2, 2, 3, 2, 14, 14)
    for row, column, frame in ((0, 0, 0), (3, 16, 1), (13, 17, 0)):
        ours = rows[row // 2, column // 2, row % 2, column % 2, :, frame]
        plain = values[14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
        assert np.abs(ours - plain.transpose(2, 0, 1)).max() < 1e-5


def test_the_kernels_differ() -> None:
    pil, torchvision, mixed = (preprocessor(r)(pictures()).pixel_values for r in Resize)
    assert 1e-3 < np.abs(pil - torchvision).max() < 0.2
    assert not np.array_equal(mixed, pil)
    assert not np.array_equal(mixed, torchvision)


def test_an_image_that_is_too_long_is_refused_by_its_view() -> None:
    images = {**pictures(), "strip": np.zeros((2, 640, 3), np.uint8)}
    with pytest.raises(UserError, match="view strip"):
        preprocessor()(images)


def test_one_image_needs_no_further_thread() -> None:
    prepare, before = preprocessor(), threading.active_count()
    prepare({"front": pictures()["front"]})
    assert threading.active_count() == before
    prepare(pictures())
    assert threading.active_count() > before
