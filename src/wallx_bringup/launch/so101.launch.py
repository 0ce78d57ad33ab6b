"""The graph of wallx_bringup for `ros2 launch`; `wallx up` starts the same one without launch.

Arguments, nodes and rules come from the package; this file only translates them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_entity import LaunchDescriptionEntity
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from so101_driver.errors import UserError
from wallx_bringup.arguments import ARGUMENTS, as_text, resolve
from wallx_bringup.graph import NodeProcess, build_graph
from wallx_bringup.processes import KILL_GRACE_S, STOP_GRACE_S, stops_graph


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the function that makes the nodes from them."""
    return LaunchDescription(
        [
            # First, so that it sees what was given before the declarations add their defaults,
            # some of which depend on other arguments.
            OpaqueFunction(function=_nodes),
            *(
                DeclareLaunchArgument(
                    argument.name,
                    default_value=as_text(argument.sim),
                    description=argument.help,
                    choices=list(argument.choices) or None,
                )
                for argument in ARGUMENTS
            ),
        ]
    )


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    try:
        arguments = resolve(_given(context))
        run_dir = Path(tempfile.mkdtemp(prefix="wallx-"))
        share_dir = Path(get_package_share_directory("wallx_bringup"))
        graph = build_graph(arguments, run_dir, os.environ, share_dir)
    except UserError as error:
        # launch prints the text of a RuntimeError and ends with status 1.
        raise RuntimeError(str(error)) from None
    actions: list[LaunchDescriptionEntity] = []
    for node in graph:
        action = launch_action(node)
        actions += [action, RegisterEventHandler(_on_exit(node, action))]
    return actions


def _given(context: LaunchContext) -> dict[str, str]:
    """Return the launch arguments that the user gave.

    launch accepts any name. When this file is what was launched, unknown names on the command line
    are passed on to be refused; when another file includes it, they may be that file's.
    """
    configurations = context.launch_configurations
    names = {argument.name for argument in ARGUMENTS} & set(configurations)
    if any(Path(word).name == Path(__file__).name for word in sys.argv):
        own = ("launch-prefix", "launch-prefix-filter")
        words = (word.partition(":=") for word in context.argv)
        names |= {name for name, separator, _ in words if separator and name not in own}
    return {name: configurations[name] for name in names}


def launch_action(node: NodeProcess) -> Node:
    """Return the launch_ros action that starts one node."""
    typed = {
        # Without the type launch_ros would read a text as YAML: "no" would become a boolean.
        name: ParameterValue(value, value_type=type(value))
        for name, value in node.parameters
    }
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[*node.parameter_files, typed],
        remappings=list(node.remappings),
        additional_env=dict(node.environment),
        arguments=list(node.arguments),
        prefix=f"nice -n {node.nice}" if node.nice else None,
        output="both",
        emulate_tty=False,
        sigterm_timeout=str(STOP_GRACE_S),
        sigkill_timeout=str(KILL_GRACE_S),
    )


def _on_exit(node: NodeProcess, action: Node) -> OnProcessExit:
    def react(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown or not stops_graph(node.on_death, event.returncode):
            return []
        reason = f"{node.name} ended with status {event.returncode}: everything ends"
        if event.returncode:
            raise RuntimeError(reason)  # ends everything too, and makes the exit status 1
        return [EmitEvent(event=Shutdown(reason=reason))]

    return OnProcessExit(target_action=action, on_exit=react)
