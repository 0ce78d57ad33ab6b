"""Warns of hot servos and of a failing supply, and takes load off, before servos let go.

A servo that trips lets go: at its Max_Temperature, and outside its voltage window. A hot servo is
given less torque in steps, though never less than the arm's own weight needs; one that stays at its
limit, or a supply that stays outside the window, makes the driver hold (a fault), for holding needs
less than moving. Cutting torque would drop the arm, so that is left to people (``driver/release``).

Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from so101_driver.joints import JOINT_NAMES
from so101_driver.overload_guard import SUSTAINABLE


class Trouble(Enum):
    """What a servo suffers from; the value begins the name of its counters."""

    HOT = "hot"
    LOW_VOLTAGE = "low_voltage"
    HIGH_VOLTAGE = "high_voltage"


@dataclass(frozen=True, slots=True)
class Ratings:
    """Where a servo's own protection trips: its registers 13, 14 and 15."""

    max_temperature_c: float = 70.0
    min_voltage_v: float = 4.0
    max_voltage_v: float = 14.0


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Distances from the servo's own limits at which something is done.

    Attributes:
        hot_below_c: From here on people are warned.
        derate_below_c: Distances from which torque is limited to the shares beside them.
        derate_shares: Shares of full torque.
        fault_below_c: Distance that, kept for ``hot_s``, is a fault.
        hot_s: See there.
        hysteresis_c: How much a servo must cool for a step back.
        voltage_margin_v: Warned and, with a low voltage, limited within this of the window's ends.
        voltage_hysteresis_v: For the way back.
        low_voltage_share: Share of full torque with a low voltage: less current, less sag.
        outside_s: How long the voltage must be outside the window for a fault.
        floor: Per joint, the share that always stays: what the arm's own weight needs.
    """

    hot_below_c: float = 10.0
    derate_below_c: tuple[float, ...] = (6.0, 4.0)
    derate_shares: tuple[float, ...] = (0.8, 0.6)
    fault_below_c: float = 2.0
    hot_s: float = 10.0
    hysteresis_c: float = 3.0
    voltage_margin_v: float = 0.3
    voltage_hysteresis_v: float = 0.2
    low_voltage_share: float = 0.7
    outside_s: float = 2.0
    floor: tuple[float, ...] = SUSTAINABLE


@dataclass(frozen=True, slots=True)
class Strain:
    """One servo's trouble.

    Attributes:
        joint: Its name.
        trouble: What.
        value: Temperature or voltage.
        limit: Where its own protection trips.
        torque_share: Share of full torque that it is left.
    """

    joint: str
    trouble: Trouble
    value: float
    limit: float
    torque_share: float


_VOLTAGE_SMOOTHING = 0.3
"""Weight of a new voltage, at 10 Hz: motors starting make it dip for some tens of milliseconds."""


@dataclass(slots=True)
class _Servo:
    ratings: Ratings
    temperature_c: float = 0.0
    voltage_v: float | None = None
    heat_level: int = 0
    """Thresholds crossed: 0 cool, 1 warned, then one per derating step, the last is for a fault."""
    voltage_trouble: Trouble | None = None
    hot_since_ns: int | None = None
    outside_since_ns: int | None = None


class ServoHealth:
    """Watches temperatures and voltages of all servos; not thread-safe.

    Args:
        config: When something is done.
        counters: Counts warnings and deratings by joint (``hot_<joint>``, ``low_voltage_<joint>``,
            ``high_voltage_<joint>``).
    """

    def __init__(self, config: HealthConfig, counters: Counter[str]) -> None:
        self._config = config
        self._counters = counters
        self._thresholds_c = (config.hot_below_c, *config.derate_below_c, config.fault_below_c)
        self._servos = [_Servo(Ratings()) for _ in JOINT_NAMES]

    def start(self, ratings: Sequence[Ratings]) -> None:
        """Begin with servos of which nothing is known yet."""
        self._servos = [_Servo(rating) for rating in ratings]

    def observe(self, joint: int, temperature_c: float, voltage_v: float, now_ns: int) -> None:
        """Take one servo's measurement."""
        servo = self._servos[joint]
        servo.temperature_c = temperature_c
        last_v = servo.voltage_v
        servo.voltage_v = (
            voltage_v if last_v is None else last_v + _VOLTAGE_SMOOTHING * (voltage_v - last_v)
        )
        self._judge_heat(joint, servo, now_ns)
        self._judge_voltage(joint, servo, servo.voltage_v, now_ns)

    def _judge_heat(self, joint: int, servo: _Servo, now_ns: int) -> None:
        margin_c = servo.ratings.max_temperature_c - servo.temperature_c
        reached = sum(margin_c <= threshold for threshold in self._thresholds_c)
        kept = sum(margin_c <= t + self._config.hysteresis_c for t in self._thresholds_c)
        before, servo.heat_level = servo.heat_level, max(reached, min(servo.heat_level, kept))
        if servo.heat_level > before:
            self._counters[f"{Trouble.HOT.value}_{JOINT_NAMES[joint]}"] += 1
        if servo.heat_level < len(self._thresholds_c):
            servo.hot_since_ns = None
        elif servo.hot_since_ns is None:
            servo.hot_since_ns = now_ns

    def _judge_voltage(self, joint: int, servo: _Servo, voltage: float, now_ns: int) -> None:
        ratings, config = servo.ratings, self._config
        margin_v = config.voltage_margin_v
        before = servo.voltage_trouble
        if before is not None:
            margin_v += config.voltage_hysteresis_v
        if voltage < ratings.min_voltage_v + margin_v:
            servo.voltage_trouble = Trouble.LOW_VOLTAGE
        elif voltage > ratings.max_voltage_v - margin_v:
            servo.voltage_trouble = Trouble.HIGH_VOLTAGE
        else:
            servo.voltage_trouble = None
        if servo.voltage_trouble not in (None, before):
            self._counters[f"{servo.voltage_trouble.value}_{JOINT_NAMES[joint]}"] += 1
        if ratings.min_voltage_v <= voltage <= ratings.max_voltage_v:
            servo.outside_since_ns = None
        elif servo.outside_since_ns is None:
            servo.outside_since_ns = now_ns

    def torque_shares(self) -> tuple[float, ...]:
        """Share of full torque that each servo is left."""
        return tuple(self._share(joint, servo) for joint, servo in enumerate(self._servos))

    def _share(self, joint: int, servo: _Servo) -> float:
        config = self._config
        share = 1.0
        step = min(servo.heat_level - 2, len(config.derate_shares) - 1)
        if step >= 0:
            share = config.derate_shares[step]
        if servo.voltage_trouble is Trouble.LOW_VOLTAGE:
            share = min(share, config.low_voltage_share)
        return max(share, config.floor[joint])

    def strains(self) -> tuple[Strain, ...]:
        """Everything that people should know, hot servos first."""
        found = []
        for joint, servo in enumerate(self._servos):
            if servo.heat_level:
                limit = servo.ratings.max_temperature_c
                found.append(self._strain(joint, Trouble.HOT, servo.temperature_c, limit))
        for joint, servo in enumerate(self._servos):
            if servo.voltage_trouble and servo.voltage_v is not None:
                low = servo.voltage_trouble is Trouble.LOW_VOLTAGE
                limit = servo.ratings.min_voltage_v if low else servo.ratings.max_voltage_v
                found.append(self._strain(joint, servo.voltage_trouble, servo.voltage_v, limit))
        return tuple(found)

    def exhausted(self, now_ns: int) -> Strain | None:
        """The trouble that has lasted too long to go on moving, or None."""
        config = self._config
        for joint, servo in enumerate(self._servos):
            if _lasted(servo.hot_since_ns, config.hot_s, now_ns):
                limit = servo.ratings.max_temperature_c
                return self._strain(joint, Trouble.HOT, servo.temperature_c, limit)
            if _lasted(servo.outside_since_ns, config.outside_s, now_ns):
                voltage = servo.voltage_v or 0.0
                low = voltage < servo.ratings.min_voltage_v
                trouble = Trouble.LOW_VOLTAGE if low else Trouble.HIGH_VOLTAGE
                limit = servo.ratings.min_voltage_v if low else servo.ratings.max_voltage_v
                return self._strain(joint, trouble, voltage, limit)
        return None

    def _strain(self, joint: int, trouble: Trouble, value: float, limit: float) -> Strain:
        share = self._share(joint, self._servos[joint])
        return Strain(JOINT_NAMES[joint], trouble, value, limit, share)


def _lasted(since_ns: int | None, duration_s: float, now_ns: int) -> bool:
    return since_ns is not None and now_ns - since_ns > duration_s * 1e9
