"""The graph as plain data: which nodes run, with which parameters, names and environment.

Both runners start from `build_graph`: `launch/so101.launch.py` and the ``wallx`` command.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from so101_driver.errors import UserError

from wallx_bringup.arguments import NO_POLICY, OFF, Arguments, Value
from wallx_bringup.domain import PROFILE_VARIABLES
from wallx_bringup.processes import OnDeath

POLICY_NICE = 10
"""Inference must not take the processor from the 100 Hz loops."""

PORT_WAIT_S = 30.0
"""How long the driver waits for the simulator to open its pseudo-terminal."""

_BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TRANSPORT_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"
_CAMERA_ARGUMENTS = (
    ("face_view", "face_topic", "face_camera"),
    ("wrist_view", "wrist_topic", "wrist_camera"),
)
"""View, argument that names its topic, argument that names its device; the last names the node."""
_DEVICES = tuple(camera for _, _, camera in _CAMERA_ARGUMENTS)
_FILES = (
    *("calibration", "checkpoint", "limits_file", "geometry", "params_file"),
    *("leader_calibration", *_DEVICES),
)


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """One node, which is one process.

    Attributes:
        package: ROS package of the executable.
        executable: As in ``ros2 run <package> <executable>``.
        name: Node name.
        namespace: Starts with a slash; "/" for none.
        parameters: Names and values; the Python type is the parameter's type.
        parameter_files: YAML files, read before ``parameters``.
        remappings: Pairs (name in the node, name in the graph).
        environment: Variables added to the runner's own.
        nice: Added to the process's niceness.
        on_death: What its death means for the others.
        arguments: Further command-line arguments, for programs that are no nodes of ours.
    """

    package: str
    executable: str
    name: str
    namespace: str
    parameters: tuple[tuple[str, Value], ...] = ()
    parameter_files: tuple[str, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    nice: int = 0
    on_death: OnDeath = OnDeath.HOLD
    arguments: tuple[str, ...] = ()


def build_graph(
    a: Arguments,
    run_dir: Path,
    environment: Mapping[str, str],
    share_dir: Path,
) -> tuple[NodeProcess, ...]:
    """Return the nodes that these arguments ask for, in the order in which they start.

    Args:
        a: Values of all launch arguments.
        run_dir: Folder of this run, for the link to the simulator's pseudo-terminal.
        environment: Variables of the user; what they set is not overridden.
        share_dir: Folder with ``config`` and ``rviz`` of this package.

    Raises:
        UserError: Something that the arguments name does not exist.
    """
    _check_files(a)
    namespace = "/" + a.namespace.strip("/")
    estop = (("estop", a.estop_topic),) if a.estop_topic != "estop" else ()
    cameras = _camera_remappings(a)
    port = str(run_dir / "arm") if a.sim else a.port
    limits: tuple[tuple[str, Value], ...] = (
        ("limits_file", a.limits_file),
        ("limits_profile", a.limits_profile),
    )

    def node(
        package: str,
        executable: str,
        name: str,
        parameters: tuple[tuple[str, Value], ...],
        remappings: tuple[tuple[str, str], ...] = (),
        nice: int = 0,
        on_death: OnDeath = OnDeath.HOLD,
    ) -> NodeProcess:
        return NodeProcess(
            package,
            executable,
            name,
            namespace,
            (("use_sim_time", a.use_sim_time), *parameters),
            (a.params_file,) if a.params_file else (),
            remappings,
            _common_environment(environment),
            nice,
            on_death,
        )

    nodes = []
    if a.sim:
        nodes.append(
            node(
                "so101_driver",
                "sim_node",
                "sim",
                (
                    ("port_link", port),
                    ("calibration", a.calibration),
                    ("seed", a.seed),
                    *_simulated_cameras(a),
                ),
                remappings=_replaced_views(a),
                on_death=OnDeath.STOP,
            )
        )
    nodes += [
        node(
            "so101_driver",
            "driver_node",
            "driver",
            (
                ("port", port),
                ("port_wait_s", PORT_WAIT_S if a.sim else 0.0),
                ("calibration", a.calibration),
                *limits,
                ("on_exit", a.on_exit),
            ),
            remappings=estop,
            on_death=OnDeath.STOP,
        ),
        node(
            "so101_driver",
            "safety_node",
            "safety",
            (
                *limits,
                ("geometry_file", "" if a.geometry == OFF else a.geometry),
                ("calibration", a.calibration),
                ("mode", a.mode),
                ("scale", a.scale),
                ("arm", a.arm),
            ),
            remappings=estop,
        ),
    ]
    for view, topic_argument, name in _CAMERA_ARGUMENTS:
        if device := getattr(a, name):
            nodes.append(
                node(
                    "so101_driver",
                    "camera_node",
                    name,
                    (("device", device), ("view", view)),
                    remappings=_view_remappings(view, getattr(a, topic_argument)),
                )
            )
    if a.teleop:
        nodes.append(
            node(
                "so101_driver",
                "teleop_node",
                "teleop",
                (
                    ("port", a.leader_port),
                    ("calibration", a.leader_calibration),
                    ("follower_calibration", a.calibration),
                    ("clutch", a.clutch),
                ),
            )
        )
    if a.backend != NO_POLICY:
        nodes.append(
            node(
                "wallx_policy",
                "policy_node",
                "policy",
                (
                    ("backend", a.backend),
                    ("checkpoint", a.checkpoint),
                    ("device", a.device),
                    ("calibration", a.calibration),
                    ("instruction", a.instruction),
                    # Only the simulator tells where the cube is.
                    ("success_check", "red_cube_in_tray" if a.sim else ""),
                ),
                remappings=cameras,
                nice=POLICY_NICE,
            )
        )
    nodes.append(node("wallx_policy", "trace_node", "trace", (), nice=POLICY_NICE))
    if a.record:
        bag = Path(a.record)
        nodes.append(
            node(
                "wallx_policy",
                "recorder_node",
                "recorder",
                (
                    ("directory", str(bag.parent)),
                    ("bag_name", bag.name),
                    ("task", a.instruction),
                    ("estop_topic", a.estop_topic),
                ),
                remappings=cameras,
            )
        )
    if a.rviz:
        nodes.append(_rviz(namespace, share_dir, a.use_sim_time))
    return tuple(nodes)


def _check_files(a: Arguments) -> None:
    for name in _FILES:
        path = getattr(a, name)
        # A device that is missing is the camera node's to refuse: it knows which ones there are.
        exempt = path == OFF or (name in _DEVICES and path.startswith("/dev/"))
        if path and not exempt and not os.access(path, os.R_OK):
            raise UserError(
                f"argument '{name}': {path} cannot be read; check that it exists and is readable."
            )
    if a.record and Path(a.record).exists():
        raise UserError(
            f"argument 'record': {a.record} exists already; name a new folder, bags are never "
            "overwritten."
        )


def _camera_remappings(a: Arguments) -> tuple[tuple[str, str], ...]:
    remappings: tuple[tuple[str, str], ...] = ()
    for view, argument, _ in _CAMERA_ARGUMENTS:
        remappings += _view_remappings(view, getattr(a, argument))
    return remappings


def _view_remappings(view: str, topic: str) -> tuple[tuple[str, str], ...]:
    default = f"camera/{view}/image_raw"
    if topic == default:
        return ()
    # A remapping covers one name only, not the names below it.
    return (default, topic), (f"{default}/compressed", f"{topic}/compressed")


def _simulated_cameras(a: Arguments) -> tuple[tuple[str, Value], ...]:
    """Nothing is rendered when every view comes from somewhere else."""
    replaced = all(getattr(a, camera) for _, _, camera in _CAMERA_ARGUMENTS)
    return (("cameras", False),) if replaced else ()


def _replaced_views(a: Arguments) -> tuple[tuple[str, str], ...]:
    """Put the simulator's picture of a view aside when a camera node publishes that view."""
    return tuple(
        (f"camera/{view}/{topic}", f"sim/camera/{view}/{topic}")
        for view, _, camera in _CAMERA_ARGUMENTS
        if getattr(a, camera)
        for topic in ("image_raw", "image_raw/compressed", "camera_info")
    )


def _common_environment(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    wanted = {"PYTHONUNBUFFERED": "1", **dict.fromkeys(_BLAS_THREADS, "1")}
    if not any(name in environment for name in PROFILE_VARIABLES):
        # UDP instead of shared memory: config/fastdds_loopback.xml, where set, tells why. Also the
        # simulator, whose servos would not answer while it waits in `publish`.
        wanted[_TRANSPORT_VARIABLE] = "UDPv4"
    return tuple((name, value) for name, value in wanted.items() if name not in environment)


def _rviz(namespace: str, share_dir: Path, use_sim_time: bool) -> NodeProcess:
    if shutil.which("rviz2") is None:
        raise UserError(
            "argument 'rviz': there is no rviz2 on this machine (it cannot come from pip): install "
            "ros-$ROS_DISTRO-rviz2 and source the ROS installation, or leave rviz:=true out."
        )
    return NodeProcess(
        "rviz2",
        "rviz2",
        "rviz",
        namespace,
        (("use_sim_time", use_sim_time),),
        arguments=("-d", str(share_dir / "rviz" / "so101.rviz")),
    )
