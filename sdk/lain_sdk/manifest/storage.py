"""Directories and files of a proc: ``volumes`` with their backups, ``cloud_volumes``, ``secret_files``, ``logs``."""

from __future__ import annotations

import re
from posixpath import normpath

from lain_sdk.manifest.parts import APP_DIRECTORY, LOG_DIRECTORY, BackupPolicy, CloudKind, CloudVolumes, VolumeDir
from lain_sdk.manifest.reading import Key, Kind, Section, Spot
from lain_sdk.manifest.source import Shape
from lain_sdk.manifest.values import checked, in_app, list_of, one_of, raw_text, text

_FORBIDDEN = ("/", "/lain", APP_DIRECTORY)
_SYSTEM = ("/proc", "/sys", "/dev")
_CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}  # noqa: SIM905
_DAYS = {name: number for number, name in enumerate("sun mon tue wed thu fri sat".split())}  # noqa: SIM905
_CRON_NAMES: tuple[dict[str, int], ...] = ({}, {}, {}, _MONTHS, _DAYS)
_CRON_PART = re.compile(
    r"(?P<first>\*|[0-9]{1,2}|[a-z]{3})(?:-(?P<last>[0-9]{1,2}|[a-z]{3}))?(?:/(?P<step>[0-9]{1,3}))?\Z"
)
_VOLUME_ALLOWED = (
    "a path, relative to /lain/app or absolute; not /, /lain, /lain/app, and nothing in /proc, /sys or /dev"
)


def cron_problem(schedule: str) -> str:
    """Why ``schedule`` is no five-field cron expression; "" when it is one."""
    fields = schedule.lower().split()
    if len(fields) != 5:
        return f"a schedule has five fields, this has {len(fields)}"
    names = ("minute", "hour", "day of month", "month", "day of week")
    for name, value, (least, most), words in zip(names, fields, _CRON_RANGES, _CRON_NAMES, strict=True):
        for part in value.split(","):
            found = _CRON_PART.match(part)
            if not found or (found["first"] == "*" and found["last"]):
                return f"the {name} {value[:20]!r} is not understood"
            numbers = [
                words.get(edge, int(edge) if edge.isdigit() else -1)
                for edge in (found["first"], found["last"])
                if edge and edge != "*"
            ]
            if any(not least <= number <= most for number in numbers) or numbers != sorted(numbers):
                return f"the {name} {value[:20]!r} is out of range {least} to {most}"
            if found["step"] is not None and int(found["step"]) == 0:
                return f"the {name} {value[:20]!r} has a step of 0"
    return ""


SCHEDULE = Key(
    "schedule",
    checked(
        "five cron fields, e.g. `0 3 * * *`; empty: no backup",
        lambda value: cron_problem(value) if value.strip() else "",
    ),
    "",
    "when",
    shown="no backup",
)
EXPIRE = Key(
    "expire",
    text("a number and d, h or m, e.g. `30d`", pattern="[1-9][0-9]{0,5}[dhm]"),
    "",
    "how long a copy is kept; needed with a schedule",
)
PRE_RUN = Key("pre_run", text("a command"), "", "run in the container before")
POST_RUN = Key("post_run", text("a command"), "", "run in the container after")
BACKUP = Section("backup policy", (SCHEDULE, EXPIRE, PRE_RUN, POST_RUN), "When a volume is saved, and for how long.")


def _read_backup(spot: Spot) -> BackupPolicy | None:
    found = BACKUP.read(spot)
    if found is None or not SCHEDULE.of(found).strip():
        return None
    if not found.has(EXPIRE):
        spot.refuse(
            "expire is missing", code="missing_key", allowed=EXPIRE.kind.allowed, found="nothing", fix="add expire: 30d"
        )
        return None
    return BackupPolicy(SCHEDULE.of(found), EXPIRE.of(found), PRE_RUN.of(found), POST_RUN.of(found))


backup: Kind[BackupPolicy] = Kind("a map of schedule, expire, pre_run, post_run", _read_backup)
BACKUP_FULL = Key("backup_full", backup, None, "a full copy")
BACKUP_INCREMENT = Key("backup_increment", backup, None, "what changed since the last copy")
POLICIES = Section("volume policies", (BACKUP_FULL, BACKUP_INCREMENT))


