"""How one STS3215 turns a goal into torque: dead time, lag, speed, stiffness, heat.

The figures are bench measurements of others (SO-101 follower, 12 V servo, LeRobot's P = 16), see
the class ``ServoModel``. Nothing here reads a clock: time is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServoModel:
    """Constants of the servo model.

    Attributes:
        dead_time_s: From a goal's arrival to the first motion.
        lag_s: Time constant of the servo's own goal filter.
        max_speed_radps: No-load speed at 12 V, gearbox friction included.
        free_speed_radps: Speed at which the motor's own voltage equals the supply.
        stall_torque_nm: Torque at full duty.
        stiffness_nm_per_rad: Torque per position error at P = 16; at this gain a loaded joint hangs
            degrees below its goal, as on a real arm.
        damping_nms_per_rad: Torque per velocity error at D = 32.
        ambient_c: Temperature of an idle servo.
        heating_c: Steady temperature rise at full duty (15 °C in 10 min at 35 %).
        thermal_time_s: Time constant of the temperature.
        stall_current_a: Current at full duty.
        idle_current_a: Current at rest.
        nominal_v: Supply of the figures above; less gives less torque and speed.
        backlash_rad: Free play at the output. The encoder sits behind it, so a joint that turns
            back waits until the motor has crossed it.
        motor_inertia_kgm2: Of the motor, at the output.
        gear_friction_nm: What the motor has to overcome to cross the free play.
    """

    dead_time_s: float = 0.085
    lag_s: float = 0.030
    max_speed_radps: float = 4.1
    free_speed_radps: float = 5.3
    stall_torque_nm: float = 2.94
    stiffness_nm_per_rad: float = 12.0
    damping_nms_per_rad: float = 1.0
    ambient_c: float = 28.0
    heating_c: float = 300.0
    thermal_time_s: float = 1200.0
    stall_current_a: float = 2.7
    idle_current_a: float = 0.03
    nominal_v: float = 12.0
    backlash_rad: float = math.radians(0.7)
    motor_inertia_kgm2: float = 0.028
    gear_friction_nm: float = 0.235


@dataclass(slots=True)
class DriveSettings:
    """What the registers say about the drive, in physical units.

    Attributes:
        enabled: Torque enable.
        proportional: P gain over the reference gain 16.
        derivative: D gain over the reference gain 32.
        torque_limit: Share of the stall torque, 0..1.
        max_speed_radps: Goal velocity, at most the servo's own.
        max_acceleration_radps2: Goal acceleration.
        output_share: What the servo's protections leave of the duty, 0..1.
        supply_v: Voltage at the servo.
    """

    enabled: bool = False
    proportional: float = 1.0
    derivative: float = 1.0
    torque_limit: float = 1.0
    max_speed_radps: float = 4.1
    max_acceleration_radps2: float = 39.0
    output_share: float = 1.0
    supply_v: float = 12.0


class ServoPlant:
    """State of one simulated servo between its goal register and its output shaft."""

    def __init__(self, model: ServoModel | None = None, position_rad: float = 0.0) -> None:
        self.model = model or ServoModel()
        self.setpoint_rad = position_rad
        self.setpoint_velocity_radps = 0.0
        self.duty = 0.0
        self.temperature_c = self.model.ambient_c
        self._target_rad = position_rad
        self._pending: deque[tuple[float, float]] = deque()
        # Where the motor is within the free play, and how fast it crosses it.
        self._lead_rad = 0.0
        self._crossing_radps = 0.0

    @property
    def current_a(self) -> float:
        """Motor current, following the duty."""
        return self.model.idle_current_a + abs(self.duty) * self.model.stall_current_a

    def command(self, now_s: float, goal_rad: float) -> None:
        """Accept a goal, which takes effect one dead time later."""
        self._pending.append((now_s + self.model.dead_time_s, goal_rad))

    def start_from(self, position_rad: float) -> None:
        """Forget goals and begin at rest where the shaft is; for enabling the torque."""
        self._pending.clear()
        self._target_rad = position_rad
        self.setpoint_rad = position_rad
        self.setpoint_velocity_radps = 0.0

    def step(
        self,
        now_s: float,
        dt_s: float,
        position_rad: float,
        velocity_radps: float,
        settings: DriveSettings,
    ) -> float:
        """Advance by ``dt_s`` and return the torque [N·m] on the shaft for that time."""
        model = self.model
        strength = max(0.05, min(1.0, settings.supply_v / model.nominal_v))
        if settings.enabled:
            while self._pending and self._pending[0][0] <= now_s:
                self._target_rad = self._pending.popleft()[1]
            self._advance_setpoint(dt_s, settings)
            torque_nm = settings.proportional * model.stiffness_nm_per_rad * (
                self.setpoint_rad - position_rad
            ) + settings.derivative * model.damping_nms_per_rad * (
                self.setpoint_velocity_radps - velocity_radps
            )
            # The motor's own voltage leaves no torque to drive it beyond its free speed.
            speed_ratio = velocity_radps / (model.free_speed_radps * strength)
            duty = torque_nm / (model.stall_torque_nm * strength)
            duty = max(-1.0 - speed_ratio, min(1.0 - speed_ratio, duty))
            limit = min(settings.torque_limit, settings.output_share)
            self.duty = max(-limit, min(limit, duty))
        else:
            self.start_from(position_rad)
            self.duty = 0.0
        equilibrium_c = model.ambient_c + model.heating_c * self.duty * self.duty
        self.temperature_c += (equilibrium_c - self.temperature_c) * dt_s / model.thermal_time_s
        return self._through_gears(dt_s, self.duty * model.stall_torque_nm * strength)

    def _through_gears(self, dt_s: float, torque_nm: float) -> float:
        """Return the torque at the output: none while the motor crosses the free play."""
        half_rad = self.model.backlash_rad / 2.0
        side_rad = math.copysign(half_rad, torque_nm)
        if self._lead_rad == side_rad:
            return torque_nm
        driving_nm = abs(torque_nm) - self.model.gear_friction_nm
        if driving_nm <= 0.0:
            self._crossing_radps = 0.0
            return 0.0
        change = math.copysign(driving_nm / self.model.motor_inertia_kgm2 * dt_s, torque_nm)
        self._crossing_radps += change
        self._lead_rad += self._crossing_radps * dt_s
        if abs(self._lead_rad) < half_rad:
            return 0.0
        self._lead_rad = math.copysign(half_rad, self._lead_rad)
        self._crossing_radps = 0.0
        return torque_nm if self._lead_rad == side_rad else 0.0

    def _advance_setpoint(self, dt_s: float, settings: DriveSettings) -> None:
        """Follow the target: first-order lag inside the speed and acceleration limits."""
        error_rad = self._target_rad - self.setpoint_rad
        acceleration = settings.max_acceleration_radps2
        # The square root keeps enough distance to stop in; 0.9 for the discrete steps.
        speed = min(
            abs(error_rad) / self.model.lag_s,
            0.9 * math.sqrt(2.0 * acceleration * abs(error_rad)),
            settings.max_speed_radps,
            self.model.max_speed_radps,
        )
        change = math.copysign(speed, error_rad) - self.setpoint_velocity_radps
        largest = acceleration * dt_s
        self.setpoint_velocity_radps += max(-largest, min(largest, change))
        self.setpoint_rad += self.setpoint_velocity_radps * dt_s
