"""Whether everything is in order: what is wanted runs and is routed, nothing is left over. Pure but for ``look``, ``in_order``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.stage.node import NODE, Box, Node, ShellFailed
from bench.stage.truth import Picture, Truth
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.model.app import AppState
from lain_shared.model.pod import Desired, Observed, PodState, ProcType
from lain_shared.model.route import Endpoints
from lain_shared.model.status import ProcPhase, ProcStatus

MIB = 1024 * 1024
CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Look:
    """What there was: what etcd holds, the node's containers, the pods its agent remembers on disk."""

    picture: Picture
    boxes: tuple[Box, ...]
    remembered: frozenset[str]
    shims: frozenset[str]
    """Containers that something of containerd runs for, whether the Engine knows of them or not."""

    @property
    def pods(self) -> Mapping[str, Box]:
        return {box.pod: box for box in self.boxes if box.pod}

    @property
    def parts(self) -> Mapping[str, Box]:
        return {box.part: box for box in self.boxes if box.part}


def look(truth: Truth, node: Node, *, killed: bool = False) -> tuple[Look | None, tuple[str, ...]]:
    """Everything at once, and what is not in order of it. The containers are looked at only once the keys are in order: it costs.

    ``killed``: pods were ended on purpose, so that one which crashed and runs again is in order.
    """
    try:
        picture = truth.picture()
        if wrong := tuple(of_keys(picture, killed=killed)):
            return None, wrong
        boxes = node.boxes()
        memory = json.loads(node.run("cat", "/var/lib/lain/agent/agent.json")).get("memory", {})
        shims = node.sh("ps -eo args= | sed -n 's/.*containerd-shim.* -id \\([0-9a-f]*\\) .*/\\1/p'").split()
    except (LainError, ShellFailed, TimeoutError) as error:
        return None, (f"cannot look: {type(error).__name__} {error}",)
    seen = Look(picture, boxes, frozenset(memory), frozenset(shims))
    return seen, tuple(of_containers(seen))


def in_order(
    truth: Truth,
    node: Node,
    seconds: float,
    *,
    killed: bool = False,
    excused: Callable[[str], bool] = lambda _: False,
    every_seconds: float = 0.2,
) -> Look:
    """Once all is in order, but for what is ``excused``; ``TimeoutError`` after ``seconds`` names what is not."""
    deadline = time.monotonic() + seconds
    while True:
        seen, wrong = look(truth, node, killed=killed)
        if seen is not None and all(excused(text) for text in wrong):
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in order: {'; '.join(wrong)}")
        time.sleep(every_seconds)


def of_keys(picture: Picture, *, killed: bool = False) -> Iterable[str]:
    """What is not in order in etcd. ``killed``: as in ``look``."""
    desired, status = picture.all(keys.DESIRED), picture.all(keys.STATUS)
    endpoints, observed = picture.all(keys.ENDPOINTS), picture.all(keys.OBSERVED)
    assigned = picture.all(keys.ASSIGN)
    for name in picture.keys(keys.OPERATIONS):
        yield f"operation of {name} is under way"
    for name in picture.keys(keys.OPERATION_HOLDERS):
        yield f"{name} has a holder"
    for family, found in ((keys.STATUS, status), (keys.ENDPOINTS, endpoints)):
        for name in found.keys() - desired.keys():
            yield f"{family.name}/{name} is left of what is not wanted"
    wanted_pods: set[str] = set()
    for name, (wanted, entry) in desired.items():
        told = status.get(name)
        if told is None or told[0].desired_revision < entry.mod_revision:
            yield f"{name}: the controller has not answered yet"
            continue
        if wanted.kept_routes:
            yield f"{name} still has routes of the release before"
        wanted_pods |= {f"{wanted.app}.{wanted.proc}-{one.instance}.g{one.generation}" for one in told[0].instances}
        if wanted.type is ProcType.ONESHOT:
            continue
        for text in _proc(name, wanted, told[0], endpoints.get(name, (None,))[0], observed):
            if not (killed and CRASHED in text):
                yield text
    for what, pods in (("assigned", assigned), ("observed", observed)):
        names = {name.partition("/")[2] for name in pods}
        for pod in sorted(names ^ wanted_pods):
            yield f"{pod} is {'' if pod in names else 'not '}{what} and {'' if pod in wanted_pods else 'not '}wanted"
    for name, (order, entry) in assigned.items():
        if not order.run or order.draining:
            yield f"{name} is on its way out"
        if name in observed and observed[name][0].assign_revision != entry.mod_revision:
            yield f"{name}: its agent has not answered the latest order"
    yield from _cluster(picture, max((entry.mod_revision for _, entry in endpoints.values()), default=0))
    yield from _claims(picture)


