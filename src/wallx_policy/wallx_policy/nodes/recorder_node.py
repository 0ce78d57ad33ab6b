"""Records what the graph says and does into MCAP bags."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
import time
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from so101_driver.errors import UserError
from so101_driver.nodes.node_base import (
    FAILED_STATUS,
    NodeBase,
    best_effort,
    latched,
    reliable,
    run_node,
)
from so101_driver.nodes.polled import PolledSubscription

from wallx_msgs.srv import RecorderControl
from wallx_policy.recorder_parameters import PARAMETERS
from wallx_policy.recording.bag_writer import OfferedQos
from wallx_policy.recording.definitions import message_definition
from wallx_policy.recording.episodes import Action, Episodes, Outcome
from wallx_policy.recording.topics import RecordedTopic, recorded_topics

DEPTH = 200
"""Messages that the middleware keeps for a reader that is late: two seconds at 100 Hz."""

DRAIN_PERIOD_S = 0.02
QOS_CHECK_PERIOD_S = 1.0
SILENCE_S = 1.0
"""The arm's topics have been silent for so long: nothing moves any more."""


class _Input:
    """One recorded topic: its subscriptions and its channel in the current bag."""

    def __init__(self, node: RecorderNode, topic: RecordedTopic) -> None:
        self.topic = topic
        self.name = node.resolve_topic_name(topic.name)
        self.channel: int | None = None
        self._node = node
        package, _, name = topic.type_name.split("/")
        self._type = getattr(importlib.import_module(f"{package}.msg"), name)
        self._recent: list[tuple[int, bytes]] = []
        self.subscriptions = [self._subscribe(reliable(DEPTH))]
        if topic.any_durability:
            self.subscriptions.append(self._subscribe(latched(DEPTH)))

    def _subscribe(self, qos: QoSProfile) -> PolledSubscription:
        # Raw: nothing is decoded, so recording costs little more than copying.
        return PolledSubscription(self._node, self._type, self.name, qos, raw=True)

    def take(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Return serialised messages that have arrived, with what the middleware knows of them."""
        taken = []
        for subscription in self.subscriptions:
            while (message := subscription.take()) is not None:
                if not self.topic.any_durability or not self._seen(*message):
                    taken.append(message)
        return taken

    def _seen(self, data: bytes, information: dict[str, Any]) -> bool:
        """Return whether the other subscription has brought this message already."""
        key = (information["source_timestamp"], data)
        if key in self._recent:
            return True
        self._recent = [*self._recent[-20:], key]
        return False

    def offers(self) -> list[Any]:
        """Return the QoS profiles that publishers offer now."""
        infos = self._node.get_publishers_info_by_topic(self.name)
        return [info.qos_profile for info in infos]

    def accept_best_effort(self) -> bool:
        """Subscribe anew with best effort if no publisher offers more; True if that was done."""
        offers = self.offers()
        if not offers or self.subscriptions[0].qos.reliability != ReliabilityPolicy.RELIABLE:
            return False
        if any(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers):
            return False
        self.destroy()
        self.subscriptions = [self._subscribe(best_effort(DEPTH))]
        return True

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self.subscriptions:
            subscription.destroy()


class RecorderNode(NodeBase):
    """Takes serialised messages, so that nothing is decoded, and writes from its own thread."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__()
        self._episodes: Episodes | None = None
        self._inputs: list[_Input] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop_thread = threading.Event()
        self._stop_deadline_s: float | None = None
        self._last_life_s = 0.0
        self._problem = ""
        self._control = None

    def configure(self) -> None:
        """Check that bags can be written."""
        directory = Path(self.p.directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"bags cannot be written to {directory}: {error.strerror}; choose another folder "
                f"with directory:=..."
            ) from None
        if not os.access(directory, os.W_OK):
            raise UserError(f"{directory} is not writable: choose another folder (directory:=...)")
        started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"

        def name(n: int) -> str:
            first = self.p.bag_name or f"episode_{started}"
            return first if n == 0 else f"{first}_{n + 1}"

        self._episodes = Episodes(directory, os.environ.get("ROS_DISTRO", "unknown"), name)

    def activate(self) -> None:
        """Subscribe, begin the first bag if asked to, start the thread."""
        topics = recorded_topics(self.p.camera_names, self.p.image_transport, self.p.estop_topic)
        for topic in topics:
            # Raises here, with a sentence, instead of when the first message comes.
            message_definition(topic.type_name)
        self._inputs = [_Input(self, topic) for topic in topics]
        if self.p.record_on_start:
            outcome = self._apply(Action.START, self.p.task)
            if not outcome.success:
                raise UserError(outcome.message)
        self._control = self.create_service(RecorderControl, "recorder/control", self._on_control)
        self._stop_thread.clear()
        self._thread = threading.Thread(target=self._run, name="recording")
        self._thread.start()

    def deactivate(self) -> None:
        """Finish the bag and stop listening."""
        self._stop_thread.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._control is not None:
            self.destroy_service(self._control)
            self._control = None
        with self._lock:
            if self._episodes is not None and self._episodes.writer is not None:
                self._say(self._episodes.stop().message)
        for source in self._inputs:
            source.destroy()
        self._inputs = []

    def request_stop(self, signal_count: int) -> None:
        """Go on while the arm parks; a second signal ends at once."""
        if signal_count > 1 or not self.active:
            self.finish()
        elif self._stop_deadline_s is None:
            self._last_life_s = time.monotonic()
            self._stop_deadline_s = self._last_life_s + self.p.stop_timeout_s

    def diagnostics(self) -> tuple[bytes, str, dict[str, Any]]:
        """Say what is being recorded."""
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem, {}
        with self._lock:
            writer = self._episodes.writer if self._episodes is not None else None
            if writer is None:
                return DiagnosticStatus.OK, "not recording", {}
            values = {
                "bag": writer.folder,
                "messages": writer.message_count,
                "megabytes": round(writer.bytes_on_disk / 1e6, 1),
            }
        return DiagnosticStatus.OK, "recording", values

    def _say(self, text: str) -> None:
        self.get_logger().info(text)

    def _apply(self, action: Action, task: str) -> Outcome:
        before = self._episodes.writer
        outcome = self._episodes.apply(action, task)
        if self._episodes.writer is not before:
            for source in self._inputs:
                source.channel = None
        if outcome.success:
            self._problem = ""
            self._say(outcome.message)
        return outcome

    def _on_control(
        self, request: RecorderControl.Request, response: RecorderControl.Response
    ) -> RecorderControl.Response:
        try:
            action = Action(request.command)
        except ValueError:
            response.message = (
                f"unknown command {request.command}; see wallx_msgs/srv/RecorderControl"
            )
            return response
        with self._lock:
            self._drain()
            outcome = self._apply(action, request.task)
        response.success = outcome.success
        response.message = outcome.message
        response.bag = str(outcome.bag.absolute()) if outcome.bag else ""
        return response

    # The recording thread.

    def _run(self) -> None:
        try:
            self._record()
        except Exception:
            # A bug must not leave a recorder that looks alive and records nothing.
            traceback.print_exc()
            self.finish(FAILED_STATUS)

    def _record(self) -> None:
        next_checkpoint_s = next_qos_check_s = time.monotonic()
        while not self._stop_thread.wait(DRAIN_PERIOD_S):
            now_s = time.monotonic()
            with self._lock:
                if self._drain():
                    self._last_life_s = now_s
                if now_s >= next_checkpoint_s:
                    next_checkpoint_s = now_s + self.p.checkpoint_period_s
                    self._checkpoint()
                if now_s >= next_qos_check_s:
                    next_qos_check_s = now_s + QOS_CHECK_PERIOD_S
                    self._check_qos()
            if self._stop_deadline_s is not None and (
                now_s >= self._stop_deadline_s or now_s - self._last_life_s >= SILENCE_S
            ):
                self._stop_deadline_s = None
                self.finish()
        with self._lock:
            self._drain()

    def _drain(self) -> bool:
        """Put what has arrived into the bag; True if any of it shows that the arm is alive."""
        alive = False
        writer = self._episodes.writer
        for source in self._inputs:
            for data, information in source.take():
                alive = alive or source.topic.shows_life
                if writer is None:
                    continue
                if source.channel is None:
                    offers = [_offered(offer) for offer in source.offers()]
                    source.channel = writer.add_channel(source.name, source.topic.type_name, offers)
                writer.add(
                    source.channel,
                    # Absent (0) where a middleware does not stamp: then now is the best answer.
                    information["received_timestamp"] or time.time_ns(),
                    information["source_timestamp"] or time.time_ns(),
                    data,
                    information["publication_sequence_number"] or 0,
                )
        return alive

    def _checkpoint(self) -> None:
        writer = self._episodes.writer
        if writer is None:
            return
        try:
            free_mb = shutil.disk_usage(writer.folder).free / 1e6
            if free_mb < self.p.minimum_free_mb:
                self._give_up(
                    f"only {free_mb:.0f} MB are free on the disk (minimum_free_mb is "
                    f"{self.p.minimum_free_mb:.0f})"
                )
                return
            writer.checkpoint()
        except OSError as error:
            self._give_up(f"the disk refused to write: {error.strerror}")

    def _give_up(self, reason: str) -> None:
        outcome = self._episodes.stop(reason)
        self._problem = f"recording stopped because {reason}; {outcome.message}"
        self.count("recordings given up")
        self.get_logger().error(self._problem)

    def _check_qos(self) -> None:
        for source in self._inputs:
            if source.accept_best_effort():
                self._say(f"{source.name} is offered best effort only: some messages may be lost")


def _offered(profile: QoSProfile) -> OfferedQos:
    return OfferedQos(
        reliability=profile.reliability.name.lower(),
        durability=profile.durability.name.lower(),
        history=profile.history.name.lower(),
        depth=profile.depth,
        deadline_ns=profile.deadline.nanoseconds,
        lifespan_ns=profile.lifespan.nanoseconds,
        liveliness=profile.liveliness.name.lower(),
        liveliness_lease_ns=profile.liveliness_lease_duration.nanoseconds,
    )


def main() -> None:
    """Run the node."""
    sys.exit(run_node(RecorderNode))


if __name__ == "__main__":
    main()
