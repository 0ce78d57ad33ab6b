"""A node that runs as a process, and a node of the test beside it that plays the rest of the graph.

Everything of the test happens in its own thread: it waits for named conditions and never sleeps.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor

_numbers = itertools.count()


def node_command(module: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a node's module with these parameters."""
    words = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return [sys.executable, "-m", module, "--ros-args", *words]


class NodeBench:
    """A namespace of its own with one process and one node of the test.

    Attributes:
        namespace: Of both.
        node: The test's.
        log: What the process wrote.
        process: The process once it was started.
    """

    def __init__(self, folder: Path, context: rclpy.Context) -> None:
        self.namespace = f"/bench{next(_numbers)}"
        self.log = folder / f"{self.namespace[1:]}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.node = rclpy.create_node("bench", namespace=self.namespace, context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)

    @property
    def situation(self) -> str:
        """What a failure shows beside the log."""
        return ""

    def launch(
        self, module: str, parameters: Mapping[str, Any], interpreter: Sequence[str] = ()
    ) -> None:
        """Start a node's module; ``interpreter`` are words for Python before ``-m``."""
        python, *words = node_command(module, parameters)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, *interpreter, *words, "-r", f"__ns:={self.namespace}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def listen(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        """Return a list to which the topic's messages are added."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def text(self) -> str:
        """What the process has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ended(self) -> bool:
        """Whether the process is over."""
        return self.process is not None and self.process.poll() is not None

    def wait(self, true: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        """Spin until something is true; fail naming it otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < deadline_s, (
                f"waited for {what}; {self.situation}\n{self.text()}"
            )
            self._executor.spin_once(timeout_sec=0.02)

    def spin(self, duration_s: float) -> None:
        """Listen for a while, where the test is that something does not happen."""
        deadline_s = time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            self._executor.spin_once(timeout_sec=0.02)

    def repeat(
        self,
        action: Callable[[], None],
        period_s: float,
        until: Callable[[], Any],
        what: str,
        timeout_s: float = 20.0,
    ) -> None:
        """Do something again and again until something is true."""
        due_s = time.monotonic()

        def done() -> Any:
            nonlocal due_s
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + period_s
                action()
            return until()

        self.wait(done, what, timeout_s)

    def call(self, kind: type, name: str, **fields: Any) -> Any:
        """Call a service and return its answer."""
        client = self.node.create_client(kind, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(kind.Request(**fields))
        self.wait(future.done, f"answer of {name}")
        return future.result()

    def end(self, timeout_s: float = 14.0) -> None:
        """End the process as Ctrl-C does; fail unless it ends well."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.wait(self.ended, "its end", timeout_s)
        assert self.process.returncode == 0, self.text()

    def close(self) -> None:
        """Kill the process if it still runs, and forget the node."""
        if self.process is not None and not self.ended():
            self.process.kill()
            self.process.wait(10)
        self._executor.shutdown()
        self.node.destroy_node()


Bench = TypeVar("Bench", bound=NodeBench)


@contextlib.contextmanager
def bench(kind: type[Bench], folder: Path, *details: Any) -> Iterator[Bench]:
    """A bench of this kind, with a context of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    made = kind(folder, context, *details)
    try:
        yield made
    finally:
        made.close()
        rclpy.shutdown(context=context)
