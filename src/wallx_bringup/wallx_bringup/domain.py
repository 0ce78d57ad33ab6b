"""A ROS domain of one's own: a simulated arm must never share one with anybody's real arm.

A domain is locked by binding an abstract Unix socket named after it. Such names live in the network
namespace, exactly where localhost discovery reaches, are shared by all users, and vanish with the
last process that holds the socket; there is no file to clean up or to go stale.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping
from types import TracebackType

from so101_driver.errors import UserError

from wallx_bringup.paths import share_dir

DOMAINS = range(1, 102)
"""Ids whose ports lie below the ephemeral range of Linux."""

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Names of Fast DDS's profile file: on Jazzy, on Kilted."""

_FAST_DDS = "rmw_fastrtps_cpp"
_WIDENING = (
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "FASTDDS_BUILTIN_TRANSPORTS",
)
"""What would widen discovery or override the profile."""

_DDS_PORT_BASE = 7400
_DDS_PORTS_PER_DOMAIN = 250


class LockedDomain:
    """A domain id that no other graph on this machine has, for as long as the lock is held.

    Attributes:
        id: The domain.
    """

    def __init__(self, domain_id: int, lock: socket.socket) -> None:
        self.id = domain_id
        self._lock = lock

    def fileno(self) -> int:
        """File descriptor of the lock; children that inherit it keep the domain locked."""
        return self._lock.fileno()

    def release(self) -> None:
        """Give up this process's hold."""
        self._lock.close()

    def __enter__(self) -> LockedDomain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lock_free_domain(avoid: int | None = None) -> LockedDomain:
    """Lock a domain that no graph of ours and no DDS participant on this machine uses.

    Args:
        avoid: A domain never to take, e.g. the one the user works in.

    Raises:
        UserError: All domains are taken.
    """
    # A random start keeps two commands started together from racing through the same ids.
    candidates = [domain_id for domain_id in DOMAINS if domain_id != avoid]
    random.shuffle(candidates)
    for domain_id in candidates:
        lock = _try_lock(domain_id)
        if lock is None:
            continue
        if _has_participants(domain_id):
            lock.close()
            continue
        return LockedDomain(domain_id, lock)
    raise UserError(
        "every ROS domain from 1 to 101 is in use on this machine: end graphs that are still "
        "running (`wallx graphs` lists yours)."
    )


def isolated_environment(environment: Mapping[str, str], domain_id: int) -> dict[str, str]:
    """Return ``environment`` with the domain set and all traffic confined to this machine."""
    isolated = {name: value for name, value in environment.items() if name not in _WIDENING}
    isolated["ROS_DOMAIN_ID"] = str(domain_id)
    if environment.get("RMW_IMPLEMENTATION", _FAST_DDS) == _FAST_DDS:
        # The profile confines it; LOCALHOST would replace the profile's transports by its own.
        isolated["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        profile = str(share_dir(environment) / "config" / "fastdds_loopback.xml")
        isolated |= dict.fromkeys(PROFILE_VARIABLES, profile)
    else:
        isolated["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return isolated


def _try_lock(domain_id: int) -> socket.socket | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0wallx-ros-domain-{domain_id}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock


def _has_participants(domain_id: int) -> bool:
    """Whether a DDS participant on this machine listens on the domain's discovery port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", _DDS_PORT_BASE + _DDS_PORTS_PER_DOMAIN * domain_id))
        except OSError:
            return True
    return False
