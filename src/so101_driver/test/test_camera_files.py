"""Video files and folders stand in for a camera where there is none: they must behave like one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from so101_driver.camera_calibration import Intrinsics, load_intrinsics
from so101_driver.camera_files import FolderSource, VideoSource
from so101_driver.camera_jpeg import complete_jpeg
from so101_driver.camera_source import SourceError, SourceKind, SourceSettings, make_source
from so101_driver.errors import UserError

RED, BLUE = (0, 0, 255), (255, 0, 0)  # as OpenCV orders colours


def picture(width: int = 64, height: int = 48, colour=RED, step: int = 0):
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2] = colour
    array[height // 2 :, : 4 * step] = 200
    return array


def write_video(path: Path, pictures: int = 5, rate_hz: float = 20.0, size=(64, 48)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate_hz, size)
    for step in range(pictures):
        writer.write(picture(*size, step=step))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "face view.avi")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for step in range(3):
        cv2.imwrite(str(path / f"{step:03}.jpg"), picture(step=step))
    return path


def bright_columns(image) -> int:
    return int((image.rgb()[-2, :, 0] > 100).sum())


def test_a_video_gives_its_pictures_in_order_and_starts_again(video: Path) -> None:
    source = make_source(str(video))
    source.open()
    got = source.describe()
    assert (got.kind, got.width, got.height, got.rate_hz) == (SourceKind.VIDEO, 64, 48, 20.0)
    seen = [bright_columns(source.read()) for _ in range(6)]
    assert seen[:5] == sorted(seen[:5])
    assert seen[5] == seen[0] < seen[4]
    assert not source.live
    source.close()
    source.close()


def test_red_is_first(video: Path, folder: Path) -> None:
    for path in (video, folder):
        source = make_source(str(path))
        source.open()
        red, green, blue = source.read().rgb()[5, 30].astype(int)
        assert red > 200
        assert max(green, blue) < 60


def test_the_given_rate_wins_over_the_files(video: Path) -> None:
    source = make_source(str(video), SourceSettings(rate_hz=7.0))
    source.open()
    assert source.describe().rate_hz == 7.0


def test_a_folder_passes_jpeg_files_on_unchanged(folder: Path) -> None:
    source = make_source(str(folder))
    source.open()
    assert source.describe().rate_hz == 15.0
    data = [source.read().jpeg for _ in range(4)]
    assert data[0] == (folder / "000.jpg").read_bytes() == data[3]
    assert data[1] == (folder / "001.jpg").read_bytes()


def test_a_folder_skips_what_is_broken_or_of_another_size(folder: Path) -> None:
    whole = (folder / "000.jpg").read_bytes()
    (folder / "0005.jpg").write_bytes(whole[:200])
    (folder / "0006.jpg").write_bytes(b"")
    cv2.imwrite(str(folder / "0007.png"), picture(32, 32))
    (folder / "notes.txt").write_text("not a picture")
    cv2.imwrite(str(folder / "009.png"), picture(colour=BLUE))
    source = FolderSource(folder, SourceSettings())
    source.open()
    images = [source.read() for _ in range(4)]
    assert source.unusable == 3
    assert images[3].jpeg is None
    assert images[3].rgb()[5, 30, 2] > 200


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_wrong_size_is_refused(kind: str, video: Path, folder: Path) -> None:
    path = video if kind == "video" else folder
    source = make_source(str(path), SourceSettings(width=640, height=480))
    with pytest.raises(SourceError, match="wanted 640x480, got 64x48; leave width and height"):
        source.open()


def test_what_vanishes_is_noticed_and_what_returns_is_taken(video: Path, folder: Path) -> None:
    for path in (video, folder):
        source = make_source(str(path))
        source.open()
        source.read()
        away = path.with_name("away")
        path.rename(away)
        with pytest.raises(SourceError, match=path.name):
            for _ in range(10):
                source.read()
        with pytest.raises(SourceError, match=path.name):
            source.open()
        away.rename(path)
        source.open()
        assert source.read().width == 64


def test_a_video_that_is_gone_is_noticed_at_once_though_its_file_is_still_open(video: Path) -> None:
    source = make_source(str(video))
    source.open()
    source.read()
    video.unlink()
    with pytest.raises(SourceError, match="is gone"):
        source.read()


def test_an_emptied_folder_is_told(folder: Path) -> None:
    source = make_source(str(folder))
    source.open()
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="holds no pictures any more"):
        for _ in range(10):
            source.read()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "device is empty"),
        ("/no/such/video.mp4", "No such file or directory; give a device such as /dev/video0"),
    ],
)
def test_what_is_no_camera_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_source(name)


def test_what_opencv_cannot_read_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(SourceError, match="no video that OpenCV can read"):
        make_source(str(text)).open()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError, match="holds no pictures"):
        make_source(str(empty)).open()


def test_a_device_that_is_not_plugged_in_is_a_device_all_the_same() -> None:
    with pytest.raises(SourceError, match="/dev/video77 is not there: "):
        make_source("/dev/video77").open()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a file system below /dev")
def test_not_everything_below_dev_is_a_device(video: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source = make_source(str(shutil.copy(video, folder)))
        source.open()
        assert source.describe().kind is SourceKind.VIDEO
        source.close()


def test_unopened_sources_say_so(video: Path) -> None:
    with pytest.raises(SourceError, match="is not open"):
        VideoSource(video, SourceSettings()).read()


# JPEG files.


def encoded(size=(64, 48), **_) -> bytes:
    return cv2.imencode(".jpg", picture(*size))[1].tobytes()


def test_size_and_end_of_a_jpeg_are_found_without_decoding() -> None:
    data = encoded((320, 240))
    jpeg = complete_jpeg(data + b"\0" * 50 + b"\xff\xd9")
    assert (jpeg.width, jpeg.height, jpeg.data) == (320, 240, data)


@pytest.mark.parametrize("keep", [0, 1, 2, 20, 200, -2, -1])
def test_a_cut_off_jpeg_is_none(keep: int) -> None:
    assert complete_jpeg(encoded()[:keep]) is None


def test_random_bytes_are_a_whole_file_or_none() -> None:
    generator = np.random.default_rng(5)
    whole = encoded()
    for _ in range(2000):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 4):
            data[place] = generator.integers(0, 256)
        for damaged in (
            bytes(data[: generator.integers(0, len(data) + 1)]),
            b"\xff\xd8" + generator.bytes(60),
        ):
            jpeg = complete_jpeg(damaged)
            if jpeg is not None:
                assert jpeg.data.startswith(b"\xff\xd8")
                assert jpeg.data.endswith(b"\xff\xd9")
                assert min(jpeg.width, jpeg.height) > 0


def test_missing_huffman_tables_are_put_in() -> None:
    """Webcams leave them out of MJPG, and some decoders then give up."""
    whole = encoded((64, 48))
    stripped, position = whole[:2], 2
    while whole[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(whole[position + 2 : position + 4], "big")
        if whole[position + 1] != 0xC4:
            stripped += whole[position:end]
        position = end
    stripped += whole[position:]
    assert b"\xff\xc4" not in stripped[:400]
    jpeg = complete_jpeg(stripped)
    assert b"\xff\xc4" in jpeg.data
    decoded = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR))


# Calibration files.

CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: face
camera_matrix: {rows: 3, cols: 3, data: [600, 0, 320, 0, 601.5, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.0, 0.001, 0.0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [590, 0, 320, 0, 0, 592, 240, 0, 0, 0, 1, 0]}
"""


