"""What the APIs answer, as frozen dataclasses: the console builds its responses from them and the client reads them back.

Nouns that are stored as such (``InstanceStatus``, ``HistoryRecord``, ``Step`` …) are used as they are; a *view* here is a noun put
together for people. Times are seconds since the epoch (``…_at``), sizes bytes. A field added later has a default, so an older
client reads a newer console. deployd's answers are in ``lain_shared.deployd_views``, where its daemon finds them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lain_shared.model.app import AppState, Failure, HistoryRecord, OperationKind, OperationPhase, Step
from lain_shared.model.config import Role
from lain_shared.model.pod import Overrides, ProcType
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus
from lain_shared.model.traffic import LossReport

# --- who and where ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WhoamiView:
    """The caller, as their token says. ``apps`` empty: every app."""

    name: str
    role: str
    apps: tuple[str, ...] = ()
    kind: str = "token"
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What a client must know of a cluster: its domains, where its router and its registry are reached."""

    name: str
    domain: str
    extra_domains: tuple[str, ...] = ()
    network: str = "none"
    router_http_port: int = 80
    router_https_port: int = 443
    registry_push: str = ""
    console_version: str = ""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Switches that are on → why (``readonly``, ``maintenance`` …)."""
    nodes_alive: int = 0
    nodes: int = 0


# --- apps -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepoView:
    """A registered name: reserved before the first deploy and after the last."""

    name: str
    owner: str
    created_at: float
    giturl: str = ""
    state: AppState = AppState.REGISTERED
    release: int | None = None
    meta_version: str = ""
    hosts: tuple[str, ...] = ()
    """The default hosts that are reserved for it."""


@dataclass(frozen=True, slots=True)
class HostView:
    """A host name, the app that owns it and the apps it lets claim paths on it."""

    host: str
    owner: str
    guests: tuple[str, ...] = ()
    default: bool = False


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version in the registry. Deployable: both its ``meta`` and its ``release`` image are there."""

    meta_version: str
    committed_at: float
    commit: str
    deployable: bool
    current: bool = False
    missing: str = ""
    """``release`` or ``meta`` when that half of the pair is not there."""


