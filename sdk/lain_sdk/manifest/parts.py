"""The parts of what a valid ``lain.yaml`` says: frozen dataclasses, defaults filled in, paths absolute, sizes in bytes.

The CLI builds from ``Build``, ``ReleaseSection`` and ``TestSection``; the console deploys from ``Proc``. There is no other model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from lain_shared.model.pod import Probe, ProcType, Strategy
from lain_shared.model.route import ProxyOptions

APP_DIRECTORY = "/lain/app"
LOG_DIRECTORY = "/lain/logs"
MIB = 1024 * 1024


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


class AppType(StrEnum):
    """``resource``: a template. ``resource-instance``: made from one. ``service``: has a portal. Anything else: ``app``."""

    APP = "app"
    RESOURCE = "resource"
    RESOURCE_INSTANCE = "resource-instance"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Prepare:
    """``build.prepare``: a layer of dependencies that is kept between builds."""

    version: str | None = None
    script: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    build_arg: tuple[str, ...] = ()

    @property
    def clean_command(self) -> str:
        """A line of POSIX shell that deletes every entry of the current directory but those to keep. It needs only ``rm``."""
        kept = "|".join(_quote(name) for name in self.keep)
        keep = f"{kept}) ;; " if kept else ""
        return (
            'for entry in ./* ./.[!.]* ./..?*; do case "${entry#./}" in '
            f'{keep}*) [ ! -e "$entry" ] && [ ! -L "$entry" ] || rm -rf -- "$entry" || exit 1 ;; esac; done'
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """What the prepare image runs in ``/lain/app``: the script, then the clean step."""
        return (*self.script, self.clean_command)


def _quote(name: str) -> str:
    return "'" + name.replace("'", "'\\''") + "'"


@dataclass(frozen=True, slots=True)
class Build:
    """``build``: how the build image is made: from ``base`` by ``script``, or by the repository's own ``dockerfile``."""

    base: str = ""
    script: tuple[str, ...] = ()
    build_arg: tuple[str, ...] = ()
    """``K=V``; a ``V`` that starts with ``$`` names a variable of the caller's environment."""
    volumes: tuple[str, ...] = ()
    prepare: Prepare | None = None
    dockerfile: str = ""
    """Path in the repository; "": made from ``base`` and ``script``."""
    context: str = "."
    target: str = ""
    args: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class CopyItem:
    """One file, directory or glob to take over into the runtime image. Relative paths are under ``/lain/app``."""

    src: str
    dest: str


@dataclass(frozen=True, slots=True)
class ReleaseSection:
    """``release``: how the runtime image is made from the build image. Without ``dest_base`` the build image is the runtime image."""

    script: tuple[str, ...] = ()
    dest_base: str = ""
    copy: tuple[CopyItem, ...] = ()


@dataclass(frozen=True, slots=True)
class TestSection:
    """``test``: what ``lain test`` runs on the build image."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    script: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """``use_resources.<app>``: the services taken from a private instance, and the parameters its template is rendered with."""

    services: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a proc listens on inside its container."""

    number: int
    proto: str = "tcp"


@dataclass(frozen=True, slots=True)
class StreamPort:
    """``ports``: a port of the whole cluster that leads to a port of the proc."""

    source: int
    target: int
    proto: str = "tcp"
    options: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class BackupPolicy:
    """When a volume is backed up and how long a copy is kept. ``schedule``: five cron fields; ``expire_seconds``: seconds."""

    schedule: str
    expire: str
    pre_run: str = ""
    post_run: str = ""

    @property
    def expire_seconds(self) -> int:
        return int(self.expire[:-1]) * {"m": 60, "h": 3600, "d": 86400}[self.expire[-1]]


@dataclass(frozen=True, slots=True)
class VolumeDir:
    """A directory that survives its container, one an instance. ``path`` is absolute, ``written`` as the manifest has it."""

    path: str
    written: str = ""
    backup_full: BackupPolicy | None = None
    backup_increment: BackupPolicy | None = None


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup declaration, as backupd takes it."""

    procname: str
    """``<app>.<type>.<proc>``"""
    volume: str
    """As written in the manifest."""
    mode: str
    """``full`` or ``increment``"""
    policy: BackupPolicy


class CloudKind(StrEnum):
    """``multi``: a directory for each instance. ``single``: one for the proc."""

    MULTI = "multi"
    SINGLE = "single"


@dataclass(frozen=True, slots=True)
class CloudVolumes:
    """Directories on the cluster's shared file system."""

    kind: CloudKind
    dirs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerHealthcheck:
    """The old form of ``readiness: {exec: …}``. ``command`` None: ``cmd: none``, no check at all."""

    command: tuple[str, ...] | None
    interval_seconds: int = 10
    timeout_seconds: int = 3
    retries: int = 3


@dataclass(frozen=True, slots=True)
class Proc:
    """One proc: what to run and how many of it. Durations in seconds, sizes in bytes."""

    name: str
    type: ProcType
    section: str = field(compare=False)
    """The key it comes from: ``web``, ``worker.mailer``, ``service.quote``."""
    image: str = ""
    """An image of the cluster's registry without its host; "": the app's own release image."""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    num_instances: int = 1
    cpu: int = 0
    memory_bytes: int = 32 * MIB
    memory_request_bytes: int | None = None
    ports: tuple[Port, ...] = ()
    stream_ports: tuple[StreamPort, ...] = ()
    mountpoint: tuple[str, ...] = ()
    """As written; ``Manifest.mountpoints`` expands them."""
    https_only: bool = False
    healthcheck: str = ""
    container_healthcheck: ContainerHealthcheck | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    setup_time: int = 0
    kill_timeout: int = 10
    min_ready_seconds: int = 0
    drain_seconds: int = 10
    deploy_deadline_seconds: int = 300
    strategy: Strategy = Strategy.START_FIRST
    max_surge: int = 1
    singleton: bool = False
    stateful: bool = False
    read_only: bool = False
    env: Mapping[str, str] = field(default_factory=_nothing)
    volumes: tuple[VolumeDir, ...] = (VolumeDir(LOG_DIRECTORY, LOG_DIRECTORY),)
    """The declared ones, then ``/lain/logs``, which every proc has."""
    cloud_volumes: CloudVolumes | None = None
    secret_files: tuple[str, ...] = ()
    secret_files_bypass: bool = False
    logs: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=_nothing)
    filters: tuple[str, ...] = ("constraint:group==default",)
    dns_search: tuple[str, ...] = ()
    proxy: ProxyOptions = field(default_factory=ProxyOptions)
    service_name: str = ""
    allow_clients: str = "**"
    line: int = field(default=0, compare=False)

    @property
    def port(self) -> int | None:
        """The first TCP port: what routes, probes and ``PORT`` use."""
        return next((port.number for port in self.ports if port.proto == "tcp"), None)

    @property
    def declared_volumes(self) -> tuple[VolumeDir, ...]:
        """Without ``/lain/logs``, which ties an instance to no node."""
        return tuple(volume for volume in self.volumes if volume.path != LOG_DIRECTORY)
