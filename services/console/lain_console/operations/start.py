"""Starting an operation: one transaction with a fence on everything the plan relied on.

The app is free (or the operation taken over stands as it was seen), its registration, the cluster's configuration and every claim are as
the plan saw them; then operation, holder, release, claims and, for changes that need no rollout of a new release, ``desired`` are written.
If anything moved, the caller plans once more; then it is told who was faster.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from lain_console.images import images_of
from lain_console.operations import budget
from lain_console.operations.driver import Driver
from lain_console.operations.judging import broken_pods
from lain_console.state import Scene, State
from lain_console.wording import age_text
from lain_shared import keys
from lain_shared.errors import Conflict, LeaseLost, Refused, Unavailable, Uncertain
from lain_shared.model.app import (
    App,
    HistoryRecord,
    Operation,
    OperationHolder,
    OperationKind,
    OperationPhase,
    Outcome,
    Release,
    Step,
)
from lain_shared.model.pod import Desired
from lain_shared.model.status import DeployStep
from lain_shared.model.traffic import OperationMark
from lain_shared.records import Stored
from lain_shared.store import ABSENT, Expectation, ModRevision, Write

log = structlog.get_logger()

REPLACEABLE = frozenset({OperationPhase.ONESHOTS, OperationPhase.ROLLOUT, OperationPhase.ROLLING_BACK})
"""Phases from which there is a way back."""


class AppBusy(Conflict):
    """Another operation runs."""

    code = "busy"

    def __init__(self, operation: Operation, holder: OperationHolder | None, now: float) -> None:
        age = max(0.0, now - operation.started_at)
        target = f" of release {operation.release}" if operation.release is not None else ""
        super().__init__(
            f"{operation.app} is busy: {operation.kind.value}{target} by {operation.who}, "
            f"for {age_text(age)}, phase {operation.phase.value}",
            why="one operation at a time: two would mix their pods",
            next=f"wait for it, lain cancel {operation.app}, or lain deploy --replace {operation.app}",
            evidence={
                "operation": operation.id,
                "kind": operation.kind.value,
                "phase": operation.phase.value,
                "who": operation.who,
                "started_at": operation.started_at,
                "age_seconds": round(age, 1),
                "holder": holder.console if holder is not None else "",
                "release": operation.release,
            },
        )


class TooLate(Refused):
    """The operation is past the point from which there is a way back."""

    code = "too_late"


@dataclass(frozen=True, slots=True)
class Intent:
    """An operation as planned, and all the plan relied on."""

    kind: OperationKind
    phase: OperationPhase
    release: int | None
    """The release it moves to."""
    text: str
    """Its first step, for people."""
    new_release: Release | None = None
    desired: tuple[Desired, ...] = ()
    delete: tuple[str, ...] = ()
    """Procs whose ``desired`` goes at once."""
    procs: tuple[str, ...] = ()
    deadline_seconds: float = 300.0
    before: Mapping[str, Desired] | None = None
    """What a failure restores; None: what stands now."""
    app: App | None = None
    """The registration after the start; None: as it is."""
    delete_volumes: bool = False
    expectations: tuple[Expectation, ...] = ()
    writes: tuple[Write, ...] = ()


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts operations on behalf of this console."""

    state: State
    driver: Driver
    console: str
    now: Callable[[], float] = field(default=time.time)

    async def start(
        self, app: str, who: str, plan: Callable[[Scene], Awaitable[Intent | None]], *, replace_running: bool = False
    ) -> Operation | None:
        """Plan on what stands now and start; plan once more if the world moved in between.

        ``plan`` returns None when there is nothing to do, and raises what speaks against it. With ``replace_running`` a running operation
        is taken over. Raises ``AppBusy``, ``TooLate``, ``Conflict``, ``Unavailable``.
        """
        asked_at = self.now()
        for attempt in (1, 2):
            scene = await self.state.scene(app)
            self._require_free(scene, replace_running)
            intent = await plan(scene)
            if intent is None:
                return None
            if intent.kind is not OperationKind.UNDEPLOY:
                await self._require_no_deletion(app)
            try:
                return await self._write(scene, intent, who, asked_at)
            except LeaseLost as error:
                raise Unavailable(
                    f"this console lost its hold on {self.state.store.where}",
                    why=error.message,
                    next="try again; if it lasts: lainctl doctor",
                    retry_seconds=1.0,
                ) from error
            except Conflict as error:
                log.info("start_conflicted", app=app, attempt=attempt, error=error.message)
                if attempt == 2:
                    self._require_free(await self.state.scene(app), replace_running=False)
                    raise Conflict(
                        f"{app} changed while the plan was made, twice",
                        why=error.message,
                        next="try again",
                        retry_seconds=1.0,
                    ) from error
        raise AssertionError("unreachable")

    def _require_free(self, scene: Scene, replace_running: bool) -> None:
        if scene.operation is None:
            return
        running = scene.operation.value
        holder = scene.holder.value if scene.holder is not None else None
        if not replace_running:
            raise AppBusy(running, holder, self.now())
        if running.phase not in REPLACEABLE:
            raise TooLate(
                f"the {running.kind.value} of {running.app} can no longer be taken over",
                why=f"it is in phase {running.phase.value}: what it wanted serves already",
                next="wait for its end (seconds), then try again",
                retry_seconds=2.0,
            )

    async def _require_no_deletion(self, app: str) -> None:
        """A new volume must never meet the order to delete the old one. Orders are given in the transaction that ends an undeploy, which
        changes ``apps/<app>``: the start's own fence on that key sees one that is given meanwhile."""
        if nodes := await self.state.deletions_of(app):
            raise Conflict(
                f"volumes of {app} are being deleted on {', '.join(nodes)}",
                why="what starts now would lose its data to it",
                next=f"wait for it (seconds); if a node is away: lainctl node inspect {nodes[0]}",
                evidence={"nodes": list(nodes)},
                retry_seconds=2.0,
                code="deleting_volumes",
            )

    async def _write(self, scene: Scene, intent: Intent, who: str, asked_at: float) -> Operation:
        state, now = self.state, self.now()
        running = scene.operation
        app = scene.app.value
        parent, before = app.release, scene.wanted
        if running is not None:
            parent, before = running.value.parent, dict(running.value.before)
        if intent.before is not None:
            before = dict(intent.before)
        operation = Operation(
            new_id(now),
            app.name,
            intent.kind,
            intent.phase,
            who,
            now,
            release=intent.release,
            parent=parent,
            procs=intent.procs,
            deadline_seconds=intent.deadline_seconds,
            steps=(Step(now, intent.text),),
            before=before,
            phase_at=now,
            broken=broken_pods(scene.status),
            delete_volumes=intent.delete_volumes,
            step_seconds={DeployStep.PLAN.value: round(max(0.0, now - asked_at), 4)},
        )
        expectations = [
            ModRevision(keys.APPS.key(app.name), scene.app.entry.mod_revision),
            ModRevision(keys.OPERATIONS.key(app.name), running.entry.mod_revision if running is not None else ABSENT),
            *intent.expectations,
        ]
        mark = OperationMark(operation.id, app.name, now)
        writes: list[Write] = [
            state.operations.put_op(operation, app.name), state.marks.put_op(mark, app.name), *intent.writes,
        ]  # fmt: skip
        if running is None:  # whoever holds a running one drives what replaces it
            expectations.append(ModRevision(keys.OPERATION_HOLDERS.key(app.name), ABSENT))
            writes.append(
                state.holders.put_op(OperationHolder(self.console, now), app.name, lease=self.driver.lease_id())
            )
        else:
            writes.append(state.history.put_op(_replaced(running.value, operation, now), app.name, running.value.id))
        if intent.app is not None or intent.new_release is not None:
            after = intent.app or app
            if intent.new_release is not None:
                after = replace(after, last_release=intent.new_release.number)
            writes.append(state.apps.put_op(after, app.name))
        if intent.new_release is not None:
            number = intent.new_release.number
            expectations.append(ModRevision(keys.RELEASES.key(app.name, number), ABSENT))
            writes.append(state.releases.put_op(intent.new_release, app.name, number))
            writes.append(state.kept_images.put_op(images_of(intent.new_release), app.name, number))
        writes.extend(state.desired.put_op(each, app.name, each.proc) for each in intent.desired)
        writes.extend(state.desired.delete_op(app.name, proc) for proc in intent.delete)
        await self._commit(operation, expectations, writes)
        log.info(
            "operation_started", app=app.name, operation=operation.id, kind=operation.kind.value, who=who,
            release=operation.release, replaced=running.value.id if running is not None else None,
        )  # fmt: skip
        self.driver.wake()
        return operation

    async def _commit(self, operation: Operation, expectations: list[Expectation], writes: list[Write]) -> None:
        try:
            await self.state.store.txn(expectations, writes)
        except Uncertain:
            stored = await self.state.operations.get(operation.app)
            if stored is None or stored.value.id != operation.id:
                raise

    async def cancel(self, app: str, who: str) -> Stored[Operation]:
        """Ask the running operation to go back. Raises ``Conflict`` (nothing runs, or it goes back already) and ``TooLate``."""
        while True:
            await self.state.app(app)
            stored = await self.state.operations.get(app)
            if stored is None:
                raise Conflict(f"nothing runs on {app}: there is nothing to cancel", code="no_operation")
            running = stored.value
            if running.cancel_requested or running.phase is OperationPhase.ROLLING_BACK:
                raise Conflict(
                    f"the {running.kind.value} of {app} is already going back",
                    next=f"watch it: lain dashboard {app}",
                    code="already_going_back",
                )
            if running.phase not in REPLACEABLE:
                raise TooLate(
                    f"the {running.kind.value} of {app} can no longer be cancelled",
                    why=f"it is in phase {running.phase.value}: what it wanted serves already",
                    next=f"lain rollback {app}" if running.kind is not OperationKind.UNDEPLOY else f"lain deploy {app}",
                )
            wanted = replace(
                running, cancel_requested=True, steps=(*running.steps, Step(self.now(), f"{who} asked to cancel"))
            )
            try:
                revision = await self.state.operations.put(wanted, app, expect=stored.entry.mod_revision)
            except Conflict:
                continue  # the driver was faster: look again
            log.info("operation_cancelled", app=app, operation=running.id, who=who)
            self.driver.wake()
            return Stored(wanted, replace(stored.entry, mod_revision=revision))


def new_id(now: float) -> str:
    """Sorts by time, and people can read it: ``20261122-101512-3fa9``."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{int(now * 1000) % 1000:03d}{secrets.token_hex(2)}"


def _replaced(running: Operation, by: Operation, now: float) -> HistoryRecord:
    return HistoryRecord(
        running.id,
        running.app,
        running.kind,
        Outcome.REPLACED,
        running.who,
        running.started_at,
        now,
        release=running.release,
        parent=running.parent,
        failure=running.failure,
        step_seconds=budget.after_phase(running, now, ()),
        steps=(*running.steps, Step(now, f"replaced by a {by.kind.value} of {by.who}")),
    )
