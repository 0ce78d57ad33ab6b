"""A colour channel exchanged or a row padding ignored looks like a working camera to everybody."""

import cv2
import numpy as np
import pytest
from wallx_policy.images import EncodedImage, RawImage, to_rgb

RED, GREEN, BLUE = (220, 30, 10), (20, 210, 40), (10, 40, 230)


def picture():
    rgb = np.zeros((8, 24, 3), np.uint8)
    rgb[:, :8], rgb[:, 8:16], rgb[:, 16:] = RED, GREEN, BLUE
    return rgb


@pytest.mark.parametrize(("kind", "tolerance"), [(".png", 0), (".jpg", 12)])
def test_encoded_images_come_out_as_rgb(kind, tolerance):
    data = cv2.imencode(kind, picture()[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    rgb = to_rgb(EncodedImage(data))
    assert rgb.shape == (8, 24, 3)
    difference = np.abs(rgb[:, 2:6].astype(int) - RED).max()
    assert difference <= tolerance
    assert rgb[0, 20, 2] > 200


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
@pytest.mark.parametrize("padding", [0, 5])
def test_raw_images_of_any_order_and_step(encoding, padding):
    pixels = picture() if encoding.startswith("rgb") else picture()[:, :, ::-1]
    if encoding.endswith("a8"):
        pixels = np.concatenate([pixels, np.full((8, 24, 1), 255, np.uint8)], axis=2)
    rows = np.pad(pixels.reshape(8, -1), ((0, 0), (0, padding)), constant_values=77)
    rgb = to_rgb(RawImage(8, 24, rows.shape[1], encoding, rows.tobytes()))
    assert np.array_equal(rgb, picture())
    assert rgb.flags.c_contiguous


def test_grey_becomes_three_equal_channels():
    rgb = to_rgb(RawImage(1, 2, 2, "mono8", bytes([3, 9])))
    assert rgb.tolist() == [[[3, 3, 3], [9, 9, 9]]]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (EncodedImage(b""), "0 bytes"),
        (EncodedImage(b"not an image"), "neither JPEG nor PNG"),
        (RawImage(2, 2, 6, "yuv422", bytes(12)), "yuv422"),
        (RawImage(2, 2, 6, "rgb8", bytes(11)), "11 bytes instead of 12"),
        (RawImage(2, 2, 5, "rgb8", bytes(10)), "step 5"),
        (RawImage(0, 2, 6, "rgb8", b""), "2x0"),
    ],
)
def test_what_is_no_image_is_said(image, words):
    with pytest.raises(ValueError, match=words):
        to_rgb(image)
