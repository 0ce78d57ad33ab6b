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

_STOPPING = (EventKind.ESTOP, EventKind.DISARM)
"""What is done however late it is."""


class Requests:
    """A letter box between threads: anybody posts, the loop takes and answers.

    It is open while the loop runs. What comes while it is closed must not act later, except an
    emergency stop: a button that was pressed before must refuse arming.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._events: list[OperatorEvent] = []
        self._waiting: dict[int, Callable[[EventResult], None]] = {}
        self._numbers = 0

    def open(self) -> None:
        """Take requests; what an earlier loop did not take is forgotten, but not a stop."""
        with self._lock:
            self._events = [event for event in self._events if event.kind is EventKind.ESTOP]
            self._open = True

    def close(self, disarmed: Callable[[EventResult], None]) -> None:
        """Leave a last request, to disarm, so that nobody arms an arm whose loop is to end."""
        with self._lock:
            if self._open:
                self._leave(EventKind.DISARM, disarmed)
            self._open = False

    def post(
        self,
        kind: EventKind,
        answer: Callable[[EventResult], None] | None = None,
        **details: Any,
    ) -> int | None:
        """Leave a request; ``answer`` is called in the loop's thread.

        Returns its number, or None when the letter box is closed.
        """
        with self._lock:
            if self._open:
                return self._leave(kind, answer, **details)
            # Once is enough: a button may keep saying it, and nobody takes it yet.
            if kind is EventKind.ESTOP and not any(e.kind is kind for e in self._events):
                self._leave(kind)
        return None

    def _leave(
        self,
        kind: EventKind,
        answer: Callable[[EventResult], None] | None = None,
        **details: Any,
    ) -> int:
        self._numbers += 1
        if answer is not None:
            self._waiting[self._numbers] = answer
        self._events.append(OperatorEvent(kind, self._numbers, **details))
        return self._numbers

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
        if number is None:
            return EventResult(0, False, "the safety node is not active")
        if answered.wait(_ANSWER_TIMEOUT_S):
            return results[0]
        self._forget(number)
        if kind not in _STOPPING:
            self._withdraw(number)
        return EventResult(number, False, "the safety loop does not answer")

    def _withdraw(self, number: int) -> None:
        """What was answered with a failure must not happen when the loop goes on later."""
        with self._lock:
            self._events = [event for event in self._events if event.number != number]

    def _forget(self, number: int) -> Callable[[EventResult], None] | None:
        with self._lock:
            return self._waiting.pop(number, None)


class SafetyServices:
    """The services below ``safety/``; they answer what the core answers."""

    def __init__(self, node: NodeBase, requests: Requests) -> None:
        self._requests = requests
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
        result = self._requests.ask(kind, **details)
        response.success, response.message = bool(result.success), result.message
        return response
