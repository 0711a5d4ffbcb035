"""The loss report's source: looks at nginx's counts each second, and publishes what operations cost each app's visitors.

It is told of operations by ``operation-marks/``. A record lives on a lease that outlasts its watcher: the next one goes on from it, exactly
as far as nginx itself went on; and when nobody needs it any more, it is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from lain_shared import keys
from lain_shared.errors import LeaseLost
from lain_shared.mirror import Mirror
from lain_shared.model.traffic import OperationMark, OperationTraffic, RouterTraffic
from lain_shared.records import Records
from lain_shared.store import Store
from lain_watcher.adapters.nginx import Nginx, TrafficUnknown
from lain_watcher.metrics import Metrics
from lain_watcher.traffic import Interval, Meter, Ring, followed, resumed

log = structlog.get_logger()

LOOK_SECONDS, PACE_SECONDS = 1.0, 0.1
"""How often nginx is asked; and how soon again, when operations begin and end."""
UNKNOWN_SECONDS = 30.0
FULL_SECONDS = 600.0
"""How often nginx is asked for all procs, to forget those it has forgotten."""
WRITE_SECONDS = 5.0
"""Counts are written no more often; that an operation began, ended or is final is written at once."""
KEEP_SECONDS = 3600
"""A record is gone between half of this and this after it was last written."""
WRITES_AT_ONCE = 16


@dataclass(slots=True)
class _Told:
    """What was written of one app, and when (monotonic)."""

    reports: tuple[OperationTraffic, ...]
    at: float


class Loss:
    """One pass looks, follows, publishes. ``apps``: those with routes in the table; only they, and those that had requests, are told of."""

    def __init__(
        self,
        router: str,
        store: Store,
        nginx: Nginx,
        *,
        apps: Callable[[], Collection[str]],
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_wake: Callable[[], None] = lambda: None
        """Called when an operation began or ended."""
        self.marks = Mirror(Records(store, keys.OPERATION_MARKS, OperationMark), on_change=self.wake)
        self._router, self._store, self._nginx = router, store, nginx
        self._apps, self._metrics = apps, metrics
        self._now, self._clock = now, clock
        self._records = Records(store, keys.TRAFFIC, RouterTraffic)
        self._meter, self._ring = Meter(), Ring()
        self._reports: dict[str, tuple[OperationTraffic, ...]] = {}
        self._told: dict[str, _Told] = {}
        self._resumed = False
        self._last_pass = self._last_full = float("-inf")
        self._lease: tuple[int, float] | None = None
        self._unknown = False

    def wake(self) -> None:
        self.on_wake()

    async def one_pass(self) -> float:
        await asyncio.sleep(min(max(self._last_pass + PACE_SECONDS - self._clock(), 0.0), PACE_SECONDS))
        self._last_pass = self._clock()
        try:
            interval = await self._look()
        except TrafficUnknown as error:
            if not self._unknown:
                log.warning("traffic_unknown", error=error.message, next=error.next)
            self._unknown = True
            return UNKNOWN_SECONDS
        self._unknown = False
        if not self.marks.ready:
            return LOOK_SECONDS
        marks = {stored.value.app: stored.value for stored in self.marks.snapshot().values()}
        if self._resumed:
            self._follow(interval, marks)
        else:
            await self._resume(marks)
        await self._publish()
        return LOOK_SECONDS

    async def _look(self) -> Interval | None:
        full = self._clock() - self._last_full >= FULL_SECONDS
        said = await self._nginx.traffic(None if full else self._meter.at)
        interval = self._meter.take(said, self._now(), full=full)
        if full and said is not None:
            self._last_full = self._clock()
            self._metrics.keep_traffic_of(self._apps())
        if interval is not None:
            self._ring.add(interval)
            for app, counts in interval.counts.items():
                self._metrics.count_traffic(app, counts)
            self._metrics.uncounted_requests.inc(interval.uncounted)
        return interval

    # --- what operations cost -----------------------------------------------------------------------------------------

    async def _resume(self, marks: Mapping[str, OperationMark]) -> None:
        """Go on from what an earlier watcher of this router left."""
        if self._meter.at is None or not self._meter.boot_id:
            return  # nginx has not said anything yet
        found, _ = await self._records.list_readable(self._router)
        for stored in found:
            record, app = stored.value, stored.value.app
            reports = record.reports
            self._told[app] = _Told(reports, self._clock())
            if reports and not reports[-1].final and record.mark is not None:
                since = self._meter.since(record.mark, app)
                reports = (*reports[:-1], resumed(reports[-1], since, app, marks.get(app)))
            self._reports[app] = reports
        self._resumed = True
        self._follow(None, marks)

    def _follow(self, interval: Interval | None, marks: Mapping[str, OperationMark]) -> None:
        at = self._meter.at if self._meter.at is not None else self._now()
        for app in self._reports.keys() | marks.keys():
            self._reports[app] = followed(self._reports.get(app, ()), interval, marks.get(app), self._ring, app, now=at)

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        routed = self._apps() if self._reports else ()
        due = [app for app in self._reports if self._is_due(app, app in routed)]
        for first in range(0, len(due), WRITES_AT_ONCE):
            lease = await self._lease_id()
            some = due[first : first + WRITES_AT_ONCE]
            outcomes = await asyncio.gather(*(self._write(app, lease) for app in some), return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if any(isinstance(error, LeaseLost) for error in failed):
                self._lease = None
            if failed:
                raise failed[0]
        self._forget()

    def _is_due(self, app: str, routed: bool) -> bool:
        reports, told = self._reports[app], self._told.get(app)
        if told is None:
            return bool(reports) and (routed or any(map(_has_counts, reports)))
        if _shape(told.reports) != _shape(reports):
            return True
        return self._clock() - told.at >= WRITE_SECONDS and _numbers(told.reports) != _numbers(reports)

    async def _write(self, app: str, lease: int) -> None:
        reports = self._reports[app]
        mark = None if reports[-1].final else self._meter.mark(app)
        await self._records.put(RouterTraffic(self._router, app, reports, mark), self._router, app, lease=lease)
        self._told[app] = _Told(reports, self._clock())

    async def _lease_id(self) -> int:
        if self._lease is None or self._clock() - self._lease[1] > KEEP_SECONDS / 2:
            self._lease = ((await self._store.grant(KEEP_SECONDS)).id, self._clock())
        return self._lease[0]

    def _forget(self) -> None:
        """Apps whose record will be gone soon."""
        for app, told in list(self._told.items()):
            if told.reports and told.reports[-1].final and self._clock() - told.at > KEEP_SECONDS / 2:
                del self._told[app]
                self._reports.pop(app, None)
        for app, reports in list(self._reports.items()):
            if not reports or (reports[-1].final and app not in self._told):
                del self._reports[app]


def _has_counts(report: OperationTraffic) -> bool:
    return any(window.counts.requests for window in (report.before, report.during, report.after) if window is not None)


def _shape(reports: tuple[OperationTraffic, ...]) -> object:
    """What is written at once."""
    return [(report.operation, report.after is None, report.final) for report in reports]


def _numbers(reports: tuple[OperationTraffic, ...]) -> object:
    """What is written every few seconds."""
    return [
        (window.counts, window.why)
        for report in reports
        for window in (report.before, report.during, report.after)
        if window is not None
    ]
