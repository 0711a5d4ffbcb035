"""What deployd's API answers: the nouns that its daemon encodes and the SDK decodes, once for both."""

from __future__ import annotations

from dataclasses import dataclass

from lain_shared.model.node import Alive, Node, NodeState
from lain_shared.model.pod import Assignment
from lain_shared.model.route import RouterState
from lain_shared.model.status import InstanceStatus, ProcPhase
from lain_shared.placement import Opinion


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node: what operators say of it, whether its agent is present, what it has and what is assigned to it."""

    node: Node
    alive: Alive | None = None
    state: NodeState | None = None
    pods: int = 0
    reserved_bytes: int = 0
    """Memory that the pods assigned to it reserve."""
    reserved_cpu: int = 0
    """CPU levels that they reserve, of 16."""
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView(InstanceStatus):
    """One pod of any app."""

    app: str
    proc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentView(Assignment):
    """An order to a node."""

    node: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class InstanceReason:
    """Why an instance is where it is."""

    instance: int
    node: str
    why: str


@dataclass(frozen=True, slots=True)
class WhyView:
    """Why the pods of a proc are where they are, and what speaks for and against each node for one more of them now."""

    app: str
    proc: str
    phase: ProcPhase | None
    message: str
    instances: tuple[InstanceReason, ...] = ()
    nodes: tuple[Opinion, ...] = ()
    frozen: str = ""
    """Why nothing is decided about the app: a record that cannot be read."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """A router: which node it is on, and what it has applied (None: its watcher is away)."""

    router: str
    node: str
    since: float
    state: RouterState | None = None
    behind: tuple[str, ...] = ()
    """``<app>/<proc>`` whose newest endpoints it has not applied."""
