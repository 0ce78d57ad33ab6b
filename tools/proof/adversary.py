"""Everything that can come in, drawn from a seed: sane streams of chunks, and what goes wrong.

A scenario is a sequence of phases. In each, a made-up policy goes after something (a pose, a sine,
two poses in turn, noise) at its own rate, horizon and latency; poses are taken as often from below
the table or inside the arm as from where it may be. Around it, faults come as often as the
scenario is rough.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from so101_driver.safety import (
    Chunk,
    DriverState,
    EventKind,
    Mode,
    OperatorEvent,
    State,
)

from proof.world import Weather, World

Array = NDArray[np.float64]

FAULTY_JOINTS = ("none", "nan", "infinite", "old", "future", "short", "repeated", "teleport")
BAD_VALUES = (math.nan, math.inf, -math.inf, 1e308, -1e308, 1e19, 13.0)
EVENTS = tuple(kind for kind in EventKind if kind is not EventKind.DEADMAN)


@dataclass(frozen=True, slots=True)
class Poses:
    """Poses by what is wrong with them.

    Attributes:
        legal: [n, joints], nothing is.
        illegal: [m, joints] each: below the table, inside the arm, outside the workspace, in boxes.
    """

    legal: Array
    illegal: tuple[Array, ...]


class Policy:
    """Sends chunks of one motion; ``stream`` gives those that arrive at a step."""

    def __init__(self, world: World, poses: Poses, draw: random.Random, rough: float) -> None:
        self._world, self._draw, self._rough = world, draw, rough
        period_s = world.settings.period_s
        self._every = max(round(1.0 / draw.choice([2, 5, 10, 12.5, 25, 50]) / period_s), 1)
        self._step_ns = draw.choice([20, 33, 40, 50, 100]) * 1_000_000
        self._count = draw.choice([1, 2, 4, 8, 16, 25, 25, 25, 50, 50, 100])
        self._latency_s = draw.choice([0.0, 0.05, 0.1, 0.2, 0.4])
        self._jitter_s = draw.choice([0.0, 0.02, 0.1])
        self._lost = draw.choice([0.0, 0.0, 0.1, 0.5])
        self._noise_rad = draw.choice([0.0, 0.0, 0.003, 0.05])
        self._committed = draw.choice([0, 0, 0, 1, 4, 10**6])
        self._action = draw.choice([1, 1, 2])
        self._kind = draw.choice(["reach", "reach", "reach", "sine", "turns", "relative", "wild"])
        self._speed = draw.choice([0.1, 0.5, 1.0, 3.0, 10.0])
        self._targets = [self._pose(poses) for _ in range(4)]
        self._begin, self._begun_ns = np.array(world.goal), world.steady_ns
        self._amplitude = np.array([draw.choice([0.0, 0.1, 0.5]) for _ in world.goal])
        self._frequency = draw.uniform(0.1, 3.0)
        self._waiting: list[tuple[int, Chunk]] = []
        self._ticks = 0
        self.session = draw.getrandbits(60)
        self._sequence = 0

    def _pose(self, poses: Poses) -> Array:
        draw, limits = self._draw, self._world.limits
        kind = draw.random()
        if kind < 0.45:
            group = draw.choice(poses.illegal)
            return group[draw.randrange(len(group))]
        if kind < 0.85:
            return poses.legal[draw.randrange(len(poses.legal))]
        return np.array(
            [draw.uniform(lo - 0.5, up + 0.5) for lo, up in zip(limits.lower_rad, limits.upper_rad)]  # noqa: B905
        )

    def stream(self) -> tuple[Chunk, ...]:
        """Chunks that arrive now."""
        world, draw = self._world, self._draw
        if self._ticks % self._every == 0 and draw.random() >= self._lost:
            delay_s = self._latency_s + draw.uniform(0.0, self._jitter_s)
            chunk = self._chunk()
            if draw.random() < self._rough:
                chunk = self._spoilt(chunk)
            self._waiting.append((world.steady_ns + round(delay_s * 1e9), chunk))
            if draw.random() < 0.2 * self._rough:
                self._waiting.append(self._waiting[-1])
        self._ticks += 1
        arrived = tuple(chunk for due, chunk in self._waiting if due <= world.steady_ns)
        if arrived:
            self._waiting = [item for item in self._waiting if item[0] > world.steady_ns]
        return arrived

    def _chunk(self) -> Chunk:
        world = self._world
        self._sequence += 1
        times_s = np.arange(self._count) * self._step_ns * 1e-9
        points = self._motion((world.steady_ns - self._begun_ns) * 1e-9 + times_s)
        if self._noise_rad:
            noise = np.random.default_rng(self._draw.getrandbits(32)).normal(size=points.shape)
            points = points + self._noise_rad * noise
        return Chunk(
            stamp_ns=world.ros_ns,
            source="policy",
            session=self.session,
            sequence=self._sequence,
            joint_names=world.limits.joint_names,
            points_rad=points.tolist(),
            offsets_ns=tuple(i * self._step_ns for i in range(self._count)),
            image_age_s=self._draw.choice([0.0, 0.0, 0.04]),
            action_kind=self._action,
            committed_steps=self._committed,
            observation_to_publish_s=self._latency_s,
        )

    def _motion(self, times_s: Array) -> Array:
        if self._kind == "sine":
            phase = 2.0 * math.pi * self._frequency * times_s
            return self._targets[0] + self._amplitude * np.sin(phase)[:, None]
        if self._kind == "wild":
            draw = np.random.default_rng(self._draw.getrandbits(32))
            return draw.uniform(-12.0, 12.0, (len(times_s), len(self._begin)))
        if self._kind == "turns":
            # Every chunk goes elsewhere: no hand-over is smooth.
            begin, target = self._targets[self._sequence % 2], self._targets[self._sequence % 4]
            times_s = times_s - times_s[0]
        elif self._kind == "relative":
            # From what is measured, as a policy does.
            begin, target = self._world.measured, self._targets[0]
            times_s = times_s - times_s[0]
        else:
            leg_s = 3.0
            leg = int(times_s[0] // leg_s)
            begin = self._begin if leg == 0 else self._targets[(leg - 1) % 4]
            target = self._targets[leg % 4]
            times_s = times_s - leg * leg_s
        distance = float(np.abs(target - begin).max())
        share = np.clip(times_s * self._speed / max(distance, 1e-6), 0.0, 1.0)
        return begin + share[:, None] * (target - begin)

    def _spoilt(self, chunk: Chunk) -> Chunk:
        draw = self._draw
        points = [list(point) for point in chunk.points_rad]
        match draw.choice(["value", "shape", "times", "stamp", "header", "session", "again"]):
            case "value":
                point = points[draw.randrange(len(points))]
                point[draw.randrange(len(point))] = draw.choice(BAD_VALUES)
                return replace(chunk, points_rad=points)
            case "shape":
                return self._misshapen(chunk, points)
            case "times":
                offsets = draw.choice(
                    [
                        tuple(draw.randint(-(10**10), 10**10) for _ in points),
                        tuple(offset + 1_000_000 for offset in chunk.offsets_ns),
                        tuple(reversed(chunk.offsets_ns)),
                        (0,) * len(points),
                        chunk.offsets_ns[:-1],
                    ]
                )
                return replace(chunk, offsets_ns=offsets)
            case "stamp":
                shift_ns = draw.choice([-(2**62), -(10**10), -(10**9), 40_000_000, 10**9, 2**62])
                return replace(chunk, stamp_ns=chunk.stamp_ns + shift_ns)
            case "header":
                return draw.choice(
                    [
                        replace(chunk, action_kind=0),
                        replace(chunk, action_kind=9),
                        replace(chunk, source="other"),
                        replace(chunk, source=""),
                        replace(chunk, image_age_s=draw.choice([math.nan, -1.0, 1e308])),
                        replace(chunk, committed_steps=draw.choice([-1, 3, 2**31])),
                        replace(chunk, observation_to_publish_s=draw.choice([math.nan, -1e9, 5.0])),
                    ]
                )
            case "session":
                self.session, self._sequence = draw.getrandbits(60), 0
                return replace(chunk, session=self.session, sequence=0)
            case _:
                return replace(chunk, sequence=max(chunk.sequence - draw.randint(0, 2), 0))

    def _misshapen(self, chunk: Chunk, points: list[list[float]]) -> Chunk:
        names = chunk.joint_names
        return self._draw.choice(
            [
                replace(chunk, points_rad=[], offsets_ns=()),
                replace(chunk, joint_names=(*names[:-1], "hand")),
                replace(chunk, joint_names=tuple(reversed(names))),
                replace(chunk, joint_names=names[:-1]),
                replace(chunk, joint_names=(*names, "hand")),
                replace(chunk, points_rad=[*points[:-1], points[-1][:-1]]),
                replace(chunk, points_rad=[[*point, 0.0] for point in points]),
                replace(chunk, points_rad=points * 201, offsets_ns=chunk.offsets_ns * 201),
            ]
        )


class Adversary:
    """Drives a World step by step from a seed."""

    def __init__(self, world: World, poses: Poses, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self._world, self._poses = world, poses
        self.rough = draw.choice([0.0, 0.002, 0.01, 0.01, 0.05, 0.3])
        self._contact = draw.random() < 0.3
        self._policy = Policy(world, poses, draw, self.rough)
        self._phase_left = 0
        self._fault_left = 0
        self._fault = Weather()
        self._jam_left = 0
        self._jam: tuple[int, ...] = ()
        self._number = 0

    def step(self) -> None:
        """One step of the world with whatever comes in."""
        world, draw = self._world, self.draw
        if self._phase_left <= 0:
            self._phase_left = draw.randint(40, 400)
            session = self._policy.session
            self._policy = Policy(world, self._poses, draw, self.rough)
            if draw.random() < 0.5:
                self._policy.session = session
                self._policy._sequence = 10**6 + world.tick
        self._phase_left -= 1
        world.step(self._policy.stream(), self._events(), self._weather())

    def _events(self) -> tuple[OperatorEvent, ...]:
        world, draw = self._world, self.draw
        events = []
        if world.tick % 5 == 0:
            events.append(OperatorEvent(EventKind.DEADMAN, pressed=draw.random() >= self.rough))
        if world.state in (State.ESTOP, State.FAULT) and draw.random() < 0.1:
            events.append(self._event(EventKind.RESET))
        if world.state is State.DISARMED and draw.random() < 0.2:
            events.append(self._event(EventKind.ARM))
        while draw.random() < 0.3 * self.rough:
            events.append(self._event(draw.choice(EVENTS)))
        if draw.random() < 0.002:
            kinds = (EventKind.PARK, EventKind.RETURN, EventKind.SET_MODE, EventKind.ESTOP)
            events.append(self._event(draw.choice(kinds)))
        return tuple(events)

    def _event(self, kind: EventKind) -> OperatorEvent:
        draw = self.draw
        self._number += 1
        return OperatorEvent(
            kind,
            self._number,
            mode=draw.choice([None, *Mode, Mode.FULL]),
            scale=draw.choice([0.0, 0.0, 0.1, 0.2, math.nan, 5.0, -0.1]),
            text=draw.choice(["policy", "policy", "", "other"]),
            pressed=draw.random() < 0.5,
        )

    def _weather(self) -> Weather:
        draw, rough = self.draw, self.rough
        if self._contact and self._jam_left <= 0 and draw.random() < 0.005:
            self._jam_left = draw.randint(10, 300)
            joints = range(len(self._world.goal))
            self._jam = tuple(draw.sample(joints, draw.choice([1, 1, 2, len(joints)])))
        self._jam_left -= 1
        jam = self._jam if self._jam_left > 0 else ()
        if self._fault_left > 0:
            self._fault_left -= 1
            return replace(self._fault, jam=jam)
        weather = Weather(jam=jam)
        if draw.random() < rough:
            weather.skipped = draw.choice([1, 1, 2, 5, 50])
        if draw.random() < 0.2 * rough:
            weather.jump_ns = draw.choice([-(10**10), -(10**8), 3 * 10**7, 10**8, 10**12, 2**60])
        if draw.random() < 0.5 * rough:
            self._fault = Weather(
                joints=draw.choice(FAULTY_JOINTS) if draw.random() < 0.7 else "good",
                driver=draw.choice([None, *DriverState])
                if draw.random() < 0.3
                else DriverState.ACTIVE,
                desync=draw.random() < 0.1,
                problem="made up" if draw.random() < 0.1 else "",
                supply_v=draw.choice([4.0, 7.4, 12.0, 20.0]) if draw.random() < 0.2 else None,
            )
            self._fault_left = draw.choice([0, 0, 1, 5, 30, 150])
        if draw.random() < 0.02 * rough:
            self._world.torque = not self._world.torque
        return weather
