"""From nginx's counts to what an operation cost its app's visitors. Pure: no clock, store or nginx in here.

nginx's counts only grow. What they grew by between two looks is an ``Interval``; the last minutes of them are the ``Ring``; an operation's
report is made of intervals: those before it from the ring, the others as they come. A boundary lies between two intervals, and ``during``
gets what straddles one. Counts that are missing are told (``complete``), never made up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from lain_shared.model.traffic import (
    Counts,
    OperationMark,
    OperationTraffic,
    ProcTraffic,
    TrafficMark,
    TrafficWindow,
)
from lain_watcher.adapters.nginx import NginxTraffic

BEFORE_SECONDS = AFTER_SECONDS = 60.0
RING_SECONDS = 150.0
"""Operations are told within moments; the rest is for when the store was away as one began."""
SLACK_SECONDS = 2.5
"""A window that begins so much later than it should is not called incomplete: a look may take its time."""
ABSENT = "no nginx was there to count"
MAX_REPORTS = 4
"""Operations in an app's record: the running one, and those that a console may not have read yet."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What nginx counted of each app after ``since``, up to ``until``."""

    since: float
    until: float
    counts: Mapping[str, Counts] = field(default_factory=dict)
    lost: str = ""
    """Which counts of any app are missing; "": none."""
    lost_apps: frozenset[str] = frozenset()
    """Apps of which counts are missing."""
    uncounted: int = 0
    """Requests there was no room to count."""

    def why(self, app: str) -> str:
        """What is missing of one app; "": nothing."""
        return self.lost or ("the router had no room to count it all" if app in self.lost_apps else "")


def grown(before: ProcTraffic, now: ProcTraffic) -> Counts | None:
    """What was counted in between; None when it cannot be told: a slot that counted before is gone."""
    return now.counts - before.counts if set(before.slots) <= set(now.slots) else None


def app_of(proc: str) -> str:
    """The app of nginx's ``app/proc``."""
    return proc.partition("/")[0]


class Meter:
    """What nginx said last, and what it grew by since the look before."""

    def __init__(self) -> None:
        self.boot_id = ""
        self.at: float | None = None
        """Up to when intervals were made; None: nothing is known yet."""
        self.uncounted = 0
        self._procs: dict[str, ProcTraffic] = {}
        self._absent = False

    def take(self, said: NginxTraffic | None, now: float, *, full: bool = False) -> Interval | None:
        """The interval up to now; None for the first word: what it holds came before us.

        ``said`` None: no nginx process exists. ``full``: it is of all procs; what is not in it, nginx has forgotten.
        """
        since = self.at
        if said is None:
            self.at = max(now, since or 0.0)
            self._absent = True
            return None if since is None else Interval(since, self.at, lost=ABSENT)
        counts: dict[str, Counts] = {}
        lost, lost_apps, uncounted = "", set(), 0
        again = said.boot_id == self.boot_id
        if not again:
            lost = ABSENT if self._absent else "nginx started anew: what the one before counted last is lost"
            self._procs.clear()
        elif (uncounted := said.uncounted - self.uncounted) > 0:
            lost = f"the router had no room to count {uncounted} requests"
        for name, proc in said.procs.items():
            more = grown(self._procs.get(name, ProcTraffic()), proc)
            self._procs[name] = proc
            if more is None:
                lost_apps.add(app_of(name))
            elif more.requests or more.latency:
                app = app_of(name)
                counts[app] = counts[app] + more if app in counts else more
        if full:
            self._procs = {name: proc for name, proc in self._procs.items() if name in said.procs}
        self.boot_id, self.uncounted, self._absent = said.boot_id, said.uncounted, False
        self.at = max(said.now, since or 0.0)
        return None if since is None else Interval(since, self.at, counts, lost, frozenset(lost_apps), uncounted)

    def mark(self, app: str) -> TrafficMark:
        """How far the intervals go, for one app."""
        procs = {name: proc for name, proc in self._procs.items() if app_of(name) == app}
        return TrafficMark(self.boot_id, self.at or 0.0, self.uncounted, procs)

    def since(self, mark: TrafficMark, app: str) -> Interval:
        """What was counted of one app since a mark that an earlier watcher left."""
        until = max(self.at or 0.0, mark.at)
        if self.boot_id != mark.boot_id:
            return Interval(mark.at, until, lost="nginx started anew while the watcher was away")
        total, lost = Counts(), ""
        if self.uncounted > mark.uncounted:
            lost = f"the router had no room to count {self.uncounted - mark.uncounted} requests"
        for name, proc in self._procs.items():
            if app_of(name) != app:
                continue
            more = grown(mark.procs.get(name, ProcTraffic()), proc)
            if more is None:
                lost = "the router had no room to count it all"
            else:
                total = total + more
        return Interval(mark.at, until, {app: total}, lost)


# --- the last minutes -------------------------------------------------------------------------------------------------

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[int]).decode


def pack(counts: Counts) -> bytes:
    """A few dozen bytes: there are as many of them as apps with traffic, times the seconds of the ring."""
    latency = [number for pair in counts.latency.items() for number in pair]
    return _pack([counts.requests, counts.errors, counts.app_errors, counts.aborted, *latency])


