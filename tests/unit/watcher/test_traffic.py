"""From nginx's counts to an operation's windows: exact where counts are there, told where they are not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lain_shared.model.traffic import Counts, OperationMark, OperationTraffic, ProcTraffic, TrafficMark, TrafficWindow
from lain_watcher.adapters.nginx import NginxTraffic
from lain_watcher.traffic import (
    AFTER_SECONDS,
    MAX_REPORTS,
    RING_SECONDS,
    Interval,
    Meter,
    Ring,
    advanced,
    begun,
    followed,
    pack,
    resumed,
    unpack,
)

APP = "hello"


def proc(requests: int, *slots: int, errors: int = 0) -> ProcTraffic:
    return ProcTraffic(slots or (1,), requests, errors, latency={5: requests})


def said(now: float, boot_id: str = "b1", uncounted: int = 0, **procs: ProcTraffic) -> NginxTraffic:
    return NginxTraffic(boot_id, now, uncounted, {name.replace("_", "/"): proc for name, proc in procs.items()})


def counts(requests: int, errors: int = 0) -> Counts:
    return Counts(requests, errors, latency={5: requests} if requests else {})


def second(at: float, requests: int = 0, lost: str = "") -> Interval:
    """The second that ends at ``at``."""
    return Interval(at - 1, at, {APP: counts(requests)} if requests else {}, lost)


def ring_of(*intervals: Interval) -> Ring:
    ring = Ring()
    for interval in intervals:
        ring.add(interval)
    return ring


def mark(started_at: float, operation: str = "op1") -> OperationMark:
    return OperationMark(operation, APP, started_at)


# --- what nginx's counts grew by ----------------------------------------------------------------------------------------


def test_the_first_word_is_where_counting_begins() -> None:
    meter = Meter()
    assert meter.take(said(10, hello_web=proc(100)), 10) is None
    interval = meter.take(said(11, hello_web=proc(103), hello_api=proc(2, 7), shop_web=proc(1, 8)), 11)
    assert interval == Interval(10, 11, {"hello": counts(5), "shop": counts(1)})


def test_procs_that_are_not_told_have_not_grown() -> None:
    meter = Meter()
    meter.take(said(10, hello_web=proc(100)), 10)
    meter.take(said(11), 11)
    interval = meter.take(said(12, hello_web=proc(101)), 12)
    assert interval is not None
    assert interval.counts == {"hello": counts(1)}


def test_another_worker_that_counts_a_proc_loses_nothing() -> None:
    meter = Meter()
    meter.take(said(10, hello_web=proc(100, 1)), 10)
    interval = meter.take(said(11, hello_web=proc(110, 1, 4)), 11)
    assert interval is not None
    assert (interval.counts, interval.why(APP)) == ({"hello": counts(10)}, "")


def test_a_slot_that_is_gone_is_told_and_nothing_is_made_up() -> None:
    meter = Meter()
    meter.take(said(10, hello_web=proc(100, 1, 2), shop_web=proc(1, 3)), 10)
    interval = meter.take(said(11, hello_web=proc(120, 1, 4), shop_web=proc(2, 3)), 11)
    assert interval is not None
    assert interval.counts == {"shop": counts(1)}
    assert interval.why("hello")
    assert not interval.why("shop")
    after = meter.take(said(12, hello_web=proc(121, 1, 4)), 12)
    assert after is not None
    assert (after.counts, after.why(APP)) == ({"hello": counts(1)}, "")


def test_a_proc_that_nginx_forgot_may_come_back() -> None:
    meter = Meter()
    meter.take(said(10, hello_web=proc(100, 1)), 10, full=True)
    meter.take(said(11), 11, full=True)
    interval = meter.take(said(12, hello_web=proc(3, 9)), 12)
    assert interval is not None
    assert (interval.counts, interval.why(APP)) == ({"hello": counts(3)}, "")


def test_what_an_nginx_counted_last_is_lost_with_it() -> None:
    meter = Meter()
    meter.take(said(10, hello_web=proc(100)), 10)
    interval = meter.take(said(11, "b2", hello_web=proc(4)), 11)
    assert interval is not None
    assert interval.counts == {"hello": counts(4)}
    assert interval.why(APP) and interval.why("any")
    again = meter.take(said(12, "b2", hello_web=proc(5)), 12)
    assert again == Interval(11, 12, {"hello": counts(1)})


def test_without_an_nginx_nobody_counts() -> None:
    meter = Meter()
    assert meter.take(None, 9) is None
    meter.take(said(10), 10)
    absent = meter.take(None, 11)
    assert absent is not None
    assert (absent.since, absent.until, bool(absent.why(APP))) == (10, 11, True)


def test_requests_without_room_are_told() -> None:
    meter = Meter()
    meter.take(said(10, uncounted=5), 10)
    interval = meter.take(said(11, uncounted=7), 11)
    assert interval is not None
    assert interval.uncounted == 2
    assert "2 requests" in interval.why(APP)


def test_time_never_goes_back() -> None:
    meter = Meter()
    meter.take(said(10), 10)
    interval = meter.take(said(9.5, hello_web=proc(1)), 9.5)
    assert interval is not None
    assert (interval.since, interval.until) == (10, 10)


@given(
    st.builds(
        Counts,
        *[st.integers(0, 1 << 40)] * 4,
        st.dictionaries(st.integers(0, 143), st.integers(1, 1 << 40)),
    )
)
def test_counts_survive_the_ring(some: Counts) -> None:
    assert unpack(pack(some)) == some


def test_the_ring_is_bounded() -> None:
    ring = ring_of(*(second(at, 1) for at in range(1, 1000)))
    assert RING_SECONDS <= len(list(ring.of(APP))) <= RING_SECONDS + 2


# --- windows ------------------------------------------------------------------------------------------------------------


def test_windows_around_an_operation() -> None:
    ring = ring_of(*(second(at, 1) for at in range(1, 101)))
    reports = followed((), None, mark(100.5), ring, APP, now=100.0)
    assert [report.operation for report in reports] == ["op1"]
    (report,) = reports
    assert (report.before.since, report.before.until) == (40.0, 100.0)
    assert report.before.counts.requests == 60
    assert report.before.complete and report.during.complete
    at = 100
    for _ in range(5):
        at += 1
        reports = followed(reports, second(at, 10), mark(100.5), ring, APP, now=at)
    reports = followed(reports, second(106, 10), None, ring, APP, now=106)
    (report,) = reports
    assert (report.during.since, report.during.until, report.during.counts.requests) == (100.0, 106, 60)
    assert report.after == TrafficWindow(106, 106)
    at = 106
    while not reports[-1].final:
        at += 1
        reports = followed(reports, second(at, 2), None, ring, APP, now=at)
    (report,) = reports
    assert report.after is not None
    assert report.after.until == 106 + AFTER_SECONDS
    assert report.after.counts.requests == 120
    assert advanced(report, second(at + 1, 2), APP) == report, "final is final"


def test_during_has_what_straddles_its_beginning() -> None:
    ring = ring_of(second(99, 1), second(100, 1), Interval(100, 100.7, {APP: counts(3)}))
    report = begun(mark(100.2), ring, 100.7, None)
    assert (report.before.until, report.during.since) == (100, 100)
    assert (report.before.counts.requests, report.during.counts.requests) == (2, 3)


def test_a_window_that_begins_late_says_so() -> None:
    ring = ring_of(*(second(at, 1) for at in range(91, 101)))
    report = begun(mark(100), ring, 100, None)
    assert report.before.counts.requests == 10
    assert not report.before.complete
    assert report.during.complete
    just_started = begun(mark(100), Ring(), 130, None)
    assert not just_started.before.complete
    assert not just_started.during.complete
    assert just_started.during.since == 130


def test_lost_counts_are_told_in_their_window_only() -> None:
    ring = ring_of(*(second(at, 1, lost="nginx died" if at == 70 else "") for at in range(1, 101)))
    report = begun(mark(100), ring, 100, None)
    assert (report.before.complete, report.before.why) == (False, "nginx died")
    assert report.during.complete
    report = advanced(report, second(101, 1, lost="nginx died"), APP)
    assert (report.during.complete, report.during.counts.requests) == (False, 1)
    assert not advanced(report, second(102, 1), APP).during.complete, "what is lost stays lost"


def test_the_next_operation_ends_the_window_after_the_one_before() -> None:
    ring = ring_of(*(second(at, 1) for at in range(1, 101)))
    reports = followed((), None, mark(100), ring, APP, now=100)
    ring.add(second(101, 1))
    reports = followed(reports, second(101, 1), None, ring, APP, now=101)
    for at in (102, 103):
        ring.add(second(at, 1))
        reports = followed(reports, second(at, 1), None, ring, APP, now=at)
    reports = followed(reports, None, mark(103, "op2"), ring, APP, now=103)
    first, fresh = reports
    assert first.final and first.after is not None
    assert (first.after.since, first.after.until, first.after.counts.requests) == (101, 103, 2)
    assert (fresh.before.since, fresh.before.until, fresh.before.counts.requests) == (101, 103, 2)
    assert fresh.before.complete


def test_an_operation_that_is_replaced_is_over_at_once() -> None:
    ring = ring_of(*(second(at, 1) for at in range(1, 101)))
    reports = followed((), None, mark(99), ring, APP, now=100)
    reports = followed(reports, None, mark(100, "op2"), ring, APP, now=100)
    first, fresh = reports
    assert first.final
    assert first.after == TrafficWindow(100, 100)
    assert fresh.before.counts == Counts() and fresh.before.complete and fresh.during.complete


def test_a_record_is_bounded() -> None:
    ring, reports = Ring(), ()
    for number in range(3 * MAX_REPORTS):
        ring.add(second(number + 1, 1))
        reports = followed(reports, None, mark(number, f"op{number}"), ring, APP, now=number + 1)
    assert len(reports) == MAX_REPORTS
    assert reports[-1].operation == f"op{3 * MAX_REPORTS - 1}"


def test_a_clock_that_is_ahead_puts_no_operation_into_the_future() -> None:
    ring = ring_of(*(second(at, 1) for at in range(1, 101)))
    report = begun(mark(160), ring, 100, None)
    assert (report.before.until, report.during.since) == (100, 100)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([False] * 9 + [True])), max_size=300))
def test_no_request_is_counted_twice_or_not_at_all(seconds: list[tuple[int, bool]]) -> None:
    """However operations begin and end (True: in this second): each second's requests are in the one window that has its beginning."""
    ring, reports = Ring(), ()
    found: dict[str, OperationTraffic] = {}
    expected: dict[str, list[int]] = {}
    running: OperationMark | None = None
    over_for = AFTER_SECONDS
    for at, (requests, turn) in enumerate(seconds, start=1):
        interval = second(at, requests)
        ring.add(interval)
        if running is None and turn:
            running = mark(at - 0.5, f"op{len(expected)}")
            expected[running.operation] = [requests, 0]
        elif running is not None:
            expected[running.operation][0] += requests
            if turn:
                running, over_for = None, 0
        elif over_for < AFTER_SECONDS:
            expected[f"op{len(expected) - 1}"][1] += requests
            over_for += 1
        reports = followed(reports, interval, running, ring, APP, now=at)
        found.update({report.operation: report for report in reports})
    told = {
        operation: [report.during.counts.requests, report.after.counts.requests if report.after else 0]
        for operation, report in found.items()
    }
    assert told == expected


