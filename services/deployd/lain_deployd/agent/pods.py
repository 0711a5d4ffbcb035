"""The agent's own nouns: an order, what is remembered of a pod between passes, and the actions a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from lain_deployd.agent.engine import Container, Limits
from lain_shared.model.pod import Assignment, Evidence, PodId

LABEL_POD, LABEL_NODE = "lain.pod", "lain.node"
LABEL_APP, LABEL_PROC, LABEL_INSTANCE, LABEL_GENERATION = "lain.app", "lain.proc", "lain.instance", "lain.generation"
LABEL_TYPE, LABEL_RELEASE, LABEL_KILL_TIMEOUT = "lain.type", "lain.release", "lain.kill-timeout"


@dataclass(frozen=True, slots=True)
class Order:
    """An assignment and its mod revision."""

    assignment: Assignment
    revision: int

    @property
    def pod(self) -> PodId:
        return self.assignment.pod


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one pod, on disk, over passes and over agents. Times are seconds since the epoch."""

    address: str = ""
    restarts: int = 0
    """Crashes since the pod was created."""
    crashes_in_a_row: int = 0
    """Crashes since it last ran well: the back-off."""
    failures: int = 0
    """Tries to make or start it that failed, in a row."""
    retry_at: float = 0.0
    exit_seen_at: float = 0.0
    """``finished_at`` of the last exit that was accounted for."""
    exit_counted: bool = False
    """Whether that exit counted as a crash."""
    done_exit_code: int | None = None
    """A oneshot that ended for good."""
    unready_noted_at: float = 0.0
    """When evidence of its not getting ready was last kept."""
    refused: Limits | None = None
    """Limits that could not be put in force."""
    refused_until: float = 0.0
    refused_at: float = 0.0
    refused_by: int = 0
    """Revision of the order that asked for them: another one is tried at once, and this one's refusal says nothing of it."""
    refused_why: str = ""
    error: str = ""
    evidence: Evidence | None = None
    discard: str = ""
    """The container that is to be ended and made anew, without what it wrote."""
    ended_at: float | None = None
    """When the run that ended last did so."""
    ended_before_at: float | None = None
    """When the run before that one ended: their output lies between."""


@dataclass(frozen=True, slots=True)
class Health:
    """What probes say of one run of a pod. It says nothing about another run."""

    run: float
    """``started_at`` of that run."""
    ready: bool = False
    ready_at: float | None = None
    text: str = ""
    """Why it is not ready, in words."""
    restart_because: str = ""
    """A probe asks for a restart, and why."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make the container, with this address for the whole of its generation's life. Brings the image first if need be."""

    pod: PodId
    address: str


@dataclass(frozen=True, slots=True)
class Start:
    pod: PodId
    container: str


@dataclass(frozen=True, slots=True)
class NoteExit:
    """Account for an exit: keep its evidence, decide when to start again."""

    pod: PodId
    container: Container


@dataclass(frozen=True, slots=True)
class NoteUnready:
    """Keep evidence of a pod that runs and does not get ready."""

    pod: PodId
    container: Container
    text: str


@dataclass(frozen=True, slots=True)
class Restart:
    """A probe asked for it: end the process; its exit is then a crash like any other."""

    pod: PodId
    container: str
    kill_timeout_seconds: int
    because: str


@dataclass(frozen=True, slots=True)
class Update:
    """Change limits in place."""

    pod: PodId
    container: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Stop:
    """End it, and take it away."""

    pod: PodId
    container: str
    kill_timeout_seconds: int


@dataclass(frozen=True, slots=True)
class Remove:
    pod: PodId
    container: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of it is left on this node: drop its memory (and with it ``observed``) and let its address rest."""

    pod: PodId


Action = Create | Start | NoteExit | NoteUnready | Restart | Update | Stop | Remove | Forget


@dataclass(frozen=True, slots=True)
class View:
    """One pod as a pass finds it."""

    pod: PodId
    order: Order | None
    containers: tuple[Container, ...]
    memory: Memory | None
    health: Health | None = None
    busy: str = ""
    """What is being done with it now, in words: ``pulling 12 of 40 MB``."""
    in_the_way: str = ""
    """The pod of its instance that has to be gone before it is made or started; "": none."""

    @property
    def container(self) -> Container | None:
        return self.containers[0] if self.containers else None

    @property
    def health_now(self) -> Health | None:
        """What probes say of the run that is running; None: nothing yet."""
        container = self.container
        current = container is not None and self.health is not None and self.health.run == container.started_at
        return self.health if current else None


@dataclass(frozen=True, slots=True)
class Ground:
    """What holds for all pods of this node in one pass."""

    now: float
    whole: bool
    """The assignments are known from the store, not from the disk: an absent one is gone."""
    engine_since: float = 0.0
    """The Engine's process runs since then at the latest; what ended before did not crash."""
    cpus: int = 1
    address: str = ""
    """The address the next new pod gets; "": none is free."""
