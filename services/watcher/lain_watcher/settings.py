"""What a watcher is told by its environment (``LAIN_WATCHER_…``); each field is described in the README."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from lain_shared.settings import InvalidSettings
from lain_watcher.adapters.folder import SOCKET

PREFIX = "LAIN_WATCHER_"


@dataclass(frozen=True, slots=True)
class Settings:
    """One watcher, of one router."""

    router: str
    """The router's id, unique in the cluster and the same after every restart."""
    etcd: tuple[str, ...]
    """``host:port`` of each etcd member."""
    node: str = ""
    """The node this router runs on; "": the router's id."""
    tls_dir: Path | None = None
    """Holds ``ca.pem cert.pem key.pem``. Without it: plain HTTP, and only on loopback."""
    state_dir: Path = Path("/var/lib/lain/router")
    """The folder shared with nginx's container: table, gate, control socket; also this watcher's lease id."""
    control: Path | None = None
    """nginx's control socket; None: ``control.sock`` in ``state_dir``."""
    certificates: Path | None = None
    """Directory of ``<name>.crt`` and ``<name>.key``; None: no TLS for apps."""
    listen: str = "0.0.0.0"
    port: int = 9530
    grace_seconds: float = 10.0
    log_level: str = "info"
    sync_wait_seconds: float = 10.0
    """How long a start waits for etcd before it lets nginx serve the last good table."""
    lease_seconds: int = 10
    """Lease of ``routers/<id>``: how long after its last word a watcher counts as away."""
    stale_seconds: float = 60.0
    """Nothing heard from etcd for this long: not ready (it serves on all the same)."""

    @property
    def socket(self) -> Path:
        return self.control or self.state_dir / SOCKET

    def check(self) -> None:
        """Raises ``InvalidSettings`` for what no type can rule out."""
        if self.tls_dir is None and not _is_loopback(self.listen):
            raise InvalidSettings(
                f"{PREFIX}LISTEN={self.listen!r} without {PREFIX}TLS_DIR: the API would be open in clear",
                next=f"set {PREFIX}TLS_DIR, or listen on 127.0.0.1",
            )
        if self.lease_seconds < 2:
            raise InvalidSettings(f"{PREFIX}LEASE_SECONDS={self.lease_seconds} is not at least 2")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
