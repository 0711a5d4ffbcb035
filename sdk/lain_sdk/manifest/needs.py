"""What a manifest needs of a cluster beyond running containers and routing HTTP, so that a cluster without it can say no by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lain_sdk.manifest.parts import AppType, Proc
from lain_shared.model.pod import ProcType

if TYPE_CHECKING:
    from lain_sdk.manifest.model import Manifest

SERVICES, RESOURCES, PORTALS, STREAM = "services", "resources", "portals", "stream"
LVAULT, BACKUPD, CLOUD_VOLUMES, NOTIFY, REBELLION, NETWORKD = (
    "lvault",
    "backupd",
    "cloud-volumes",
    "notify",
    "rebellion",
    "networkd",
)
PARTS = (SERVICES, RESOURCES, PORTALS, STREAM, LVAULT, BACKUPD, CLOUD_VOLUMES, NOTIFY, REBELLION, NETWORKD)


@dataclass(frozen=True, slots=True)
class Need:
    """``part`` of LAIN that ``path`` (a key of the manifest) cannot do without."""

    part: str
    path: str
    says: str

    def __str__(self) -> str:
        return f"{self.path} needs {self.part}: {self.says}"


def needs(manifest: Manifest, available: Collection[str] = ()) -> tuple[Need, ...]:
    """What the manifest needs of ``PARTS`` and the cluster (``available``) lacks, in the manifest's order."""
    return tuple(need for need in _all(manifest) if need.part not in available)


def _all(manifest: Manifest) -> Iterator[Need]:
    if manifest.declared_type is AppType.RESOURCE:
        yield Need(RESOURCES, "apptype", "apps made from a resource")
    if manifest.use_services:
        yield Need(SERVICES, "use_services", "services of other apps")
    if manifest.use_resources:
        yield Need(RESOURCES, "use_resources", "private instances of resource apps")
    if manifest.notify:
        yield Need(NOTIFY, "notify", "messages to chat channels")
    for proc in manifest.procs.values():
        yield from _of(proc)


def _of(proc: Proc) -> Iterator[Need]:
    if proc.type is ProcType.PORTAL:
        yield Need(PORTALS, proc.section, "a portal beside each client")
    if proc.stream_ports:
        yield Need(STREAM, f"{proc.section}.ports", "TCP and UDP ports of the whole cluster")
    if proc.secret_files:
        yield Need(LVAULT, f"{proc.section}.secret_files", "files from the vault")
    if any(volume.backup_full or volume.backup_increment for volume in proc.volumes):
        yield Need(BACKUPD, f"{proc.section}.volumes", "backups of volumes")
    if proc.cloud_volumes is not None:
        yield Need(CLOUD_VOLUMES, f"{proc.section}.cloud_volumes", "a shared file system")
    if proc.logs:
        yield Need(REBELLION, f"{proc.section}.logs", "collected log files")
    if len(proc.dns_search) > 1:
        yield Need(NETWORKD, f"{proc.section}.dns_search", "the cluster's name server")