def _proc(
    name: str, wanted: Desired, told: ProcStatus, served: Endpoints | None, observed: Mapping[str, tuple[Observed, Any]]
) -> Iterable[str]:
    count = wanted.instances - len(wanted.stopped)
    if told.phase is not ProcPhase.STABLE or not count == told.wanted == told.updated == told.ready == len(
        told.instances
    ):
        yield f"{name} is {told.phase.value}: {told.updated} of {count} as wanted, {told.ready} ready, {len(told.instances)} there"
        return
    seen = {
        (one.instance, one.generation): observed[
            f"{one.node}/{wanted.app}.{wanted.proc}-{one.instance}.g{one.generation}"
        ][0]
        for one in told.instances
        if f"{one.node}/{wanted.app}.{wanted.proc}-{one.instance}.g{one.generation}" in observed
    }
    for (instance, _), pod in seen.items():
        if pod.state is not PodState.RUNNING or not pod.ready:
            yield f"{name}-{instance} is {pod.state.value}, {'' if pod.ready else 'not '}ready"
        if pod.restarts:
            yield f"{name}-{instance} {CRASHED} {pod.restarts} times"
        if (pod.cpu, pod.memory_bytes) != (wanted.template.cpu, wanted.template.memory_bytes):
            yield f"{name}-{instance} has cpu {pod.cpu} and {pod.memory_bytes // MIB} MiB, not what is wanted"
    for one in told.instances:
        if one.release != wanted.release or not one.wanted or one.draining:
            yield f"{name}-{one.instance} is of release {one.release}, wanted {wanted.release}"
    if wanted.template.port is None:
        return
    if served is None:
        yield f"{name} has no endpoints"
        return
    ready = {(one.instance, one.generation, one.address) for one in served.ready}
    if ready != {(*key, pod.address) for key, pod in seen.items()} or served.draining or served.suspect:
        yield f"{name}: endpoints are not the pods that are ready"
    if set(served.routes) != set(wanted.routes):
        yield f"{name}: its routes are {served.routes}, wanted {wanted.routes}"


def _cluster(picture: Picture, endpoints_revision: int) -> Iterable[str]:
    if not picture.keys(keys.LEADER):
        yield "nobody leads"
    if picture.keys(keys.ALIVE) != {NODE}:
        yield "the node is away"
    for name, (state, _) in picture.all(keys.NODES_STATE).items():
        if not state.engine_reachable or state.problems:
            yield f"node {name}: {', '.join(state.problems) or 'its Engine does not answer'}"
    routers = picture.all(keys.ROUTERS)
    if not routers:
        yield "no router is present"
    for name, (router, _) in routers.items():
        if router.applied_revision < endpoints_revision or router.not_applied or not router.boot_id or router.busy:
            yield f"router {name} has applied {router.applied_revision}, wanted {endpoints_revision}; busy: {router.busy}"


def _claims(picture: Picture) -> Iterable[str]:
    """What apps have claimed is what they are routed by: no more, no less."""
    desired = [wanted for wanted, _ in picture.all(keys.DESIRED).values()]
    wanted = {(route.host, route.path, each.app, each.proc) for each in desired for route in each.routes}
    claims = [claim for claim, _ in picture.all(keys.ROUTES).values()]
    claimed = {(claim.host, claim.path, claim.app, claim.proc) for claim in claims}
    for claim in sorted(wanted ^ claimed):
        yield f"{claim[0]}{claim[1]} of {claim[2]} is {'' if claim in claimed else 'not '}claimed"
    apps = {app.name: app for app, _ in picture.all(keys.APPS).values()}
    for host, _ in picture.all(keys.HOSTS).values():
        if host.owner not in apps:
            yield f"host {host.host} is claimed by {host.owner}, which is not registered"
    for name, app in apps.items():
        runs = any(each.app == name for each in desired)
        if runs != (app.state is AppState.DEPLOYED):
            yield f"{name} is {app.state.value} and {'runs' if runs else 'does not run'}"


def of_containers(seen: Look) -> Iterable[str]:
    """What is not in order on the node, the keys being so."""
    observed = {pod.partition("/")[2]: one for pod, (one, _) in seen.picture.all(keys.OBSERVED).items()}
    boxes = seen.pods
    for pod in sorted(observed.keys() ^ boxes.keys()):
        yield f"{pod} has {'a' if pod in boxes else 'no'} container and is {'' if pod in observed else 'not '}observed"
    for pod, box in boxes.items():
        if pod in observed and observed[pod].container_id != box.id:
            yield f"{pod}: another container is observed than there is"
        if box.state != "running" and (pod not in observed or observed[pod].state is PodState.RUNNING):
            yield f"{pod}: its container is {box.state}"
    if len(boxes) != sum(bool(box.pod) for box in seen.boxes):
        yield "a pod has two containers"
    for box in seen.boxes:
        if not (box.pod or box.part):
            yield f"container {box.name} is nobody's"
        elif box.part and box.state != "running":
            yield f"{box.part} is {box.state}"
    for container in seen.shims - {box.id for box in seen.boxes}:
        yield f"something runs for {container[:12]}, which is no container any more"
    for pod in sorted(seen.remembered ^ observed.keys()):
        yield f"{pod} is {'' if pod in seen.remembered else 'not '}remembered by its agent, and {'' if pod in observed else 'not '}there"
