"""A small world for the controller's planner: a store, agents that carry out assignments, routers that apply endpoints, and a judge that
watches every single write for what must never happen. Time moves only when told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lain_deployd.controller.actions import (
    Action,
    DropAssignment,
    DropEndpoints,
    DropStatus,
    PutAssignment,
    PutEndpoints,
    PutStatus,
)
from lain_deployd.controller.decide import Decider
from lain_deployd.controller.world import Snapshots
from lain_shared import keys
from lain_shared.model.node import Alive, Node, NodeState
from lain_shared.model.pod import (
    LIMITS_REFUSED,
    Assignment,
    Desired,
    Evidence,
    Observed,
    PodId,
    PodState,
    PodTemplate,
    ProcType,
    Strategy,
)
from lain_shared.model.route import Endpoints, Route, RouterMember, RouterState
from lain_shared.model.status import ProcPhase, ProcStatus
from lain_shared.records import Stored
from lain_shared.store import Entry

MIB = 1024 * 1024
FAMILIES = {
    "desired": keys.DESIRED, "nodes": keys.NODES, "alive": keys.ALIVE, "nodes_state": keys.NODES_STATE,
    "assign": keys.ASSIGN, "observed": keys.OBSERVED, "endpoints": keys.ENDPOINTS, "status": keys.STATUS,
    "router_members": keys.ROUTER_MEMBERS, "routers": keys.ROUTERS, "switches": keys.SWITCHES, "drains": keys.DRAINS,
    "routes": keys.ROUTES,
}  # fmt: skip


def template(image: str = "good", **more: Any) -> PodTemplate:
    return PodTemplate(image=image, **{"port": 8000, "memory_bytes": 32 * MIB, **more})


def desired(app: str = "hello", proc: str = "web", **more: Any) -> Desired:
    fields: dict[str, Any] = {
        "type": ProcType.WEB, "release": 1, "template": template(), "instances": 2, "drain_seconds": 10.0,
        "routes": (Route(f"{app}.lain.localhost"),),
    }  # fmt: skip
    fields.update(more)
    return Desired(app=app, proc=proc, **fields)


@dataclass
class Router:
    applied: dict[str, Endpoints] = field(default_factory=dict)
    revision: int = 0
    busy: set[str] = field(default_factory=set)
    stuck: bool = False
    alive: bool = True

    def sends_to(self) -> set[str]:
        return {e.address for ep in self.applied.values() for e in (*ep.ready, *ep.suspect) if ep.routes}


class Broken(AssertionError):
    """Something happened that must never happen."""


class World:
    def __init__(self, nodes: int = 1, memory_bytes: int = 1024 * MIB, routers: int = 1) -> None:
        self.now = 1_000.0
        self.revision = 1
        self.entries: dict[str, tuple[Any, int, int]] = {}
        self.addresses = 0
        self.lives: dict[str, int] = {}
        """Pod → containers ever started for it."""
        self.used_generations: set[tuple[str, str, int, int]] = set()
        self.oneshots_run: list[tuple[str, str, int, int]] = []
        self.crashing: set[str] = set()
        self.in_use: dict[str, int] = {}
        """Pod → bytes of memory that it holds: its agent takes none of them."""
        self.cut: set[str] = set()
        """Nodes whose agent is cut off from the store."""
        self.routers: dict[str, Router] = {}
        for n in range(1, nodes + 1):
            self.add_node(f"n{n}", memory_bytes)
        for n in range(1, routers + 1):
            self.add_router(f"r{n}")
        self.decider = Decider()
        self.writes = 0
        self.releases = 0
        self.tampered: keys.Family | None = None
        """The family somebody deleted keys of by hand."""
        self.checking = True

    # --- the store ----------------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any, expect: int | None = None) -> None:
        known = self.entries.get(key)
        if expect is not None and (known[2] if known else 0) != expect:
            raise Broken(f"conflict on {key}")
        self.revision += 1
        self.entries[key] = (value, known[1] if known else self.revision, self.revision)

    def delete(self, key: str, expect: int | None = None) -> None:
        known = self.entries.get(key)
        if expect is not None and (known[2] if known else 0) != expect:
            raise Broken(f"conflict on {key}")
        if self.entries.pop(key, None) is not None:
            self.revision += 1

    def get(self, family: keys.Family, *parts: str) -> Any:
        found = self.entries.get(family.key(*parts))
        return found[0] if found else None

    def all(self, family: keys.Family) -> Iterator[tuple[tuple[str, ...], Any, int]]:
        for key, (value, _, revision) in sorted(self.entries.items()):
            if key.startswith(family.prefix):
                yield family.parse(key), value, revision

    def snapshots(self) -> Snapshots:
        families: dict[str, Any] = {name: {} for name in FAMILIES}
        names = {family.prefix: name for name, family in FAMILIES.items()}
        for key, (value, created, modified) in self.entries.items():
            name = names[keys.family_of(key).prefix]
            families[name][key] = Stored(value, Entry(key, b"", created, modified))
        return Snapshots(self.revision, **families)

    # --- what people do -----------------------------------------------------------------------------------------------

    def want(self, wanted: Desired) -> None:
        self.put(keys.DESIRED.key(wanted.app, wanted.proc), wanted)

    def unwant(self, app: str, proc: str) -> None:
        self.delete(keys.DESIRED.key(app, proc))

    def wanted(self, app: str, proc: str) -> Any:
        """The ``Desired`` as it stands, or None."""
        return self.get(keys.DESIRED, app, proc)

    def add_node(self, name: str, memory_bytes: int = 1024 * MIB, **labels: str) -> None:
        self.put(keys.NODES.key(name), Node(name, "10.0.0.1", labels))
        self.put(keys.ALIVE.key(name), Alive(name, "https://x", "engine", "boot", self.now))
        self.put(keys.NODES_STATE.key(name), NodeState(name, 4, memory_bytes, 0, 10**9, 10**9, "20.10"))

    def kill_node(self, name: str) -> None:
        self.cut.add(name)
        self.delete(keys.ALIVE.key(name))

    def heal_node(self, name: str) -> None:
        if name in self.cut:
            self.cut.discard(name)
            self.put(keys.ALIVE.key(name), Alive(name, "https://x", "engine", "boot", self.now))

    def add_router(self, name: str) -> None:
        self.routers[name] = Router()
        self.put(keys.ROUTER_MEMBERS.key(name), RouterMember(name, "n1", self.now))

    # --- one step of everybody else -----------------------------------------------------------------------------------

    def agents(self) -> bool:
        """Each agent takes one step; True if anything moved."""
        before = self.revision
        assigned = {key: value for key, value, _ in self.all(keys.ASSIGN)}
        for (node, pod), order, revision in list(self.all(keys.ASSIGN)):
            if node not in self.cut:
                self._step(node, pod, order, revision)
        for (node, pod), _, _ in list(self.all(keys.OBSERVED)):
            if (node, pod) not in assigned and node not in self.cut:
                self.delete(keys.OBSERVED.key(node, pod))
        return self.revision != before

    def _step(self, node: str, pod: str, order: Assignment, revision: int) -> None:
        key = keys.OBSERVED.key(node, pod)
        seen: Observed | None = self.get(keys.OBSERVED, node, pod)
        if not order.run:
            if seen is not None and seen.state is not PodState.STOPPING:
                self.put(key, replace(seen, state=PodState.STOPPING, ready=False))
            elif seen is not None:
                self.delete(key)
            return
        limits: dict[str, Any] = {"cpu": order.template.cpu, "memory_bytes": order.template.memory_bytes}
        if seen is None:
            self.put(key, Observed(order.app, order.proc, order.instance, order.generation, PodState.PENDING, revision))
            return
        after = replace(seen, assign_revision=revision)
        image = order.template.image
        match seen.state:
            case PodState.PENDING:
                if image.startswith("missing"):
                    after = replace(after, state=PodState.FAILED, error="no such image")
                else:
                    self.addresses += 1
                    address = f"172.20.{self.addresses // 256}.{self.addresses % 256}"
                    after = replace(after, state=PodState.CREATED, address=address, **limits)
            case PodState.CREATED | PodState.BACKOFF:
                self.lives[pod] = self.lives.get(pod, 0) + 1
                after = replace(
                    after, state=PodState.RUNNING, started_at=self.now, ready=False, ready_at=None, **limits
                )
                if order.type is ProcType.ONESHOT:
                    self.oneshots_run.append((order.app, order.proc, order.instance, order.release))
            case PodState.RUNNING:
                if order.type is ProcType.ONESHOT:
                    after = replace(after, state=PodState.EXITED, exit_code=1 if image.startswith("bad") else 0)
                elif image.startswith("crash") or pod in self.crashing:
                    self.crashing.discard(pod)
                    after = replace(
                        after, state=PodState.BACKOFF, restarts=after.restarts + 1, ready=False, ready_at=None
                    )
                elif self.in_use.get(pod, 0) > order.template.memory_bytes:
                    text = f"{self.in_use[pod]} bytes are in use"
                    evidence = after.evidence or Evidence(self.now, LIMITS_REFUSED, text)
                    after = replace(after, error=text, evidence=evidence)
                elif after.evidence is not None and after.evidence.reason == LIMITS_REFUSED:
                    after = replace(after, error="", evidence=None, **limits)
                elif image.startswith("good") and not seen.ready:
                    after = replace(after, ready=True, ready_at=self.now, **limits)
                else:
                    after = replace(after, **limits)
        if after != seen:
            self.put(key, after)

    def step_routers(self) -> bool:
        before = self.revision
        for name, router in self.routers.items():
            if router.stuck or not router.alive:
                continue
            found = {f"{app}/{proc}": value for (app, proc), value, _ in self.all(keys.ENDPOINTS)}
            newest = max((revision for _, _, revision in self.all(keys.ENDPOINTS)), default=0)
            if router.applied != found or self.get(keys.ROUTERS, name) is None or router.revision < newest:
                router.applied, router.revision = found, self.revision
                self._report(name)
        return self.revision != before

    def _report(self, name: str) -> None:
        router = self.routers[name]
        state = RouterState(name, router.revision, "boot", self.now, tuple(sorted(router.busy)))
        self.put(keys.ROUTERS.key(name), state)

    def idle(self) -> None:
        for name, router in self.routers.items():
            if router.busy:
                router.busy.clear()
                if router.alive:
                    self._report(name)

    def kill_router(self, name: str) -> None:
        self.routers[name].alive = False
        self.delete(keys.ROUTERS.key(name))

    def revive_router(self, name: str) -> None:
        self.routers[name].alive = True
        self.routers[name].stuck = False

    # --- the controller -----------------------------------------------------------------------------------------------

    def one_pass(self, cut_after: int | None = None) -> int:
        """One pass; with ``cut_after``, the leader dies after so many writes and another one takes over. Returns the writes made."""
        decision = self.decider.decide(self.snapshots(), self.now)
        made = 0
        for actions in decision.writes.values():
            for action in actions:
                if cut_after is not None and made >= cut_after:
                    self.decider = Decider()
                    return made
                self.apply(action)
                made += 1
        if cut_after is not None:
            self.decider = Decider()
        self.wake_at = decision.wake_at
        self.writes += made
        return made

    def apply(self, action: Action) -> None:
        match action:
            case PutAssignment(node, pod, revision, _):
                key = keys.ASSIGN.key(node, str(pod.pod))
                new = revision == 0 and self.get(keys.OBSERVED, node, str(pod.pod)) is None
                self._judge_assignment(node, pod, self.get(keys.ASSIGN, node, str(pod.pod)))
                self.put(key, pod, revision)
                self._judge_surge(pod, new=new)
            case DropAssignment(node, pod_id, revision, _):
                if self.get(keys.OBSERVED, node, str(pod_id)) is not None:
                    raise Broken(f"{pod_id} is forgotten while its container exists")
                self.delete(keys.ASSIGN.key(node, str(pod_id)), revision)
            case PutEndpoints(endpoints, revision):
                self._judge_floor(endpoints, self.get(keys.ENDPOINTS, endpoints.app, endpoints.proc))
                self.put(keys.ENDPOINTS.key(endpoints.app, endpoints.proc), endpoints, revision)
            case DropEndpoints(app, proc, revision):
                self.delete(keys.ENDPOINTS.key(app, proc), revision)
            case PutStatus(status, revision):
                self.put(keys.STATUS.key(status.app, status.proc), status, revision)
            case DropStatus(app, proc, revision):
                self.delete(keys.STATUS.key(app, proc), revision)

    def settle(self, rounds: int = 400) -> None:
        """Let everybody work until nothing moves any more, moving time on to where somebody waits for it."""
        for _ in range(rounds):
            moved = self.one_pass() > 0
            moved |= self.agents()
            moved |= self.step_routers()
            if moved:
                self.now += 0.05
            elif self.wake_at is not None and self.wake_at < self.now + 400:
                self.now = max(self.wake_at, self.now + 0.01)
            elif any(router.busy for router in self.routers.values()):
                self.idle()
            else:
                return
        raise Broken(f"nothing settled in {rounds} rounds: {[s.message for _, s, _ in self.all(keys.STATUS)]}")

    # --- the judge ----------------------------------------------------------------------------------------------------

    def lost(self, node: str) -> bool:
        return self.get(keys.ALIVE, node) is None

    def _judge_assignment(self, node: str, pod: Assignment, before: Assignment | None) -> None:
        if before is None:
            identity = (pod.app, pod.proc, pod.instance, pod.generation)
            restored = self.get(keys.OBSERVED, node, str(pod.pod)) is not None
            if identity in self.used_generations and not restored:
                raise Broken(f"generation used twice: {identity}")
            self.used_generations.add(identity)
            if self.lost(node):
                raise Broken(f"{pod.pod} is placed on {node}, which is away")
        elif before.run and not pod.run and self.checking:
            seen: Observed | None = self.get(keys.OBSERVED, node, str(pod.pod))
            for name, router in self.routers.items():
                there = self.get(keys.ROUTERS, name) is not None
                if there and seen is not None and seen.address in router.sends_to():
                    raise Broken(f"{pod.pod} is stopped while router {name} sends it requests")
        elif not before.run and pod.run:
            raise Broken(f"{pod.pod} was told to stop and is told to run again")

    def _judge_surge(self, pod: Assignment, *, new: bool) -> None:
        wanted = self.wanted(pod.app, pod.proc)
        if not new or wanted is None:
            return
        running = [
            order
            for (node, _), order, _ in self.all(keys.ASSIGN)
            if (order.app, order.proc) == (pod.app, pod.proc) and order.run and not self.lost(node)
        ]
        limit = len([n for n in range(1, wanted.instances + 1) if n not in wanted.stopped])
        if wanted.strategy is Strategy.START_FIRST and wanted.type is not ProcType.ONESHOT:
            limit += wanted.max_surge
        if len(running) > limit:
            raise Broken(f"{len(running)} pods of {pod.app}.{pod.proc}, {limit} allowed")
        if wanted.strategy is Strategy.RECREATE:
            self._judge_alone(pod)

    def _judge_alone(self, pod: Assignment) -> None:
        """Nothing else of this instance is on a node that is there: neither ordered nor seen."""
        for family in (keys.ASSIGN, keys.OBSERVED):
            for (node, text), _, _ in self.all(family):
                other = PodId.parse(text)
                same = (other.app, other.proc, other.instance) == (pod.app, pod.proc, pod.instance)
                if same and other != pod.pod and not self.lost(node):
                    raise Broken(f"{pod.pod} is assigned while {other} is on {node}, and its proc recreates")

    def _judge_floor(self, after: Endpoints, before: Endpoints | None) -> None:
        wanted = self.wanted(after.app, after.proc)
        if before is None or wanted is None or wanted.strategy is Strategy.RECREATE or not self.checking:
            return
        now_ready = {endpoint.instance for endpoint in after.ready}
        for endpoint in before.ready:
            if endpoint.instance in now_ready or endpoint.instance > wanted.instances:
                continue
            if endpoint.instance in wanted.stopped:
                continue
            for (node, pod), seen, _ in self.all(keys.OBSERVED):
                who = PodId.parse(pod)
                same = (who.app, who.proc, who.instance, who.generation) == (
                    after.app, after.proc, endpoint.instance, endpoint.generation,
                )  # fmt: skip
                if same and seen.ready and not self.lost(node) and self.get(keys.ASSIGN, node, pod) is not None:
                    raise Broken(f"{pod} is ready and leaves the endpoints without a successor")

    # --- what is asked of a settled world -----------------------------------------------------------------------------

    def status(self, app: str = "hello", proc: str = "web") -> ProcStatus:
        found: ProcStatus = self.get(keys.STATUS, app, proc)
        assert found is not None, f"no status of {app}.{proc}"
        return found

    def endpoints(self, app: str = "hello", proc: str = "web") -> Endpoints:
        found: Endpoints = self.get(keys.ENDPOINTS, app, proc)
        assert found is not None, f"no endpoints of {app}.{proc}"
        return found

    def pods(self, app: str = "hello", proc: str = "web") -> list[tuple[str, Assignment]]:
        return [
            (node, order) for (node, _), order, _ in self.all(keys.ASSIGN) if (order.app, order.proc) == (app, proc)
        ]

    def used(self, instance: int, app: str = "hello", proc: str = "web") -> list[int]:
        """The generations an instance has had."""
        return sorted(g for a, p, i, g in self.used_generations if (a, p, i) == (app, proc, instance))

    def running(self, app: str = "hello", proc: str = "web") -> list[tuple[int, str, str]]:
        """(instance, node, image) of what really runs."""
        return sorted(
            (seen.instance, node, self.get(keys.ASSIGN, node, pod).template.image)
            for (node, pod), seen, _ in self.all(keys.OBSERVED)
            if (seen.app, seen.proc) == (app, proc) and seen.state is PodState.RUNNING
        )


def deployed(nodes: int = 1, routers: int = 1, **more: Any) -> World:
    """A world in which ``hello`` runs as wanted."""
    world = World(nodes, routers=routers)
    world.want(desired(**more))
    world.settle()
    assert world.status().phase is ProcPhase.STABLE, world.status().message
    return world
