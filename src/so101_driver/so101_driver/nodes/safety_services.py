"""Requests of operators on their way to the safety loop, and its answers on their way back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_srvs.srv import Trigger

from so101_driver.nodes import safety_messages as convert
from so101_driver.nodes.node_base import NodeBase
from so101_driver.safety import EventKind, EventResult, OperatorEvent
from wallx_msgs.srv import SelectSource, SetMode

_ANSWER_TIMEOUT_S = 8.0
"""Longer than arming waits for the driver's torque."""

_QUICK_TRIGGERS = (
    EventKind.DISARM,
    EventKind.ESTOP,
    EventKind.RESET,
    EventKind.PARK,
    EventKind.RETURN,
)


class Requests:
    """A letter box between threads: anybody posts, the loop takes and answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[OperatorEvent] = []
        self._waiting: dict[int, Callable[[EventResult], None]] = {}
        self._numbers = 0

    def post(
        self,
        kind: EventKind,
        answer: Callable[[EventResult], None] | None = None,
        **details: Any,
    ) -> int:
        """Leave a request; ``answer`` is called in the loop's thread. Returns its number."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            if answer is not None:
                self._waiting[number] = answer
            self._events.append(OperatorEvent(kind, number, **details))
        return number

    def post_once(self, kind: EventKind) -> None:
        """Leave a request that is not there yet; for a loop that does not run."""
        if all(event.kind is not kind for event in self._events):
            self.post(kind)

    def take(self) -> list[OperatorEvent]:
        """Everything that was posted since the last call."""
        if not self._events:
            return []
        with self._lock:
            events, self._events = self._events, []
        return events

    def answer(self, results: Iterable[EventResult]) -> None:
        """Pass the core's answers on."""
        for result in results:
            waiting = self._forget(result.number)
            if waiting is not None:
                waiting(result)

    def ask(self, kind: EventKind, **details: Any) -> EventResult:
        """Leave a request and wait for its answer; not for the loop's own thread."""
        answered = threading.Event()
        results: list[EventResult] = []

        def keep(result: EventResult) -> None:
            results.append(result)
            answered.set()

        number = self.post(kind, keep, **details)
        if answered.wait(_ANSWER_TIMEOUT_S):
            return results[0]
        self._forget(number)
        return EventResult(number, False, "the safety loop does not answer")

    def _forget(self, number: int) -> Callable[[EventResult], None] | None:
        with self._lock:
            return self._waiting.pop(number, None)


class SafetyServices:
    """The services below ``safety/``; they answer what the core answers."""

    def __init__(self, node: NodeBase, requests: Requests, running: Callable[[], bool]) -> None:
        self._requests = requests
        self._running = running
        # Arming waits for the driver's torque; the others must not wait for arming.
        waiting, quick = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._serve_trigger(node, EventKind.ARM, waiting)
        for kind in _QUICK_TRIGGERS:
            self._serve_trigger(node, kind, quick)
        node.create_service(SetMode, "safety/set_mode", self._on_set_mode, callback_group=quick)
        node.create_service(
            SelectSource, "safety/select_source", self._on_select_source, callback_group=quick
        )

    def _serve_trigger(
        self, node: NodeBase, kind: EventKind, group: MutuallyExclusiveCallbackGroup
    ) -> None:
        def serve(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            return self._respond(response, kind)

        node.create_service(Trigger, f"safety/{kind.value}", serve, callback_group=group)

    def _on_set_mode(
        self, request: SetMode.Request, response: SetMode.Response
    ) -> SetMode.Response:
        return self._respond(
            response,
            EventKind.SET_MODE,
            mode=convert.mode(request.mode),
            scale=float(request.scale),
        )

    def _on_select_source(
        self, request: SelectSource.Request, response: SelectSource.Response
    ) -> SelectSource.Response:
        return self._respond(response, EventKind.SELECT_SOURCE, text=request.source)

    def _respond(self, response: Any, kind: EventKind, **details: Any) -> Any:
        if self._running():
            result = self._requests.ask(kind, **details)
            response.success, response.message = bool(result.success), result.message
        else:
            response.success, response.message = False, "the safety node is not active"
        return response
