"""The table of transitions is true: every row of it happens, and nothing else ever does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from so101_driver.safety import DriverState, EventKind, Mode, OperatorEvent, ReasonCode, State
from so101_driver.safety.transitions import TRANSITIONS, all_changes, allowed

C = ReasonCode
Cause = Callable[[Any], Any]

DISARMED, HOLD, TRACKING, STOPPING, PARKING, ESTOP, FAULT = State


def chain(*causes: Cause) -> Cause:
    return lambda scene: [cause(scene) for cause in causes]


def ask(kind: EventKind, **details: Any) -> Cause:
    return lambda scene: scene.step(OperatorEvent(kind, 7, **details))


def wait(seconds: float) -> Cause:
    return lambda scene: scene.step(ticks=round(seconds / 0.01))


def send(**changes: Any) -> Cause:
    return lambda scene: scene.step(chunks=(scene.chunk(**changes),))


def driver(**changes: Any) -> Cause:
    def cause(scene: Any) -> None:
        scene.driver = replace(scene.driver, **changes)
        scene.step()

    return cause


def push(by_rad: float) -> Cause:
    """Move the first joint by hand; it stays there."""

    def cause(scene: Any) -> None:
        scene.jammed = (0,)
        for _ in range(10):
            scene.measured = (scene.measured[0] + by_rad / 10.0, *scene.measured[1:])
            scene.step(ticks=3)

    return cause


def jump(scene: Any) -> None:
    scene.measured = (scene.measured[0] + 0.6, *scene.measured[1:])
    scene.step()


def let_go(scene: Any) -> None:
    scene.jammed = ()
    scene.step(ticks=100)


def silence_of_joints(scene: Any) -> None:
    scene.measuring = False
    scene.step(ticks=25)


def silence_of_driver(scene: Any) -> None:
    scene.driver_talks = False
    scene.step(ticks=105)


def cannot_hear(scene: Any) -> None:
    scene.problem = "a publisher of estop cannot be heard"


def clock_jumps(scene: Any) -> None:
    scene.ros_offset_ns += 10**9
    scene.step()


def late_ticks(scene: Any) -> None:
    scene.tick += 800
    scene.ns += 8_000_000_000
    scene.step()


def until_it_ends(scene: Any) -> None:
    for _ in range(700):
        scene.step(OperatorEvent(EventKind.DEADMAN, pressed=True))


ARM, DISARM, PARK, RETURN, STOP, RESET = (
    ask(kind)
    for kind in (
        EventKind.ARM,
        EventKind.DISARM,
        EventKind.PARK,
        EventKind.RETURN,
        EventKind.ESTOP,
        EventKind.RESET,
    )
)
PRESS = ask(EventKind.DEADMAN, pressed=True)
REST = wait(0.8)
SAME_MODE = ask(EventKind.SET_MODE, mode=Mode.FULL)
TORQUE_OFF = driver(torque_on=(False,) * 6)
ARMED = chain(wait(0.01), ARM)
FOLLOW = chain(PRESS, send())
SKEWED = send(age_s=0.1, observation_to_publish_s=0.0)
MOVING = chain(wait(0.15), PRESS, wait(0.15), PRESS)
TRACK = chain(ARMED, FOLLOW, MOVING)
PARKS = chain(ARMED, PRESS, PARK, MOVING)
RETURNS = chain(ARMED, PRESS, RETURN, MOVING)

BEFORE: dict[State, Cause] = {
    DISARMED: wait(0.02),
    HOLD: ARMED,
    TRACKING: TRACK,
    STOPPING: chain(TRACK, ask(EventKind.SELECT_SOURCE)),
    PARKING: PARKS,
    ESTOP: chain(ARMED, STOP),
    FAULT: chain(ARMED, jump),
}

CAUSES: dict[ReasonCode, Cause] = {
    C.INPUT_NOT_HEARD: chain(cannot_hear, ARM),
    C.JOINT_STATES: chain(silence_of_joints, ARM),
    C.DRIVER_SILENT: chain(silence_of_driver, ARM),
    C.DRIVER_NOT_READY: chain(driver(state=DriverState.FAULT, reason="no power"), ARM),
    C.CLOCK_SKEW: chain(SKEWED, ARM),
    C.GOAL_UNKNOWN: chain(driver(goal_rad=(math.nan,) * 6), ARM),
    C.START_POSE: chain(driver(goal_rad=(0.0, 0.0, 3.0, 0.0, 0.0, 0.0)), ARM),
    C.SUPPLY_VOLTAGE: chain(driver(voltage_v=(24.0,) * 6), ARM),
    C.WAITING_FOR_TORQUE: chain(TORQUE_OFF, ARM),
    C.TORQUE_REFUSED: chain(TORQUE_OFF, ARM, ask(EventKind.TORQUE_REFUSED, text="too hot")),
    C.WAITING_FOR_CHUNKS: wait(0.01),
    C.ARMED: ARM,
    C.CHUNK_BAD: send(action_kind=0),
    C.CHUNK_STALE: send(age_s=3.0),
    C.CHUNK_SOURCE: chain(ask(EventKind.SELECT_SOURCE, text="teleop"), send()),
    C.CHUNK_CLOCK: send(age_s=-1.0),
    C.FOLLOWING: FOLLOW,
    C.CLOCK_JUMP: clock_jumps,
    C.SOURCE_CHANGED: ask(EventKind.SELECT_SOURCE),
    C.DEADMAN: chain(wait(0.3), send()),
    C.JOINT_BLOCKED: push(-0.5),
    C.JOINT_FREED: chain(push(-0.5), let_go),
    C.MODE_CHANGED: SAME_MODE,
    C.DISARMED: DISARM,
    C.PARKING: chain(PRESS, PARK),
    C.RETURNING: chain(PRESS, RETURN),
    C.PARKED: until_it_ends,
    C.RETURNED: until_it_ends,
    C.MOVE_TIMEOUT: late_ticks,
    C.DRIVER_NOT_FOLLOWING: TORQUE_OFF,
    C.ESTOP: STOP,
    C.JOINT_JUMPED: jump,
    C.RESET: chain(wait(0.5), RESET),
}


def follow_for(seconds: float) -> Cause:
    return chain(*[chain(send(), wait(0.07))] * round(seconds / 0.08))


def joints_fall_silent(scene: Any) -> None:
    scene.measuring = False


def driver_falls_silent(scene: Any) -> None:
    scene.driver_talks = False


OTHER_SOURCE = ask(EventKind.SELECT_SOURCE)
SPECIAL: dict[tuple[State, State, ReasonCode], Cause] = {
    (TRACKING, STOPPING, C.CHUNK_STALE): chain(TRACK, wait(2.0)),
    (STOPPING, HOLD, C.CHUNK_STALE): chain(TRACK, wait(2.0)),
    (STOPPING, HOLD, C.RETURNED): chain(RETURNS, until_it_ends),
    (PARKING, STOPPING, C.RETURNED): chain(RETURNS, until_it_ends),
    (STOPPING, HOLD, C.MOVE_TIMEOUT): chain(RETURNS, late_ticks, REST),
    # Parking leads the first joint downwards, chunks lead it upwards.
    (PARKING, STOPPING, C.JOINT_BLOCKED): chain(PARKS, push(0.5)),
    (STOPPING, DISARMED, C.JOINT_BLOCKED): chain(PARKS, push(0.5), REST),
    (PARKING, PARKING, C.PARKING): chain(RETURNS, PARK),
    (STOPPING, DISARMED, C.DISARMED): chain(TRACK, DISARM, REST),
    (TRACKING, FAULT, C.DRIVER_SILENT): chain(ARMED, driver_falls_silent, follow_for(1.1)),
    (STOPPING, FAULT, C.DRIVER_SILENT): chain(
        ARMED, driver_falls_silent, follow_for(0.96), OTHER_SOURCE, REST
    ),
    (STOPPING, FAULT, C.JOINT_STATES): chain(
        ARMED, follow_for(0.4), joints_fall_silent, send(), wait(0.15), OTHER_SOURCE, REST
    ),
}


def scenario(before: State, after: State, code: ReasonCode) -> Cause:
    special = SPECIAL.get((before, after, code))
    if special is not None:
        return special
    if before is STOPPING and after is HOLD:
        return chain(TRACK, CAUSES[code], REST)
    if before is STOPPING and after is DISARMED and code is not C.DRIVER_NOT_FOLLOWING:
        return chain(PARKS, CAUSES[code], REST)
    return chain(BEFORE[before], CAUSES[code])


def changes_of(scene: Any) -> list[tuple[State, State, ReasonCode]]:
    return [(c.before, c.after, c.code) for command in scene.commands for c in command.changes]


@pytest.mark.parametrize(
    ("before", "after", "code"),
    sorted(all_changes(), key=lambda change: [part.name for part in change]),
    ids=lambda part: part.name,
)
def test_every_row_of_the_table_happens(
    new_scene: Any, before: State, after: State, code: ReasonCode
):
    from_shadow = (before, after, code) == (HOLD, DISARMED, C.MODE_CHANGED)
    scene = new_scene(
        Mode.SHADOW if from_shadow else Mode.FULL,
        deadman_required=code is C.DEADMAN,
        auto_arm=code is C.WAITING_FOR_CHUNKS,
    )
    if from_shadow:
        chain(ARMED, ask(EventKind.SET_MODE, mode=Mode.SCALED))(scene)
    else:
        scenario(before, after, code)(scene)
    seen = changes_of(scene)
    assert (before, after, code) in seen, seen
    assert [change for change in seen if not allowed(*change)] == []


def test_every_code_is_in_the_table():
    assert {code for row in TRANSITIONS for code in row.codes} == set(C) - {C.NOT_ARMED}


def resume(scene: Any) -> None:
    """Mend what an earlier cause broke."""
    scene.measuring = scene.driver_talks = True
    scene.problem = ""
    scene.jammed = ()
    scene.driver = new_driver(scene)
    scene.step()


def new_driver(scene: Any) -> Any:
    position = scene.last.positions_rad
    goal = scene.GOAL if position is None else tuple(position.tolist())
    return replace(
        scene.driver,
        state=DriverState.ACTIVE,
        reason="",
        torque_on=(True,) * 6,
        goal_rad=goal,
        voltage_v=(12.0,) * 6,
    )


READY = chain(resume, wait(0.5), RESET, ARM, PRESS)
CALM = (READY, READY, resume, wait(0.1), follow_for(0.4), chain(PRESS, follow_for(0.16)))
UNUSUAL = (
    *CAUSES.values(),
    ask(EventKind.SET_MODE, mode=Mode.SHADOW),
    ask(EventKind.SET_MODE, mode=Mode.SCALED),
    ask(EventKind.SET_MODE, mode=Mode.SCALED, scale=0.1),
)


def random_run(scene: Any, dice: random.Random) -> set[tuple[State, State, ReasonCode]]:
    """Let random things happen; returns the changes that were seen."""
    scene.step()
    for _ in range(80):
        dice.choice(CALM if dice.random() < 0.7 else UNUSUAL)(scene)
        status = scene.status
        assert status.reason.strip(" ;:")
        assert status.reason_code in ReasonCode.__members__
    seen = changes_of(scene)
    assert [change for change in seen if not allowed(*change)] == []
    state = DISARMED
    for before, after, _ in seen:
        assert before is state, "no change goes untold"
        state = after
    assert state is scene.last.state
    return set(seen)


def test_whatever_happens_is_in_the_table_and_has_a_sentence(new_scene: Any):
    seen = set()
    for seed in range(12):
        dice = random.Random(seed)
        mode = dice.choice(list(Mode))
        scene = new_scene(mode, deadman_required=seed % 3 == 0, auto_arm=seed % 4 == 0)
        seen |= random_run(scene, dice)
    assert len(seen) > 45, "half of the table happens by chance"
