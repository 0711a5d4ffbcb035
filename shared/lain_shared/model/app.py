"""Apps, their releases, and the operations that move them from one release to another. All written by the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lain_shared.model.pod import Desired, Evidence
from lain_shared.model.traffic import LossReport


class AppState(StrEnum):
    """``registered``: nothing runs. ``deployed``: a release runs. ``failed``: the first deploy failed and was removed."""

    REGISTERED = "registered"
    DEPLOYED = "deployed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class App:
    """``apps/<app>``: registration, owner, and the release that last succeeded."""

    name: str
    owner: str
    created_at: float
    giturl: str = ""
    state: AppState = AppState.REGISTERED
    release: int | None = None
    last_release: int = 0
    """The highest release number ever given out; the next one is one more."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Set by ``lain env``; wins over the manifest's ``env`` in every proc, from the next release on."""
    overrides: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """proc → {instances, cpu, memory_bytes} set by ``lain scale``."""


@dataclass(frozen=True, slots=True)
class Release:
    """``releases/<app>/<n>``: one immutable release. A rollback is a new release equal to an old one."""

    app: str
    number: int
    meta_version: str
    manifest: str
    """The manifest's text, at most 256 KiB."""
    procs: tuple[Desired, ...]
    """What was asked of each proc, before overrides."""
    env: Mapping[str, str]
    created_at: float
    who: str
    parent: int | None = None
    rollback_of: int | None = None
    note: str = ""
    giturl: str = ""
    """As the manifest has it, normalized; the first release that succeeds binds the app to it."""
    origins: Mapping[str, int] = field(default_factory=dict)
    """proc → the release whose manifest and version it is made from, where that is not this one (``deploy --proc`` mixes them)."""

    def origin_of(self, proc: Desired) -> int:
        """The release whose manifest and version ``proc``, one of its procs, is made from."""
        return self.origins.get(proc.proc, proc.release)


class OperationKind(StrEnum):
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    SCALE = "scale"
    RESTART = "restart"
    STOP = "stop"
    START = "start"
    ENV = "env"
    UNDEPLOY = "undeploy"


class OperationPhase(StrEnum):
    """``oneshots`` → ``rollout`` → ``removing`` (what the release lacks) → ``releasing`` (claims) → ended.

    On failure or cancel: ``rolling_back`` first.
    """

    ONESHOTS = "oneshots"
    ROLLOUT = "rollout"
    REMOVING = "removing"
    RELEASING = "releasing"
    ROLLING_BACK = "rolling_back"


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation failed: what, in which proc and instance, on which evidence, and the next command."""

    code: str
    message: str
    proc: str = ""
    instance: int | None = None
    evidence: Evidence | None = None
    next: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an operation's progress."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """``operations/<app>``: the running operation. Present: the app is busy; deleted in the transaction that writes history."""

    id: str
    app: str
    kind: OperationKind
    phase: OperationPhase
    who: str
    started_at: float
    release: int | None = None
    """The release it moves to (None for undeploy)."""
    parent: int | None = None
    """The release it goes back to on failure (None: a first deploy)."""
    procs: tuple[str, ...] = ()
    """The procs it touches; empty: all of the app."""
    deadline_seconds: float = 300.0
    cancel_requested: bool = False
    failure: Failure | None = None
    steps: tuple[Step, ...] = ()
    before: Mapping[str, Desired] = field(default_factory=dict)
    """``desired`` of the whole app as it stood before: what a failure restores."""
    phase_at: float = 0.0
    """When this phase began."""
    outcome: Outcome | None = None
    """Decided on entering ``releasing``."""
    delete_volumes: bool = False
    """Undeploy only: when it ends, the app's volumes are ordered to be deleted."""
    broken: tuple[str, ...] = ()
    """Pods (``<proc>-<n>.g<generation>``) that were failing already when it began: not its doing."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """``DeployStep`` → seconds spent in it before ``phase_at``, from the moment it was asked for."""


@dataclass(frozen=True, slots=True)
class OperationHolder:
    """``operation-holders/<app>`` (leased): the console replica that drives the operation."""

    console: str
    since: float


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """``history/<app>/<operation>``: an ended operation."""

    id: str
    app: str
    kind: OperationKind
    outcome: Outcome
    who: str
    started_at: float
    ended_at: float
    release: int | None = None
    parent: int | None = None
    meta_version: str = ""
    failure: Failure | None = None
    steps: tuple[Step, ...] = ()
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """``DeployStep`` → seconds spent in it. They add up to what its user waited: from the request to ``ended_at``."""
    loss: LossReport | None = None
    """What it cost the app's visitors; None: no router has told (yet)."""
