"""One running graph: its domain, its folder, its processes, and how other commands find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from so101_driver.errors import UserError

from wallx_bringup.arguments import Arguments
from wallx_bringup.command_line import process_of
from wallx_bringup.domain import isolated_environment, lock_free_domain
from wallx_bringup.graph import NodeProcess, build_graph
from wallx_bringup.paths import share_dir, with_own_python
from wallx_bringup.processes import Process
from wallx_bringup.runner import Runner

_STATE_FILE = "graph.json"


@dataclass(frozen=True, slots=True)
class RunningGraph:
    """What another command must know to join a graph.

    Attributes:
        pid: Process id of the runner.
        domain_id: ROS domain.
        local_only: Whether discovery is confined to this machine.
        namespace: Of the nodes; starts with a slash.
        log_dir: Folder with one log per process.
        summary: The arguments that were given.
    """

    pid: int
    domain_id: int
    local_only: bool
    namespace: str
    log_dir: str
    summary: str

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return ``base`` with what makes a process join this graph."""
        if self.local_only:
            return isolated_environment(base, self.domain_id)
        return {**base, "ROS_DOMAIN_ID": str(self.domain_id)}

    def join(self) -> None:
        """Make this process's ROS contexts join the graph; before the first is made."""
        environment = self.environment(os.environ)
        os.environ.clear()
        os.environ.update(environment)


def runtime_dir(environment: Mapping[str, str]) -> Path:
    """Return this user's folder for links, locks and state of running graphs.

    Raises:
        UserError: The folder belongs to somebody else.
    """
    base = environment.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        path = Path(base) / "wallx"
    else:
        path = Path(tempfile.gettempdir()) / f"wallx-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} does not belong to you: remove it or set XDG_RUNTIME_DIR.")
    return path


def default_log_dir(environment: Mapping[str, str]) -> Path:
    """Return a new folder for the logs of one run, beside ROS's own logs."""
    base = environment.get("ROS_LOG_DIR") or str(Path.home() / ".ros" / "log")
    return Path(base) / f"wallx_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"


@contextlib.contextmanager
def open_graph(
    arguments: Arguments,
    environment: Mapping[str, str],
    log_dir: Path,
    console: Callable[[str, str], None],
    extra: Sequence[Process] = (),
    change: Callable[[NodeProcess], NodeProcess] = lambda node: node,
) -> Iterator[tuple[Runner, RunningGraph]]:
    """Prepare a graph; the caller runs the runner and leaves the block when it has ended.

    Args:
        arguments: Values of all launch arguments.
        environment: Of the user.
        log_dir: Receives one log per process.
        console: Called with a process's name and one line of its output.
        extra: Processes to supervise beside the nodes.
        change: Applied to every node, e.g. to alter what its death means.
    """
    with contextlib.ExitStack() as stack:
        if arguments.sim:
            user_domain = environment.get("ROS_DOMAIN_ID", "0")
            avoid = int(user_domain) if user_domain.isdigit() else None
            domain = stack.enter_context(lock_free_domain(avoid))
            environment = isolated_environment(environment, domain.id)
            # Nodes hold the lock too: should the runner be killed, they keep it until they end.
            inherited = (domain.fileno(),)
        else:
            inherited = ()
        run_dir = Path(tempfile.mkdtemp(prefix="run-", dir=runtime_dir(environment)))
        stack.callback(shutil.rmtree, run_dir, ignore_errors=True)
        log_dir.mkdir(parents=True, exist_ok=True)
        environment = {**with_own_python(environment), "ROS_LOG_DIR": str(log_dir)}
        nodes = [
            change(node)
            for node in build_graph(arguments, run_dir, environment, share_dir(environment))
        ]
        processes = [process_of(node, run_dir, environment) for node in nodes]
        graph = RunningGraph(
            pid=os.getpid(),
            domain_id=int(environment.get("ROS_DOMAIN_ID", "0") or 0),
            local_only=arguments.sim,
            namespace=nodes[0].namespace,
            log_dir=str(log_dir),
            summary=" ".join(
                f"{name}:={getattr(arguments, name)}" for name in sorted(arguments.given)
            ),
        )
        stack.enter_context(_publish_state(run_dir, graph))
        runner = Runner([*processes, *extra], log_dir, environment, console, inherited)
        stack.callback(runner.end)
        yield runner, graph


def running_graphs(environment: Mapping[str, str]) -> list[RunningGraph]:
    """Return this user's running graphs; folders of runners that were killed are removed."""
    graphs = []
    for path in sorted(runtime_dir(environment).glob(f"run-*/{_STATE_FILE}")):
        try:
            with path.open() as file:
                if _lock(file, fcntl.LOCK_SH):
                    shutil.rmtree(path.parent, ignore_errors=True)
                    continue
                graphs.append(RunningGraph(**json.load(file)))
        except FileNotFoundError:  # it ended just now
            continue
    return graphs


def choose_graph(graphs: Sequence[RunningGraph], pid: int | None) -> RunningGraph | None:
    """Return the graph that a command means; None if none is running.

    Raises:
        UserError: Several are running and none is named, or the named one does not exist.
    """
    if pid is not None:
        for graph in graphs:
            if graph.pid == pid:
                return graph
        raise UserError(f"no graph has runner {pid}: `wallx graphs` lists those that run.")
    if len(graphs) > 1:
        known = "; ".join(f"--graph {g.pid} ({g.summary or 'defaults'})" for g in graphs)
        raise UserError(f"several graphs are running, name one: {known}.")
    return graphs[0] if graphs else None


@contextlib.contextmanager
def _publish_state(run_dir: Path, graph: RunningGraph) -> Iterator[None]:
    """Keep a locked state file while the block runs; the lock tells that its runner lives."""
    hidden = run_dir / f".{_STATE_FILE}"
    with hidden.open("w") as file:
        _lock(file, fcntl.LOCK_EX)
        json.dump(asdict(graph), file)
        file.flush()
        hidden.rename(run_dir / _STATE_FILE)  # readers see it complete and locked, or not at all
        yield


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
