"""A short film of both cameras side by side, with time, state and the cube's height."""

from __future__ import annotations

import textwrap
from pathlib import Path

import av
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from so101_driver.errors import UserError

from wallx_policy.evidence import Progress
from wallx_policy.evidence.frames import Frames, views
from wallx_policy.evidence.measurement import ActMeasurement, DemoMeasurement
from wallx_policy.evidence.rows import CUBE

FRAME_RATE = 15
PICTURE_HEIGHT = 360
CAPTION_HEIGHT = 96
NOTE_COLUMNS, NOTE_LINES = 150, 2
SIZE = (960, PICTURE_HEIGHT + CAPTION_HEIGHT)
LONGEST_S = 60.0
"""Longer demos are played faster, and the caption says so."""

BACKGROUND, BRIGHT, DIM = (24, 27, 32), (240, 242, 245), (150, 158, 168)


def write_video(
    measurement: DemoMeasurement, out_dir: Path, progress: Progress | None = None
) -> Path:
    """See ``wallx_policy.evidence.write_video``."""
    acts = [act for act in measurement.acts if act.cameras]
    if not acts:
        raise UserError("there is no video to make: the bags hold no camera images.")
    total_s = sum(_duration_s(act) for act in acts)
    speed = max(1.0, float(np.ceil(total_s / LONGEST_S)))
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "demo.mp4"
    painter = _Painter(speed)
    done_s = 0.0
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = _stream(container)
        for act in acts:
            cameras = views(act)
            duration_s = _duration_s(act)
            for t_s in np.arange(0.0, duration_s, speed / FRAME_RATE):
                picture = painter.paint(act, cameras, float(t_s))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
                if progress is not None:
                    progress("making the video", (done_s + float(t_s)) / total_s)
            done_s += duration_s
        container.mux(stream.encode())
    if progress is not None:
        progress("video written", 1.0)
    return path


def _duration_s(act: ActMeasurement) -> float:
    return (act.bag.end_ns - act.bag.start_ns) * 1e-9


def _stream(container: av.container.OutputContainer) -> av.VideoStream:
    h264 = "libx264" in av.codecs_available
    stream = container.add_stream("libx264" if h264 else "mpeg4", rate=FRAME_RATE)
    stream.width, stream.height = SIZE
    stream.pix_fmt = "yuv420p"
    # One thread: the machine may still be running the graph.
    stream.thread_count = 1
    stream.options = {"crf": "26", "preset": "veryfast"} if h264 else {"qscale": "5"}
    return stream


class _Painter:
    """Draws one frame: the views above, the captions below."""

    def __init__(self, speed: float) -> None:
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self._bold = ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), 17)
        self._small = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), 12)
        self._plain = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), 15)
        self._speed = speed

    def paint(
        self, act: ActMeasurement, cameras: dict[str, Frames], t_s: float
    ) -> NDArray[np.uint8]:
        time_ns = act.bag.start_ns + round(t_s * 1e9)
        canvas = Image.new("RGB", SIZE, BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        pictures = []
        for view, frames in list(cameras.items())[:2]:
            image = frames.at(time_ns)
            if image is not None:
                height, width = image.shape[:2]
                size = (round(width * PICTURE_HEIGHT / height), PICTURE_HEIGHT)
                picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
                pictures.append((view, picture))
        gap = 8
        width = sum(picture.width for _, picture in pictures) + gap * (len(pictures) - 1)
        x = (SIZE[0] - width) // 2
        for view, picture in pictures:
            canvas.paste(picture, (x, 0))
            draw.text(
                (x + 8, 6), view, font=self._plain, fill=BRIGHT, stroke_width=2, stroke_fill=0
            )
            x += picture.width + gap
        self._captions(draw, act, time_ns, t_s)
        return np.asarray(canvas)

    def _captions(
        self, draw: ImageDraw.ImageDraw, act: ActMeasurement, time_ns: int, t_s: float
    ) -> None:
        top = PICTURE_HEIGHT + 8
        draw.text((16, top), act.files.title, font=self._bold, fill=BRIGHT)
        speed = "" if self._speed == 1.0 else f"  ({self._speed:g}x)"
        draw.text(
            (SIZE[0] - 16, top), f"{t_s:.1f} s{speed}", font=self._bold, fill=BRIGHT, anchor="ra"
        )
        parts = []
        if act.safety is not None:
            parts.append(act.safety.at(time_ns).name)
        if act.objects is not None and len(act.objects.time_ns):
            height = act.objects.height_m(CUBE)
            index = int(np.searchsorted(act.objects.time_ns, time_ns, side="right")) - 1
            if index >= 0 and np.isfinite(height[index]) and np.isfinite(height[0]):
                parts.append(f"red cube {1e3 * (height[index] - height[0]):+.0f} mm")
        draw.text((16, top + 26), "    ".join(parts), font=self._plain, fill=DIM)
        lines = textwrap.wrap(act.files.note, NOTE_COLUMNS, max_lines=NOTE_LINES, placeholder=" …")
        draw.text((16, top + 50), "\n".join(lines), font=self._small, fill=DIM)
