"""What an operation cost the app's visitors, out of what each router counted: pure. Histograms are added up, percentiles never."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lain_shared.model.traffic import (
    Counts,
    LossReport,
    LossWindow,
    OperationTraffic,
    RouterTraffic,
    TrafficWindow,
    quantile_ms,
)


def merged(operation: str, records: Iterable[RouterTraffic], members: Collection[str]) -> LossReport | None:
    """The report of one operation; None when no router has told of it. ``members``: the routers there are, which all should."""
    told: dict[str, OperationTraffic] = {}
    for record in records:
        for report in record.reports:
            if report.operation == operation:
                told[record.router] = report
    if not told:
        return None
    before, during = [each.before for each in told.values()], [each.during for each in told.values()]
    after = [each.after for each in told.values() if each.after is not None]
    silent = sorted(set(members) - told.keys())
    whys = {
        f"{router}: {window.why}": None
        for router, report in sorted(told.items())
        for window in (report.before, report.during, report.after)
        if window is not None and not window.complete
    }
    whys.update({f"{router}: has not told what it counted": None for router in silent})
    return LossReport(
        _together(before),
        _together(during),
        _together(after) if after else None,
        final=not silent and all(report.final for report in told.values()),
        complete=not whys,
        why="; ".join(whys),
        routers=tuple(sorted(told)),
    )


def closed(report: LossReport) -> LossReport:
    """The report of an operation that was over long ago: nothing more is coming, whatever is missing."""
    if report.final:
        return report
    late = "what a router counted last did not come in time"
    return replace(report, final=True, complete=False, why=report.why or late)


def _together(windows: Sequence[TrafficWindow]) -> LossWindow:
    counts = sum((window.counts for window in windows), Counts())
    return LossWindow(
        min(window.since for window in windows),
        max(window.until for window in windows),
        counts.requests,
        counts.errors,
        counts.app_errors,
        counts.aborted,
        quantile_ms(counts.latency, 0.5),
        quantile_ms(counts.latency, 0.99),
    )
