"""The simulator's side of rendering: starts the renderer's process, sends states, takes frames."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from so101_driver.errors import UserError
from so101_driver.sim.cameras import HEADER, REQUEST, VIEWS, Frame, Reply, read_exactly

_APT_PACKAGES = "libegl1 libgl1-mesa-dri"


class RenderProcess:
    """Renders all views of a state in a process of its own, headless, without a GPU.

    A process, because compressing and copying under the GIL would disturb the servo bus. At most
    one state is under way: a request that comes too early is skipped and counted.

    Args:
        on_frame: Called for every frame, in a thread of this object.
        on_death: Called with one sentence if the process ends on its own.
        jpeg_quality: 1..100.

    Attributes:
        skipped: Requests that came while the last one was still being rendered.
    """

    def __init__(
        self,
        on_frame: Callable[[Frame], None],
        on_death: Callable[[str], None],
        jpeg_quality: int = 90,
    ) -> None:
        self.skipped = 0
        self._on_frame = on_frame
        self._on_death = on_death
        self._quality = jpeg_quality
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._answered = threading.Event()
        self._problem = ""
        self._busy = threading.Event()
        self._closing = False

    def start(self) -> None:
        """Start the process, which takes a second until it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "so101_driver.sim.render_worker", str(self._quality)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # One software-rendering thread: the second core is for the loops.
            env={**os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, name="frames", daemon=True)
        self._reader.start()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for the first picture; raises UserError if there is none."""
        if not self._answered.wait(timeout_s):
            self._problem = f"no picture within {timeout_s:.0f} s"
        if self._problem:
            self.close()
            raise UserError(
                f"cannot render the simulator's cameras ({self._problem}): install Mesa's software "
                f"EGL (apt-get install {_APT_PACKAGES}), or run without cameras (cameras:=false)."
            )

    def request(self, stamp_ns: int, state: NDArray[np.float64], raw_views: set[str]) -> bool:
        """Ask for pictures of a state; returns False when the last request is not done yet."""
        if self._process is None or self._process.stdin is None or self._busy.is_set():
            self.skipped += 1
            return False
        mask = sum(1 << index for index, view in enumerate(VIEWS) if view.name in raw_views)
        payload = state.tobytes()
        self._busy.set()
        try:
            self._process.stdin.write(REQUEST.pack(stamp_ns, mask, len(payload)) + payload)
            self._process.stdin.flush()
        except OSError:
            # The process died; the reader reports it.
            return False
        return True

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._closing = True
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.stdin.close()
        except BrokenPipeError:
            process.kill()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout=2.0)
        process.stdout.close()

    def _read(self) -> None:
        stream = self._process.stdout
        problem = "its process ended"
        while (head := read_exactly(stream, HEADER.size)) is not None:
            kind, index, stamp_ns, seconds, first_size, second_size = HEADER.unpack(head)
            payload = read_exactly(stream, first_size + second_size)
            if payload is None:
                break
            first, second = payload[:first_size], payload[first_size:]
            if kind == Reply.FRAME:
                if index == len(VIEWS) - 1:
                    self._busy.clear()
                self._on_frame(Frame(VIEWS[index], stamp_ns, first, second, seconds))
            elif kind == Reply.READY:
                self._answered.set()
            else:
                problem = first.decode(errors="replace")
        if self._closing:
            return
        if self._answered.is_set():
            self._on_death(f"the renderer stopped: {problem}.")
        self._problem = problem
        self._answered.set()
