"""A running graph for end-to-end tests: real processes, watched by a node in the test's process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DISCOVERY_TIMEOUT_S = 30.0


class LiveGraph:
    """Starts a graph through the product's own runner and listens to it.

    Everything runs in the test's thread: `wait` polls the runner and spins the node. No test
    sleeps; each waits for a named condition, and a failure shows the nodes' logs.

    Attributes:
        latest: Newest message by topic, for the topics of `listen`.
        history: All messages by topic, for the topics of `listen` with ``keep``.
    """

    def __init__(self, runner: Any, graph: Any, log_dir: Path) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.runner = runner
        self.graph = graph
        self.log_dir = log_dir
        self.latest: dict[str, Any] = {}
        self.history: dict[str, list[Any]] = defaultdict(list)
        self.extra_runners: list[Any] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=graph.domain_id)
        self.node = rclpy.create_node(
            "observer", namespace=graph.namespace, context=self._context, use_global_arguments=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def listen(self, topic: str, message_type: type, qos: Any = 10, keep: bool = False) -> None:
        """Subscribe; ``qos`` 10 is what a tool with default settings requests."""

        def on_message(message: Any) -> None:
            self.latest[topic] = message
            if keep:
                self.history[topic].append(message)

        self.node.create_subscription(message_type, topic, on_message, qos)

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Return the first true result of ``condition``; fail naming ``what`` otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            self.pump()
            if result := condition():
                return result
        pytest.fail(f"waited {timeout_s:.0f} s for {what}\n{self.logs()}", pytrace=False)

    def pump(self) -> None:
        """Let the runner and the node work once."""
        for runner in (self.runner, *self.extra_runners):
            runner.poll()
        self._executor.spin_once(timeout_sec=0.02)

    def watch(self, seconds: float) -> None:
        """Keep listening for a while, where the test is that something does *not* happen."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.pump()

    def call(self, service: str, service_type: type, request: Any, timeout_s: float = 15.0) -> Any:
        """Call a service once it is there and return its response."""
        client = self.node.create_client(service_type, service)
        self.wait(f"service {service}", client.service_is_ready, DISCOVERY_TIMEOUT_S)
        future = client.call_async(request)
        self.wait(f"the answer of {service}", future.done, timeout_s)
        self.node.destroy_client(client)
        return future.result()

    def kill(self, name: str) -> None:
        """``kill -9`` one node of the graph."""
        os.kill(self.runner.pids[name], signal.SIGKILL)
        self.wait(f"the end of {name}", lambda: name not in self.runner.pids)

    def restart(self, name: str) -> None:
        """Start a node again that has ended, as it was started before."""
        from wallx_bringup.runner import Runner

        process = next(p for p in self.runner._processes if p.name == name)
        again = Runner(
            [process],
            self.log_dir / "restarted",
            self.runner._environment,
            lambda *_: None,
            self.runner._pass_fds,
        )
        self.extra_runners.append(again)
        again.start()

    def end(self) -> None:
        """Ctrl-C for everything, then wait until nothing is left."""
        for runner in (self.runner, *self.extra_runners):
            runner.request_stop()
        for runner in (self.runner, *self.extra_runners):
            while runner.poll():
                self._executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        """Release the observer."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def logs(self) -> str:
        """Return the end of every node's log."""
        parts = []
        for path in sorted(self.log_dir.rglob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            if path.parent in (self.log_dir, self.log_dir / "restarted") and lines:
                parts.append(f"--- {path.relative_to(self.log_dir)}\n" + "\n".join(lines))
        return "\n".join(parts)


@pytest.fixture
def live_graph(tmp_path: Path) -> Iterator[Callable[..., contextlib.AbstractContextManager]]:
    """Give a function that runs a graph while its ``with`` block runs.

    Its arguments are launch arguments, such as ``backend:=hold``.

    The keyword ``lonely`` names nodes whose death must not end the others.
    """
    from dataclasses import replace

    from wallx_bringup.arguments import parse_words, resolve
    from wallx_bringup.processes import OnDeath
    from wallx_bringup.session import open_graph

    @contextlib.contextmanager
    def start(*words: str, lonely: tuple[str, ...] = ()) -> Iterator[LiveGraph]:
        def change(node: Any) -> Any:
            return replace(node, on_death=OnDeath.HOLD) if node.name in lonely else node

        log_dir = tmp_path / f"logs{len(list(tmp_path.glob('logs*')))}"
        arguments = resolve(parse_words(words))
        with open_graph(arguments, os.environ, log_dir, lambda *_: None, change=change) as (
            runner,
            graph,
        ):
            runner.start()
            live = LiveGraph(runner, graph, log_dir)
            try:
                yield live
                live.end()
                assert not runner.failures, f"{runner.failures}\n{live.logs()}"
            finally:
                live.close()

    yield start
