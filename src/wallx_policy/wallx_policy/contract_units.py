"""Joint columns of a contract: their units, concluded from statistics or said by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from so101_driver.errors import UserError

from wallx_policy.contract_types import Channel, Statistics, Unit, Zeros
from wallx_policy.units import GRIPPER, WORDS, Verdict, judge_arm, judge_gripper

_ZERO_WORDS = {
    Zeros.MID_RANGE: "signs and zeros as LeRobot's calibration has them (zero at mid-range)",
    Zeros.STRETCHED: "zeros of the stretched arm: shoulder_lift turned round and 90 degrees off, "
    "elbow_flex 90 degrees off",
}
_STRETCHED = {"shoulder_lift": (-1, 90.0), "elbow_flex": (1, 90.0)}
"""Sign and offset in degrees, as LeRobot's own example of a migration undoes them."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user says where a checkpoint's files leave it open.

    Attributes:
        unit: Of the arm joints.
        gripper: Of the gripper.
        norm_key: Name of the statistics, where there are several.
        zeros: Which zeros the data were recorded with.
    """

    unit: Unit | None = None
    gripper: Unit | None = None
    norm_key: str | None = None
    zeros: Zeros | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """State or action as a data set has it.

    Attributes:
        joints: By column.
        statistics: Of the same columns.
    """

    joints: tuple[str, ...]
    statistics: Statistics

    def channels(
        self, zeros: Zeros, unit: Unit = Unit.PLAIN, gripper: Unit = Unit.PLAIN
    ) -> tuple[Channel, ...]:
        """Return its channels; plain ones as long as nothing is known about their units."""
        moved = _STRETCHED if zeros is Zeros.STRETCHED else {}
        return tuple(
            Channel(joint, gripper if joint == GRIPPER else unit, *moved.get(joint, (1, 0.0)))
            for joint in self.joints
        )


def joint_channels(
    folder: Path, features: Mapping[str, Feature], recorded: Zeros, choices: Choices
) -> tuple[dict[str, tuple[Channel, ...]], list[str]]:
    """Return the channels by feature, and one sentence for each that says what was concluded.

    State and action were recorded in one unit: what one of them excludes, the other is not in.

    Args:
        folder: The checkpoint.
        features: State and action.
        recorded: Which zeros the names in the data set tell of.
        choices: What the user says.

    Raises:
        UserError: where the unit stays open, naming what fits and how to decide; or where what the
            user says does not fit.
    """
    zeros = _decide_zeros(folder, recorded, choices)
    arms = {key: judge_arm(f.statistics, f.channels(zeros)) for key, f in features.items()}
    said = Unit.DEG if zeros is Zeros.STRETCHED else choices.unit
    arm = _decide_arm(folder, arms, said)
    channels, notes = {}, []
    for key, feature in features.items():
        words = f"{key}: arm joints in {WORDS[arm]}, {_because(arms, key, arm, said)}"
        gripper = arm
        if GRIPPER in feature.joints:
            verdict = judge_gripper(feature.statistics, feature.channels(zeros), arm)
            gripper = _decide_gripper(folder, key, verdict, arm, choices.gripper)
            words += f"; gripper in {WORDS[gripper]}, {_as_said(verdict, choices.gripper)}"
        channels[key] = feature.channels(zeros, arm, gripper)
        notes.append(f"{words}; {_ZERO_WORDS[zeros]}; order {', '.join(feature.joints)}")
    return channels, notes


def judgement(key: str, channels: Sequence[Channel], statistics: Statistics) -> str:
    """Return a sentence on the units that a written contract gives to a feature."""
    units = dict.fromkeys(channel.unit for channel in channels if channel.name != GRIPPER)
    said = " and ".join(WORDS[unit] for unit in units) or "no unit"
    verdict = judge_arm(statistics, channels)
    return f"{key}: arm joints in {said}, as contract.yaml says; {_fits(verdict)}"


def _decide_zeros(folder: Path, recorded: Zeros, choices: Choices) -> Zeros:
    zeros = choices.zeros
    if zeros is None and recorded is Zeros.STRETCHED:
        raise UserError(
            f"{folder}: its data were recorded when LeRobot's zero was the arm stretched out, as "
            "the names in info.json tell; that zero was set by eye, so replay an episode first: "
            f"then `wallx contract {folder} --zeros stretched --save`"
        )
    if zeros is Zeros.STRETCHED and choices.unit not in (None, Unit.DEG):
        raise UserError(f"{folder}: with zeros of the stretched arm LeRobot recorded degrees only")
    return zeros or recorded


def _decide_arm(folder: Path, verdicts: Mapping[str, Verdict], said: Unit | None) -> Unit:
    known = {key: v for key, v in verdicts.items() if v.units is not None}
    for key, verdict in known.items():
        if not verdict.units:
            raise UserError(
                f"{folder}: the statistics of the {key} fit no known unit ({verdict.reason}): "
                "give --zeros if LeRobot recorded them with other ones, or write a contract.yaml "
                "with units, signs and offsets"
            )
        if said is not None and said not in (verdict.units or ()):
            raise UserError(
                f"{folder}: the {key} cannot be in {WORDS[said]}; its statistics fit "
                f"{verdict.words()} ({verdict.reason})"
            )
    if said is not None:
        return said
    if not known:
        raise UserError(
            f"{folder} has no statistics of state and action, so nothing tells their units: give "
            f"--unit to `wallx contract {folder} --save`"
        )
    common = frozenset.intersection(*(v.units for v in known.values() if v.units is not None))
    if len(common) == 1:
        return next(iter(common))
    told = "; ".join(f"the {key} fits {v.words()} ({v.reason})" for key, v in known.items())
    if not common:
        raise UserError(
            f"{folder}: state and action must be in one unit: {told}: write a contract.yaml"
        )
    choice = " or ".join(f"--unit {value}" for value in sorted(unit.value for unit in common))
    raise UserError(
        f"{folder}: {told}, which must not be guessed: `use_degrees` of the robot that recorded "
        f"says which (LeRobot's default is true since 0.6, ±100 before); then run `wallx contract "
        f"{folder} --save` with {choice}"
    )


def _decide_gripper(folder: Path, key: str, verdict: Verdict, arm: Unit, said: Unit | None) -> Unit:
    if said is not None:
        if verdict.units and said not in verdict.units:
            raise UserError(
                f"{folder}: the gripper of the {key} cannot be in {WORDS[said]}: {verdict.reason}"
            )
        return said
    if verdict.only is not None:
        return verdict.only
    if verdict.units is None and arm is not Unit.RAD:
        return Unit.PERCENT
    raise UserError(
        f"{folder}: the unit of the gripper in the {key} must not be guessed ({verdict.reason}): "
        "write a contract.yaml, or give --gripper rad or --gripper percent to `wallx contract`"
    )


def _because(verdicts: Mapping[str, Verdict], key: str, unit: Unit, said: Unit | None) -> str:
    own = verdicts[key]
    if own.only is unit:
        return f"because {own.reason}"
    if said is not None:
        return f"as you say; {_fits(own)}"
    other = next(name for name, verdict in verdicts.items() if verdict.only is unit)
    return f"as the {other} is; {_fits(own)}"


def _as_said(verdict: Verdict, said: Unit | None) -> str:
    if said is not None:
        return f"as you say: {verdict.reason}"
    if verdict.units is None:
        return "as LeRobot records it"
    return f"because {verdict.reason}"


def _fits(verdict: Verdict) -> str:
    if verdict.units is None:
        return "it has no statistics to check that"
    return f"its statistics fit {verdict.words()} ({verdict.reason})"
