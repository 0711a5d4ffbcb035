"""What ``Store`` promises, kept by both its implementations: whatever passes here on ``MemoryStore`` is true of etcd."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from lain_shared.errors import Compacted, Conflict, Invalid, LeaseLost
from lain_shared.etcd import EtcdStore
from lain_shared.store import ABSENT, Change, Changes, CreateRevision, Delete, Exists, ModRevision, Put, Store
from lain_shared.testing import MemoryStore, eventually


@pytest.fixture
async def memory_store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=["memory_store", pytest.param("store", marks=pytest.mark.etcd)])
def any_store(request: pytest.FixtureRequest) -> MemoryStore | EtcdStore:
    """Each implementation in turn, empty."""
    found: MemoryStore | EtcdStore = request.getfixturevalue(request.param)
    return found


async def revision_of(store: Store) -> int:
    return (await store.list("/none/")).revision


class Watcher:
    """Collects what a watch delivers."""

    def __init__(self, store: Store, prefix: str, start_revision: int) -> None:
        self.batches: list[Changes] = []
        self._task = asyncio.create_task(self._collect(store, prefix, start_revision))

    async def _collect(self, store: Store, prefix: str, start_revision: int) -> None:
        async with aclosing(store.watch(prefix, start_revision=start_revision)) as batches:
            async for batch in batches:
                self.batches.append(batch)

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.items]

    async def __aenter__(self) -> Watcher:
        await eventually(lambda: self.batches or self._task.done(), what="the watch is set up")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def saw(self, count: int) -> list[Change]:
        await eventually(lambda: len(self.changes) >= count, what=f"{count} changes")
        return self.changes


# --- keys and revisions -----------------------------------------------------------------------------------------------


async def test_a_key_is_read_as_it_was_written(any_store: Store) -> None:
    assert await any_store.get("/a") is None
    first = await any_store.put("/a", b"\x00one")
    second = await any_store.put("/a", b"")
    entry = await any_store.get("/a")
    assert entry is not None
    assert (entry.key, entry.value) == ("/a", b"")
    assert (entry.create_revision, entry.mod_revision, entry.lease) == (first, second, 0)
    assert second == first + 1


async def test_a_list_is_sorted_and_holds_only_what_starts_with_the_prefix(any_store: Store) -> None:
    for key in ("/a/2", "/a/10", "/a/ü", "/a", "/ab/1", "/b/1"):
        await any_store.put(key, key.encode())
    listing = await any_store.list("/a/")
    assert [entry.key for entry in listing.entries] == ["/a/10", "/a/2", "/a/ü"]
    assert [entry.value.decode() for entry in listing.entries] == ["/a/10", "/a/2", "/a/ü"]
    everything = await any_store.list("")
    assert len(everything.entries) == 6
    assert everything.revision == listing.revision == everything.entries[-1].mod_revision or everything.revision > 0


async def test_a_list_says_the_revision_it_stands_for(any_store: Store) -> None:
    revision = await any_store.put("/a/1", b"x")
    assert (await any_store.list("/a/")).revision == revision
    later = await any_store.put("/b/1", b"x")
    assert (await any_store.list("/a/")).revision == later


async def test_a_long_list_is_whole_and_of_one_revision(any_store: Store) -> None:
    expected = [f"/many/{number:05d}" for number in range(2_501)]
    for start in range(0, len(expected), 500):
        await any_store.txn([], [Put(key, b"x") for key in expected[start : start + 500]])
    listing = await any_store.list("/many/")
    assert [entry.key for entry in listing.entries] == expected


async def test_a_long_list_is_of_one_revision_though_keys_are_written_meanwhile(any_store: Store) -> None:
    keys = [f"/many/{number:05d}" for number in range(3_000)]
    for start in range(0, len(keys), 1_000):
        await any_store.txn([], [Put(key, b"0") for key in keys[start : start + 1_000]])
    stop = asyncio.Event()

    async def both_ends_at_once() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await any_store.txn([], [Put(keys[0], b"%d" % number), Put(keys[-1], b"%d" % number)])

    writer = asyncio.create_task(both_ends_at_once())
    try:
        for _ in range(10):
            listing = await any_store.list("/many/")
            assert len(listing.entries) == 3_000
            assert listing.entries[0].value == listing.entries[-1].value
            assert max(entry.mod_revision for entry in listing.entries) <= listing.revision
    finally:
        stop.set()
        await writer


async def test_list_since_gives_what_changed_and_the_count_of_all(any_store: Store) -> None:
    await any_store.put("/a/1", b"x")
    known = await any_store.put("/a/2", b"x")
    await any_store.put("/b/1", b"x")
    changed = await any_store.put("/a/1", b"y")
    added = await any_store.put("/a/3", b"x")
    listing, count = await any_store.list_since("/a/", known)
    assert [(entry.key, entry.mod_revision) for entry in listing.entries] == [("/a/1", changed), ("/a/3", added)]
    assert (count, listing.revision) == (3, added)
    await any_store.delete("/a/2")
    listing, count = await any_store.list_since("/a/", added)
    assert (listing.entries, count) == ((), 2)


# --- expectations -----------------------------------------------------------------------------------------------------


async def test_put_absent_creates_once(any_store: Store) -> None:
    created = await any_store.put("/a", b"1", expect=ABSENT)
    with pytest.raises(Conflict) as refused:
        await any_store.put("/a", b"2", expect=ABSENT)
    assert refused.value.evidence == {"key": "/a"}
    assert (await any_store.get("/a")) is not None
    assert await any_store.put("/a", b"3", expect=created) == created + 1
    with pytest.raises(Conflict):
        await any_store.put("/a", b"4", expect=created)


async def test_delete_says_whether_there_was_something(any_store: Store) -> None:
    assert await any_store.delete("/a") is False
    revision = await any_store.put("/a", b"1")
    assert await any_store.delete("/a") is True
    created = await any_store.put("/a", b"2")
    with pytest.raises(Conflict):
        await any_store.delete("/a", expect=revision)
    assert await any_store.delete("/a", expect=created) is True
    assert await any_store.get("/a") is None
    assert await any_store.delete("/a", expect=ABSENT) is False


async def test_deleting_nothing_makes_no_revision(any_store: Store) -> None:
    before = await any_store.put("/a", b"1")
    await any_store.delete("/b")
    await any_store.txn([], [Delete("/b"), Delete("/c")])
    assert await revision_of(any_store) == before


async def test_a_transaction_is_all_or_nothing_and_one_revision(any_store: Store) -> None:
    first = await any_store.put("/a", b"1")
    revision = await any_store.txn(
        [ModRevision("/a", first), ModRevision("/b", ABSENT), Exists("/a"), CreateRevision("/a", first)],
        [Put("/b", b"2"), Delete("/a"), Put("/c", b"3")],
    )
    assert revision == first + 1
    assert {entry.key: entry.mod_revision for entry in (await any_store.list("/")).entries} == {
        "/b": revision,
        "/c": revision,
    }
    with pytest.raises(Conflict) as refused:
        await any_store.txn([Exists("/b"), Exists("/a")], [Put("/d", b"4")])
    assert refused.value.evidence == {"key": "/a"}
    assert await any_store.get("/d") is None
    assert await revision_of(any_store) == revision


async def test_a_fence_holds_only_for_the_very_key_that_was_created(any_store: Store) -> None:
    created = await any_store.put("/leader", b"a")
    changed = await any_store.put("/leader", b"a2")
    await any_store.txn([CreateRevision("/leader", created)], [Put("/x", b"1")])
    with pytest.raises(Conflict):
        await any_store.txn([CreateRevision("/leader", changed)], [Put("/x", b"2")])
    await any_store.delete("/leader")
    await any_store.put("/leader", b"b")
    with pytest.raises(Conflict):
        await any_store.txn([CreateRevision("/leader", created)], [Put("/x", b"3")])
    entry = await any_store.get("/x")
    assert entry is not None
    assert entry.value == b"1"


async def test_one_key_cannot_be_written_twice_in_a_transaction(any_store: Store) -> None:
    with pytest.raises(Invalid):
        await any_store.txn([], [Put("/a", b"1"), Put("/a", b"2")])
    assert await any_store.get("/a") is None


# --- watching ---------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_every_change_in_order_with_its_revision(any_store: Store) -> None:
    start = await revision_of(any_store) + 1
    async with Watcher(any_store, "/w/", start) as watcher:
        one = await any_store.put("/w/1", b"a")
        await any_store.put("/other", b"a")
        two = await any_store.put("/w/1", b"b")
        three = await any_store.txn([], [Put("/w/2", b"c"), Delete("/w/1")])
        assert await watcher.saw(4) == [
            Change("/w/1", b"a", one, one),
            Change("/w/1", b"b", two, one),
            Change("/w/2", b"c", three, three),
            Change("/w/1", None, three),
        ]
        assert [batch.revision for batch in watcher.batches if batch.items][-1] == three


async def test_a_watch_from_the_past_replays_it(any_store: Store) -> None:
    start = await any_store.put("/w/0", b"x")
    for number in range(1, 50):
        await any_store.put(f"/w/{number}", b"x")
    async with Watcher(any_store, "/w/", start) as watcher:
        await any_store.put("/w/50", b"x")
        changes = await watcher.saw(51)
    assert [change.key for change in changes] == [f"/w/{number}" for number in range(51)]


async def test_a_whole_revision_comes_in_one_batch(any_store: Store) -> None:
    start = await revision_of(any_store) + 1
    for number in range(30):
        await any_store.txn([], [Put(f"/w/{key}", b"%d" % number) for key in range(20)])
    async with Watcher(any_store, "/w/", start) as watcher:
        await watcher.saw(600)
    for batch in watcher.batches:
        by_revision = {change.revision for change in batch.items}
        assert len(batch.items) == 20 * len(by_revision)


async def test_a_watch_says_at_once_that_it_stands_and_an_empty_batch_moves_nothing(any_store: Store) -> None:
    start = await revision_of(any_store) + 1
    async with aclosing(any_store.watch("/w/", start_revision=start)) as batches:
        first = await anext(batches)
        assert first == Changes(start - 1, ())
        await any_store.put("/elsewhere", b"x")
        beat = await anext(batches)
        assert beat == Changes(start - 1, ())
        revision = await any_store.put("/w/1", b"x")
        async for batch in batches:
            if batch.items:
                assert batch.items[0].revision == batch.revision == revision
                break


async def test_a_watch_from_now_tells_only_what_comes(any_store: Store) -> None:
    await any_store.put("/w/1", b"old")
    async with Watcher(any_store, "/w/", 0) as watcher:
        await any_store.put("/w/1", b"new")
        assert [change.value for change in await watcher.saw(1)] == [b"new"]


async def test_history_that_is_gone_is_compacted_not_skipped(any_store: MemoryStore | EtcdStore) -> None:
    first = await any_store.put("/w/1", b"a")
    await any_store.put("/w/1", b"b")
    last = await any_store.delete("/w/1") and await revision_of(any_store)
    if isinstance(any_store, EtcdStore):
        await any_store.compact(last)
    else:
        any_store.compact(last)
    for start in (first, last):  # a deletion that is the compacted revision itself is forgotten by etcd 3.4.23
        with pytest.raises(Compacted):
            async with aclosing(any_store.watch("/w/", start_revision=start)) as batches:
                await anext(batches)
    async with Watcher(any_store, "/w/", last + 1) as watcher:
        await any_store.put("/w/1", b"c")
        assert [change.value for change in await watcher.saw(1)] == [b"c"]


async def test_a_watch_that_keeps_up_is_not_disturbed_by_compaction(any_store: MemoryStore | EtcdStore) -> None:
    async with Watcher(any_store, "/w/", await revision_of(any_store) + 1) as watcher:
        for number in range(5):
            elsewhere = await any_store.put("/elsewhere", b"%d" % number)
            if isinstance(any_store, EtcdStore):
                await any_store.compact(elsewhere)
            else:
                any_store.compact(elsewhere)
            await any_store.put("/w/1", b"%d" % number)
            assert (await watcher.saw(number + 1))[-1].value == b"%d" % number


async def test_many_watches_each_hear_everything(any_store: Store) -> None:
    start = await revision_of(any_store) + 1
    watchers = [Watcher(any_store, "/w/", start) for _ in range(20)]
    for watcher in watchers:
        await watcher.__aenter__()
    try:
        for number in range(100):
            await any_store.put("/w/x", b"%d" % number)
        for watcher in watchers:
            changes = await watcher.saw(100)
            assert [change.value for change in changes] == [b"%d" % number for number in range(100)]
    finally:
        for watcher in watchers:
            await watcher.__aexit__()


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_revoking_a_lease_deletes_its_keys_in_one_revision(any_store: Store) -> None:
    lease = await any_store.grant(60)
    assert 55 < lease.ttl_seconds <= 60
    start = await any_store.put("/l/1", b"x", lease=lease.id) + 1
    await any_store.put("/l/2", b"x", lease=lease.id)
    await any_store.put("/l/3", b"x")
    entry = await any_store.get("/l/1")
    assert entry is not None
    assert entry.lease == lease.id
    async with Watcher(any_store, "/l/", start) as watcher:
        await any_store.revoke(lease.id)
        changes = await watcher.saw(4)
    assert [(change.key, change.value) for change in changes[2:]] == [("/l/1", None), ("/l/2", None)]
    assert changes[2].revision == changes[3].revision
    await any_store.revoke(lease.id)
    with pytest.raises(LeaseLost):
        await any_store.keep_alive(lease.id)


async def test_a_key_follows_the_lease_it_was_last_put_with(any_store: Store) -> None:
    old, new = await any_store.grant(60), await any_store.grant(60)
    for key in ("/l/moved", "/l/freed", "/l/kept"):
        await any_store.put(key, b"x", lease=old.id)
    await any_store.put("/l/moved", b"x", lease=new.id)
    await any_store.put("/l/freed", b"x")
    await any_store.revoke(old.id)
    assert [entry.key for entry in (await any_store.list("/l/")).entries] == ["/l/freed", "/l/moved"]
    await any_store.revoke(new.id)
    assert [entry.key for entry in (await any_store.list("/l/")).entries] == ["/l/freed"]


async def test_a_lease_ends_by_itself_unless_kept_alive(any_store: Store) -> None:
    kept, left = await any_store.grant(2), await any_store.grant(2)
    await any_store.put("/l/kept", b"x", lease=kept.id)
    await any_store.put("/l/left", b"x", lease=left.id)

    async def left_is_gone() -> bool:
        assert 0 < await any_store.keep_alive(kept.id) <= 2
        return await any_store.get("/l/left") is None

    await eventually(left_is_gone, what="the lease that is not kept alive ends", interval_seconds=0.1)
    assert await any_store.get("/l/kept") is not None
    with pytest.raises(LeaseLost):
        await any_store.keep_alive(left.id)
    with pytest.raises(LeaseLost):
        await any_store.put("/l/new", b"x", lease=left.id)
    with pytest.raises(LeaseLost):
        await any_store.txn([ModRevision("/l/new", ABSENT)], [Put("/l/new", b"x", left.id)])
    await any_store.revoke(kept.id)


async def test_a_lease_may_have_a_chosen_id_once(any_store: Store) -> None:
    lease = await any_store.grant(60, lease_id=4711)
    assert lease.id == 4711
    with pytest.raises(Conflict):
        await any_store.grant(60, lease_id=4711)
    await any_store.revoke(4711)