def test_a_file_of_camera_calibration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "face.yaml"
    path.write_text(CALIBRATION)
    intrinsics = load_intrinsics(path, 640, 480)
    assert intrinsics.distortion_model == "plumb_bob"
    assert intrinsics.distortion == (0.1, -0.2, 0.0, 0.001, 0.0)
    assert intrinsics.camera_matrix[4] == 601.5
    assert intrinsics.projection[:3] == (590.0, 0.0, 320.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("image_width: 640", "image_width: 1280"), "is for 1280x480, the pictures have 640x480"),
        (("plumb_bob", "fisheye"), "distortion_model must be one of plumb_bob"),
        (("0, 0, 1]}\ndist", "0, 0]}\ndist"), "camera_matrix must hold data: a list of 9"),
        (("[600, 0", "[.nan, 0"), "a number of camera_matrix .* must be a finite number, not nan"),
        (("[600, 0", f"[{10**400}, 0"), "must be a finite number"),
        (("plumb_bob", "[plumb_bob]"), "distortion_model must be one of plumb_bob"),
        ((CALIBRATION, ""), "is empty"),
        ((CALIBRATION, "a: ["), "is not YAML"),
        ((CALIBRATION, "a: 2026-13-01"), "is not YAML"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(tmp_path, change, sentence: str) -> None:
    path = tmp_path / "face.yaml"
    path.write_text(CALIBRATION.replace(*change))
    with pytest.raises(UserError, match=sentence) as refusal:
        load_intrinsics(path, 640, 480)
    assert "\n" not in str(refusal.value)


def test_a_missing_calibration_is_named() -> None:
    with pytest.raises(UserError, match=r"cannot read the camera calibration /no/such\.yaml"):
        load_intrinsics("/no/such.yaml", 640, 480)


def test_an_ideal_camera() -> None:
    ideal = Intrinsics.pinhole(300.0, 310.0, 159.5, 119.5)
    assert ideal.camera_matrix[:6] == (300.0, 0.0, 159.5, 0.0, 310.0, 119.5)
    assert ideal.projection[5] == 310.0


def test_a_copied_video_plays_like_the_original(video: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(video, tmp_path / "copy.avi"))
    source = make_source(str(copy))
    source.open()
    assert source.read().height == 48
