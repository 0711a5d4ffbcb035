"""Driving operations: take those nobody holds, make the next step of those we hold, one fenced transaction at a time.

A pass reads everything afresh and decides purely (``advance``); every write expects the holder key that is ours, by its create revision,
and the operation as it was read. So a console that was replaced, frozen or cut off writes nothing any more, whatever it believes.

A rollout changes many times a second, and most of it leaves nothing to do. So what wakes a pass is judged by what is in memory first: only
if that may call for a step, or when a look is due anyway, is the store asked. Memory decides nothing but to wait a little longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from lain_console.metrics import Metrics
from lain_console.operations.advance import WITH_RELEASE, advance
from lain_console.operations.decision import LOOK_AGAIN_SECONDS, Move, View, Wait
from lain_console.state import AppNotFound, Claims, Scene, State
from lain_shared import keys
from lain_shared.errors import Conflict, LainError, LeaseLost, Uncertain
from lain_shared.lease import LeaseKeeper
from lain_shared.model.app import Operation, OperationHolder, OperationPhase, Release
from lain_shared.model.status import DeployStep
from lain_shared.records import BadRecord, Stored
from lain_shared.store import ABSENT, CreateRevision, Delete, Expectation, ModRevision, Write

log = structlog.get_logger()

MOVES_A_PASS = 8
"""Steps of one operation in one pass; then the others have their turn."""
AWAY_SECONDS = 10.0
"""A pass later than this after the last good one: we could not look (etcd away, process frozen), so deadlines start anew."""
HISTORY_KEPT, RELEASES_KEPT = 50, 20


class Driver:
    """One pass of ``one_pass`` looks after every running operation. ``wake`` is called by mirrors and by whoever starts one."""

    def __init__(
        self,
        state: State,
        lease: LeaseKeeper,
        console: str,
        metrics: Metrics,
        *,
        remembered: Callable[[], Sequence[Scene] | None] = lambda: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``remembered``: the apps that have an operation, as memory knows them; None: memory cannot be trusted to name them all."""
        self._state, self._lease, self._console, self._metrics = state, lease, console, metrics
        self._remembered = remembered
        self._look_at = 0.0
        """By ``clock``: until then the store is asked only if memory or whoever started an operation gives a reason to."""
        self._hurried = False
        self._releases: dict[str, tuple[str, Release | None]] = {}
        """App → its operation's id and the release that one moves to: a release never changes."""
        self._now, self._clock = now, clock
        self._counts_from = 0.0
        self._last_good: float | None = None
        self._progress: dict[tuple[str, str], tuple[float, float]] = {}
        """(app, proc) → the controller's time of its last progress, and ours when we first saw that."""
        self._stuck: dict[str, str] = {}
        """App → why its operation cannot be driven now: told once."""
        self.on_wake: Callable[[], None] = lambda: None

    def wake(self) -> None:
        """Ask the store soon, whatever memory says."""
        self._hurried = True
        self.on_wake()

    def lease_id(self) -> int:
        """The lease this console holds operations on; raises ``LeaseLost``."""
        return self._lease.lease_id

    async def one_pass(self) -> float | None:
        """Look after every operation; returns the seconds after which to look again at the latest."""
        left, hurried = self._look_at - self._clock(), self._hurried
        if left > 0.0 and not hurried and (idle := self._idle_seconds()) is not None:
            return min(left, idle)
        self._look_at, self._hurried = 0.0, False  # a look that fails is to be made again
        again = await self._look()
        self._look_at = self._clock() + (LOOK_AGAIN_SECONDS if again is None else min(again, LOOK_AGAIN_SECONDS))
        return again

    def _idle_seconds(self) -> float | None:
        """How long nothing is to be done by what memory says; None: something may be."""
        scenes = self._remembered()
        if scenes is None:
            return None
        try:
            mine = self._lease.lease_id
        except LeaseLost:
            return None
        seconds = LOOK_AGAIN_SECONDS
        for scene in scenes:
            operation, holder = scene.operation, scene.holder
            if operation is None or holder is None:
                return None
            if holder.entry.lease != mine:
                continue  # another console's, until its lease ends: that wakes us
            known, release = self._releases.get(operation.value.app, ("", None))
            if known != operation.value.id or operation.value.phase is OperationPhase.RELEASING:
                return None
            counts_from = max(self._counts_from, holder.value.since)
            view = View(scene, operation.value, release, self._now(), counts_from, self._note_progress(scene))
            match advance(view):
                case Wait(wait):
                    seconds = min(seconds, wait)
                case Move():
                    return None
        return seconds

    async def _look(self) -> float | None:
        operations, unreadable = await self._state.operations.list_readable()
        self._note_absence()
        self._metrics.operations.set(len(operations) + len(unreadable))
        apps = [stored.value.app for stored in operations]
        stuck = {keys.OPERATIONS.parse(key)[0]: why for key, why in unreadable.items()}
        for app, why in stuck.items():
            self._note_stuck(app, BadRecord(f"the operation of {app} cannot be driven", why=why))
        again = await asyncio.gather(*map(self._look_after, apps), return_exceptions=True)
        self._forget({*apps, *stuck})
        if not operations:
            return None
        for each in again:
            if isinstance(each, BaseException):
                raise each
        return min(each for each in again if not isinstance(each, BaseException))

    def _forget(self, running: set[str]) -> None:
        self._progress = {key: seen for key, seen in self._progress.items() if key[0] in running}
        self._stuck = {app: why for app, why in self._stuck.items() if app in running}
        self._releases = {app: known for app, known in self._releases.items() if app in running}

    def _note_absence(self) -> None:
        clock = self._clock()
        if self._last_good is not None and clock - self._last_good > AWAY_SECONDS:
            self._counts_from = self._now()
            log.info("deadlines_restarted", away_seconds=round(clock - self._last_good, 1))
        self._last_good = clock

    async def _look_after(self, app: str) -> float:
        """One operation's share of a pass; its failure is its own."""
        try:
            for _ in range(MOVES_A_PASS):
                seconds = await self._step(app)
                if seconds is not None:
                    return seconds
        except Conflict as error:
            log.debug("operation_moved", app=app, error=error.message)
            return 0.05
        except (LeaseLost, Uncertain) as error:
            log.info("operation_write_unsure", app=app, error=error.message)
            return 0.5
        except LainError as error:
            self._note_stuck(app, error)
            return 2.0
        return 0.0

    def _note_stuck(self, app: str, error: LainError) -> None:
        self._metrics.steps.labels("failed").inc()
        if self._stuck.get(app) != error.message:
            self._stuck[app] = error.message
            log.warning("operation_stuck", app=app, code=error.error_code, error=error.message, why=error.why)

    async def _step(self, app: str) -> float | None:
        """Make one step; returns None when it did, else how long to wait."""
        try:
            scene = await self._state.scene(app)
        except AppNotFound:
            return 5.0
        if scene.operation is None:
            return 60.0
        held = await self._hold(scene)
        if held is None:
            return 1.0
        fence, since = held
        view = await self._view(scene, scene.operation.value, max(self._counts_from, since))
        match advance(view):
            case Wait(seconds):
                return seconds
            case Move() as move:
                await self._make(scene, scene.operation, move, fence)
                return None

    async def _hold(self, scene: Scene) -> tuple[Expectation, float] | None:
        """The fence of an operation that is ours, and since when; taken when nobody holds it. None when somebody else does."""
        app, holder = scene.app.value.name, scene.holder
        if holder is not None:
            if holder.entry.lease == self._lease.lease_id:
                return CreateRevision(holder.entry.key, holder.entry.create_revision), holder.value.since
            return None
        operation = scene.operation
        assert operation is not None  # noqa: S101 - asked by the caller
        key = keys.OPERATION_HOLDERS.key(app)
        now = self._now()
        taken = self._state.holders.put_op(OperationHolder(self._console, now), app, lease=self._lease.lease_id)
        expect = [ModRevision(key, ABSENT), ModRevision(operation.entry.key, operation.entry.mod_revision)]
        revision = await self._state.store.txn(expect, [taken])
        self._metrics.takeovers.inc()
        log.info("operation_taken", app=app, operation=operation.value.id, phase=operation.value.phase.value)
        return CreateRevision(key, revision), now

    async def _view(self, scene: Scene, operation: Operation, counts_from: float) -> View:
        release: Release | None = None
        if operation.release is not None:
            release = await self._state.release(operation.app, operation.release)
        self._releases[operation.app] = operation.id, release
        releasing = operation.phase is OperationPhase.RELEASING
        claims = await self._state.all_claims() if releasing else Claims()
        volumes = await self._state.volumes_of(operation.app) if releasing and operation.delete_volumes else {}
        return View(scene, operation, release, self._now(), counts_from, self._note_progress(scene), claims, volumes)

    def _note_progress(self, scene: Scene) -> dict[str, float]:
        """proc → when, by our clock, we first saw the progress its status speaks of."""
        app = scene.app.value.name
        found = {}
        for proc, status in scene.status.items():
            known = self._progress.get((app, proc))
            if known is None or known[0] != status.progress_at:
                known = self._progress[app, proc] = (status.progress_at, self._now())
            found[proc] = known[1]
        return found

    async def _make(self, scene: Scene, stored: Stored[Operation], move: Move, fence: Expectation) -> None:
        state, app = self._state, stored.value.app
        expect: list[Expectation] = [fence, ModRevision(stored.entry.key, stored.entry.mod_revision)]
        expect.extend(move.claims.expectations)
        writes: list[Write] = [*move.claims.writes]
        writes.extend(state.desired.put_op(each, app, each.proc) for each in move.put)
        writes.extend(state.desired.delete_op(app, proc) for proc in move.delete)
        if move.operation is not None:
            writes.append(state.operations.put_op(move.operation, app))
        else:
            writes.extend([state.operations.delete_op(app), state.holders.delete_op(app), state.marks.delete_op(app)])
        if move.app is not None:
            expect.append(ModRevision(scene.app.entry.key, scene.app.entry.mod_revision))
            writes.append(state.apps.put_op(move.app, app))
        writes.extend(state.volume_deletions.put_op(each, each.node, app) for each in move.volume_deletions)
        if move.history is not None:
            writes.append(state.history.put_op(move.history, app, move.history.id))
            writes.extend(await self._outdated(scene, move))
        await state.store.txn(expect, writes)
        self._metrics.steps.labels("made").inc()
        self._tell(stored.value, move)

    async def _outdated(self, scene: Scene, move: Move) -> list[Delete]:
        """Old operations and releases that go with the end of this one; never the current release, its parent or one still running.

        With a release goes that nodes keep its images; with an app out of service, that they keep any of it.
        """
        app = scene.app.value.name
        history, (releases, _), keeping = await asyncio.gather(
            self._state.store.list(keys.HISTORY.under(app)),
            self._state.releases.list_readable(app),
            self._state.store.list(keys.KEPT_IMAGES.under(app)),
        )
        old_history = [entry.key for entry in history.entries][: -(HISTORY_KEPT - 1)]
        after = move.app
        kept = {stored.value.release for stored in scene.desired.values()}
        kept |= {desired.release for desired in move.put}
        if after is not None and after.release is not None:
            current = await self._state.releases.get(app, after.release)
            kept |= {after.release}
            if current is not None:
                kept |= {desired.release for desired in current.value.procs}
                kept |= {current.value.parent} if current.value.parent is not None else set()
        kept |= {stored.value.number for stored in releases[-RELEASES_KEPT:]}
        kept |= {
            origin for stored in releases if stored.value.number in kept for origin in stored.value.origins.values()
        }
        old_releases = [stored for stored in releases if stored.value.number not in kept]
        unkept = {keys.KEPT_IMAGES.key(app, stored.value.number) for stored in old_releases}
        if (after or scene.app.value).release is None:
            unkept = {entry.key for entry in keeping.entries}
        return [Delete(key) for key in (*old_history, *(stored.entry.key for stored in old_releases), *sorted(unkept))]

    def _tell(self, before: Operation, move: Move) -> None:
        after = move.operation
        if move.history is not None:
            record = move.history
            self._metrics.ended.labels(record.kind.value, record.outcome.value).inc()
            self._metrics.seconds.labels(record.kind.value).observe(record.ended_at - record.started_at)
            if record.kind in WITH_RELEASE:
                for step in DeployStep:
                    self._metrics.step_seconds.labels(step.value).observe(record.step_seconds.get(step.value, 0.0))
            log.info(
                "operation_ended", app=record.app, operation=record.id, kind=record.kind.value,
                outcome=record.outcome.value, who=record.who, release=record.release,
                failure=record.failure.code if record.failure is not None else None,
            )  # fmt: skip
            for order in move.volume_deletions:
                log.warning(
                    "volume_deletion_ordered", app=order.app, node=order.node, volumes=order.volumes, who=order.who
                )
        elif after is not None and after.phase is not before.phase:
            log.info(
                "operation_phase_changed", app=after.app, operation=after.id, phase=after.phase.value,
                failure=after.failure.code if after.failure is not None else None,
            )  # fmt: skip