@dataclass(frozen=True, slots=True)
class VersionsView:
    """Every version of an app, newest first."""

    app: str
    versions: tuple[VersionView, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteView:
    """One address at which people reach a proc."""

    host: str
    path: str = "/"
    https_only: bool = False
    url: str = ""
    default: bool = False


@dataclass(frozen=True, slots=True)
class ProcView:
    """One proc: what is wanted, what runs, and where the two differ from the manifest."""

    name: str
    type: ProcType
    release: int
    image: str
    instances: int
    """Wanted instances, the stopped ones included."""
    ready: int = 0
    updated: int = 0
    phase: ProcPhase = ProcPhase.ROLLING
    message: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why an instance has no node: filter → how many nodes it ruled out."""
    cpu: int = 0
    memory_bytes: int = 0
    port: int | None = None
    strategy: str = ""
    singleton: bool = False
    stateful: bool = False
    volumes: tuple[str, ...] = ()
    routes: tuple[RouteView, ...] = ()
    stopped: tuple[int, ...] = ()
    overrides: Overrides = field(default_factory=Overrides)
    """What ``lain scale`` set; it wins over the manifest until it is reset."""
    manifest_instances: int | None = None
    manifest_cpu: int | None = None
    manifest_memory_bytes: int | None = None
    pods: tuple[InstanceStatus, ...] = ()
    seen: bool = True
    """False while the controller has not answered the latest change yet: counts are of the state before it."""


@dataclass(frozen=True, slots=True)
class OperationView:
    """The running operation of an app."""

    id: str
    app: str
    kind: OperationKind
    phase: OperationPhase
    who: str
    started_at: float
    age_seconds: float = 0.0
    release: int | None = None
    parent: int | None = None
    meta_version: str = ""
    procs: tuple[str, ...] = ()
    cancel_requested: bool = False
    failure: Failure | None = None
    steps: tuple[Step, ...] = ()
    holder: str = ""
    """The console that drives it; "" while nobody does (another console takes over within seconds)."""
    loss: LossReport | None = None
    """What it has cost the app's visitors so far; None: no router has told yet."""


@dataclass(frozen=True, slots=True)
class AppView:
    """An app, whole: registration, release, procs, addresses, and the operation that is under way."""

    name: str
    owner: str
    state: AppState
    giturl: str = ""
    release: int | None = None
    meta_version: str = ""
    deployed_at: float | None = None
    deployed_by: str = ""
    procs: tuple[ProcView, ...] = ()
    routes: tuple[RouteView, ...] = ()
    operation: OperationView | None = None
    failure: Failure | None = None
    """Why the last operation failed, until one succeeds."""
    healthy: bool = True
    """Every proc has as many ready instances as wanted (stopped ones not counted)."""


# --- plan, releases, history ------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """``go``: it can start. ``refused``: it cannot, see ``refusals``. ``nothing``: it would change nothing."""

    GO = "go"
    REFUSED = "refused"
    NOTHING = "nothing"


class ChangeAction(StrEnum):
    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"
    RUN = "run"
    """A oneshot that will run."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One difference, in words for people: ``memory: 32 MiB → 64 MiB``."""

    field: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ProcChange:
    """What an operation does to one proc. ``in_place``: limits are changed without a new container."""

    proc: str
    type: ProcType
    action: ChangeAction
    changes: tuple[FieldChange, ...] = ()
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan is refused, or what it warns of: what, why, what to do next. ``code`` is stable."""

    code: str
    message: str
    why: str = ""
    next: str = ""
    proc: str = ""


@dataclass(frozen=True, slots=True)
class PlanView:
    """What an operation would do, and whether it may."""

    app: str
    kind: OperationKind
    verdict: Verdict
    release: int | None = None
    """The release number it would get."""
    parent: int | None = None
    meta_version: str = ""
    parent_meta_version: str = ""
    changes: tuple[ProcChange, ...] = ()
    routes_added: tuple[str, ...] = ()
    routes_removed: tuple[str, ...] = ()
    refusals: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """proc → ``repository@sha256:…``."""


@dataclass(frozen=True, slots=True)
class VolumeView:
    """An instance volume that exists on a node."""

    node: str
    name: str
    """``<app>.<proc>-<instance>``."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change was accepted; ``operation`` makes it so. None: nothing has to be done."""

    operation: OperationView | None
    plan: PlanView | None = None
    volumes: tuple[VolumeView, ...] = ()
    """Undeploy: the volumes that stay."""


@dataclass(frozen=True, slots=True)
class ReleaseProcView:
    name: str
    type: ProcType
    image: str
    instances: int
    cpu: int
    memory_bytes: int
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One release that is kept, and can run again."""

    number: int
    meta_version: str
    created_at: float
    who: str
    current: bool = False
    parent: int | None = None
    rollback_of: int | None = None
    note: str = ""
    procs: tuple[ReleaseProcView, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""
    """Both only when one release is asked for, by somebody who may deploy: they may hold secrets."""
    env_names: tuple[str, ...] = ()
    """Of ``env``, for everybody who may read; only when one release is asked for."""


@dataclass(frozen=True, slots=True)
class EnvView:
    """``set``: what ``lain env`` holds. ``running``: what of it the current release has. ``manifest``: proc → the manifest's own."""

    app: str
    set: Mapping[str, str] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)
    manifest: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


# --- explain ----------------------------------------------------------------------------------------------------------


class Severity(StrEnum):
    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing: what, why, on which evidence, and the next command."""

    severity: Severity
    what: str
    why: str = ""
    evidence: tuple[str, ...] = ()
    next: str = ""
    proc: str = ""
    instance: int | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class ExplainView:
    """The worst first. ``headline`` sums it up in one sentence."""

    app: str
    headline: str
    findings: tuple[Finding, ...] = ()


# --- progress ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """One event of an operation: exactly one of the three is set; ``end`` is the last."""

    step: Step | None = None
    status: ProcStatus | None = None
    end: HistoryRecord | None = None


# --- config and tokens ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigView:
    """``config/<name>`` as it is stored, without its version. ``revision``: what to expect when writing it back."""

    name: str
    value: Mapping[str, Any]
    revision: int = 0


@dataclass(frozen=True, slots=True)
class TokenView:
    """An issued token, without its text (which is shown once, when it is issued)."""

    id: str
    name: str
    role: Role
    apps: tuple[str, ...] = ()
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float = 0.0
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: TokenView
    text: str
