"""Pods: what should run (``Desired``), where (``Assignment``), and what runs (``Observed``).

A *proc* is one process type of an app; its *instances* are numbered from 1 and keep their number for life; every container that
ever stands for an instance is a *pod* with a *generation* of its own, which is never used again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from lain_shared.model.route import ProxyOptions, Route

_POD_ID = re.compile(r"(?P<app>.+)\.(?P<proc>[^.]+)-(?P<instance>[0-9]+)\.g(?P<generation>[0-9]+)\Z")


@dataclass(frozen=True, slots=True, order=True)
class PodId:
    """Names one pod: ``<app>.<proc>-<instance>.g<generation>``. The generation is the store revision its assignment was decided at."""

    app: str
    proc: str
    instance: int
    generation: int

    def __str__(self) -> str:
        return f"{self.app}.{self.proc}-{self.instance}.g{self.generation}"

    @classmethod
    def parse(cls, text: str) -> PodId:
        """The reverse of ``str``; ``ValueError`` for anything else. App names may hold dots, so it reads from the right."""
        if not (found := _POD_ID.match(text)):
            raise ValueError(f"{text!r} does not name a pod (<app>.<proc>-<n>.g<generation>)")
        return cls(found["app"], found["proc"], int(found["instance"]), int(found["generation"]))


class ProcType(StrEnum):
    """``web`` gets routes, ``worker`` none, ``oneshot`` runs to completion once a release, ``portal`` publishes a service."""

    WEB = "web"
    WORKER = "worker"
    ONESHOT = "oneshot"
    PORTAL = "portal"


class ProbeKind(StrEnum):
    HTTP = "http"
    TCP = "tcp"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class Probe:
    """One check of a pod. HTTP: GET ``path`` on ``port`` answers 2xx or 3xx. TCP: ``port`` accepts. EXEC: ``command`` exits 0 inside."""

    kind: ProbeKind
    port: int = 0
    path: str = "/"
    command: tuple[str, ...] = ()
    interval_seconds: float = 10.0
    timeout_seconds: float = 3.0
    failures: int = 3
    """Failures in a row after which a liveness or startup probe restarts the container, and a ready pod counts as not ready."""
    successes: int = 1


class Strategy(StrEnum):
    """``start_first``: the new pod is ready before the old one drains. ``recreate``: the old one is gone before the new one starts."""

    START_FIRST = "start_first"
    RECREATE = "recreate"


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that outlives its container. ``kind``: ``instance`` (on the node, one an instance), ``cloud-multi``, ``cloud-single``."""

    path: str
    kind: str = "instance"


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """Everything a node needs to know to run one instance, whichever node and instance it is.

    Two templates that differ only in ``cpu``, ``memory_bytes`` or ``memory_request_bytes`` can be changed into each other in place
    (``same_but_resources``); any other difference needs a new pod.
    """

    image: str
    """``repository@sha256:…`` in the cluster's registry; never a registry host."""
    command: tuple[str, ...] | None = None
    """Arguments (Docker ``Cmd``); None is the image's own."""
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    port: int | None = None
    cpu: int = 0
    """0: a share, no quota; 1..8: a quota of level/8 × half the node's cores."""
    memory_bytes: int = 32 * 1024 * 1024
    """Hard limit (no swap). At least 6 MiB."""
    memory_request_bytes: int | None = None
    """What placement reserves; None: the limit."""
    volumes: tuple[Volume, ...] = ()
    read_only: bool = False
    """Root file system read-only; ``/tmp`` is then a tmpfs."""
    labels: Mapping[str, str] = field(default_factory=dict)
    readiness: Probe | None = None
    """As resolved by the console: the manifest's ``readiness``, else its ``healthcheck``, else TCP on ``port``, else None (running 2 s)."""
    liveness: Probe | None = None
    startup: Probe | None = None
    kill_timeout_seconds: int = 10
    log_max_bytes: int = 10 * 1024 * 1024
    log_files: int = 3

    @property
    def request_bytes(self) -> int:
        """Memory that placement reserves for one pod."""
        return self.memory_bytes if self.memory_request_bytes is None else self.memory_request_bytes


@dataclass(frozen=True, slots=True)
class Overrides:
    """What an operator set by ``scale``: it wins over the manifest until ``scale --reset``. None: the manifest's value."""

    instances: int | None = None
    cpu: int | None = None
    memory_bytes: int | None = None

    @property
    def any(self) -> bool:
        return self != Overrides()