# --- after a restart of the watcher -------------------------------------------------------------------------------------


def left(at: float = 100, boot_id: str = "b1", requests: int = 50) -> TrafficMark:
    return TrafficMark(boot_id, at, 0, {"hello/web": proc(requests)})


def open_report() -> OperationTraffic:
    return OperationTraffic("op1", TrafficWindow(40, 100, counts(60)), TrafficWindow(100, 100, counts(5)))


def test_the_next_watcher_goes_on_exactly() -> None:
    meter = Meter()
    meter.take(said(104, hello_web=proc(70), hello_api=proc(2, 9), shop_web=proc(1, 3)), 104)
    interval = meter.since(left(), APP)
    assert interval == Interval(100, 104, {APP: counts(22)})
    report = resumed(open_report(), interval, APP, mark(99))
    assert (report.during.until, report.during.counts.requests, report.during.complete) == (104, 27, True)


def test_an_operation_that_ended_while_nobody_looked_is_told_as_such() -> None:
    meter = Meter()
    meter.take(said(130, hello_web=proc(70)), 130)
    report = resumed(open_report(), meter.since(left(), APP), APP, None)
    assert report.during.counts.requests == 25
    assert "30 s" in report.during.why and not report.during.complete
    (closed,) = followed((report,), None, None, Ring(), APP, now=130)
    assert closed.after == TrafficWindow(130, 130)


def test_another_nginx_has_no_counts_of_the_one_before() -> None:
    meter = Meter()
    meter.take(said(104, "b2", hello_web=proc(70)), 104)
    interval = meter.since(left(), APP)
    assert (dict(interval.counts), bool(interval.lost)) == ({}, True)
    report = resumed(open_report(), interval, APP, mark(99))
    assert (report.during.counts.requests, report.during.complete) == (5, False)


def test_a_slot_gone_meanwhile_is_told() -> None:
    meter = Meter()
    meter.take(said(104, hello_web=proc(70, 2)), 104)
    interval = meter.since(left(), APP)
    assert interval.lost
    assert interval.counts[APP].requests == 0


def test_what_began_while_the_watcher_was_away_says_so() -> None:
    over = replace(open_report(), during=TrafficWindow(100, 130))
    reports = followed((over,), None, mark(110, "op2"), Ring(), APP, now=130)
    assert not reports[-1].during.complete
