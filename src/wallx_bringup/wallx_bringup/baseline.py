"""A bare 100 Hz thread, for comparison: what this machine allows while the graph runs.

``python -m wallx_bringup.baseline FILE`` measures until SIGINT or SIGTERM, then writes
``{"periods_s": [...]}``.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

PERIOD_NS = 10_000_000


def measure(stop: threading.Event) -> list[float]:
    """Return the intervals, in seconds, between wake-ups at absolute deadlines."""
    periods_s = []
    deadline_ns = last_ns = time.monotonic_ns()
    while not stop.is_set():
        deadline_ns += PERIOD_NS
        time.sleep(max(0, deadline_ns - time.monotonic_ns()) * 1e-9)
        now_ns = time.monotonic_ns()
        periods_s.append((now_ns - last_ns) * 1e-9)
        last_ns = now_ns
    return periods_s


def main() -> int:
    """Measure until told to end, then write the file."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    periods_s: list[float] = []
    thread = threading.Thread(target=lambda: periods_s.extend(measure(stop)))
    thread.start()
    thread.join()
    Path(sys.argv[1]).write_text(json.dumps({"periods_s": periods_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