def unpack(packed: bytes) -> Counts:
    numbers = _unpack(packed)
    requests, errors, app_errors, aborted = numbers[:4]
    return Counts(requests, errors, app_errors, aborted, dict(zip(numbers[4::2], numbers[5::2], strict=True)))


@dataclass(frozen=True, slots=True)
class _Kept:
    since: float
    until: float
    counts: Mapping[str, bytes]
    lost: str
    lost_apps: frozenset[str]

    def of(self, app: str) -> Interval:
        packed = self.counts.get(app)
        return Interval(
            self.since,
            self.until,
            {} if packed is None else {app: unpack(packed)},
            self.lost,
            self.lost_apps & {app},
        )


class Ring:
    """The intervals of the last minutes, oldest first, without gaps."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()

    def add(self, interval: Interval) -> None:
        packed = {app: pack(counts) for app, counts in interval.counts.items()}
        self._kept.append(_Kept(interval.since, interval.until, packed, interval.lost, interval.lost_apps))
        while self._kept[0].until < interval.until - RING_SECONDS:
            self._kept.popleft()

    def of(self, app: str) -> Iterator[Interval]:
        return (kept.of(app) for kept in self._kept)


# --- windows ----------------------------------------------------------------------------------------------------------


def extended(window: TrafficWindow, interval: Interval, app: str) -> TrafficWindow:
    """The window with the interval at its end."""
    why = window.why or interval.why(app)
    counts = interval.counts.get(app)
    return TrafficWindow(
        window.since,
        max(window.until, interval.until),
        window.counts if counts is None else window.counts + counts,
        complete=not why,
        why=why,
    )


def gathered(intervals: Iterable[Interval], app: str, wanted: float, else_at: float) -> TrafficWindow:
    """One window out of intervals that follow each other. ``wanted``: when it should begin; ``else_at``: when it does if there are none."""
    found = list(intervals)
    since = found[0].since if found else else_at
    window = TrafficWindow(since, since)
    for interval in found:
        window = extended(window, interval, app)
    if not window.why and since > wanted + SLACK_SECONDS:
        late = f"the watcher has counts only from {since - wanted:.0f} s later on"
        window = replace(window, complete=False, why=late)
    return window


def begun(mark: OperationMark, ring: Ring, now: float, not_before: float | None) -> OperationTraffic:
    """The report of an operation that began, with what the ring knows. ``not_before``: when the app's last operation ended."""
    app = mark.app
    told = min(mark.started_at, now)
    start = told if not_before is None else max(told, not_before)
    first = max(start - BEFORE_SECONDS, not_before or 0.0)
    known = list(ring.of(app))
    before = [one for one in known if first <= one.since and one.until <= start]
    during = [one for one in known if one.until > start]
    return OperationTraffic(
        mark.operation,
        gathered(before, app, first, start),
        gathered(during, app, told, now),
    )


def advanced(report: OperationTraffic, interval: Interval, app: str) -> OperationTraffic:
    """The report with what came since."""
    if report.final:
        return report
    if report.after is None:
        return replace(report, during=extended(report.during, interval, app))
    return replace(report, after=extended(report.after, interval, app))


def ended(report: OperationTraffic) -> OperationTraffic:
    """The operation is over, as of the last interval."""
    at = report.during.until
    return replace(report, after=TrafficWindow(at, at))


def settled(report: OperationTraffic, *, overtaken: bool) -> OperationTraffic:
    """Final, if the minute after the operation is over, or the app's next operation has begun."""
    after = report.after
    if after is None or report.final or not (overtaken or after.until - after.since >= AFTER_SECONDS):
        return report
    return replace(report, final=True)


def followed(
    reports: tuple[OperationTraffic, ...],
    interval: Interval | None,
    mark: OperationMark | None,
    ring: Ring,
    app: str,
    *,
    now: float,
) -> tuple[OperationTraffic, ...]:
    """An app's reports with what came last, brought in line with the operation that runs now (None: none does).

    The ring has ``interval`` already. The one in which an operation begins is that operation's, no more of the minute after the last one.
    """
    fresh = mark is not None and all(report.operation != mark.operation for report in reports)
    found = list(reports)
    if found:
        last = found[-1]
        if interval is not None and not (fresh and last.after is not None):
            last = advanced(last, interval, app)
        if last.after is None and (mark is None or mark.operation != last.operation):
            last = ended(last)
        found[-1] = settled(last, overtaken=fresh)
    if fresh and mark is not None:
        found.append(begun(mark, ring, now, found[-1].during.until if found else None))
    return tuple(found[-MAX_REPORTS:])


def resumed(report: OperationTraffic, interval: Interval, app: str, mark: OperationMark | None) -> OperationTraffic:
    """An open report that an earlier watcher left, with what was counted since (``interval``)."""
    report = advanced(report, interval, app)
    over = report.after is None and (mark is None or mark.operation != report.operation)
    if over and interval.until - interval.since > SLACK_SECONDS and report.during.complete:
        why = f"it ended while the watcher was away: up to {interval.until - interval.since:.0f} s after it are in here"
        report = replace(report, during=replace(report.during, complete=False, why=why))
    return report
