"""``MemoryStore`` against a model, and what it offers tests beyond the protocol. That it is etcd's equal, the contract suite shows."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lain_shared.errors import Compacted, Conflict, Invalid, LeaseLost, Unavailable, Uncertain
from lain_shared.store import ABSENT, Change, CreateRevision, Delete, Exists, Expectation, ModRevision, Put, Write
from lain_shared.testing import ManualClock, MemoryStore

KEYS = st.sampled_from(["/a", "/b", "/a/c"])
VALUES = st.binary(max_size=2)
WRITES = st.lists(st.one_of(st.builds(Put, KEYS, VALUES), st.builds(Delete, KEYS)), max_size=3)
GUESSES = st.integers(0, 8)
EXPECTATIONS = st.lists(
    st.one_of(st.builds(ModRevision, KEYS, GUESSES), st.builds(CreateRevision, KEYS, GUESSES), st.builds(Exists, KEYS)),
    max_size=2,
)


class Model:
    """The store as a dictionary: key → (value, created, changed)."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[bytes, int, int]] = {}
        self.revision = 1

    def txn(self, expect: list[Expectation], writes: list[Write]) -> str:
        put = [write.key for write in writes if isinstance(write, Put)]
        deleted = [write.key for write in writes if isinstance(write, Delete)]
        if len(set(put)) < len(put) or set(put) & set(deleted):
            return "invalid"
        for expectation in expect:
            _, created, changed = self.keys.get(expectation.key, (b"", 0, 0))
            match expectation:
                case ModRevision(_, revision) if revision != changed:
                    return "conflict"
                case CreateRevision(_, revision) if revision != created:
                    return "conflict"
                case Exists() if not changed:
                    return "conflict"
        following = self.revision + 1
        before = dict(self.keys)
        for write in writes:
            if isinstance(write, Put):
                created = self.keys[write.key][1] if write.key in self.keys else following
                self.keys[write.key] = (write.value, created, following)
            else:
                self.keys.pop(write.key, None)
        if self.keys != before:
            self.revision = following
        return "ok"


@settings(deadline=None)
@given(st.lists(st.tuples(EXPECTATIONS, WRITES), max_size=15))
def test_transactions_are_those_of_the_model(transactions: list[tuple[list[Expectation], list[Write]]]) -> None:
    asyncio.run(_compare(transactions))


async def _compare(transactions: list[tuple[list[Expectation], list[Write]]]) -> None:
    store, model = MemoryStore(), Model()
    for expect, writes in transactions:
        outcome = "ok"
        try:
            await store.txn(expect, writes)
        except Conflict:
            outcome = "conflict"
        except Invalid:
            outcome = "invalid"
        assert outcome == model.txn(expect, writes)
        listing = await store.list("")
        assert listing.revision == model.revision
        assert {one.key: (one.value, one.create_revision, one.mod_revision) for one in listing.entries} == model.keys
    replayed: dict[str, bytes] = {}
    for change in await _history(store):
        if change.value is None:
            del replayed[change.key]
        else:
            replayed[change.key] = change.value
    assert replayed == {key: value for key, (value, _, _) in model.keys.items()}


async def _history(store: MemoryStore) -> list[Change]:
    """Everything a watch from the first revision tells."""
    last = store.revision
    changes: list[Change] = []
    async with aclosing(store.watch("", start_revision=1)) as batches:
        while not (changes and changes[-1].revision == last) and last > 1:
            changes += (await anext(batches)).items
    return changes


async def test_an_outage_stops_calls_and_watches_but_not_leases() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock, progress_seconds=0.01)
    lease = await store.grant(5)
    await store.put("/l", b"x", lease=lease.id)
    async with aclosing(store.watch("", start_revision=1)) as batches:
        await anext(batches)
        await anext(batches)
        with store.outage():
            with pytest.raises(Unavailable):
                await store.get("/l")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(batches)
            clock.advance(5)
    assert await store.get("/l") is None
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease.id)


async def test_a_write_of_unknown_fate_was_applied_or_not() -> None:
    store = MemoryStore()
    for applied in (True, False):
        store.uncertain_next(applied=applied)
        with pytest.raises(Uncertain):
            await store.put(f"/{applied}", b"x", expect=ABSENT)
    assert [entry.key for entry in (await store.list("/")).entries] == ["/True"]
    await store.put("/next", b"x")


async def test_history_is_kept_from_the_revision_it_was_compacted_to() -> None:
    store = MemoryStore()
    for number in range(5):
        await store.put("/k", b"%d" % number)
    store.compact(4)
    with pytest.raises(Compacted):
        async with aclosing(store.watch("", start_revision=4)) as batches:
            await anext(batches)
    async with aclosing(store.watch("", start_revision=5)) as batches:
        await anext(batches)
        assert [change.value for change in (await anext(batches)).items] == [b"3", b"4"]
