"""``status/<app>/<proc>``: what the controller makes of a proc: counts, progress, and why something waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lain_shared.model.pod import Evidence, PodState


class ProcPhase(StrEnum):
    """``stable``: as desired. ``rolling``: on the way. ``waiting``: an instance has no node. ``paused``: a router has not acknowledged.

    ``failing``: an instance of the wanted release cannot get ready. ``done`` / ``failed``: a oneshot's end.
    """

    STABLE = "stable"
    ROLLING = "rolling"
    WAITING = "waiting"
    PAUSED = "paused"
    FAILING = "failing"
    DONE = "done"
    FAILED = "failed"


class DeployStep(StrEnum):
    """What a deploy waits for. It waits for one of them at a time, so that their seconds add up to what its user waited.

    ``plan``: the console judges, decides, settles; the controller looks for a node. ``oneshot``: the release's oneshots run. ``pull``: a
    node brings an image. ``start``: a node makes and starts a container, or changes one in place. ``ready``: it runs and is not ready yet,
    or not for long enough. ``route``: routers have yet to apply the endpoints. ``drain``: an old pod ends its last requests before the next
    may start. ``stop``: an old pod has to be gone before the next may start.
    """

    PLAN = "plan"
    ONESHOT = "oneshot"
    PULL = "pull"
    START = "start"
    READY = "ready"
    ROUTE = "route"
    DRAIN = "drain"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One pod of a proc, as people are shown it."""

    instance: int
    generation: int
    release: int
    node: str
    state: PodState
    ready: bool
    address: str = ""
    wanted: bool = True
    """False: of an older generation or surplus, on its way out."""
    draining: bool = False
    restarts: int = 0
    started_at: float | None = None
    ready_at: float | None = None
    container_id: str = ""
    error: str = ""
    evidence: Evidence | None = None
    progress: str = ""


@dataclass(frozen=True, slots=True)
class ProcStatus:
    """``desired_revision`` is the mod revision of the ``desired`` this answers: "not yet seen" is told from "done"."""

    app: str
    proc: str
    desired_revision: int
    release: int
    phase: ProcPhase
    wanted: int
    """Instances that should be ready (stopped ones not counted)."""
    updated: int
    """Of these, how many have a ready pod that matches the desired template."""
    ready: int
    """Ready pods of any generation."""
    progress_at: float
    """When something last got better (a pod created, ready, gone): the deploy deadline counts from here."""
    message: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why an instance has no node: filter → how many nodes it ruled out."""
    instances: tuple[InstanceStatus, ...] = ()
    crashes_before_ready: int = 0
    """Most exits before the first readiness, of the pods that match the desired template: three fail a deploy."""
    step: DeployStep | None = None
    """What the rollout waits for now; None: nothing."""
    step_at: float = 0.0
    """Since when."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """Step → seconds spent waiting for it since this ``desired_revision`` was first answered; without the one that goes on."""