@dataclass(frozen=True, slots=True)
class Desired:
    """``desired/<app>/<proc>``: what should run. Written by the console only; overrides are already applied to the values here."""

    app: str
    proc: str
    type: ProcType
    release: int
    template: PodTemplate
    instances: int
    overrides: Overrides = field(default_factory=Overrides)
    stopped: tuple[int, ...] = ()
    """Instances an operator stopped; they keep their number and are not started."""
    restarts: Mapping[int, int] = field(default_factory=dict)
    """Instance → how often a restart was asked for. A pod assigned with a smaller number is replaced by the rollout path."""
    strategy: Strategy = Strategy.START_FIRST
    max_surge: int = 1
    singleton: bool = False
    stateful: bool = False
    filters: tuple[str, ...] = ()
    """``constraint:`` / ``affinity:`` expressions; ``~`` before the value makes one soft."""
    routes: tuple[Route, ...] = ()
    """What the release gives this proc. A new one is served from the moment the first pod that matches the template is ready."""
    kept_routes: tuple[Route, ...] = ()
    """Of the parent's routes, those the release gives this proc no more: served until the operation ends, or until the proc that has
    such a route in ``routes`` takes it over (one transaction over both ``endpoints``). Empty outside operations."""
    proxy: ProxyOptions = field(default_factory=ProxyOptions)
    min_ready_seconds: float = 0.0
    drain_seconds: float = 10.0
    deploy_deadline_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """``assign/<node>/<pod>``: the leader's order to one node's agent: run this pod, or (``run=False``) stop it for good.

    The agent deletes ``observed`` once the container is gone, then the leader deletes this key.
    """

    app: str
    proc: str
    instance: int
    generation: int
    type: ProcType
    release: int
    template: PodTemplate
    run: bool = True
    restart: int = 0
    singleton: bool = False
    stateful: bool = False
    recreate: bool = False
    """Of the strategy: the pod before it is gone before it starts."""
    draining: bool = False
    """Still running, no longer given new work; information for people and probes, the agent does nothing with it."""

    @property
    def pod(self) -> PodId:
        return PodId(self.app, self.proc, self.instance, self.generation)

    @property
    def alone(self) -> bool:
        """It is neither made nor started while another pod of its instance exists on the node: they would share what must not be shared."""
        shared = (volume.kind == "cloud-multi" for volume in self.template.volumes)
        return self.singleton or self.stateful or self.recreate or not all(shared)


class PodState(StrEnum):
    """``pending`` (seen, nothing done) → ``pulling`` → ``created`` → ``running`` → (``stopping``) → key deleted.

    ``backoff``: exited, will be started again at ``retry_at``. ``exited``: a oneshot that ended (``exit_code`` tells how).
    ``failed``: cannot be created (image, volume, Engine error: ``error`` tells), retried with back-off.
    """

    PENDING = "pending"
    PULLING = "pulling"
    CREATED = "created"
    RUNNING = "running"
    BACKOFF = "backoff"
    EXITED = "exited"
    FAILED = "failed"
    STOPPING = "stopping"


LIMITS_REFUSED = "limits_refused"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen when a pod last failed, kept for ``lain explain``. No secrets: only what the container printed itself."""

    at: float
    reason: str
    """One of: image_missing, registry_unreachable, volume_missing, engine_error, exited, oom_killed, disk_full, probe_failed,
    start_timeout, limits_refused (it runs on with those it has)."""
    text: str = ""
    exit_code: int | None = None
    probe: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """``observed/<node>/<pod>``: one pod as its own node saw it last."""

    app: str
    proc: str
    instance: int
    generation: int
    state: PodState
    assign_revision: int
    """Mod revision of the assignment this answers."""
    ready: bool = False
    ready_at: float | None = None
    address: str = ""
    """IPv4 address in the node's block, from the moment the container is created; static for this generation's life."""
    container_id: str = ""
    started_at: float | None = None
    restarts: int = 0
    """Crashes since the pod was created (an exit across a node or Engine start is none)."""
    retry_at: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    evidence: Evidence | None = None
    cpu: int = 0
    memory_bytes: int = 0
    """Limits as they are in force now."""
    memory_used_bytes: int | None = None
    progress: str = ""
    """What it is busy with, for people: ``pulling 12 of 40 MB``."""

    @property
    def pod(self) -> PodId:
        return PodId(self.app, self.proc, self.instance, self.generation)


def same_but_resources(one: PodTemplate, other: PodTemplate) -> bool:
    """True when a running pod of ``one`` can become ``other`` by changing limits in place."""
    return (
        replace(one, cpu=other.cpu, memory_bytes=other.memory_bytes, memory_request_bytes=other.memory_request_bytes)
        == other
    )
