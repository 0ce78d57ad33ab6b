"""Without a graphics library the user must read what to install, not a traceback."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("mujoco")

from so101_driver.errors import UserError
from so101_driver.sim.cameras import VIEWS, CameraView, Frame
from so101_driver.sim.renderer import RenderProcess
from so101_driver.sim.world import World


def test_pictures_carry_the_stamp_of_their_state() -> None:
    frames: list[Frame] = []
    process = RenderProcess(frames.append, pytest.fail)
    process.start()
    try:
        process.wait_until_ready(30.0)
        assert process.request(12345, World().state(), {"wrist_view"})
        deadline_s = time.monotonic() + 10.0
        while len(frames) < len(VIEWS) and time.monotonic() < deadline_s:
            time.sleep(0.01)
    finally:
        process.close()
    assert [(frame.view, frame.stamp_ns) for frame in frames] == [(v, 12345) for v in VIEWS]
    assert [len(frame.rgb) for frame in frames] == [0, 240 * 240 * 3]


@pytest.mark.parametrize("broken", ["import fails", "hangs"])
def test_missing_graphics_library_is_one_sentence(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "raise ImportError('libEGL.so.1 not found')" if broken == "import fails" else "pass"
    (tmp_path / "mujoco.py").write_text(
        textwrap.dedent(f"""
            import time
            {body}
            time.sleep(60)
            """),
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = RenderProcess(lambda _frame: None, pytest.fail)
    process.start()
    with pytest.raises(UserError, match="apt-get install libegl1 libgl1-mesa-dri") as error:
        process.wait_until_ready(20.0 if broken == "import fails" else 0.2)
    assert ("libEGL.so.1" in str(error.value)) == (broken == "import fails")


def test_a_closed_renderer_counts_what_it_skips() -> None:
    process = RenderProcess(lambda _frame: None, pytest.fail)
    process.close()
    assert not process.request(0, World().state(), set())
    assert process.skipped == 1


def test_intrinsics_of_a_square_view_with_90_degrees() -> None:
    fx, fy, cx, cy = CameraView("any", 100, 100).intrinsics(90.0)
    assert (fx, fy, cx, cy) == pytest.approx((50.0, 50.0, 49.5, 49.5))
