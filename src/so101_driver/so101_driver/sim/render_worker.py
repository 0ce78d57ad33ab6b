"""The renderer's process: states come in on stdin, pictures go out on stdout.

Started as ``python -m so101_driver.sim.render_worker``. It ends when stdin closes, so it cannot
outlive the simulator, however that dies; pipes leave nothing behind in shared memory.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import BinaryIO

import numpy as np

from so101_driver.joints import data_path
from so101_driver.sim.cameras import HEADER, REQUEST, VIEWS, Reply, read_exactly

_NICENESS = 10
"""Pictures may come late; the 100 Hz loops may not."""


def _serve(requests: BinaryIO, replies: BinaryIO, jpeg_quality: int) -> None:
    import cv2
    import mujoco

    cv2.setNumThreads(1)
    model = mujoco.MjModel.from_xml_path(str(data_path("so101_scene.xml")))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderers = [mujoco.Renderer(model, view.height, view.width) for view in VIEWS]
    for renderer, view in zip(renderers, VIEWS, strict=True):
        # The first picture compiles shaders; not while somebody waits for it.
        renderer.update_scene(data, camera=view.name)
        renderer.render()
    _send(replies, Reply.READY)

    while (head := read_exactly(requests, REQUEST.size)) is not None:
        stamp_ns, raw_mask, size = REQUEST.unpack(head)
        state = read_exactly(requests, size)
        if state is None:
            return
        data.qpos[:] = np.frombuffer(state)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        for index, (renderer, view) in enumerate(zip(renderers, VIEWS, strict=True)):
            begin_s = time.monotonic()
            renderer.update_scene(data, camera=view.name)
            rgb = renderer.render()
            _, jpeg = cv2.imencode(
                ".jpg", rgb[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality)
            )
            raw = rgb.tobytes() if raw_mask & (1 << index) else b""
            seconds = time.monotonic() - begin_s
            _send(replies, Reply.FRAME, index, stamp_ns, seconds, jpeg.tobytes(), raw)


def _send(
    replies: BinaryIO,
    kind: Reply,
    index: int = 0,
    stamp_ns: int = 0,
    seconds: float = 0.0,
    first: bytes = b"",
    second: bytes = b"",
) -> None:
    head = HEADER.pack(kind, index, stamp_ns, seconds, len(first), len(second))
    replies.write(head + first + second)
    replies.flush()


def main() -> int:
    """Serve until stdin closes; returns the exit status."""
    # Ctrl-C reaches every process of a terminal; this one ends with the simulator, not before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_NICENESS)
    replies = os.fdopen(os.dup(1), "wb")
    # Libraries print to stdout; that must not end up between pictures.
    os.dup2(2, 1)
    try:
        _serve(sys.stdin.buffer, replies, int(sys.argv[1]))
    except BrokenPipeError:
        return 0
    except Exception as error:
        _send(replies, Reply.FAILED, first=f"{type(error).__name__}: {error}".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