def _directory(spot: Spot, written: str) -> str | None:
    path = in_app(written)
    if not written.strip() or path in _FORBIDDEN:
        spot.refuse(
            "this directory cannot be a volume", allowed=_VOLUME_ALLOWED, found=f"{path}, from {written[:60]!r}"
        )
        return None
    if path in _SYSTEM or path.startswith(tuple(f"{system}/" for system in _SYSTEM)):
        spot.refuse("the kernel's own directories cannot be volumes", allowed=_VOLUME_ALLOWED, found=path)
        return None
    if ":" in path or "\n" in path:
        spot.refuse("a volume's path cannot have a colon or a line break in it", allowed=_VOLUME_ALLOWED)
        return None
    return path


def _read_volume(spot: Spot) -> VolumeDir | None:
    if spot.node.shape is not Shape.MAP:
        written = raw_text(spot, allowed=volume.allowed)
        path = None if written is None else _directory(spot, written)
        return None if path is None or written is None else VolumeDir(path, written)
    entries = list(spot.entries())
    if len(entries) != 1:
        spot.refuse(
            "one map names one volume",
            code="wrong_type",
            allowed=volume.allowed,
            fix="begin a new list item (-) for each path",
        )
        return None
    at_key, at_value = entries[0]
    path = _directory(at_key, at_key.node.text)
    found = POLICIES.read(at_value)
    if path is None or found is None:
        return None
    return VolumeDir(path, at_key.node.text, BACKUP_FULL.of(found), BACKUP_INCREMENT.of(found))


volume: Kind[VolumeDir] = Kind(f"{_VOLUME_ALLOWED}; or {{path: policies}}", _read_volume)
volumes: Kind[tuple[VolumeDir, ...]] = list_of(volume, most=100)


def union(spot: Spot, *lists: tuple[VolumeDir, ...]) -> tuple[VolumeDir, ...]:
    """All volumes of these lists, each path once, and ``/lain/logs`` last. Two backup policies of one kind for one path are a fault."""
    merged: dict[str, VolumeDir] = {}
    for one in (one for several in lists for one in several):
        other = merged.get(one.path)
        if other is None:
            merged[one.path] = one
            continue
        twice = (one.backup_full and other.backup_full) or (one.backup_increment and other.backup_increment)
        if twice:
            spot.refuse(
                f"volume {one.path} has two backup policies of one kind", code="conflict", found="two", fix="keep one"
            )
        merged[one.path] = VolumeDir(
            one.path,
            other.written,
            other.backup_full or one.backup_full,
            other.backup_increment or one.backup_increment,
        )
    logs = merged.pop(LOG_DIRECTORY, VolumeDir(LOG_DIRECTORY, LOG_DIRECTORY))
    return (*merged.values(), logs)


def _read_directory(spot: Spot) -> str | None:
    written = raw_text(spot, allowed=_VOLUME_ALLOWED)
    return None if written is None else _directory(spot, written)


CLOUD_TYPE = Key(
    "type", one_of("multi", "single"), "multi", "`multi`: a directory for each instance; `single`: one for the proc"
)
CLOUD_DIRS = Key(
    "dirs", list_of(Kind(_VOLUME_ALLOWED, _read_directory), least=1, most=100), (), "the directories", required=True
)
CLOUD_VOLUMES = Section("cloud_volumes", (CLOUD_TYPE, CLOUD_DIRS), "Directories on the cluster's shared file system.")


def _read_cloud(spot: Spot) -> CloudVolumes | None:
    found = CLOUD_VOLUMES.read(spot)
    return (
        None
        if found is None
        else CloudVolumes(CloudKind(CLOUD_TYPE.of(found)), tuple(dict.fromkeys(CLOUD_DIRS.of(found))))
    )


cloud_volumes: Kind[CloudVolumes] = Kind("a map of type and dirs", _read_cloud)


def _read_secret_file(spot: Spot) -> str | None:
    allowed = "a file's path, relative to /lain/app or absolute"
    written = raw_text(spot, allowed=allowed)
    if written is None:
        return None
    path = in_app(written)
    if not written.strip() or path in _FORBIDDEN:
        spot.refuse("this is a directory, not a file", allowed=allowed, found=path)
        return None
    return path


secret_file: Kind[str] = Kind("a file's path, relative to /lain/app or absolute", _read_secret_file)


def _log_problem(name: str) -> str:
    if name.startswith("/"):
        return "a log file is relative to /lain/logs"
    clean = normpath(name)
    return (
        "the path leads out of /lain/logs"
        if not name.strip() or clean in (".", "..") or clean.startswith("../")
        else ""
    )


log_file: Kind[str] = checked("a file name, relative to /lain/logs", _log_problem)
