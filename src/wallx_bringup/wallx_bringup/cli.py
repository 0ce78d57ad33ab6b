"""The ``wallx`` command."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from so101_driver.errors import UserError

from so101_driver import calibration_options
from wallx_bringup import checkpoint_command
from wallx_bringup.arguments import ARGUMENTS, EMPTY, Arguments, as_text, parse_words, resolve
from wallx_bringup.command_line import find_executable
from wallx_bringup.contract_command import add_command as add_contract_command
from wallx_bringup.hardware_commands import add_commands
from wallx_bringup.paths import with_own_python
from wallx_bringup.session import (
    RunningGraph,
    choose_graph,
    default_log_dir,
    open_graph,
    running_graphs,
)

_WITHOUT_ROS = ("calibrate", "virtual_bus")
"""Executables that join no graph: it does not matter to them which of several is meant."""

_UP_HELP = "start the graph (the arm is simulated unless sim:=false); Ctrl-C parks it and ends it"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except UserError as error:
        print(f"wallx: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does; nor may Python's own flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wallx", description="Run WALL-OSS policies on an SO-101 arm under ROS 2."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help=_UP_HELP, description=_UP_HELP)
    up.add_argument("words", nargs="*", metavar="name:=value", help="see --show-args")
    up.add_argument("--show-args", action="store_true", help="list the arguments and end")
    up.add_argument("--log-dir", type=Path, help="folder for the nodes' logs")
    up.set_defaults(run=_up)

    demo = commands.add_parser("demo", help="two acts in simulation, measured, with a report")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    demo.set_defaults(run=_demo)

    checkpoint_command.add_command(commands)

    add_contract_command(commands)

    measure = commands.add_parser(
        "measure-table",
        help="find the table by touching it at three places, and write a geometry file",
    )
    measure.add_argument("--output", type=Path, required=True, help="geometry file to write")
    measure.add_argument("--force", action="store_true", help="overwrite it if it exists")
    measure.add_argument("--geometry", type=Path, help="file to begin with; default: the shipped")
    measure.add_argument("--points", type=int, default=3, help="places to touch, at least three")
    measure.add_argument("--graph", type=int, metavar="PID", help="which graph to listen to")
    measure.set_defaults(run=_measure_table)

    add_commands(commands)

    calibrate = commands.add_parser("calibrate", help="calibrate an arm, or check its calibration")
    calibration_options.add_options(calibrate)
    calibrate.set_defaults(run=_calibrate)

    graphs = commands.add_parser("graphs", help="list your running graphs")
    graphs.set_defaults(run=_graphs)

    for name, text, run in (
        ("topics", "list the topics of a running graph", _topics),
        ("echo", "show the messages of a topic", _echo),
        ("call", "call a service, e.g. wallx call safety/set_mode mode:=scaled", _call),
        ("pub", "publish one message, e.g. wallx pub instruction data:='open the gripper'", _pub),
        ("ask", "ask the policy of a running graph about what its cameras see", _ask),
        ("run", "run one executable in the domain of a running graph", _run),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--graph", type=int, metavar="PID", help="which graph, see `wallx graphs`"
        )
        command.set_defaults(run=run)
        if name == "echo":
            command.add_argument("topic", help="a relative name is taken in the graph's namespace")
            command.add_argument("-n", "--count", type=int, help="end after so many messages")
        elif name == "pub":
            command.add_argument("topic", help="a relative name is taken in the graph's namespace")
            command.add_argument("words", nargs="*", metavar="field:=value")
        elif name == "call":
            command.add_argument("service", help="e.g. safety/arm")
            command.add_argument("words", nargs="*", metavar="field:=value")
            command.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS")
        elif name == "ask":
            command.add_argument("question", help="in plain words, in quotes")
            command.add_argument(
                "--view",
                action="append",
                default=[],
                metavar="NAME",
                help="show only this view, e.g. wrist_view; several are allowed",
            )
        elif name == "run":
            command.add_argument("package")
            command.add_argument("executable")
            command.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _up(options: argparse.Namespace) -> int:
    if options.show_args:
        _show_arguments()
        return 0
    arguments = resolve(parse_words(options.words))
    log_dir = options.log_dir or default_log_dir(os.environ)
    with open_graph(arguments, os.environ, log_dir, _print_line) as (runner, graph):
        _print_line("wallx", _describe(arguments, graph))
        return runner.run()


def _describe(arguments: Arguments, graph: RunningGraph) -> str:
    arm = "simulated arm"
    if not arguments.sim:
        arm = f"arm on {arguments.port}, calibration {arguments.calibration}"
    return (
        f"{arm}, backend {arguments.backend}, mode {arguments.mode}, arm:={arguments.arm}, "
        f"ROS domain {graph.domain_id}; logs in {graph.log_dir}; Ctrl-C parks the arm and ends."
    )


def _print_line(name: str, line: str) -> None:
    print(f"[{name:>8}] {line}", flush=True)


def _show_arguments() -> None:
    print("Arguments of `wallx up` and of `ros2 launch wallx_bringup so101.launch.py`:\n")
    for argument in ARGUMENTS:
        print(f"  {argument.name}:={as_text(argument.sim) or EMPTY}")
        choices = f" One of: {', '.join(argument.choices)}." if argument.choices else ""
        print(textwrap.indent(textwrap.fill(argument.help + choices, 86), " " * 6))


def _demo(options: argparse.Namespace) -> int:
    from wallx_bringup.demo import run_demo

    return run_demo(options.out, dict(os.environ))


def _measure_table(options: argparse.Namespace) -> int:
    if options.points < 3:
        raise UserError("--points must be at least 3: fewer places are no plane.")
    if options.output.exists() and not options.force:
        raise UserError(f"{options.output} exists: name another file, or overwrite with --force.")
    if not options.output.absolute().parent.is_dir():
        raise UserError(f"there is no folder for {options.output}: make it first.")
    namespace = _join(options)
    from so101_driver.joints import data_path
    from so101_driver.kinematics import Kinematics

    from wallx_bringup.nodes.table_tool import TableTool
    from wallx_bringup.nodes.tools import tool_node

    kinematics = Kinematics.from_urdf(data_path("so101.urdf"))
    source = options.geometry or data_path("so101_geometry.yaml")
    with tool_node(namespace) as node:
        tool = TableTool(node, kinematics, source, lambda text: print(text, flush=True))
        plane = tool.measure(options.points, input)
        tool.write(plane, options.output)
        print(tool.compare(plane))
        print(f"wrote {options.output}; use it with `wallx up geometry:={options.output}`.")
        return 0
    return 130  # ended by Ctrl-C


def _calibrate(options: argparse.Namespace) -> int:
    from so101_driver.calibrate import run_options

    return run_options(options)


def _graphs(_options: argparse.Namespace) -> int:
    graphs = running_graphs(os.environ)
    for graph in graphs:
        print(
            f"{graph.pid}  domain {graph.domain_id}  namespace {graph.namespace}  "
            f"{graph.summary or '(default arguments)'}"
        )
    if not graphs:
        print("no graph is running; `wallx up` starts one.")
    return 0


def _join(options: argparse.Namespace) -> str:
    """Make this process join the graph that is meant; returns its namespace."""
    graph = choose_graph(running_graphs(os.environ), options.graph)
    if graph is None:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        print(f"wallx: no graph was started by wallx; using ROS domain {domain}.", file=sys.stderr)
        return "/"
    graph.join()
    return graph.namespace


def _topics(options: argparse.Namespace) -> int:
    namespace = _join(options)
    from rich.console import Console
    from rich.table import Table

    from wallx_bringup.nodes.tools import list_topics, tool_node

    table = Table()
    for heading in ("topic", "type"):
        table.add_column(heading, overflow="fold")
    for heading in ("publishers", "subscribers"):
        table.add_column(heading, justify="right")
    with tool_node(namespace) as node:
        for name, kind, publishers, subscribers in list_topics(node):
            table.add_row(name, kind, str(publishers), str(subscribers))
    Console().print(table)
    return 0


def _echo(options: argparse.Namespace) -> int:
    namespace = _join(options)
    from wallx_bringup.nodes.tools import echo, tool_node

    with tool_node(namespace) as node:
        echo(node, options.topic, options.count, lambda text: print(text + "---", flush=True))
    return 0


def _call(options: argparse.Namespace) -> int:
    namespace = _join(options)
    from wallx_bringup.nodes.tools import call, tool_node

    success = False
    with tool_node(namespace) as node:
        success, text = call(node, options.service, parse_words(options.words), options.timeout)
        print(text, end="")
    return 0 if success else 1


def _pub(options: argparse.Namespace) -> int:
    namespace = _join(options)
    from wallx_bringup.nodes.tools import publish, tool_node

    with tool_node(namespace) as node:
        print(publish(node, options.topic, parse_words(options.words)), end="")
    return 0


def _ask(options: argparse.Namespace) -> int:
    namespace = _join(options)
    from wallx_bringup.nodes.ask_client import ask
    from wallx_bringup.nodes.tools import tool_node

    # Ctrl-C has to reach the policy before this node ends.
    with tool_node(namespace, handles_signals=False) as node:
        ask(node, options.question, options.view, lambda text: print(text, end="", flush=True))
        return 0
    return 130


def _run(options: argparse.Namespace) -> int:
    path = find_executable(options.package, options.executable, os.environ)
    graph = None
    if options.graph is not None or options.executable not in _WITHOUT_ROS:
        graph = choose_graph(running_graphs(os.environ), options.graph)
    environment = dict(os.environ) if graph is None else graph.environment(os.environ)
    os.execve(path, [str(path), *options.arguments], with_own_python(environment))


if __name__ == "__main__":
    sys.exit(main())
