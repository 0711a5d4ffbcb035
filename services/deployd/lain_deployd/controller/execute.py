"""The actions of a plan as fenced transactions. Every write expects the key it replaces to be as it was read, and us to be the leader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from lain_deployd.controller.actions import (
    Action,
    DropAssignment,
    DropEndpoints,
    DropStatus,
    PutAssignment,
    PutEndpoints,
    PutStatus,
)
from lain_deployd.metrics import ControllerMetrics
from lain_shared import keys
from lain_shared.errors import Conflict, LainError, Uncertain
from lain_shared.lease import Leadership, NotLeader
from lain_shared.model.pod import Assignment
from lain_shared.model.route import Endpoints
from lain_shared.model.status import ProcStatus
from lain_shared.records import Records
from lain_shared.store import Expectation, ModRevision, Put, Store, Write

log = structlog.get_logger()

MAX_OPERATIONS = 100
"""Writes in one transaction."""
MAX_BYTES = 1_000_000
"""Keys and values in one transaction: etcd refuses requests of more than 1.5 MiB, and there are expectations besides."""
AT_ONCE = 16
"""Apps written at the same time."""


@dataclass(slots=True)
class Outcome:
    """What came of a round of writes."""

    revisions: dict[str, int] = field(default_factory=dict)
    """Family → the last revision written."""
    failed: dict[str, LainError] = field(default_factory=dict)
    """App → why its writes were not all made."""


class Executor:
    """Writes what a plan says. One app's actions go in order; the apps are independent of each other."""

    def __init__(self, store: Store, leadership: Leadership, metrics: ControllerMetrics) -> None:
        self._store, self._leadership, self._metrics = store, leadership, metrics
        self._assign = Records(store, keys.ASSIGN, Assignment)
        self._endpoints = Records(store, keys.ENDPOINTS, Endpoints)
        self._status = Records(store, keys.STATUS, ProcStatus)

    async def execute(self, writes: Mapping[str, Sequence[Action]], fence: Expectation) -> Outcome:
        """Make all writes; one app's failure is no other's. Raises ``NotLeader`` when the reign of ``fence`` is over."""
        outcome, gate = Outcome(), asyncio.Semaphore(AT_ONCE)

        async def one(app: str, actions: Sequence[Action]) -> None:
            async with gate:
                try:
                    await self._write(actions, fence, outcome)
                except LainError as error:
                    outcome.failed[app] = error
                except Exception as error:  # a fault of ours with one app must not stop the others
                    log.error("write_crashed", app=app, exc_info=error)
                    outcome.failed[app] = LainError(
                        f"{app} cannot be written, which is a fault of LAIN", why=str(error)
                    )

        await asyncio.gather(*(one(app, actions) for app, actions in writes.items()))
        for error in outcome.failed.values():
            if isinstance(error, NotLeader):
                raise error
        return outcome

    async def _write(self, actions: Sequence[Action], fence: Expectation, outcome: Outcome) -> None:
        for chunk in chunks([(action, *self._prepare(action)) for action in actions]):
            self._leadership.fence()  # by the clock: not worth sending once the lease may have ended
            writes = [write for _, _, write in chunk]
            try:
                revision = await self._store.txn([fence, *(expectation for _, expectation, _ in chunk)], writes)
            except Conflict as error:
                self._metrics.transactions.labels("conflict").inc()
                if error.evidence.get("key") == fence.key:
                    raise NotLeader("another replica leads", retry_seconds=1.0) from error
                log.warning("write_refused", key=error.evidence.get("key"), why=error.message)
                raise
            except Uncertain:
                self._metrics.transactions.labels("uncertain").inc()
                raise
            except LainError:
                self._metrics.transactions.labels("failed").inc()
                raise
            self._metrics.transactions.labels("ok").inc()
            for write in writes:
                outcome.revisions[keys.family_of(write.key).name] = revision
            for action, _, _ in chunk:
                for name, event, fields in _tell(action):
                    self._metrics.actions.labels(name).inc()
                    if event:
                        log.info(event, **fields)

    def _prepare(self, action: Action) -> tuple[Expectation, Write]:
        match action:
            case PutAssignment(node, pod, revision, _):
                write: Write = self._assign.put_op(pod, node, str(pod.pod))
            case DropAssignment(node, pod_id, revision, _):
                write = self._assign.delete_op(node, str(pod_id))
            case PutEndpoints(endpoints, revision):
                write = self._endpoints.put_op(endpoints, endpoints.app, endpoints.proc)
            case DropEndpoints(app, proc, revision):
                write = self._endpoints.delete_op(app, proc)
            case PutStatus(status, revision):
                write = self._status.put_op(status, status.app, status.proc)
            case DropStatus(app, proc, revision):
                write = self._status.delete_op(app, proc)
        return ModRevision(write.key, revision), write


Prepared = tuple[Action, Expectation, Write]


def chunks(prepared: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """In order, as many at a time as one transaction takes. What is too big by itself goes alone: only its app waits for it."""
    chunk: list[Prepared] = []
    total = 0
    for one in prepared:
        write = one[2]
        size = len(write.key) + (len(write.value) if isinstance(write, Put) else 0)
        if chunk and (len(chunk) >= MAX_OPERATIONS or total + size > MAX_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(one)
        total += size
    if chunk:
        yield chunk


def _tell(action: Action) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each action: its name for the metrics, and the log event if it is worth one."""
    match action:
        case PutAssignment(node, pod, revision, why):
            fields = {"pod": str(pod.pod), "node": node, "why": why, "release": pod.release}
            if revision == 0:
                yield "assign", "pod_assigned", fields
            elif not pod.run:
                yield "stop", "pod_told_to_stop", fields
            elif pod.draining:
                yield "drain", "pod_draining", fields
            else:
                yield "change", "pod_changed", fields
        case DropAssignment(node, pod_id, _, why):
            yield "forget", "pod_gone", {"pod": str(pod_id), "node": node, "why": why}
        case PutEndpoints(endpoints, _):
            counts = {name: len(getattr(endpoints, name)) for name in ("ready", "suspect", "draining")}
            yield "endpoints", "endpoints_changed", {"app": endpoints.app, "proc": endpoints.proc, **counts}
        case DropEndpoints(app, proc, _):
            yield "endpoints", "endpoints_removed", {"app": app, "proc": proc}
        case PutStatus() | DropStatus():
            yield "status", "", {}
