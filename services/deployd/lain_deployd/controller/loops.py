"""The controller's loop: look, decide, write, see it written. Only the leader decides; the others keep their mirrors warm."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from lain_deployd.controller.decide import Decider, Decision
from lain_deployd.controller.execute import Executor
from lain_deployd.controller.mirrors import Mirrors
from lain_deployd.controller.view import Limits, earliest
from lain_deployd.metrics import ControllerMetrics
from lain_shared.errors import LainError, Unavailable
from lain_shared.lease import Leadership
from lain_shared.loop import Loop, LoopMetrics
from lain_shared.model.status import ProcPhase
from lain_shared.store import Expectation, Store

log = structlog.get_logger()

DUTY = 0.25
"""Of the processor, at most: while many pods start, each of them has news every few milliseconds."""
TURN_SECONDS = 1.0
"""How often a share of the apps is planned though nothing changed; each has its turn within ``replan_seconds``."""
PULSE_SECONDS = 1.0
"""How often it is seen that the store answers."""
MANY_PODS = 2_000
STEP_SECONDS = 2.0
"""A wall clock that moved this much more, or less, than time did was set."""


class Contact:
    """After etcd was away for longer than a lease, no node counts as lost for one lease more: the agents were cut off just the same.

    ``clock``: seconds that nobody sets. A process that starts into an outage counts it from its start.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds, self._clock = lease_seconds, clock
        self._last = clock()
        self._grace_until = self._last

    @property
    def overdue(self) -> bool:
        """The store has not answered for longer than a lease: what it answers next begins the grace."""
        return self._clock() - self._last > self._lease_seconds

    @property
    def grace_seconds(self) -> float:
        """For how long no node newly counts as lost."""
        return max(self._grace_until - self._clock(), 0.0)

    def made(self, at: float | None = None) -> None:
        """The store answered just now, or ``at``."""
        now = self._clock()
        if self.overdue:
            self._grace_until = now + self._lease_seconds
            log.warning("store_was_away", seconds=round(now - self._last, 1), grace_seconds=self._lease_seconds)
        self._last = now if at is None else max(self._last, at)


class Controller:
    """One pass and what it needs. ``clock``: seconds since the epoch, as nodes write them; ``steady``: seconds that nobody sets."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        mirrors: Mirrors,
        metrics: ControllerMetrics,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._leadership, self._mirrors = store, leadership, mirrors
        self._metrics, self._limits, self._clock, self._steady = metrics, limits, clock, steady
        self._executor = Executor(store, leadership, metrics)
        self._contact = Contact(limits.node_lease_seconds, steady)
        self.decider = Decider(limits)
        self._reign: Expectation | None = None
        """The fence of the reign the decider's memory belongs to. While it is the same, nobody else has led in between."""
        self._caught_up = False
        self._turned_at = steady()
        self._looked_at = clock(), steady()
        self._frozen: frozenset[str] = frozenset()

    async def one_pass(self) -> float | None:
        """Decide and write what is due; returns the seconds after which to look again though nothing changes."""
        leads = self._leadership.is_leader
        self._metrics.leads.set(leads)
        if not leads:
            return None
        fence = self._leadership.fence()
        if self._reign != fence:
            self.decider, self._reign, self._caught_up = Decider(self._limits), fence, False
        await self._mirrors.wait_whole()
        if not self._caught_up or self._contact.overdue:
            await self._mirrors.catch_up()
            self._contact.made()  # before anything is decided: the pulse may come later
            self._caught_up = True
        decision = await self._decide()
        if decision.writes:
            await self._write(decision, fence)
        self._measure()
        wake_at = earliest((decision.wake_at, self.decider.tries_at))
        due = TURN_SECONDS if wake_at is None else wake_at - self._clock()
        return min(max(due, 0.0), TURN_SECONDS)

    async def pulse(self) -> float | None:
        """Does the store answer? Asked on every replica, so that whoever leads next knows of an outage. Who leads asks it anyway."""
        ago = self._leadership.seconds_since_answer
        if ago < PULSE_SECONDS:
            self._contact.made(self._steady() - ago)
            return None
        await self._store.get(self._leadership.key)
        self._contact.made()
        return None

    async def _decide(self) -> Decision:
        """What is due. Of many pods in a thread of its own: a new leader's first look takes seconds, and its lease must not end over it."""
        now, steady = self._clock(), self._steady()
        step = (now - self._looked_at[0]) - (steady - self._looked_at[1])
        if abs(step) > STEP_SECONDS:
            log.warning("clock_was_set", seconds=round(step, 1))
            self.decider = Decider(self._limits)  # what it remembers are times; without them its waits begin afresh
        self._looked_at = now, steady
        if steady - self._turned_at >= TURN_SECONDS:
            self._turned_at = steady
            self.decider.replan_some(TURN_SECONDS / self._limits.replan_seconds)
        began = time.perf_counter()
        snapshots, grace_until = self._mirrors.snapshots(), now + self._contact.grace_seconds
        if len(snapshots.assign) > MANY_PODS:
            decision = await asyncio.to_thread(self.decider.decide, snapshots, now, grace_until)
        else:
            decision = self.decider.decide(snapshots, now, grace_until)
        self._metrics.decide_seconds.observe(time.perf_counter() - began)
        return decision

    async def _write(self, decision: Decision, fence: Expectation) -> None:
        """Make the writes and see them made: until they are in memory, or read anew, nothing more is decided."""
        self._caught_up = False
        for app in decision.writes:
            self.decider.again(app)
        outcome = await self._executor.execute(decision.writes, fence)
        away: LainError | None = None
        for app in decision.writes:
            error = outcome.failed.get(app)
            if error is None:
                self.decider.written(app)
            elif isinstance(error, Unavailable):
                away = error  # the store's trouble, not the app's: the loop backs off
            else:
                seconds = self.decider.hold(app, self._clock())
                log.warning(
                    "app_not_written", app=app, code=error.error_code, error=error.message, retry_seconds=seconds
                )
        if away is not None:
            raise away
        await self._mirrors.settle(outcome.revisions)
        self._caught_up = not outcome.failed

    def _measure(self) -> None:
        phases = Counter(stored.value.phase for stored in self._mirrors["status"].snapshot().values())
        for phase in ProcPhase:
            self._metrics.procs.labels(phase.value).set(phases[phase])
        self._metrics.nodes_lost.set(len(self.decider.nodes.lost))
        self._metrics.breaker.set(bool(self.decider.breaker))
        faults = {**self.decider.world.faults, **self.decider.faults}
        self._metrics.frozen.set(len(faults))
        while self.decider.crashes:
            app, error = self.decider.crashes.popitem()
            log.error("app_not_planned", app=app, exc_info=error)
        if (frozen := frozenset(faults)) != self._frozen:
            for app in frozen - self._frozen:
                log.error("app_frozen", app=app, unreadable=dict(faults[app]))
            self._frozen = frozen


def make_loops(controller: Controller, metrics: LoopMetrics | None = None) -> tuple[Loop, Loop]:
    """The deciding loop and the pulse."""
    metrics = metrics or LoopMetrics()
    return (
        Loop("controller", controller.one_pass, max_backoff_seconds=1.0, duty=DUTY, metrics=metrics),
        Loop("pulse", controller.pulse, resync_seconds=PULSE_SECONDS, max_backoff_seconds=1.0, metrics=metrics),
    )
