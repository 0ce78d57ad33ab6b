"""``wallx doctor``: runs all checks and prints them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from so101_driver.arm_identity import CalibrationFile, read_files
from so101_driver.arm_inspection import ArmReport, inspect
from so101_driver.bus import BusError, ServoBus
from so101_driver.calibration_files import ArmKind, find_calibrations
from so101_driver.camera_devices import list_cameras
from so101_driver.camera_preview import preview
from so101_driver.errors import UserError
from so101_driver.joints import SERVO_IDS
from so101_driver.servo_search import BAUD_RATES, Found, answering, search

from wallx_bringup.doctor.arm_checks import Arm, check_arm
from wallx_bringup.doctor.camera_checks import check_cameras
from wallx_bringup.doctor.graph_checks import GraphReading, check_graph
from wallx_bringup.doctor.host import Host
from wallx_bringup.doctor.machine_checks import (
    check_clock,
    check_disk,
    check_realtime,
    check_ros,
)
from wallx_bringup.doctor.port_checks import PortState, check_port
from wallx_bringup.doctor.report import Check, as_json, as_text, failed, ok, skipped, summary
from wallx_bringup.session import RunningGraph, choose_graph, running_graphs

_OTHER_IDS = range(1, 21)
"""Where a servo with a wrong id is looked for, besides its right one."""

Show = Callable[[Check], None]


def run(options: argparse.Namespace) -> int:
    """Run every check; returns 0 if none failed."""
    checks: list[Check] = []

    def show(check: Check) -> None:
        checks.append(check)
        if not options.json:
            print(as_text(check), flush=True)

    run_checks(Host(), options, show)
    print(as_json(checks) if options.json else f"\n{summary(checks)}")
    return 0 if ok(checks) else 1


def run_checks(host: Host, options: argparse.Namespace, show: Show) -> None:
    """Run every check and pass each one on as soon as it is known."""
    graph, problem = _find_graph(options.graph)
    for check in check_ros(host):
        show(check)
    show(check_clock(host))
    show(check_disk(host, options.record_dir))
    show(check_realtime(host))

    files = read_files((kind, path) for kind in ArmKind for path in find_calibrations(kind))
    follower = _check_one(
        host, ArmKind.FOLLOWER, options.port, options.calibration, files, show, graph
    )
    busy = follower.ours
    if options.leader_port is not None:
        leader = _check_one(
            host,
            ArmKind.LEADER,
            options.leader_port,
            options.leader_calibration,
            files,
            show,
            graph,
        )
        busy |= leader.ours

    for check in check_cameras(list_cameras(host.dev), options.camera, preview, host.proc):
        show(check)

    if problem:
        show(skipped("graph", problem))
    elif graph is not None or busy:
        reading, simulated = _listen(graph)
        for check in check_graph(reading, simulated):
            show(check)
    else:
        show(skipped("graph", "no graph is running, so two machines' clocks are not compared."))


def _check_one(
    host: Host,
    kind: ArmKind,
    wanted: str | None,
    calibration: Path | None,
    files: Sequence[CalibrationFile],
    show: Show,
    graph: RunningGraph | None,
) -> PortState:
    """Check one arm's port and, unless somebody uses it, its servos."""
    label = "port" if kind is ArmKind.FOLLOWER else "leader port"
    state, checks = check_port(host, wanted, label)
    if not state.path and wanted is None and graph is not None and graph.local_only:
        # A simulated arm needs no adapter; what is simulated is checked as a graph.
        show(skipped(label, "no bus adapter is plugged in; the running graph's arm is simulated."))
        return state
    for check in checks:
        show(check)
    if not state.path:
        return state
    if not state.usable:
        why = "the port may not be used"
        if state.ours:
            why = "the running graph uses the port; what it knows follows below"
        elif state.users:
            why = "another program uses the port, and two would spoil each other's packets"
        show(skipped(f"{kind} servos", f"not asked: {why}."))
        return state
    try:
        arm = read_arm(kind, state.path)
    except (UserError, BusError) as error:
        fix = "see that this is the arm's port, or unplug the USB cable and plug it in again."
        show(failed(f"{kind} servos", str(error), fix))
        return state
    for check in check_arm(arm, files, calibration):
        show(check)
    return state


def read_arm(kind: ArmKind, port: str) -> Arm:
    """Ask the servos of one port; if some are missing, also at other ids and baud rates.

    Raises:
        UserError: The port cannot be opened.
        BusError: It vanished.
    """
    with ServoBus(port) as bus:
        report: ArmReport = inspect(bus)
    if not report.silent:
        return Arm(kind, port, report)
    late = answering(port, report.silent)
    if late == report.silent:
        return Arm(kind, port, report, late=late)
    # One by one: a call to everybody makes a whole arm's replies collide.
    found = search(port, _OTHER_IDS, broadcast=False).servos
    right = [Found(servo_id, BAUD_RATES[0]) for servo_id in SERVO_IDS]
    elsewhere = tuple(place for place in found if place not in right)
    return Arm(kind, port, report, elsewhere, late)


def _find_graph(pid: int | None) -> tuple[RunningGraph | None, str]:
    """Return the running graph, or why it is not known which one is meant."""
    try:
        return choose_graph(running_graphs(os.environ), pid), ""
    except UserError as error:
        if pid is not None:
            raise
        return None, str(error)


def _listen(graph: RunningGraph | None) -> tuple[GraphReading, bool]:
    """Listen to the graph, or, without one of ours, to the domain of the environment."""
    try:
        from wallx_bringup.nodes.status_reader import read_graph
    except ImportError:
        return GraphReading(), False
    if graph is None:
        return read_graph("/"), False
    graph.join()
    return read_graph(graph.namespace), graph.local_only
