"""One bus cycle (read six positions, write six goals) of this driver and of ``feetech-servo-sdk``.

Both run on the same pseudo-terminal in one run, in turns; the virtual bus is another process, so
that CPU time is the client's own. The servos show the time of their reading as their position:
a stale value tells its age. Used by bench.py; ``python tools/bench_bus.py`` runs it alone.

The SDK is used as LeRobot does: GroupSyncRead and GroupSyncWrite set up anew in each cycle, the
packet timeout of 50 ms beyond the wire's. LeRobot raises when one servo is silent; here its loop
goes on. For stale values the SDK's reader is also used as its examples do, set up once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bus_proof.bus_process import BusProcess, age_ms, clock_ticks
from rich.console import Console
from rich.table import Table
from so101_driver.bus import ServoBus
from so101_driver.joints import SERVO_IDS

from so101_driver import registers as reg

RATES_HZ = (100, 200)
MUTE_SERVO = 4
_GOAL = 2048
_SIZE = 4
_SIZES = 5
_STALE_MS = 2
"""A value this much older than its question is an old one; the clock has steps of 1 ms."""
_DEADLINE_SHARE = 0.8
"""Of the period, as in the driver's own loop."""


@dataclass(slots=True)
class Cycle:
    """What one cycle brought.

    Attributes:
        ticks: Positions that the client takes for good, by servo.
        complete: Whether it says that everything is well.
    """

    ticks: dict[int, int] = field(default_factory=dict)
    complete: bool = True


class Client(Protocol):
    """One way to use the bus."""

    def cycle(self) -> Cycle:
        """Read six positions, write six goals."""

    def close(self) -> None:
        """Close the port."""


class Ours:
    """ServoBus, used as the driver's loop does: after a missing answer another size is asked for.

    An answer that comes too late has the wrong size then and is not taken for the next one.
    """

    def __init__(self, port: str, period_s: float) -> None:
        self._bus = ServoBus(port)
        self._deadline_s = _DEADLINE_SHARE * period_s
        self._goals = dict.fromkeys(SERVO_IDS, _GOAL)
        self._extra_bytes = 0

    def cycle(self) -> Cycle:
        """Read six positions, write six goals."""
        address = reg.PRESENT_POSITION.address
        size = _SIZE + self._extra_bytes
        readings = self._bus.sync_read(address, size, self._deadline_s)
        if len(readings) < len(SERVO_IDS):
            self._extra_bytes = (self._extra_bytes + 1) % _SIZES
        self._bus.sync_write(reg.GOAL_POSITION, self._goals)
        ticks = {i: r.value(reg.PRESENT_POSITION, address) for i, r in readings.items()}
        return Cycle(ticks, len(ticks) == len(SERVO_IDS))

    def close(self) -> None:
        """Close the port."""
        self._bus.close()


class Sdk:
    """GroupSyncRead and GroupSyncWrite.

    Args:
        port: Device.
        keep_reader: Set the reader up once, as the SDK's examples do, instead of in each cycle.
    """

    def __init__(self, port: str, keep_reader: bool = False) -> None:
        import scservo_sdk

        self._sdk = scservo_sdk
        self._port = scservo_sdk.PortHandler(port)
        self._port.setPacketTimeout = self._set_packet_timeout
        if not self._port.openPort():
            raise RuntimeError(f"the SDK cannot open {port}")
        handler = scservo_sdk.PacketHandler(0)
        address = reg.PRESENT_POSITION.address
        self._reader = scservo_sdk.GroupSyncRead(self._port, handler, address, _SIZE)
        self._writer = scservo_sdk.GroupSyncWrite(
            self._port, handler, reg.GOAL_POSITION.address, reg.GOAL_POSITION.size
        )
        self._keep_reader = keep_reader
        self._set_up_reader()

    def _set_packet_timeout(self, packet_length: int) -> None:
        """LeRobot's: time on the wire plus 50 ms."""
        port = self._port
        port.packet_start_time = port.getCurrentTime()
        port.packet_timeout = port.tx_time_per_byte * (packet_length + 3.0) + 50.0

    def _set_up_reader(self) -> None:
        self._reader.clearParam()
        for servo_id in SERVO_IDS:
            self._reader.addParam(servo_id)

    def cycle(self) -> Cycle:
        """Read six positions, write six goals."""
        if not self._keep_reader:
            self._set_up_reader()
        complete = self._reader.txRxPacket() == self._sdk.COMM_SUCCESS
        ticks = {
            servo_id: self._reader.getData(servo_id, reg.PRESENT_POSITION.address, 2)
            for servo_id in SERVO_IDS
            if self._reader.isAvailable(servo_id, reg.PRESENT_POSITION.address, 2)
        }
        self._writer.clearParam()
        for servo_id in SERVO_IDS:
            self._writer.addParam(servo_id, [_GOAL & 0xFF, _GOAL >> 8])
        self._writer.txPacket()
        return Cycle(ticks, complete)

    def close(self) -> None:
        """Close the port."""
        self._port.closePort()


