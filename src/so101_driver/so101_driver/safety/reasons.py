"""Why the arm does or does not move: one code for each reason, and what to do next."""

from __future__ import annotations

from enum import Enum


class ReasonCode(Enum):
    """The name is the code in SafetyStatus.reason_code; the value says what it means."""

    # Not armed.
    NOT_ARMED = "nobody has armed the arm yet"
    INPUT_NOT_HEARD = "a publisher of an input cannot be heard, by its QoS settings"
    JOINT_STATES = "joint states are missing, late, repeated or not finite"
    DRIVER_SILENT = "the driver does not report"
    DRIVER_NOT_READY = "the driver is not active, in a fault, or has other joints"
    CLOCK_SKEW = "the clock of the chunks' sender differs too much from this one"
    SUPPLY_VOLTAGE = "the supply voltage fits no servo of the limits file"
    GOAL_UNKNOWN = "torque is on, but the goals in the servos are not known"
    START_POSE = "the arm stands too far outside its limits or inside a forbidden region"
    WAITING_FOR_TORQUE = "the driver was asked for torque"
    TORQUE_REFUSED = "the driver did not switch the torque on"
    WAITING_FOR_CHUNKS = "automatic arming waits for a policy's chunks"
    DISARMED = "disarming was asked for"
    PARKED = "the arm was parked"
    RESET = "a latched stop was reset"
    DRIVER_NOT_FOLLOWING = "the driver does not follow: DESYNC, torque off, or it holds"
    # Armed.
    ARMED = "armed, no chunk has come since"
    FOLLOWING = "chunks are followed"
    PARKING = "parking was asked for"
    RETURNING = "returning to the ready pose was asked for"
    RETURNED = "the arm is at its ready pose"
    MOVE_TIMEOUT = "parking or returning took too long"
    MODE_CHANGED = "another mode or scale was asked for"
    SOURCE_CHANGED = "another source of chunks was selected"
    DEADMAN = "the deadman switch is not pressed"
    CHUNK_STALE = "the newest chunk is too old, or out of order"
    CHUNK_BAD = "a chunk's content is impossible"
    CHUNK_SOURCE = "a chunk of another source than the one that is followed"
    CHUNK_CLOCK = "a chunk is stamped in the future"
    CLOCK_JUMP = "ROS time jumped"
    JOINT_BLOCKED = "a joint hangs too far behind its command"
    JOINT_FREED = "the blocked joint follows again"
    # Latched.
    ESTOP = "the emergency stop was pressed"
    JOINT_JUMPED = "a joint was measured to jump"


NEXT_STEP = {
    ReasonCode.INPUT_NOT_HEARD: "change them, then call safety/arm",
    ReasonCode.JOINT_STATES: "start the driver, or see its log; then call safety/arm",
    ReasonCode.NOT_ARMED: "call safety/arm to move",
    ReasonCode.DISARMED: "call safety/arm to move",
    ReasonCode.PARKED: "call safety/arm to move",
    ReasonCode.RESET: "call safety/arm to move",
    ReasonCode.MODE_CHANGED: "call safety/arm to move",
    ReasonCode.DRIVER_NOT_FOLLOWING: "call safety/arm to take over from where the servos are",
    ReasonCode.MOVE_TIMEOUT: "call safety/arm to move",
    ReasonCode.DEADMAN: "press it, then call safety/arm",
    ReasonCode.JOINT_BLOCKED: "free the joint, then call safety/arm",
    ReasonCode.TORQUE_REFUSED: "see driver/status, then call safety/arm",
    ReasonCode.DRIVER_SILENT: "start the driver, then call safety/arm",
    ReasonCode.GOAL_UNKNOWN: "wait for driver/status to tell them, then call safety/arm",
}
"""What brings a disarmed arm to move, where the sentence itself does not say it."""

HOLD_STEP = {
    ReasonCode.ARMED: "waiting for chunks",
    ReasonCode.MODE_CHANGED: "waiting for chunks",
    ReasonCode.SOURCE_CHANGED: "waiting for its chunks",
    ReasonCode.RETURNED: "waiting for chunks",
    ReasonCode.MOVE_TIMEOUT: "call it again, or send chunks",
    ReasonCode.DEADMAN: "press it",
    ReasonCode.CHUNK_STALE: "a fresh chunk is followed again",
    ReasonCode.CHUNK_BAD: "correct the sender of the chunks",
    ReasonCode.CHUNK_SOURCE: "call safety/select_source to change that",
    ReasonCode.CLOCK_JUMP: "a fresh chunk is followed again",
    ReasonCode.JOINT_FREED: "waiting for chunks",
}
"""What brings an armed arm at rest to move, likewise."""

LATCHED_STEP = "call safety/reset, then safety/arm"
