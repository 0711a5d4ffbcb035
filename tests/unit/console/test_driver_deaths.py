"""Consoles that die, are replaced or cannot be sure: wherever that happens another ends the operation alike, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lain_shared.errors import Unavailable
from lain_shared.model.app import Outcome
from lain_shared.model.pod import ProcType
from lain_shared.store import Expectation, Write
from lain_shared.testing import MemoryStore
from tests.fixtures.controller import Fate
from tests.unit.console.builders import Bench, Console, deployed, proc, release_of, second, web


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class DyingStore:
    """A store whose user dies at its n-th transaction: just before it, or just after (it never hears of it)."""

    def __init__(self, inner: MemoryStore, dies_at: int, *, after: bool) -> None:
        self._inner, self._left, self._after = inner, dies_at, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise Killed
        revision = await self._inner.txn(expect, writes)
        if self._left == 0:
            raise Killed
        return revision


async def _drive_until_dead(bench: Bench, console: Console) -> None:
    for _ in range(40):
        await bench.controller.one_pass()
        await console.driver.one_pass()
        if await bench.operation() is None:
            return


STORIES = {
    "success": {},
    "failure": {"web@2-abc": Fate.CRASHES},
    "oneshot": {"migrate@2-abc": Fate.FAILS},
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies_at", range(1, 9))
async def test_wherever_a_console_dies_another_ends_the_operation_alike(story: str, after: bool, dies_at: int) -> None:
    store = MemoryStore()
    bench = Bench(store)
    first = await bench.console("c1")
    await deployed(
        bench, first, release_of(1, proc("migrate", 1, ProcType.ONESHOT), web(1, "a.example.org"), proc("old", 1))
    )
    bench.controller.fates = dict(STORIES[story])
    dying = await bench.console("dying", store=DyingStore(store, dies_at, after=after))  # type: ignore[arg-type]
    release = release_of(2, proc("migrate", 2, ProcType.ONESHOT), web(2, "b.example.org"), proc("new", 2))
    try:
        await dying.deploy(release)
        await _drive_until_dead(bench, dying)
    except Killed:
        pass
    started = await bench.state.operations.get("hello") is not None
    heir = await bench.console("heir")
    if started:
        await heir.driver.one_pass()
        held = await bench.state.holders.get("hello")
        assert held is None or held.value.console == "dying", "a living holder's operation was taken"
        await store.revoke(dying.lease.id)
        bench.clock.advance(1)
        assert await bench.run(heir) is not None
    elif (await bench.app()).last_release == 1:
        return  # it died before it had started anything
    record = await bench.last()
    names = {"success": {"migrate", "web", "new"}, "failure": {"web", "old"}, "oneshot": {"web", "old"}}[story]
    assert record.outcome is (Outcome.SUCCEEDED if story == "success" else Outcome.ROLLED_BACK)
    assert set(await bench.wanted()) == names
    claims = await bench.state.all_claims()
    expected = ("b.example.org", "/") if story == "success" else ("a.example.org", "/")
    assert {route for route in claims.routes if route[0].endswith(".org")} == {expected}
    assert len(await bench.state.history.list("hello")) == 2
    assert [run for run in bench.controller.oneshots_run if run[1] == 2] == [("migrate", 2)]
    assert await bench.state.holders.list() == ()


async def test_a_console_that_was_replaced_writes_nothing_more(bench: Bench) -> None:
    first, heir = await bench.console("c1"), await bench.console("heir")
    await deployed(bench, first)
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await first.deploy(second())
    await bench.run(first, 5)
    await bench.store.revoke(first.lease.id)
    await bench.run(heir, 2)
    held = await bench.state.holders.get("hello")
    assert held is not None and held.value.console == "heir"
    del bench.controller.fates["web@2-abc"]
    await bench.controller.one_pass()
    before = (await bench.operation(), await bench.wanted())
    await first.driver.one_pass()
    assert (await bench.operation(), await bench.wanted()) == before
    assert await bench.run(heir) is not None


async def test_an_uncertain_start_is_looked_up(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    store = bench.store
    assert isinstance(store, MemoryStore)
    store.uncertain_next(applied=True)
    operation = await console.deploy(second())
    assert (await bench.operation()) == operation
    assert await bench.run(console) is not None
    store.uncertain_next(applied=False)
    with pytest.raises(Unavailable):
        await console.deploy(second())
    assert await bench.operation() is None


async def test_without_its_lease_a_console_starts_nothing_and_says_so(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    console.lease.id = 0
    with pytest.raises(Unavailable, match="lost its hold on a store in memory") as lost:
        await console.deploy(second())
    assert lost.value.retry_seconds == 1.0 and "lainctl doctor" in lost.value.next and await bench.operation() is None


class UnsureStore:
    """A store whose user never learns what became of every other transaction; half of those were made."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner, self._count = inner, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        self._count += 1
        if self._count % 2:
            self._inner.uncertain_next(applied=self._count % 4 == 1)
        return await self._inner.txn(expect, writes)


async def test_an_uncertain_step_is_made_once(bench: Bench) -> None:
    await deployed(bench, await bench.console())
    store = bench.store
    assert isinstance(store, MemoryStore)
    console = await bench.console(store=UnsureStore(store))  # type: ignore[arg-type]
    await console.deploy(release_of(2, proc("migrate", 2, ProcType.ONESHOT), web(2), proc("new", 2)))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    assert bench.controller.oneshots_run == [("migrate", 2)]
    assert len({step.text for step in record.steps}) == len(record.steps)
