"""The pods of this node: a pass looks at all of them, a worker takes one through its next steps, probes and events hurry the next pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import structlog

from lain_deployd.agent.addresses import AddressBook
from lain_deployd.agent.disk import Disk, Saved
from lain_deployd.agent.engine import Container, Engine, EngineEvent, EngineUnavailable
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.observing import observe
from lain_deployd.agent.plan import (
    after_engine_restart,
    backoff_seconds,
    due_at,
    in_order,
    in_the_way,
    is_ahead,
    next_step,
)
from lain_deployd.agent.pods import LABEL_NODE, LABEL_POD, Create, Forget, Ground, Health, Memory, NoteExit, Order, View
from lain_deployd.agent.probes import Prober, Target, target_of
from lain_shared.errors import LainError
from lain_shared.model.pod import Observed, PodId, PodState

log = structlog.get_logger()

WORKERS_GRACE_SECONDS = 2.0
"""What is being created or started when the agent stops gets this long; a pull or a slow stop is taken up by the next agent."""
MAX_HOLD_SECONDS = 30.0
SAVE_SECONDS = 1.0
"""What is on disk may be older by this much: what it lacks, the containers themselves tell."""


def _runs(order: Order | None) -> bool:
    return order is not None and order.assignment.run


class Keeper:
    """Background part and ``one_pass`` of the pods. It owns all that is known of them; nobody else changes it."""

    def __init__(
        self,
        node: str,
        engine: Engine,
        executor: Executor,
        disk: Disk,
        metrics: AgentMetrics,
        *,
        wake: Callable[[], None] = lambda: None,
        on_report: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = "pods"
        self.node = node
        self.cpus = 1
        self.orders: dict[PodId, Order] = {}
        self.whole = False
        self.unreadable: frozenset[PodId] = frozenset()
        """Assigned, but nobody here can read how: left as they are."""
        self.untold: frozenset[PodId] = frozenset()
        """Pods of which nothing certain can be said now: what the store says of them stays."""
        self.told = False
        """``report`` says what is: a pass has looked at everything."""
        self.listed = False
        """Every container of ours is known."""
        self.containers: dict[PodId, tuple[Container, ...]] = {}
        self.memory: dict[PodId, Memory] = {}
        self.health: dict[PodId, Health] = {}
        self.report: dict[PodId, Observed] = {}
        self.book = AddressBook()
        self.free: Callable[[AddressBook], tuple[str, ...]] = lambda _book: ()
        """Addresses that may be given out now; set by whoever knows routers and endpoints."""
        self.look_around: Callable[[AddressBook, Iterable[str], Iterable[str]], AddressBook] = lambda book, *_: book
        self.wake, self.on_report = wake, on_report
        self.on_volumes: Callable[[], None] = lambda: None
        self.on_pass: Callable[[], None] = lambda: None
        self.prober: Prober | None = None
        self._engine, self._executor, self._disk, self._metrics, self._clock = engine, executor, disk, metrics, clock
        self._busy: dict[PodId, str] = {}
        self._workers: dict[PodId, asyncio.Task[None]] = {}
        self._held: dict[PodId, tuple[float, int]] = {}
        self._dirty: dict[PodId, int] = {}
        """Pods to look at again → when the last event about them was (nanoseconds since the epoch)."""
        self._looked_nano: dict[PodId, int] = {}
        self._unseeable: set[PodId] = set()
        self._to_forgive: dict[PodId, float] = {}
        self._to_discard: dict[PodId, tuple[str, str]] = {}
        self._saved_at = 0.0
        self._stopped = asyncio.Event()
        saved = disk.load()
        self.saved = saved or Saved()
        self.remembers = saved is not None
        """There is a picture from before this process."""
        self._volumes_known = saved is not None
        self._restore(self.saved)

    # --- what was known before ----------------------------------------------------------------------------------------

    def _restore(self, saved: Saved) -> None:
        self.orders = {order.pod: order for order in saved.orders}
        self.memory = {PodId.parse(name): memory for name, memory in saved.memory.items()}
        self.health = {PodId.parse(name): health for name, health in saved.health.items()}
        self.book = saved.addresses

    def seed(self, observed: Iterable[Observed]) -> None:
        """What the store says we saw: all there is to go by when the disk remembers nothing."""
        if self.remembers:
            return
        for seen in observed:
            pod = seen.pod
            done = seen.exit_code if seen.state is PodState.EXITED else None  # what ended for good is not run again
            self.memory.setdefault(
                pod, Memory(address=seen.address, restarts=seen.restarts, evidence=seen.evidence, error=seen.error,
                            done_exit_code=done),
            )  # fmt: skip
            if seen.started_at is not None:
                self.health.setdefault(pod, Health(seen.started_at, seen.ready, seen.ready_at))
        self.remembers = True
        self.wake()

    # --- what others tell ---------------------------------------------------------------------------------------------

    def ordered(self, orders: Mapping[PodId, Order], unreadable: Iterable[PodId] = ()) -> None:
        """Every assignment of this node, as the store has it; of ``unreadable`` ones the last known order holds."""
        self.unreadable, self.whole = frozenset(unreadable), True
        self.orders = {**{pod: self.orders[pod] for pod in self.unreadable if pod in self.orders}, **orders}

    def relisted(self, containers: Iterable[Container], asked_nano: int) -> None:
        """Every container that carries our labels, as of ``asked_nano``."""
        found: dict[PodId, list[Container]] = {}
        for container in containers:
            if (pod := self._pod_of(container.labels)) is not None:
                found.setdefault(pod, []).append(container)
        for pod in found.keys() | self.containers.keys():
            if pod in self._workers:
                self._dirty[pod] = time.time_ns()  # the list may be older than what its worker just did
                continue
            self._take(pod, tuple(found.get(pod, ())))
            self._looked_at(pod, asked_nano)
        self.listed = True

    def happened(self, event: EngineEvent) -> None:
        """Something happened to a container: look at it, unless we looked since."""
        pod = self._pod_of(event.labels)
        if pod is not None and event.at_nano > self._looked_at_nano(pod):
            self._dirty[pod] = max(event.at_nano, self._dirty.get(pod, 0))
            if pod not in self._workers:  # its worker looks for itself, and wakes us when it is done
                self.wake()

    def engine_restarted(self, lost_at: float, now: float) -> None:
        """The Engine is another process than before: what ended on the way did not crash."""
        self.saved = replace(self.saved, engine_since=now)
        for pod in tuple(self.memory):
            if pod in self._workers:
                self._to_forgive[pod] = lost_at  # its worker writes its memory: afterwards
            else:
                self._forgive(pod, lost_at)

    def _forgive(self, pod: PodId, lost_at: float) -> None:
        if pod in self.memory:
            self.memory[pod] = after_engine_restart(self.memory[pod], lost_at, self.saved.engine_since)
            self._held.pop(pod, None)

    def became_ready(self, target: Target, ready: bool, text: str) -> None:
        """A probe's verdict on one run."""
        known = self.health.get(target.pod)
        if known is None or known.run != target.started_at:
            known = Health(target.started_at)
        if ready and not known.ready:
            seconds = round(self._clock() - target.started_at, 3)
            log.info("pod_ready", pod=str(target.pod), seconds=seconds)
            self._metrics.took("ready", seconds)
            known = replace(known, ready_at=self._clock())
        elif known.ready and not ready:
            log.warning("pod_not_ready_any_more", pod=str(target.pod), why=text)
        self.health[target.pod] = replace(known, ready=ready, text=text)
        self.wake()

    def wants_restart(self, target: Target, text: str) -> None:
        known = self.health.get(target.pod)
        if known is None or known.run != target.started_at:
            known = Health(target.started_at)
        self.health[target.pod] = replace(known, restart_because=text)
        self.wake()

    def discard(self, pod: PodId, container: str, because: str) -> bool:
        """End that container, take it away with all it wrote, and make the pod anew; False: it does not run, or that is under way."""
        here, memory = self.containers.get(pod), self.memory.get(pod)
        if memory is None or not here or here[0].id != container or here[0].started_at is None:
            return False
        known = self.health.get(pod)
        if known is None or known.run != here[0].started_at:
            known = Health(here[0].started_at)
        under_way = memory.discard == container and known.restart_because
        if under_way or self._to_discard.get(pod, ("",))[0] == container:
            return False
        if pod in self._workers:
            self._to_discard[pod] = container, because  # its worker writes its memory: afterwards
            return True
        self.memory[pod] = replace(memory, discard=container)
        self.health[pod] = replace(known, restart_because=because)
        self.wake()
        return True

    def has_volume(self, instance: str) -> None:
        """``<app>.<proc>-<n>`` has data on this node from now on."""
        if instance not in self.saved.volumes:
            self.saved = replace(self.saved, volumes=tuple(sorted({*self.saved.volumes, instance})))
            self.on_volumes()

    def knows_volumes(self) -> None:
        """``has_volume`` was told of all that the store says this node has: before, what looks new may have data that is gone."""
        if not self._volumes_known:
            self._volumes_known = True
            self.wake()

    def used_images(self, used: Mapping[str, float]) -> None:
        self.saved = replace(self.saved, images=used)

    def hurry(self, instance: str) -> None:
        """Try the pods of ``<app>.<proc>-<n>`` again at once: what was in their way is gone."""
        for pod, memory in self.memory.items():
            if f"{pod.app}.{pod.proc}-{pod.instance}" == instance:
                self.memory[pod] = replace(memory, retry_at=0.0)
        self.wake()

    # --- a pass -------------------------------------------------------------------------------------------------------

    async def one_pass(self) -> float | None:
        """Look at every pod, put workers to those that need something, say what is seen. Returns when to look again, in seconds."""
        if not self.listed:
            return None  # the Engine's watch wakes us
        if not (self.whole or self.remembers):
            return None  # neither store nor disk said anything yet: whoever hears first wakes us
        if not self._volumes_known:
            return None
        await self._look_again()
        now = self._clock()
        used = {memory.address for memory in self.memory.values()}
        used |= {one.address for pod in self.containers.values() for one in pod}
        quiet = {
            self.memory[pod].address
            for pod, order in self.orders.items()
            if order.assignment.template.port is None and pod in self.memory
        }
        self.book = self.look_around(self.book, used - {""}, quiet)
        due: list[float] = [now + MAX_HOLD_SECONDS / 10] if self._unseeable else []
        looked: list[tuple[View, Ground]] = []
        next_address = cache(self._next_address)
        for pod in sorted(self.pods()):
            view, ground = self.view(pod), self._ground(now, pod, next_address)
            looked.append((view, ground))
            held_until = self._held.get(pod, (0.0, 0))[0]
            if is_ahead(held_until, now, MAX_HOLD_SECONDS):
                due.append(held_until)
            elif pod not in self._workers and not self._stopped.is_set() and next_step(view, ground) is not None:
                self._put_to_work(pod)
            elif pod in self._executor.bringing and not _runs(view.order) and (ground.whole or view.order is not None):
                self._workers[pod].cancel()  # its image may take for ever to come
            if (at := due_at(view, ground)) is not None:
                due.append(at)
        if self.prober is not None:
            targets = (target_of(view) for view, _ in looked)
            self.prober.follow({target.pod: target for target in targets if target is not None})
        self._tell(looked)
        self._forget_others()
        self.on_pass()
        return max(0.0, min(due) - self._clock()) if due else None

    def _forget_others(self) -> None:
        """Of pods that are gone nothing is kept; events and probes may have spoken of them since."""
        pods = self.pods()
        kept: tuple[dict[PodId, Any], ...] = (self.health, self._held, self._looked_nano)
        for known in kept:
            for pod in known.keys() - pods:
                del known[pod]

    @property
    def at_work(self) -> int:
        """Pods that are being made, started, stopped or taken away just now."""
        return len(self._workers)

    def pods(self) -> set[PodId]:
        return self.orders.keys() | self.containers.keys() | self.memory.keys()

    def view(self, pod: PodId) -> View:
        order = self.orders.get(pod)
        return View(
            pod,
            order,
            self.containers.get(pod, ()),
            self.memory.get(pod),
            self.health.get(pod),
            self._busy.get(pod, ""),
            in_the_way(order, chain(self.containers, self._workers)),  # a worker may be about to make one
        )

    def _ground(self, now: float, pod: PodId, next_address: Callable[[], str]) -> Ground:
        known = self.memory.get(pod)
        needs_address = _runs(self.orders.get(pod)) and not (known is not None and known.address)
        address = next_address() if needs_address else ""
        engine_since = (
            self.saved.engine_since if self.saved.engine_since <= now else 0.0
        )  # the clock was set back since
        return Ground(now, self.whole and pod not in self.unreadable, engine_since, self.cpus, address)

    def _next_address(self) -> str:
        taken = {memory.address for memory in self.memory.values()}
        return next((one for one in self.free(self.book) if one not in taken), "")

    async def _look_again(self) -> None:
        """Inspect what events said has changed, unless its worker will anyway."""
        await asyncio.gather(*(self._inspect(pod) for pod in list(self._dirty) if pod not in self._workers))

    async def _inspect(self, pod: PodId) -> None:
        asked_nano = time.time_ns()
        try:
            found = await self._engine.containers({LABEL_POD: str(pod), LABEL_NODE: self.node})
        except EngineUnavailable:
            raise
        except LainError as error:  # its own trouble: the others are looked at, it is tried again
            if pod not in self._unseeable:
                log.warning("pod_cannot_be_looked_at", pod=str(pod), error=error.message, why=error.why)
            self._unseeable.add(pod)
            return
        self._unseeable.discard(pod)
        if pod not in self._workers:
            self._take(pod, found)
            self._looked_at(pod, asked_nano)

    def _looked_at(self, pod: PodId, at_nano: int) -> None:
        """What is known of its containers is the truth of that moment: older events tell nothing new."""
        self._looked_nano[pod] = max(at_nano, self._looked_at_nano(pod))
        if (dirty := self._dirty.get(pod)) is not None and not at_nano < dirty <= time.time_ns():
            del self._dirty[pod]

    def _looked_at_nano(self, pod: PodId) -> int:
        """A moment that is yet to come is from before the clock was set back, and counts for nothing."""
        at_nano = self._looked_nano.get(pod, 0)
        return at_nano if at_nano <= time.time_ns() else 0

    def _take(self, pod: PodId, containers: tuple[Container, ...]) -> None:
        if containers:
            self.containers[pod] = in_order(containers)
            known = self.memory.get(pod)
            address = self.containers[pod][0].address
            if known is None or (address and known.address != address):
                self.memory[pod] = replace(known or Memory(), address=address)
        else:
            self.containers.pop(pod, None)

    def _pod_of(self, labels: Mapping[str, str]) -> PodId | None:
        """The pod a container is, if it is one of this node's; somebody else's container is never looked at twice."""
        if labels.get(LABEL_NODE) != self.node:
            return None
        try:
            return PodId.parse(labels.get(LABEL_POD, ""))
        except ValueError:
            return None

    # --- workers ------------------------------------------------------------------------------------------------------

    def _put_to_work(self, pod: PodId) -> None:
        task = asyncio.create_task(self._work(pod), name=f"pod {pod}")
        self._workers[pod] = task

        def done(_: asyncio.Task[None]) -> None:
            self._workers.pop(pod, None)
            self._busy.pop(pod, None)
            if pod in self._to_forgive:
                self._forgive(pod, self._to_forgive.pop(pod))
            if pod in self._to_discard:
                self.discard(pod, *self._to_discard.pop(pod))
            self.wake()

        task.add_done_callback(done)

    async def _work(self, pod: PodId) -> None:
        """Take one pod as far as it goes now."""
        try:
            while not self._stopped.is_set():
                ground, view = self._ground(self._clock(), pod, self._next_address), self.view(pod)
                action = next_step(view, ground)
                if action is None:
                    self._held.pop(pod, None)
                    return
                if isinstance(action, Create):  # decided before it is done: an address is never given out twice
                    self.memory[pod] = replace(self.memory.get(pod) or Memory(), address=action.address)
                    self.book = self.book.taken(action.address)
                    view = self.view(pod)
                kind = type(action).__name__.lower()
                outcome = await self._executor.carry_out(action, view, ground, lambda text: self._busy_with(pod, text))
                self._metrics.actions.labels(kind, "ok" if outcome.ok else "failed").inc()
                self._looked_at(pod, outcome.looked_nano)
                self.containers[pod] = in_order(outcome.containers)
                if not outcome.containers:
                    self.containers.pop(pod)
                if outcome.memory is not None:
                    self.memory[pod] = outcome.memory
                if isinstance(action, Forget):
                    self.memory.pop(pod, None)
                    self.health.pop(pod, None)
                    self._looked_nano.pop(pod, None)
                    return
                if not outcome.ok and not isinstance(action, Create | NoteExit):
                    self._hold(pod)
                    return
                self._busy.pop(pod, None)
                self.wake()
        except EngineUnavailable as error:
            self._dirty[pod] = time.time_ns()
            self._hold(pod, quiet=True)
            log.info("pod_waits_for_engine", pod=str(pod), error=error.message)
        except Exception as error:  # a fault of ours with one pod must not stop the others
            self._hold(pod)
            log.error("pod_worker_crashed", pod=str(pod), exc_info=error)

    def _hold(self, pod: PodId, *, quiet: bool = False) -> None:
        """Leave it alone for a while: what it needed just failed."""
        failures = 1 if quiet else self._held.get(pod, (0.0, 0))[1] + 1
        self._held[pod] = (self._clock() + min(backoff_seconds(failures), MAX_HOLD_SECONDS), failures)

    def _busy_with(self, pod: PodId, text: str) -> None:
        if self._busy.get(pod) != text:
            self._busy[pod] = text
            self.wake()

    # --- reports ------------------------------------------------------------------------------------------------------

    def _tell(self, looked: Iterable[tuple[View, Ground]]) -> None:
        report: dict[PodId, Observed] = {}
        untold: set[PodId] = set()
        for view, ground in looked:
            if view.order is None and not ground.whole:  # unknown is not empty
                untold.add(view.pod)
            elif (seen := observe(view, ground)) is not None:
                report[view.pod] = seen
        self.untold = frozenset(untold)
        if report != self.report or not self.told:
            self._metrics.count(report.values())
            self.report, self.told = report, True
            self.on_report()

    async def save_now_and_then(self) -> float | None:
        """A pass of the loop that keeps the disk up to date: often enough, and not in the way of the Engine's own writes."""
        wait = self._saved_at + SAVE_SECONDS - time.monotonic()
        if wait > 0:
            return wait
        await self.save()
        self._saved_at = time.monotonic()
        return None

    async def save(self) -> None:
        """Keep the picture on disk, if it changed."""
        self.saved = replace(
            self.saved,
            orders=tuple(self.orders[pod] for pod in sorted(self.orders)),
            memory={str(pod): self.memory[pod] for pod in sorted(self.memory)},
            health={str(pod): self.health[pod] for pod in sorted(self.health) if pod in self.memory},
            addresses=self.book,
        )
        await self._disk.save(self.saved)

    # --- part ---------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.listed and (self.whole or self.remembers)

    @property
    def why_not_ready(self) -> str:
        if not self.listed:
            return "the Engine's containers are not known yet"
        return "" if self.ready else "the assignments are not known yet"

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        try:
            await self._stopped.wait()
            if self._workers:
                await asyncio.wait(tuple(self._workers.values()), timeout=WORKERS_GRACE_SECONDS)
        finally:
            workers = tuple(self._workers.values())
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.save()
