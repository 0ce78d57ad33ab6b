"""What the demo plays, and when an act is over."""

from __future__ import annotations

from dataclasses import dataclass

from so101_driver.errors import UserError

START_TIMEOUT_S = 60.0
SETTLED_S = 3.0
"""The cube must have lain in the tray this long."""


@dataclass(frozen=True, slots=True)
class Act:
    """One part of the demo.

    Attributes:
        name: Names its folder.
        title: Shown to the user.
        note: What the user must know about it.
        backend: The policy.
        has_task: Whether the cube is to end in the tray, which ends the act.
        limit_s: Longest time from the first motion on.
    """

    name: str
    title: str
    note: str
    backend: str
    has_task: bool
    limit_s: float


ACTS = (
    Act(
        "act1",
        "Act 1, expert: pick the red cube and place it in the tray",
        "A scripted policy: it reads object poses from the simulator and sends action chunks with "
        "at least 100 ms of latency, like any policy.",
        "expert",
        has_task=True,
        limit_s=90.0,
    ),
    Act(
        "act2",
        "Act 2, wall_oss: camera images through the real model",
        "The weights of this tiny checkpoint are random, so the arm does nothing clever; this act "
        "shows that the inference path works.",
        "wall_oss",
        has_task=False,
        limit_s=20.0,
    ),
)


class ActWatch:
    """Decides from what the graph says when an act is over.

    Attributes:
        motion_s: When the arm began to follow the policy; None before.
    """

    def __init__(self, act: Act, start_s: float) -> None:
        self._act = act
        self._start_s = start_s
        self._in_tray_s: float | None = None
        self.motion_s: float | None = None

    def verdict(self, now_s: float, state: str, reason: str, in_tray: bool) -> str:
        """Return how the act ended, empty while it goes on.

        Args:
            now_s: Steady clock.
            state: Of the safety node, e.g. ``TRACKING``.
            reason: Its sentence.
            in_tray: Whether the cube lies in the tray now.

        Raises:
            UserError: The arm has not begun to move in time.
        """
        if self.motion_s is None:
            if state == "TRACKING":
                self.motion_s = now_s
            elif now_s - self._start_s > START_TIMEOUT_S:
                raise UserError(
                    f"{self._act.name}: the arm did not move within {START_TIMEOUT_S:.0f} s; "
                    f"safety is {state or 'silent'}: {reason or 'no reason given'}."
                )
            return ""
        if state in ("FAULT", "ESTOP"):
            return f"Safety stopped the arm for good ({state}): {reason}."
        if self._act.has_task:
            if not in_tray:
                self._in_tray_s = None
            elif self._in_tray_s is None:
                self._in_tray_s = now_s
            elif now_s - self._in_tray_s >= SETTLED_S:
                return f"The cube is in the tray after {now_s - self.motion_s:.0f} s of motion."
        if now_s - self.motion_s < self._act.limit_s:
            return ""
        outcome = "; the cube is not in the tray" if self._act.has_task else ""
        return f"{self._act.limit_s:.0f} s of motion are recorded{outcome}."
