"""Directories that outlive containers: made, owned by whom the image runs as, and missed when they are gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from lain_deployd.agent.engine import Mount
from lain_deployd.agent.spec import LOGS, directory_name
from lain_shared.errors import LainError
from lain_shared.model.pod import Assignment

NO_DATA = directory_name(LOGS)
"""Every instance has this directory; alone it is no data."""


class VolumeMissing(LainError):
    """The instance had data on this node, and the disk lacks it: starting it with nothing would look like data loss, or cause it."""

    code = "volume_missing"


class VolumeUnusable(LainError):
    """A volume's directory cannot be made."""

    code = "engine_error"


def name_of(assignment: Assignment) -> str:
    """How the volumes of an instance are named, as one."""
    return f"{assignment.app}.{assignment.proc}-{assignment.instance}"


def on_disk(root: Path) -> frozenset[str]:
    """Every instance that has data on the disk (``/lain/logs`` alone is none)."""
    found: set[str] = set()
    for instance in root.glob("*/*/*"):
        if instance.is_dir() and instance.name.isdigit() and any(child.name != NO_DATA for child in instance.iterdir()):
            found.add(f"{instance.parent.parent.name}.{instance.parent.name}-{instance.name}")
    return frozenset(found)


def require(assignment: Assignment, root: Path, known: Iterable[str]) -> None:
    """Raise ``VolumeMissing`` when the instance is known to have had data here that is not there now."""
    name = name_of(assignment)
    if not assignment.template.volumes or name not in set(known):
        return
    here = root / assignment.app / assignment.proc / str(assignment.instance)
    if not here.is_dir() or not any(child.name != NO_DATA for child in here.iterdir()):
        raise VolumeMissing(
            f"the data of {name} was on this node and is gone from {here}",
            next=f"restore {here}, or let it start empty: lainctl volume confirm-loss NODE {name}",
        )


def make(mounts: Sequence[Mount], owner: tuple[int, int]) -> None:
    """Make the directories that are not there. One that root owns is given to ``owner`` (uid, gid); its content is left alone."""
    for mount in mounts:
        path = Path(mount.source)
        try:
            path.mkdir(parents=True, exist_ok=True)
            state = path.lstat()
            if not stat.S_ISDIR(state.st_mode):
                raise VolumeUnusable(
                    f"{path} is not a directory", why="a link or a file stands where a volume should be"
                )
            if (state.st_uid, state.st_gid) == (0, 0) and owner != (0, 0):
                os.chown(path, *owner)
        except OSError as error:
            raise VolumeUnusable(f"volume directory {path} cannot be made", why=error.strerror or str(error)) from error


def is_numeric(user: str) -> bool:
    """Whether a container's user is known without its ``/etc/passwd``."""
    name, _, group = user.partition(":")
    return (name in ("", "root") or name.isdigit()) and (group == "" or group.isdigit())


def owner_of(user: str, passwd: bytes = b"", group: bytes = b"") -> tuple[int, int]:
    """The uid and gid that ``user`` (``name``, ``uid``, either with ``:group``) means in an image; root's for one it does not know."""
    name, _, wanted_group = user.partition(":")
    accounts = {
        fields[0]: (int(fields[2]), int(fields[3]))
        for fields in (line.split(":") for line in passwd.decode(errors="replace").splitlines())
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit()
    }
    by_uid = dict(accounts.values())
    if name in ("", "root"):
        uid, gid = 0, 0
    elif name.isdigit():
        uid = int(name)
        gid = by_uid.get(uid, 0)
    else:
        uid, gid = accounts.get(name, (0, 0))
    if wanted_group.isdigit():
        gid = int(wanted_group)
    elif wanted_group:
        groups = {
            fields[0]: int(fields[2])
            for fields in (line.split(":") for line in group.decode(errors="replace").splitlines())
            if len(fields) >= 3 and fields[2].isdigit()
        }
        gid = groups.get(wanted_group, gid)
    return uid, gid


def path_of(name: str, root: Path) -> Path:
    """The directory of the instance ``<app>.<proc>-<n>``."""
    head, _, instance = name.rpartition("-")
    app, _, proc = head.rpartition(".")
    return root / app / proc / instance
