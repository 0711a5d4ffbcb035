"""The backup declarations of an app, as backupd takes them."""

from __future__ import annotations

from lain_sdk.manifest.model import Manifest
from lain_sdk.manifest.parts import Backup


def backups(manifest: Manifest) -> tuple[Backup, ...]:
    """One for each policy of each volume, full before increment, in the manifest's order."""
    return tuple(
        Backup(f"{manifest.appname}.{proc.type}.{proc.name}", volume.written, mode, policy)
        for proc in manifest.procs.values()
        for volume in proc.volumes
        for mode, policy in (("full", volume.backup_full), ("increment", volume.backup_increment))
        if policy is not None
    )
