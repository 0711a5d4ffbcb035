"""Loss reports: routers' counts added up exactly, shown while they grow, written into history once and for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_console.losses import LATE_SECONDS, Losses
from lain_console.operations.loss import closed, merged
from lain_console.state import State
from lain_shared import keys
from lain_shared.model.app import HistoryRecord, OperationKind, Outcome
from lain_shared.model.route import RouterMember
from lain_shared.model.traffic import (
    Counts,
    LossReport,
    OperationTraffic,
    RouterTraffic,
    TrafficWindow,
    bucket_of,
    middle_ms,
)
from lain_shared.testing import ManualClock, MemoryStore, eventually
from tests.fixtures.parts import running
from tests.unit.console.builders import Bench, release_of, web

AT = 1000.0


def counts(*ms: int, errors: int = 0, app_errors: int = 0) -> Counts:
    return Counts(len(ms), errors, app_errors, latency=Counter(map(bucket_of, ms)))


def traffic(
    router: str = "r1", operation: str = "op1", *, final: bool = True, after: bool = True, **more: Counts
) -> RouterTraffic:
    report = OperationTraffic(
        operation,
        TrafficWindow(AT - 60, AT, more.get("before", Counts())),
        TrafficWindow(AT, AT + 5, more.get("during", Counts())),
        TrafficWindow(AT + 5, AT + 65, more.get("then", Counts())) if after else None,
        final and after,
    )
    return RouterTraffic(router, "hello", (report,))


def report_of(*records: RouterTraffic, members: tuple[str, ...] = ("r1",)) -> LossReport:
    found = merged("op1", records, members)
    assert found is not None
    return found


def test_no_router_has_told() -> None:
    assert merged("op1", (), ("r1",)) is None
    assert merged("op1", (traffic(operation="another"),), ("r1",)) is None


def test_one_router() -> None:
    report = report_of(traffic(before=counts(10), during=counts(10, 20, 3000, errors=1, app_errors=1)))
    assert report.final and report.complete
    during = report.during
    assert (during.since, during.until, during.requests, during.errors, during.app_errors) == (AT, AT + 5, 3, 1, 1)
    assert (during.p50_ms, during.p99_ms) == (middle_ms(bucket_of(20)), middle_ms(bucket_of(3000)))
    assert report.after is not None
    assert (report.after.requests, report.after.p99_ms) == (0, None)


@given(st.lists(st.integers(0, 10**6), min_size=1), st.lists(st.integers(0, 10**6)))
def test_percentiles_are_of_all_requests_not_of_routers(here: list[int], there: list[int]) -> None:
    together = report_of(traffic(during=counts(*here)), traffic("r2", during=counts(*there)), members=("r1", "r2"))
    alone = report_of(traffic(during=counts(*here, *there)))
    assert together.during == alone.during
    assert together.routers == ("r1", "r2")


def test_a_router_that_has_not_told_is_named() -> None:
    report = report_of(traffic(), members=("r1", "r2"))
    assert not report.final and not report.complete
    assert "r2" in report.why
    late = closed(report)
    assert late.final and not late.complete and "r2" in late.why


def test_a_router_that_was_forgotten_is_not_waited_for_and_counts() -> None:
    report = report_of(traffic(during=counts(5)), traffic("r2", during=counts(7, 9)))
    assert report.final and report.complete
    assert report.during.requests == 3


def test_what_a_router_could_not_count_is_said() -> None:
    whole = traffic()
    (seen,) = whole.reports
    cut = replace(whole, reports=(replace(seen, during=replace(seen.during, complete=False, why="nginx died")),))
    report = report_of(cut, traffic("r2"), members=("r1", "r2"))
    assert (report.complete, report.why, report.final) == (False, "r1: nginx died", True)


def test_while_it_runs() -> None:
    report = report_of(traffic(during=counts(5), after=False))
    assert (report.final, report.after, report.complete) == (False, None, True)
    assert not closed(report).complete, "what is closed before its time is not complete"


# --- written into history -----------------------------------------------------------------------------------------------


@dataclass
class Replica:
    """A console's loss loop, stepped by hand."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=lambda: ManualClock(AT + 6))

    def __post_init__(self) -> None:
        self.state = State(self.store)
        self.losses = Losses(self.state, now=self.clock)

    async def tell(self, record: RouterTraffic) -> None:
        revision = await self.state.traffic.put(record, record.router, record.app)
        await self.losses.traffic.wait_until(revision)

    async def end(self, operation: str = "op1") -> None:
        kind, outcome = OperationKind.DEPLOY, Outcome.SUCCEEDED
        await self.state.history.put(
            HistoryRecord(operation, "hello", kind, outcome, "ann", AT, AT + 5, release=2), "hello", operation
        )

    async def record(self) -> HistoryRecord:
        stored = await self.state.history.get("hello", "op1")
        assert stored is not None
        return stored.value


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica()
    await made.state.router_members.put(RouterMember("r1", "n1", 0.0), "r1")
    async with running(*made.losses.parts):
        await eventually(lambda: all(part.ready for part in made.losses.parts), what="the mirrors are whole")
        yield made


