"""One proc while a plan is being made: its pods and endpoints as they were, as they are seen, and as they shall be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lain_deployd.controller.actions import (
    Action,
    DropAssignment,
    DropEndpoints,
    PutAssignment,
    PutEndpoints,
)
from lain_deployd.controller.view import Cluster, Leaving, PodKey, ProcMemory, ProcView
from lain_shared.model.pod import Assignment, Desired, Observed, PodState, PodTemplate, ProcType, Strategy
from lain_shared.model.route import Endpoint, Endpoints, Route
from lain_shared.model.status import InstanceStatus
from lain_shared.placement import Verdict

READY, SUSPECT, DRAINING = "ready", "suspect", "draining"


@dataclass(slots=True)
class Pod:
    """One pod: ``before`` as assigned (None: created by this plan), ``after`` as it shall be (None: forgotten)."""

    node: str
    before: Assignment | None
    revision: int
    after: Assignment | None
    seen: Observed | None
    lost: bool
    why: str = ""

    @property
    def pod(self) -> Assignment:
        found = self.after or self.before
        assert found is not None  # noqa: S101 - one of the two always is
        return found

    @property
    def instance(self) -> int:
        return self.pod.instance

    @property
    def key(self) -> PodKey:
        return self.node, self.pod.instance, self.pod.generation

    @property
    def slot(self) -> tuple[int, int]:
        """How endpoints name it."""
        return self.pod.instance, self.pod.generation

    @property
    def there(self) -> bool:
        return self.after is not None

    @property
    def runs(self) -> bool:
        """It has not been told to stop."""
        return self.after is not None and self.after.run

    @property
    def active(self) -> bool:
        """It runs and is not on its way out."""
        return self.after is not None and self.after.run and not self.after.draining

    @property
    def ready(self) -> bool:
        """Its node is there and says that it is ready now."""
        seen = self.seen
        return not self.lost and seen is not None and seen.ready and seen.state is PodState.RUNNING

    def change(self, why: str, **fields: object) -> None:
        """Order something else of it, unless it is so already."""
        if self.after is not None and all(getattr(self.after, name) == value for name, value in fields.items()):
            return
        self.after, self.why = replace(self.pod, **fields), why  # type: ignore[arg-type]


class Proc:
    """The draft of one proc."""

    def __init__(self, view: ProcView, cluster: Cluster, memory: ProcMemory) -> None:
        self.view, self.cluster, self.memory = view, cluster, memory
        self.desired: Desired | None = view.desired
        self.pods: list[Pod] = []
        self._by_instance: defaultdict[int, list[Pod]] = defaultdict(list)
        for p in sorted(view.placed, key=lambda p: (p.pod.instance, p.pod.generation, p.node)):
            self.add(Pod(p.node, p.pod, p.revision, p.pod, view.observed.get(p.key), p.node in cluster.lost))
        self.wanted: tuple[int, ...] = ()
        if (desired := self.desired) is not None:
            self.wanted = tuple(n for n in range(1, desired.instances + 1) if n not in desired.stopped)
        self.places: dict[tuple[int, int], str] = {}
        self.entries: dict[tuple[int, int], Endpoint] = {}
        if (endpoints := view.endpoints) is not None:
            for place, listed in (
                (DRAINING, endpoints.draining),
                (SUSPECT, endpoints.suspect),
                (READY, endpoints.ready),
            ):
                for endpoint in listed:
                    slot = endpoint.instance, endpoint.generation
                    self.places[slot], self.entries[slot] = place, endpoint
        self.was_draining = frozenset(
            (e.instance, e.generation) for e in (endpoints.draining if endpoints is not None else ())
        )
        self.routes: tuple[Route, ...] = endpoints.routes if endpoints is not None else ()
        self.keepers: dict[int, Pod] = {}
        self.finished = False
        """Nothing wanted is left of it: its endpoints and status go."""
        # what the plan found out
        self.no_node: dict[int, Verdict] = {}
        self.held: dict[int, str] = {}
        """Instance → why nothing is done about it now."""
        self.ended_well: set[int] = set()
        """Instances of a oneshot that ended well before, and of which nothing is left."""
        self.behind: dict[str, float] = {}
        """Routers that have not applied a change this proc waits for → since when."""
        self.fault = ""
        self.wake: list[float] = []
        self.waits: set[str] = set()
        self.leaving: dict[PodKey, Leaving] = {}
        self.unseen: dict[PodKey, float] = {}
        """Pods told to stop of which their node never spoke → since when that is waited for."""
        self.ahead: dict[PodKey, float] = {}
        """Pods that are ready since a time that is still to come → since when we know."""
        self._was_ready = frozenset(
            (i.instance, i.generation) for i in (view.status.instances if view.status else ()) if i.ready_at or i.ready
        )

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def oneshot(self) -> bool:
        return self.desired is not None and self.desired.type is ProcType.ONESHOT

    @property
    def recreates(self) -> bool:
        return self.desired is not None and (self.desired.strategy is Strategy.RECREATE or self.desired.singleton)

    @property
    def stays(self) -> bool:
        """Its pods never change nodes: they have state or a volume there."""
        desired = self.desired
        return desired is not None and (desired.stateful or has_volume(desired.template))

    @property
    def listens(self) -> bool:
        """Its pods belong into endpoints."""
        return self.desired is not None and self.desired.template.port is not None and not self.oneshot

    @property
    def needs_ack(self) -> bool:
        """Routers may know its pods: they are asked before one stops."""
        if self.view.endpoints is not None and self.view.endpoints.routes:
            return True
        web = self.desired is not None and self.desired.type is ProcType.WEB
        return web or any(pod.pod.type is ProcType.WEB for pod in self.pods)

    def leftover(self, instance: int) -> bool:
        """A container of this instance that nobody ordered (its assignment was deleted by hand): its node will remove it."""
        known = {pod.key for pod in self.pods}
        return any(
            key[1] == instance and key not in known and key[0] in self.cluster.present for key in self.view.observed
        )

    def add(self, pod: Pod) -> None:
        self.pods.append(pod)
        self._by_instance[pod.instance].append(pod)

    def of(self, instance: int) -> list[Pod]:
        return [pod for pod in self._by_instance.get(instance, ()) if pod.there]

    @cached_property
    def told(self) -> Mapping[PodKey, InstanceStatus]:
        """What its status says of each pod up to now."""
        lines = self.view.status.instances if self.view.status is not None else ()
        return {(line.node, line.instance, line.generation): line for line in lines}

    def was_ready(self, pod: Pod) -> bool:
        """It has been ready at some time."""
        seen = pod.seen
        return (
            (seen is not None and (seen.ready or seen.ready_at is not None))
            or pod.slot in self.places
            or pod.slot in self._was_ready
        )

    def was_seen(self, pod: Pod) -> bool:
        """Its node has spoken of it at some time."""
        if pod.seen is not None or pod.key in self.memory.seen:
            return True
        known = self.told.get(pod.key)
        return known is not None and bool(known.container_id or known.address or known.started_at or known.ready_at)

    def settled(self, pod: Pod) -> bool:
        """Ready, and for ``min_ready_seconds``."""
        if not pod.ready or pod.seen is None or self.desired is None:
            return False
        ready_at = pod.seen.ready_at
        if ready_at is None or self.desired.min_ready_seconds <= 0:
            return True
        if ready_at > self.cluster.now:  # its node's clock is ahead of ours: it counts from when we first saw it ready
            ready_at = self.ahead[pod.key] = self.memory.ahead.get(pod.key, self.cluster.now)
        due = ready_at + self.desired.min_ready_seconds
        if due > self.cluster.now:
            self.wake.append(due)
            return False
        return True

    def serves(self, pod: Pod) -> bool:
        """It does its work: routers are told of it, or, when it does not listen, it is ready."""
        return pod.ready and (not self.listens or self.places.get(pod.slot) == READY)

    def done(self, pod: Pod) -> bool:
        """Its predecessor may go."""
        return self.serves(pod) and self.settled(pod)

    def matches(self, pod: Pod) -> bool:
        """It is what is wanted: nothing but its number of the release differs."""
        desired = self.desired
        return (
            desired is not None
            and pod.pod.template == desired.template
            and pod.pod.restart >= desired.restarts.get(pod.instance, 0)
            and not self.must_move(pod)
        )

    def must_move(self, pod: Pod) -> bool:
        return pod.node in self.cluster.leaving and not self.stays

    # --- what it becomes ----------------------------------------------------------------------------------------------

    @cached_property
    def endpoints(self) -> Endpoints | None:
        """The endpoints as they shall be, or None. Ask once everything is decided."""
        before, desired = self.view.endpoints, self.desired
        if self.finished:
            return None
        if not self.places and (before is None or (desired is not None and not self.listens)):
            return None
        base = before or Endpoints(self.view.app, self.view.proc, port=0)
        if desired is not None and self.listens:
            base = replace(base, port=desired.template.port or 0, proxy=desired.proxy)
        pods = {pod.slot: pod for pod in self.pods if pod.there}
        lists: dict[str, list[Endpoint]] = {READY: [], SUSPECT: [], DRAINING: []}
        for slot in sorted(self.places):
            entry = self.entries[slot]
            if slot in pods:
                port = pods[slot].pod.template.port or 0
                port = 0 if port == base.port else port
                entry = entry if entry.port == port else replace(entry, port=port)
            lists[self.places[slot]].append(entry)
        releases = [pods[e.instance, e.generation].pod.release for e in lists[READY]]
        return replace(
            base,
            routes=self.routes,
            release=max(releases, default=base.release),
            ready=tuple(lists[READY]),
            suspect=tuple(lists[SUSPECT]),
            draining=tuple(lists[DRAINING]),
        )

    def actions(self) -> Iterator[Action]:
        """The writes that make it so: endpoints first; what is gone and what stops before what starts."""
        endpoints = self.endpoints
        if endpoints is None:
            if self.view.endpoints is not None:
                yield DropEndpoints(self.view.app, self.view.proc, self.view.endpoints_revision)
        elif endpoints != self.view.endpoints:
            yield PutEndpoints(endpoints, self.view.endpoints_revision)
        for pod in self.pods:
            if pod.after is None and pod.before is not None:
                yield DropAssignment(pod.node, pod.before.pod, pod.revision, pod.why)
        orders = [
            PutAssignment(pod.node, pod.after, pod.revision, pod.why)
            for pod in reversed(self.pods)  # the highest numbers go first
            if pod.after is not None and pod.after != pod.before
        ]
        yield from sorted(orders, key=lambda order: order.pod.run)  # what stops makes room for what starts


def has_volume(template: PodTemplate) -> bool:
    return any(volume.kind == "instance" for volume in template.volumes)
