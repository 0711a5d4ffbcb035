"""What an agent is told by its environment (``LAIN_AGENT_…``)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lain_deployd.agent.engine import Credentials
from lain_shared.settings import InvalidSettings

PREFIX = "LAIN_AGENT_"


@dataclass(frozen=True, slots=True)
class Settings:
    """One node's agent."""

    etcd: tuple[str, ...]
    """``host:port`` of each etcd member."""
    node: str
    """This node's name: the one it is registered under, and its certificate's."""
    address: str = "127.0.0.1"
    """The node's own IPv4 address, where the console reaches this agent."""
    tls_dir: Path | None = None
    """Holds ``ca.pem cert.pem key.pem``. Without it: plain HTTP, and only on loopback."""
    listen: str = "0.0.0.0"
    port: int = 9520
    grace_seconds: float = 4.0
    """Less than the lease: an agent that is replaced must be back before its node counts as lost."""
    log_level: str = "info"
    docker: str = "/var/run/docker.sock"
    """The Engine's unix socket."""
    containerd: str = ""
    """Its containerd's; "": looked for beside the Engine's."""
    state_dir: Path = Path("/var/lib/lain/agent")
    volumes_root: Path = Path("/var/lib/lain/volumes")
    """The same path on the node and, if the agent is a container, in it."""
    registry: str = ""
    """``host:port`` at which this node's Engine pulls; "": images are named as they are."""
    registry_user: str = ""
    registry_password_file: Path | None = None
    block: str = ""
    """Claim exactly this address block (CIDR) instead of the first free one of the pod network."""
    lease_seconds: int = 5
    reserved_memory_bytes: int | None = None
    """Kept for etcd, the Engine and the daemons; None: a twentieth of the machine's, at least 256 MiB."""
    address_quarantine_seconds: float = 60.0
    parallel_starts: int = 6
    pod_processes: int = 2048
    """Processes and threads that one pod may have."""
    pod_open_files: int = 16_384
    """Files and connections that each process of a pod may have open."""
    pod_disk_percent: float = 10.0
    """A pod whose files outside volumes take more of the Engine's disk is ended and made anew without them."""
    disk_high_percent: int = 85
    """Above this, of the Engine's disk, images that no pod needs and no app may go back to are removed."""
    conditions_seconds: float = 30.0
    """How often the machine is looked at: disks, clock, registry, certificates, firewall."""
    resync_seconds: float = 30.0

    def check(self) -> None:
        """Raises ``InvalidSettings`` for what no type can rule out."""
        if self.tls_dir is None and not _is_loopback(self.listen):
            raise InvalidSettings(
                f"{PREFIX}LISTEN={self.listen!r} without {PREFIX}TLS_DIR: the API would be open in clear",
                next=f"set {PREFIX}TLS_DIR, or listen on 127.0.0.1",
            )
        if not self.etcd:
            raise InvalidSettings(f"{PREFIX}ETCD is empty (wanted: a comma-separated list of host:port)")
        if not self.volumes_root.is_absolute():
            raise InvalidSettings(f"{PREFIX}VOLUMES_ROOT={str(self.volumes_root)!r} is not an absolute path")
        if self.block:
            try:
                ipaddress.IPv4Network(self.block)
            except ValueError as error:
                raise InvalidSettings(f"{PREFIX}BLOCK={self.block!r} is not a CIDR block: {error}") from error
        if self.lease_seconds < 2:
            raise InvalidSettings(f"{PREFIX}LEASE_SECONDS={self.lease_seconds} is not at least 2")
        if not self.pod_disk_percent > 0:
            raise InvalidSettings(
                f"{PREFIX}POD_DISK_PERCENT={self.pod_disk_percent:g} is not above 0: every pod would be ended for its first byte",
                next="100 lets one pod take the whole disk",
            )

    def credentials(self) -> Credentials | None:
        """Read anew each time: the password may be replaced while the agent runs."""
        if not self.registry_user or self.registry_password_file is None:
            return None
        try:
            return Credentials(self.registry_user, self.registry_password_file.read_text().strip())
        except OSError as error:
            raise InvalidSettings(
                f"{PREFIX}REGISTRY_PASSWORD_FILE={self.registry_password_file} cannot be read: {error.strerror}"
            ) from error

    @property
    def agent_url(self) -> str:
        scheme = "https" if self.tls_dir is not None else "http"
        return f"{scheme}://{self.address}:{self.port}"

    @property
    def root(self) -> PurePosixPath:
        return PurePosixPath(self.volumes_root)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
