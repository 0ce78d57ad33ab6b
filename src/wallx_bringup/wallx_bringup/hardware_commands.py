"""The ``wallx`` commands for the first hour with an arm: their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_FIND_PORT = "list the serial ports and say which arm answers on which"
_FIND_PORT_MORE = (
    "Lists the USB serial ports and asks each that nobody uses for an SO-101; with --unplug it "
    "tells instead which port belongs to the cable that you pull out. Only reads; moves nothing."
)
_SETUP_MOTORS = "give new motors their ids and baud rate, one at a time"
_SETUP_MOTORS_MORE = (
    "Asks you to connect one motor after the other to the board, from the gripper to shoulder_pan, "
    "finds it at whatever id and baud rate it has, and stores its own id and 1,000,000 baud in it. "
    "Refuses an arm that is wired. Can be interrupted and repeated at any time."
)
_FIND_CAMERAS = "list the cameras and save a picture of each"
_FIND_CAMERAS_MORE = (
    "Lists the cameras with their lasting names, sizes and rates, saves one picture of each and a "
    "sheet of all, and says which are black or frozen. Videos and folders of pictures may be given "
    "instead, to try it without a camera."
)
_DOCTOR = "check port, arm, cameras, clocks and machine; says what to do"
_DOCTOR_MORE = (
    "Checks what a running arm needs, from the USB cable to the room on the disk, and says for "
    "each point what to do. Moves nothing and writes to no servo; it may run beside a running "
    "graph, whose own readings it then takes. Exit status 0 if nothing failed."
)


def add_commands(commands: Any) -> None:
    """Add the commands to the ``wallx`` parser's subparsers."""
    doctor = commands.add_parser("doctor", help=_DOCTOR, description=_DOCTOR_MORE)
    doctor.add_argument("--port", help="the follower's port; default: the only adapter there is")
    doctor.add_argument("--leader-port", metavar="PORT", help="the leader's port, if there is one")
    doctor.add_argument(
        "--calibration", type=Path, metavar="FILE", help="the follower's; default: whichever fits"
    )
    doctor.add_argument(
        "--leader-calibration", type=Path, metavar="FILE", help="the leader's, likewise"
    )
    doctor.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="DEVICE",
        help="look at this camera, video or folder instead of all cameras; may be repeated",
    )
    doctor.add_argument(
        "--record-dir",
        type=Path,
        default=Path("."),
        metavar="FOLDER",
        help="where recordings will be written; default: the present folder",
    )
    doctor.add_argument("--graph", type=int, metavar="PID", help="which graph, see `wallx graphs`")
    doctor.add_argument("--json", action="store_true", help="print JSON for programs")
    doctor.set_defaults(run=_doctor)

    find_port = commands.add_parser("find-port", help=_FIND_PORT, description=_FIND_PORT_MORE)
    find_port.add_argument("ports", nargs="*", metavar="PORT", help="more ports, e.g. virtual arms")
    find_port.add_argument(
        "--unplug", action="store_true", help="find the port of the cable that you pull out"
    )
    find_port.set_defaults(run=_find_port)

    motors = commands.add_parser("setup-motors", help=_SETUP_MOTORS, description=_SETUP_MOTORS_MORE)
    motors.add_argument("--port", help="default: the only adapter there is")
    motors.add_argument(
        "--motor", metavar="NAME", help="only this one, e.g. gripper; whatever id it has now"
    )
    motors.set_defaults(run=_setup_motors)

    cameras = commands.add_parser(
        "find-cameras", help=_FIND_CAMERAS, description=_FIND_CAMERAS_MORE
    )
    cameras.add_argument("sources", nargs="*", metavar="SOURCE", help="device, video or folder")
    cameras.add_argument(
        "--out", type=Path, default=Path("out/cameras"), help="folder for the pictures"
    )
    cameras.add_argument("--no-pictures", action="store_true", help="list only, open nothing")
    cameras.add_argument("--size", default="", metavar="WxH", help="default: 640x480")
    cameras.add_argument("--rate", type=float, default=0.0, metavar="HZ", help="default: 30")
    cameras.set_defaults(run=_find_cameras)


def _doctor(options: argparse.Namespace) -> int:
    from wallx_bringup.doctor.program import run

    return run(options)


def _find_port(options: argparse.Namespace) -> int:
    from wallx_bringup.find_port import run

    return run(options)


def _setup_motors(options: argparse.Namespace) -> int:
    from wallx_bringup.setup_motors import run

    return run(options)


def _find_cameras(options: argparse.Namespace) -> int:
    from wallx_bringup.find_cameras import run

    return run(options)
