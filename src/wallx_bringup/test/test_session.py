"""Another terminal must find the running graph, and a killed runner must leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_bringup.arguments import Arguments, resolve
from wallx_bringup.paths import with_own_python
from wallx_bringup.session import choose_graph, open_graph, running_graphs, runtime_dir

STAND_IN = f"""#!{sys.executable} -SE
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # as our nodes do when they can react
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch) -> dict[str, str]:
    """A user's environment with an installation of stand-in executables."""
    for path in ("so101_driver/sim_node", "so101_driver/driver_node", "so101_driver/safety_node"):
        _write_executable(tmp_path / "prefix" / "lib" / path)
    for path in ("wallx_policy/policy_node", "wallx_policy/trace_node"):
        _write_executable(tmp_path / "prefix" / "lib" / path)
    (tmp_path / "runtime").mkdir()
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": str(tmp_path / "prefix"),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
    }


def _write_executable(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN)
    path.chmod(0o755)


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    (tmp_path / "limits.yaml").touch()
    return resolve({"limits_file": str(tmp_path / "limits.yaml"), "namespace": "left"})


def test_a_running_graph_can_be_joined_until_it_ends(environment, arguments, tmp_path) -> None:
    with open_graph(arguments, environment, tmp_path / "log", lambda *_: None) as (runner, graph):
        runner.start()
        (found,) = running_graphs(environment)
        assert found == graph
        assert found.namespace == "/left"
        joined = found.environment({"ROS_LOCALHOST_ONLY": "0", "ROS_DOMAIN_ID": "7"})
        assert joined["ROS_DOMAIN_ID"] == str(graph.domain_id)
        assert "fastdds_loopback" in joined["FASTRTPS_DEFAULT_PROFILES_FILE"]
        assert "ROS_LOCALHOST_ONLY" not in joined
        pids = list(runner.pids.values())
        assert len(pids) == 5
    assert running_graphs(environment) == []
    assert list(runtime_dir(environment).iterdir()) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_simulated_graph_never_uses_the_users_domain(environment, arguments, tmp_path) -> None:
    environment["ROS_DOMAIN_ID"] = "7"
    with open_graph(arguments, environment, tmp_path / "log", lambda *_: None) as (_, graph):
        assert graph.domain_id in range(1, 102)
        assert graph.domain_id != 7


def test_a_real_arm_stays_in_the_users_domain(environment, tmp_path) -> None:
    (tmp_path / "arm.json").touch()
    environment["ROS_DOMAIN_ID"] = "7"
    real = resolve(
        {
            "sim": "false",
            "calibration": str(tmp_path / "arm.json"),
            "limits_file": str(tmp_path / "arm.json"),
        }
    )
    with open_graph(real, environment, tmp_path / "log", lambda *_: None) as (_, graph):
        assert (graph.domain_id, graph.local_only) == (7, False)
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in graph.environment({})


def test_which_graph_is_meant(environment, arguments, tmp_path) -> None:
    assert choose_graph([], None) is None
    with open_graph(arguments, environment, tmp_path / "log", lambda *_: None) as (_, graph):
        graphs = running_graphs(environment)
        assert choose_graph(graphs, None) == graph
        assert choose_graph(graphs, os.getpid()) == graph
        with pytest.raises(UserError, match="no graph has runner 1:"):
            choose_graph(graphs, 1)
        with pytest.raises(UserError, match=rf"name one: --graph {graph.pid} \("):
            choose_graph([graph, graph], None)


def test_a_killed_command_leaves_no_process_and_no_folder(environment, arguments, tmp_path) -> None:
    words = [f"limits_file:={arguments.limits_file}", "namespace:=left"]
    command = [sys.executable, "-m", "wallx_bringup.cli", "up", *words]
    command += ["--log-dir", str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        seen = [popen.stdout.readline() for _ in range(6)]
        assert sum(line.endswith("up\n") for line in seen) == 5, seen
        assert [graph.pid for graph in running_graphs(environment)] == [popen.pid]
        popen.kill()
    assert running_graphs(environment) == []
    assert list(runtime_dir(environment).iterdir()) == []
    deadline_s = time.monotonic() + 10.0
    while _living(str(tmp_path / "prefix")):
        assert time.monotonic() < deadline_s, "nodes outlive a killed runner"
        time.sleep(0.02)


def test_ctrl_c_ends_the_command_with_status_0(environment, arguments, tmp_path) -> None:
    command = [sys.executable, "-m", "wallx_bringup.cli", "up"]
    command += [f"limits_file:={arguments.limits_file}", "--log-dir", str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        while not popen.stdout.readline().startswith("[  policy] up"):
            assert popen.poll() is None
        popen.send_signal(signal.SIGINT)
        output, _ = popen.communicate(timeout=20)
        assert popen.returncode == 0, output
    assert not _living(str(tmp_path / "prefix"))


def _living(prefix: str) -> list[int]:
    import psutil

    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if any(prefix in word for word in process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_processes_find_the_python_that_runs_the_graph() -> None:
    """Executables start with `env python3`; a virtual environment need not be activated."""
    own = str(Path(sys.executable).parent)
    path = with_own_python({"PATH": "/usr/bin:/bin"})["PATH"]
    assert path.split(":")[0] == own
    assert path.endswith("/usr/bin:/bin")
    assert with_own_python({"PATH": path})["PATH"] == path