async def test_it_is_shown_live_and_written_once_it_is_final(replica: Replica) -> None:
    await replica.tell(traffic(during=counts(5), after=False))
    await replica.losses.one_pass()
    shown = replica.losses.of("hello", "op1")
    assert shown is not None and shown.during.requests == 1
    await replica.end()
    await replica.tell(traffic(during=counts(5, 6), final=False))
    await replica.losses.one_pass()
    assert (await replica.record()).loss is None, "it still changes"
    live = replica.losses.with_loss(await replica.record()).loss
    assert live is not None and (live.during.requests, live.final) == (2, False)
    await replica.tell(traffic(during=counts(5, 6), then=counts(7)))
    await replica.losses.one_pass()
    written = (await replica.record()).loss
    assert written is not None and written.final and written.complete
    assert written.after is not None and written.after.requests == 1
    await replica.tell(traffic(during=counts(5, 6), then=counts(7, 8)))
    await replica.losses.one_pass()
    assert (await replica.record()).loss == written, "final is final"
    assert replica.losses.with_loss(await replica.record()).loss == written


async def test_what_never_becomes_final_is_written_as_it_is(replica: Replica) -> None:
    """The router's watcher died in the middle: the numbers there are, and that they are not all."""
    await replica.tell(traffic(during=counts(5), final=False))
    await replica.end()
    replica.clock.advance(LATE_SECONDS - 2)
    assert await replica.losses.one_pass() is not None
    assert (await replica.record()).loss is None
    replica.clock.advance(2)
    assert await replica.losses.one_pass() is None
    loss = (await replica.record()).loss
    assert loss is not None
    assert (loss.during.requests, loss.final, loss.complete) == (1, True, False)


async def test_two_replicas_write_one_report(replica: Replica) -> None:
    other = Losses(replica.state, now=replica.clock)
    await replica.end()
    await replica.tell(traffic(during=counts(5)))
    async with running(*other.parts):
        await eventually(lambda: all(part.ready for part in other.parts), what="the other's mirrors are whole")
        await replica.losses.one_pass()
        before = await replica.state.history.get("hello", "op1")
        await other.one_pass()
        after = await replica.state.history.get("hello", "op1")
    assert before is not None and after is not None
    assert before.entry.mod_revision == after.entry.mod_revision
    assert after.value.loss is not None


async def test_a_record_that_changes_meanwhile_is_not_overwritten(replica: Replica) -> None:
    await replica.end()
    await replica.tell(traffic(during=counts(5)))
    get = replica.state.history.get

    async def outrun(*parts: str | int) -> object:
        stored = await get(*parts)
        assert stored is not None
        await replica.state.history.put(replace(stored.value, who="bob"), "hello", "op1")
        return stored

    replica.state.history.get = outrun  # type: ignore[assignment,method-assign]
    await replica.losses.one_pass()
    replica.state.history.get = get  # type: ignore[method-assign]
    assert ((await replica.record()).who, (await replica.record()).loss) == ("bob", None)
    await replica.losses.one_pass()
    assert (await replica.record()).loss is not None


async def test_routers_that_cannot_be_heard_hold_nobody_up() -> None:
    losses = Losses(State(MemoryStore()))
    assert losses.of("hello", "op1") is None
    assert await losses.one_pass() is not None


async def test_an_operation_is_marked_for_routers_from_its_start_to_its_end() -> None:
    bench = Bench(MemoryStore())
    await bench.register()
    console = await bench.console()
    first = await console.deploy(release_of(1, web()))
    marks = await bench.state.marks.list()
    assert [(stored.value.operation, stored.value.app) for stored in marks] == [(first.id, "hello")]
    assert marks[0].value.started_at == first.started_at
    second = await console.deploy(release_of(2, web()), replace_running=True)
    assert [stored.value.operation for stored in await bench.state.marks.list()] == [second.id]
    await bench.run(console)
    assert await bench.state.marks.list() == ()
    assert keys.OPERATION_MARKS.readers == ("console", "watcher")