def measure(client: Client, rate_hz: int, seconds: float) -> dict[str, float]:
    """Run cycles at absolute times and return what they cost and brought."""
    period_s = 1.0 / rate_hz
    durations_s: list[float] = []
    values = stale = incomplete = 0
    for _ in range(5):
        client.cycle()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    due_s = begun_s
    while time.perf_counter() - begun_s < seconds:
        asked_at = clock_ticks()
        cycle_begun_s = time.perf_counter()
        cycle = client.cycle()
        durations_s.append(time.perf_counter() - cycle_begun_s)
        values += len(cycle.ticks)
        incomplete += not cycle.complete
        stale += sum(_STALE_MS <= age_ms(ticks, asked_at) < 2_000 for ticks in cycle.ticks.values())
        due_s = max(due_s + period_s, time.perf_counter() - period_s)
        if (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
    wall_s = time.perf_counter() - begun_s
    p50, p99 = np.percentile(durations_s, (50, 99)) * 1e3
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "mean_ms": float(np.mean(durations_s) * 1e3),
        "cpu_share": (time.process_time() - begun_cpu_s) / wall_s,
        "cycles": len(durations_s),
        "reached_hz": len(durations_s) / wall_s,
        "values_per_cycle": values / len(durations_s),
        "stale_values": stale,
        "incomplete_cycles": incomplete,
    }


def bench_bus(seconds: float = 4.0, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure every case; returns figures by rate, state of the bus and client."""
    results: dict[str, Any] = {"seconds_per_case": seconds, "wire_ms": (14 + 60 + 26) * 10e-3}
    with BusProcess("clock") as virtual:
        for rate_hz in RATES_HZ:
            clients: dict[str, Callable[[], Client]] = {
                "ours": lambda hz=rate_hz: Ours(virtual.port, 1.0 / hz),
                "sdk": lambda: Sdk(virtual.port),
                "sdk_reader_kept": lambda: Sdk(virtual.port, keep_reader=True),
            }
            for state in ("healthy", "one_mute"):
                case = results.setdefault(f"{rate_hz}_hz", {}).setdefault(state, {})
                for name, make in clients.items():
                    say(f"  {rate_hz} Hz, {state.replace('_', ' ')}, {name} …")
                    case[name] = _measure_case(virtual, state, make, rate_hz, seconds)
                _add_ratios(results[f"{rate_hz}_hz"], state)
    return results


def _measure_case(
    virtual: BusProcess, state: str, make: Callable[[], Client], rate_hz: int, seconds: float
) -> dict[str, float]:
    client = make()
    try:
        # Values of a healthy bus first: those are what may come again later.
        for _ in range(5):
            client.cycle()
        if state == "one_mute":
            virtual.inject(fault="mute", servo=MUTE_SERVO)
        return measure(client, rate_hz, seconds)
    finally:
        client.close()
        virtual.clear()


def _add_ratios(by_state: dict[str, Any], state: str) -> None:
    """Stall is what a cycle costs beyond a healthy one of the same client, on average."""
    case, healthy = by_state[state], by_state["healthy"]
    for name, figures in case.items():
        figures["stall_ms"] = max(0.0, figures["mean_ms"] - healthy[name]["p50_ms"])
    ours, sdk = case["ours"], case["sdk"]
    case["ratios"] = {
        "cpu": ours["cpu_share"] / sdk["cpu_share"],
        "stall": ours["stall_ms"] / sdk["stall_ms"] if sdk["stall_ms"] else float("nan"),
        "p50": ours["p50_ms"] / sdk["p50_ms"],
    }


def add_rows(table: Table, results: dict[str, Any]) -> None:
    """Add the figures to the benchmark's table (what, measured, baseline, ratio)."""
    for rate_hz in RATES_HZ:
        for state in ("healthy", "one_mute"):
            case = results[f"{rate_hz}_hz"][state]
            ours, sdk, ratios = case["ours"], case["sdk"], case["ratios"]
            label = f"bus, {rate_hz} Hz, " + ("healthy" if state == "healthy" else "one servo mute")
            table.add_row(f"{label}: cycle", _cycle(ours), _cycle(sdk), f"{ratios['p50']:.2f}")
            table.add_row(
                f"{label}: CPU",
                f"{ours['cpu_share']:.1%}",
                f"{sdk['cpu_share']:.1%}",
                f"{ratios['cpu']:.2f}",
            )
            if state == "healthy":
                continue
            table.add_row(
                f"{label}: stall per cycle",
                f"{ours['stall_ms']:.2f} ms, {ours['reached_hz']:.0f} Hz reached",
                f"{sdk['stall_ms']:.2f} ms, {sdk['reached_hz']:.0f} Hz reached",
                f"{ratios['stall']:.3f}",
            )
            kept = case["sdk_reader_kept"]
            table.add_row(
                f"{label}: values per cycle, stale",
                f"{ours['values_per_cycle']:.1f}, {ours['stale_values']:.0f} stale",
                f"{sdk['values_per_cycle']:.1f}, {sdk['stale_values']:.0f} stale; reader kept: "
                f"{kept['values_per_cycle']:.1f}, {kept['stale_values']:.0f} stale",
            )


def _cycle(figures: dict[str, float]) -> str:
    return f"p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.2f} ms"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case (4)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("--seconds must be positive")
    console = Console()
    results = bench_bus(options.seconds, console.print)
    table = Table("what", "ours", "feetech-servo-sdk", "ratio", title="Bus cycles")
    add_rows(table, results)
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)

    (options.out / "bus.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
