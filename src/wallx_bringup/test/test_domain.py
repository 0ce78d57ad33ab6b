"""A simulated graph must not share a ROS domain with anything else on the machine."""

from __future__ import annotations

import socket
import subprocess
import sys

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


def test_isolation_removes_what_would_widen_or_override_discovery() -> None:
    environment = isolated_environment(
        {
            "ROS_DOMAIN_ID": "0",
            "ROS_LOCALHOST_ONLY": "0",
            "ROS_STATIC_PEERS": "192.168.1.7",
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
            "ROS_DISCOVERY_SERVER": "192.168.1.7:11811",
            "HOME": "/home/me",
        },
        42,
    )
    assert environment == {
        "ROS_DOMAIN_ID": "42",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "HOME": "/home/me",
    }
