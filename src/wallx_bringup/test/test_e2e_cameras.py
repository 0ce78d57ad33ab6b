"""Camera nodes in the real graph: what they publish is what the policy infers from.

Video and folder take the place of the simulated views, so that whoever has no camera can try it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

pytest.importorskip("wallx_msgs", reason="needs the built workspace")


def picture(width: int, height: int, step: int) -> np.ndarray:
    array = np.full((height, width, 3), 90, np.uint8)
    array[: height // 2] = (0, 0, 255)  # red above, as OpenCV orders colours
    array[height // 2 :, 9 * step : 9 * step + 30] = 230
    return array


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / "face.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 15.0, (320, 240))
    for step in range(20):
        writer.write(picture(320, 240, step))
    writer.release()
    return path


@pytest.fixture
def wrist(tmp_path: Path) -> Path:
    path = tmp_path / "wrist"
    path.mkdir()
    for step in range(10):
        cv2.imwrite(str(path / f"{step}.jpg"), picture(240, 240, step))
    return path


def test_the_model_infers_from_the_pictures_of_the_camera_nodes(
    live_graph, tmp_path: Path, face: Path, wrist: Path
) -> None:
    """The contract's sizes are checked, the pictures decoded and stamped into the chunks."""
    pytest.importorskip("torch")
    from wallx_policy.random_checkpoints import write_random_checkpoint

    from wallx_msgs.msg import ActionChunk

    write_random_checkpoint(tmp_path / "checkpoint", seed=0)
    words = (f"face_camera:={face}", f"wrist_camera:={wrist}", "backend:=wall_oss")
    with live_graph(*words, f"checkpoint:={tmp_path / 'checkpoint'}", "mode:=shadow") as graph:
        graph.listen("action_chunk", ActionChunk, keep=True)
        graph.wait("chunks", lambda: len(graph.history["action_chunk"]) >= 3, 90.0)
        chunk = graph.latest["action_chunk"]
        assert list(chunk.camera_names) == ["face_view", "wrist_view"]
        stamps = [s.sec + s.nanosec * 1e-9 for s in chunk.camera_stamps]
        assert abs(stamps[0] - stamps[1]) < 0.5
        assert set(graph.runner.pids) >= {"face_camera", "wrist_camera", "sim", "policy"}


def test_a_video_replaces_one_simulated_view_and_leaves_the_other(live_graph, face: Path) -> None:
    from sensor_msgs.msg import CompressedImage

    with live_graph(f"face_camera:={face}", "backend:=none", "namespace:=left") as graph:
        topics = ("camera/face_view", "camera/wrist_view", "sim/camera/face_view")
        for topic in topics:
            graph.listen(f"{topic}/image_raw/compressed", CompressedImage, keep=True)
        names = [f"{topic}/image_raw/compressed" for topic in topics]
        graph.wait("pictures", lambda: all(len(graph.history[n]) >= 3 for n in names), 90.0)
        sizes = []
        for name in names:
            data = np.frombuffer(graph.latest[name].data, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
            sizes.append((image.shape[1], image.shape[0]))
            if name == names[0]:
                assert image[20, 160, 2] > 200 > 80 > image[20, 160, 0], "not the video's picture"
        assert sizes == [(320, 240), (240, 240), (320, 240)]
        for name in names:
            assert graph.node.count_publishers(f"/left/{name}") == 1
        assert "policy" not in graph.runner.pids


def test_a_camera_that_is_not_there_ends_the_graph_with_its_sentence(live_graph) -> None:
    with live_graph("face_camera:=/dev/video77", "backend:=none") as graph:
        graph.wait("the end", lambda: not graph.runner.poll(), 60.0)
        assert graph.runner.failures
        assert "/dev/video77 is not there" in graph.runner.failures[0]
        graph.runner.failures.clear()
