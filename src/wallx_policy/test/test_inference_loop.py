"""The inference thread publishes when a chunk is due, while the next one is already inferred."""

import threading
import time
from types import SimpleNamespace

from wallx_policy.nodes.inference_loop import InferenceLoop
from wallx_policy.runtime import InferredChunk, NoChunk


def chunk(number, due_ns):
    return InferredChunk(SimpleNamespace(sequence=number), due_ns, 0, 0.0, 0.0, 0)


class Recorder:
    """Infers ``count`` chunks, each due ``latency_s`` later, then is never ready again."""

    def __init__(self, count, latency_s=0.0, takes_s=0.0):
        self.count, self.latency_s, self.takes_s = count, latency_s, takes_s
        self.inferred_ns, self.published, self.dropped = [], [], 0
        self.finished, self.crashed = threading.Event(), threading.Event()

    def infer(self):
        if len(self.inferred_ns) >= self.count:
            return NoChunk.NOT_READY
        now_ns = time.monotonic_ns()
        self.inferred_ns.append(now_ns)
        time.sleep(self.takes_s)
        return chunk(len(self.inferred_ns) - 1, now_ns + round(self.latency_s * 1e9))

    def publish(self, inferred):
        self.published.append((inferred.chunk.sequence, time.monotonic_ns(), inferred.due_ns))
        if len(self.published) == self.count:
            self.finished.set()

    def drop(self, periods):
        self.dropped += periods

    def crash(self):
        self.crashed.set()

    def run(self, period_s):
        loop = InferenceLoop(period_s, self.infer, self.publish, self.drop, self.crash)
        loop.start()
        assert self.finished.wait(10.0), "the loop published too little"
        assert loop.stop(1.0)


def test_a_latency_longer_than_the_period_overlaps_instead_of_slowing_down():
    recorder = Recorder(count=6, latency_s=0.20)
    recorder.run(period_s=0.03)
    assert [sequence for sequence, _at, _due in recorder.published] == list(range(6))
    assert all(at >= due for _sequence, at, due in recorder.published)
    # The fourth inference begins before the first chunk is due.
    assert recorder.inferred_ns[3] < recorder.published[0][1]


def test_periods_missed_by_a_slow_model_are_dropped_and_not_made_up_for():
    recorder = Recorder(count=4, takes_s=0.05)
    recorder.run(period_s=0.02)
    assert recorder.dropped >= 4
    gaps_s = [
        (b - a) * 1e-9 for a, b in zip(recorder.inferred_ns, recorder.inferred_ns[1:], strict=False)
    ]
    assert min(gaps_s) >= 0.05


def test_a_failed_inference_waits_for_the_next_period():
    calls = []

    def infer():
        calls.append(time.monotonic())
        if len(calls) == 3:
            done.set()
        return NoChunk.FAILED

    done = threading.Event()
    loop = InferenceLoop(0.05, infer, lambda _: None, lambda _: None, lambda: None)
    loop.start()
    assert done.wait(5.0), "three attempts"
    assert loop.stop(1.0)
    assert calls[2] - calls[0] > 0.08


def test_nothing_is_published_after_stop():
    recorder = Recorder(count=100, latency_s=0.2)
    loop = InferenceLoop(0.01, recorder.infer, recorder.publish, recorder.drop, recorder.crash)
    loop.start()
    assert loop.stop(1.0)
    count = len(recorder.published)
    time.sleep(0.05)
    assert len(recorder.published) == count


def test_an_exception_is_reported_and_ends_the_thread(capsys):
    recorder = Recorder(count=1)

    def broken(_inferred):
        raise RuntimeError("publisher is gone")

    loop = InferenceLoop(0.01, recorder.infer, broken, recorder.drop, recorder.crash)
    loop.start()
    assert recorder.crashed.wait(5.0), "the report of the crash"
    assert loop.stop(1.0)
    assert "publisher is gone" in capsys.readouterr().err
