"""What a console replica is told by its environment (``LAIN_CONSOLE_…``); each field is described in the README."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PREFIX = "LAIN_CONSOLE_"


@dataclass(frozen=True, slots=True)
class Settings:
    """One console replica."""

    id: str
    """Unique among the replicas: the name under which it holds operations."""
    etcd: tuple[str, ...]
    """``host:port`` of each etcd member."""
    registry: str
    """``https://host:port`` of the cluster's registry."""
    registry_user: str = ""
    registry_password_file: Path | None = None
    tls_dir: Path | None = None
    """Holds ``ca.pem cert.pem key.pem``. Without it: plain HTTP, and only on loopback."""
    signing_key: Path | None = None
    """PEM of the EC P-256 key that tokens are signed with; without it this replica issues none."""
    listen: str = "0.0.0.0"
    port: int = 9510
    grace_seconds: float = 10.0
    log_level: str = "info"
    holder_lease_seconds: int = 5
    """After a replica dies, its operations stand still for at most this long."""
