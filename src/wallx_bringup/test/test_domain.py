"""A simulated graph must not share a ROS domain with anything else on the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from wallx_bringup.domain import isolated_environment, lock_free_domain

from wallx_bringup import domain


@pytest.fixture
def two_domains(monkeypatch) -> tuple[int, int]:
    """Only these two exist, so that a test can exhaust them."""
    free = [d for d in domain.DOMAINS if not domain._has_participants(d)]
    monkeypatch.setattr(domain, "DOMAINS", tuple(free[-2:]))
    return free[-2], free[-1]


def test_a_locked_domain_is_given_to_nobody_else_until_released(two_domains) -> None:
    with lock_free_domain() as first:
        with lock_free_domain() as second:
            assert {first.id, second.id} == set(two_domains)
            with pytest.raises(UserError, match="every ROS domain"):
                lock_free_domain()
        with lock_free_domain() as third:
            assert third.id == second.id


def test_the_domain_the_user_works_in_is_avoided(two_domains) -> None:
    with lock_free_domain(avoid=two_domains[0]) as locked:
        assert locked.id == two_domains[1]


def test_a_domain_with_a_dds_participant_is_avoided(two_domains) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        participant.bind(("", 7400 + 250 * two_domains[0]))
        with lock_free_domain() as locked:
            assert locked.id == two_domains[1]


def test_children_hold_the_lock_after_their_parent(two_domains) -> None:
    locked = lock_free_domain(avoid=two_domains[0])
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[locked.fileno()]
    )
    locked.release()
    with pytest.raises(UserError):
        lock_free_domain(avoid=two_domains[0])
    child.communicate(b"\n")
    lock_free_domain(avoid=two_domains[0]).release()


WIDE = {
    "ROS_DOMAIN_ID": "0",
    "ROS_LOCALHOST_ONLY": "0",
    "ROS_STATIC_PEERS": "192.168.1.7",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    "ROS_DISCOVERY_SERVER": "192.168.1.7:11811",
    "FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT",
    "HOME": "/home/me",
}


def test_isolation_removes_what_would_widen_or_override_discovery() -> None:
    environment = isolated_environment(WIDE, 42)
    profile = environment.pop("FASTRTPS_DEFAULT_PROFILES_FILE")
    assert environment.pop("FASTDDS_DEFAULT_PROFILES_FILE") == profile
    assert "<address>127.0.0.1</address>" in Path(profile).read_text()
    assert environment == {
        "ROS_DOMAIN_ID": "42",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        "HOME": "/home/me",
    }


def test_other_middleware_is_confined_by_ros_itself() -> None:
    environment = isolated_environment({**WIDE, "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, 42)
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


@pytest.mark.ros
def test_an_isolated_node_has_no_socket_beyond_loopback_and_no_shared_memory() -> None:
    import psutil

    node = (
        "import rclpy; rclpy.init(); n = rclpy.create_node('isolated')\n"
        "n.create_publisher(__import__('std_msgs.msg').msg.String, 'topic', 10)\n"
        "print('up', flush=True); input()\n"
    )
    with lock_free_domain() as locked:
        process = subprocess.Popen(
            [sys.executable, "-c", node],
            env=isolated_environment(os.environ, locked.id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        addresses = {c.laddr.ip for c in psutil.Process(process.pid).net_connections("inet")}
        shared = [file for file in os.listdir(f"/proc/{process.pid}/fd") if _is_shm(process, file)]
        process.communicate(b"\n", timeout=20)
    assert "127.0.0.1" in addresses
    # The multicast group is joined on the loopback interface only.
    assert addresses <= {"127.0.0.1", "239.255.0.1"}
    assert not shared


def _is_shm(process: subprocess.Popen[bytes], descriptor: str) -> bool:
    return os.readlink(f"/proc/{process.pid}/fd/{descriptor}").startswith("/dev/shm")
