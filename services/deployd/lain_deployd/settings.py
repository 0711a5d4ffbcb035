"""What a controller is told by its environment (``LAIN_DEPLOYD_…``). The agent's settings are in ``agent/settings.py``."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from lain_deployd.controller.view import Limits
from lain_shared.settings import InvalidSettings

PREFIX = "LAIN_DEPLOYD_"


@dataclass(frozen=True, slots=True)
class Settings:
    """One replica of the controller."""

    etcd: tuple[str, ...]
    """``host:port`` of each etcd member."""
    id: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """This replica's name; two replicas never share one."""
    tls_dir: Path | None = None
    """Holds ``ca.pem cert.pem key.pem``. Without it: plain HTTP, and only on loopback."""
    listen: str = "0.0.0.0"
    port: int = 9511
    grace_seconds: float = 10.0
    log_level: str = "info"
    leader_lease_seconds: int = 2
    node_lease_seconds: float = 5.0
    """What the agents' presence is leased for: after an outage of etcd, no node counts as lost for this long."""
    drain_ack_seconds: float = 10.0
    """A router that has not acknowledged a change for this long pauses the rollout, and is named."""
    router_forget_seconds: float = 30.0
    """How long a router whose watcher is away is waited for."""

    @property
    def limits(self) -> Limits:
        return Limits(
            drain_ack_seconds=self.drain_ack_seconds,
            router_forget_seconds=self.router_forget_seconds,
            node_lease_seconds=self.node_lease_seconds,
        )

    def check(self) -> None:
        """Raises ``InvalidSettings`` for what no type can rule out."""
        if self.tls_dir is None and not _is_loopback(self.listen):
            raise InvalidSettings(
                f"{PREFIX}LISTEN={self.listen!r} without {PREFIX}TLS_DIR: the API would be open in clear",
                next=f"set {PREFIX}TLS_DIR, or listen on 127.0.0.1",
            )
        if not self.etcd:
            raise InvalidSettings(f"{PREFIX}ETCD is empty (wanted: a comma-separated list of host:port)")
        for name in ("drain_ack_seconds", "router_forget_seconds", "node_lease_seconds", "leader_lease_seconds"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{PREFIX}{name.upper()}={getattr(self, name)} is not at least 1")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
