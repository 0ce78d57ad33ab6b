"""A leader joins the follower's pose: it must be the commanded one, and never one of long ago."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wallx_msgs", reason="needs the built workspace")

from sensor_msgs.msg import JointState
from so101_driver.joints import JOINT_NAMES
from so101_driver.nodes import teleop_inputs
from so101_driver.nodes.teleop_inputs import TeleopInputs
from so101_driver.teleop_types import SafetyState

from wallx_msgs.msg import DriverStatus, SafetyStatus

pytestmark = pytest.mark.ros

S = 1_000_000_000
COMMANDED, GOALS, MEASURED = (
    [0.1 + 0.2 * offset for _ in JOINT_NAMES] for offset in (0.0, 1.0, 2.0)
)


class Wire:
    """What waits on the topics, and the time at which the loop looks."""

    def __init__(self) -> None:
        self.now_ns = 100 * S
        self.waiting: dict[str, list[Any]] = {}

    def monotonic_ns(self) -> int:
        return self.now_ns

    def subscription(self, _node: Any, _kind: type, topic: str, _qos: Any) -> Any:
        waiting = self.waiting.setdefault(topic, [])

        class Subscription:
            def newest(self) -> Any:
                taken, waiting[:] = waiting[-1:], []
                return taken[0] if taken else None

        return Subscription()

    def send(self, torque: bool = True, commands: bool = True) -> None:
        """The arm's topics, all at once."""
        if commands:
            self.waiting["joint_commands"].append(joints(COMMANDED))
        self.waiting["joint_states"].append(joints(MEASURED))
        self.waiting["driver/status"].append(
            DriverStatus(torque_enabled=[torque] * 6, goal_position=GOALS)
        )
        self.waiting["safety/status"].append(
            SafetyStatus(state=SafetyStatus.STATE_HOLD, source="teleop", reason="holding")
        )


def joints(position: list[float]) -> JointState:
    return JointState(name=list(JOINT_NAMES), position=position)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire()
    monkeypatch.setattr(teleop_inputs, "PolledSubscription", wire.subscription)
    monkeypatch.setattr(teleop_inputs, "time", wire)
    return wire


@pytest.mark.parametrize(
    ("sent", "pose"),
    [
        ({}, COMMANDED),
        ({"commands": False}, GOALS),
        ({"commands": False, "torque": False}, MEASURED),
    ],
    ids=["commanded", "goals of an arm that stands", "measured of a limp one"],
)
def test_the_pose_is_the_commanded_one_as_long_as_there_is_one(wire, sent, pose):
    inputs = TeleopInputs(None)
    assert inputs.follower().pose_rad is None
    wire.send(**sent)
    view = inputs.follower()
    assert np.array_equal(view.pose_rad, pose)
    assert (view.safety, view.source, view.reason) == (SafetyState.HOLD, "teleop", "holding")


def test_what_has_stopped_coming_is_forgotten_at_its_own_pace(wire):
    inputs = TeleopInputs(None)
    wire.send()
    for age_ns, pose, safety in (
        (S // 5, COMMANDED, SafetyState.HOLD),
        (S // 5 + 1, GOALS, SafetyState.HOLD),
        (S, GOALS, SafetyState.HOLD),
        (S + 1, None, SafetyState.UNKNOWN),
    ):
        wire.now_ns = 100 * S
        inputs.follower()
        wire.now_ns += age_ns
        view = inputs.follower()
        assert view.pose_rad is None if pose is None else np.array_equal(view.pose_rad, pose)
        assert view.safety is safety


def test_what_waited_while_nobody_looked_does_not_count_as_fresh(wire):
    """The middleware keeps the newest message of each topic, however old it becomes."""
    inputs = TeleopInputs(None)
    wire.send()
    inputs.follower()
    wire.send()
    wire.now_ns += S // 10
    inputs.forget()
    view = inputs.follower()
    assert (view.pose_rad, view.safety) == (None, SafetyState.UNKNOWN)
    wire.send()
    assert inputs.follower().safety is SafetyState.HOLD


def test_messages_that_fit_no_arm_give_no_pose(wire):
    inputs = TeleopInputs(None)
    for message in (
        JointState(name=list(JOINT_NAMES), position=COMMANDED[:5]),
        JointState(name=["wheel"], position=[1.0]),
    ):
        wire.waiting["joint_commands"].append(message)
        assert inputs.follower().pose_rad is None
    wire.waiting["joint_commands"].append(joints(COMMANDED))
    assert inputs.follower().pose_rad is not None
    wire.now_ns += S
    wire.waiting["driver/status"].append(
        DriverStatus(torque_enabled=[True] * 6, goal_position=GOALS[:3])
    )
    assert inputs.follower().pose_rad is None
