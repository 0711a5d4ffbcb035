"""What the agent writes into ``observed``, and when: news at once and together, the rest a moment later, one bad record alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.telling import GATHER_FROM, GATHER_SECONDS, PATIENCE_SECONDS, Observing, is_news, is_urgent
from lain_shared import keys
from lain_shared.errors import Invalid
from lain_shared.model.pod import Observed, PodId, PodState
from lain_shared.records import Records
from lain_shared.store import Expectation, Write
from lain_shared.testing import ManualClock, MemoryStore


class Counting(MemoryStore):
    """Counts transactions; refuses those that touch ``poison``."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions = 0
        self.poison = ""
        self.slow = False
        """What is refused is refused before anything else is written."""

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        self.transactions += 1
        if self.slow and all(write.key != self.poison for write in writes):
            await asyncio.sleep(0.01)
        if any(write.key == self.poison for write in writes):
            raise Invalid("this cannot be stored")
        return await super().txn(expect, writes)


class Bench:
    """The loop on a report that the test sets."""

    def __init__(self) -> None:
        self.store = Counting()
        self.report: dict[PodId, Observed] = {}
        self.keeper = SimpleNamespace(
            node="n1",
            told=True,
            whole=True,
            untold=frozenset(),
            report=self.report,
            seed=lambda _seen: None,
            at_work=0,
        )
        self.clock = ManualClock()
        self.observing = Observing(self.store, cast("Keeper", self.keeper), monotonic=self.clock)
        self.records = Records(self.store, keys.OBSERVED, Observed)

    def see(self, instance: int, state: PodState, **more: Any) -> PodId:
        seen = Observed("hello", "web", instance, 7, state, **{"assign_revision": 1, **more})
        self.report[seen.pod] = seen
        return seen.pod

    async def stored(self) -> dict[PodId, Observed]:
        return {one.value.pod: one.value for one in await self.records.list("n1")}


async def test_what_changed_is_one_transaction() -> None:
    bench = Bench()
    for instance in range(1, 31):
        bench.see(instance, PodState.PENDING)
    assert await bench.observing.one_pass() is None
    assert bench.store.transactions == 1
    assert await bench.stored() == bench.report
    gone = bench.see(1, PodState.PENDING)
    del bench.report[gone]
    for instance in range(2, 31):
        bench.see(instance, PodState.RUNNING, ready=True)
    assert await bench.observing.one_pass() is None
    assert bench.store.transactions == 2
    assert await bench.stored() == bench.report


async def test_what_nobody_acts_on_waits_for_what_somebody_does() -> None:
    bench = Bench()
    bench.see(1, PodState.PENDING)
    bench.see(2, PodState.PENDING)
    await bench.observing.one_pass()
    bench.see(1, PodState.CREATED, address="172.20.1.2")
    assert await bench.observing.one_pass() == pytest.approx(PATIENCE_SECONDS)
    bench.see(1, PodState.RUNNING, address="172.20.1.2", ready=True)
    assert await bench.observing.one_pass() is None, "ready is news"
    assert bench.store.transactions == 2 and await bench.stored() == bench.report
    bench.see(2, PodState.CREATED, address="172.20.1.3")
    assert await bench.observing.one_pass() == pytest.approx(PATIENCE_SECONDS)
    bench.clock.advance(PATIENCE_SECONDS)
    assert await bench.observing.one_pass() is None, "it has waited for long enough"
    assert bench.store.transactions == 3 and await bench.stored() == bench.report
    assert await bench.observing.one_pass() is None and bench.store.transactions == 3


async def test_while_many_start_those_that_join_others_are_told_together() -> None:
    bench = Bench()
    for instance in range(1, 9):
        bench.see(instance, PodState.PENDING)
    await bench.observing.one_pass()
    bench.keeper.at_work = GATHER_FROM
    bench.see(1, PodState.RUNNING, ready=True)
    assert await bench.observing.one_pass() is None, "the first one serves at once"
    for instance in (2, 3):
        bench.see(instance, PodState.RUNNING, ready=True)
        assert await bench.observing.one_pass() == pytest.approx(GATHER_SECONDS)
    bench.clock.advance(GATHER_SECONDS)
    assert await bench.observing.one_pass() is None
    assert bench.store.transactions == 3 and await bench.stored() == bench.report
    bench.see(4, PodState.RUNNING, ready=True)
    assert await bench.observing.one_pass() == pytest.approx(GATHER_SECONDS)
    bench.keeper.at_work = GATHER_FROM - 1
    assert await bench.observing.one_pass() is None, "nobody else is on the way"
    assert bench.store.transactions == 4 and await bench.stored() == bench.report


async def test_while_many_end_those_that_leave_others_are_told_together() -> None:
    bench = Bench()
    there = [bench.see(instance, PodState.STOPPING) for instance in range(1, 9)]
    await bench.observing.one_pass()
    bench.keeper.at_work = GATHER_FROM
    for pod in there[:2]:
        del bench.report[pod]
        assert await bench.observing.one_pass() == pytest.approx(GATHER_SECONDS)
    bench.clock.advance(GATHER_SECONDS)
    assert await bench.observing.one_pass() is None
    assert bench.store.transactions == 2 and await bench.stored() == bench.report
    bench.report.clear()
    assert await bench.observing.one_pass() is None, "the last of them goes at once"
    assert await bench.stored() == {}


def test_only_company_makes_news_wait() -> None:
    one, two = (Observed("hello", "web", instance, 7, PodState.CREATED, 1) for instance in (1, 2))
    serves = replace(one, state=PodState.RUNNING, ready=True)
    joins = replace(two, state=PodState.RUNNING, ready=True)
    told = {one.pod: serves, two.pod: two}
    assert not is_urgent(told, {two.pod: joins}, ())
    assert is_urgent({one.pod: one, two.pod: two}, {two.pod: joins}, ()), "the first of its batch"
    assert is_urgent(told, {two.pod: replace(joins, restarts=1)}, ())
    assert is_urgent(told, {two.pod: joins, one.pod: replace(serves, ready=False)}, ())
    assert is_urgent({one.pod: serves}, {two.pod: joins}, ()), "nobody heard of it"
    newer = replace(two, generation=9)
    assert is_urgent({**told, newer.pod: newer}, {newer.pod: replace(newer, state=PodState.RUNNING, ready=True)}, ()), (
        "a rollout's next"
    )
    assert not is_urgent(told, {}, {two.pod})
    assert is_urgent(told, {}, {one.pod, two.pod}), "the last of its batch"


def test_news_is_what_somebody_acts_on() -> None:
    told = Observed("hello", "web", 1, 7, PodState.RUNNING, 1, ready=True)
    assert is_news(None, told)
    assert is_news(told, replace(told, ready=False))
    assert is_news(told, replace(told, state=PodState.BACKOFF))
    assert is_news(told, replace(told, restarts=1))
    assert is_news(told, replace(told, error="no image"))
    assert not is_news(told, replace(told, assign_revision=9, progress="stopping", state=PodState.STOPPING))


async def test_a_record_that_cannot_be_stored_holds_up_no_other() -> None:
    bench = Bench()
    bench.store.slow = True
    bad = bench.see(2, PodState.PENDING)
    bench.store.poison = keys.OBSERVED.key("n1", str(bad))
    for instance in (1, 3):
        bench.see(instance, PodState.PENDING)
    with pytest.raises(Invalid):
        await bench.observing.one_pass()
    assert {pod.instance for pod in await bench.stored()} == {1, 3}
    assert bench.observing.current, "no reason for the node to stay away"
    bench.store.poison = ""
    await bench.observing.one_pass()
    assert await bench.stored() == bench.report
