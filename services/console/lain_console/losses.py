"""Loss reports: read live from what routers tell, and written into history once they are final.

Any replica may write one, in one transaction that expects the record as it was read; the operation itself waits for none of it. A console
that cannot hear the routers is ready all the same: it shows reports a little older, or none.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from lain_console.operations.loss import closed, merged
from lain_console.state import State
from lain_shared.errors import Conflict
from lain_shared.loop import Part
from lain_shared.mirror import Mirror
from lain_shared.model.app import HistoryRecord
from lain_shared.model.traffic import LossReport, RouterTraffic

log = structlog.get_logger()

LATE_SECONDS = 90.0
"""After an operation's end: the minute that is measured, and time to tell of it."""
QUIET_SECONDS = 15.0
"""A running operation's report is newer than this; an older one may be of an operation that ended."""
LOOK_SECONDS = 5.0


class Losses:
    """``with_loss`` completes a record that is to be shown; ``one_pass`` writes what is final."""

    def __init__(self, state: State, *, now: Callable[[], float] = time.time) -> None:
        self._state, self._now = state, now
        self.on_wake: Callable[[], None] = lambda: None
        """Called when a router told something."""
        self.traffic = Mirror(state.traffic, on_change=self.wake)
        self._members = Mirror(state.router_members)
        self._done: set[tuple[str, str]] = set()
        """(app, operation) → its report is in history."""

    def wake(self) -> None:
        self.on_wake()

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.traffic, self._members)

    def of(self, app: str, operation: str) -> LossReport | None:
        """What routers tell of an operation now; None: nothing (yet)."""
        return merged(operation, self._told().get(app, ()), self._routers()) if self._heard else None

    def with_loss(self, record: HistoryRecord) -> HistoryRecord:
        """The record with its loss report as it stands now."""
        if record.loss is not None and record.loss.final:
            return record
        return replace(record, loss=self.of(record.app, record.id) or record.loss)

    async def one_pass(self) -> float | None:
        if not self._heard:
            return LOOK_SECONDS
        records, routers = self._told(), self._routers()
        told = {(app, each.operation) for app in records for record in records[app] for each in record.reports}
        self._done &= told
        for app, operation in sorted(told - self._done):
            report = merged(operation, records[app], routers)
            if report is not None and (report.final or self._is_quiet(report)):
                await self._settle(app, operation, report)
        return LOOK_SECONDS if told - self._done else None

    def _is_quiet(self, report: LossReport) -> bool:
        return self._now() - (report.after or report.during).until > QUIET_SECONDS

    async def _settle(self, app: str, operation: str, report: LossReport) -> None:
        """Write the report, if the operation has ended and nothing more is coming."""
        stored = await self._state.history.get(app, operation)
        if stored is None:
            return  # it runs
        record = stored.value
        if record.loss is not None and record.loss.final:
            self._done.add((app, operation))
            return
        if not report.final and self._now() - record.ended_at < LATE_SECONDS:
            return
        report = closed(report)
        try:
            await self._state.history.put(
                replace(record, loss=report), app, operation, expect=stored.entry.mod_revision
            )
        except Conflict:
            return  # another replica wrote it, or it is kept no longer: look again
        self._done.add((app, operation))
        log.info(
            "loss_reported", app=app, operation=operation, requests=report.during.requests, errors=report.during.errors,
            app_errors=report.during.app_errors, complete=report.complete,
        )  # fmt: skip

    # --- what routers tell --------------------------------------------------------------------------------------------

    @property
    def _heard(self) -> bool:
        return self.traffic.ready and self._members.ready

    def _routers(self) -> frozenset[str]:
        return frozenset(stored.value.router for stored in self._members.snapshot().values())

    def _told(self) -> Mapping[str, list[RouterTraffic]]:
        """App → what each router tells of it."""
        found: dict[str, list[RouterTraffic]] = defaultdict(list)
        for stored in self.traffic.snapshot().values():
            found[stored.value.app].append(stored.value)
        return found
