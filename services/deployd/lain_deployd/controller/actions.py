"""What a plan can do: each action names its key and the revision it was decided on, and leaves the executor no choice."""

from __future__ import annotations

from dataclasses import dataclass

from lain_shared.model.pod import Assignment, PodId
from lain_shared.model.route import Endpoints
from lain_shared.model.status import ProcStatus


@dataclass(frozen=True, slots=True)
class PutAssignment:
    """Order ``node`` to run (or, by ``pod.run``, to stop) a pod. ``revision`` 0: a new pod."""

    node: str
    pod: Assignment
    revision: int
    why: str


@dataclass(frozen=True, slots=True)
class DropAssignment:
    """The container is gone: nothing more is asked of the node."""

    node: str
    pod: PodId
    revision: int
    why: str


@dataclass(frozen=True, slots=True)
class PutEndpoints:
    endpoints: Endpoints
    revision: int


@dataclass(frozen=True, slots=True)
class DropEndpoints:
    app: str
    proc: str
    revision: int


@dataclass(frozen=True, slots=True)
class PutStatus:
    status: ProcStatus
    revision: int


@dataclass(frozen=True, slots=True)
class DropStatus:
    app: str
    proc: str
    revision: int


Action = PutAssignment | DropAssignment | PutEndpoints | DropEndpoints | PutStatus | DropStatus
